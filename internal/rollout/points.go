// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"maps"
	"slices"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// moment says what a lifecycle point means for the addons of a cluster. Adding a point is adding a row.
type moment struct {
	point release.Point
	// due is the twin of the hook: it sees in the facts alone that the point has come, since a hook can get
	// lost, comes only for changes of the version, and never comes for clusters older than we are.
	due func(Situation) bool
	// holds says that Cluster API waits at this point until it is proven. Only then is an ask a reason to
	// open a rollout; at any other point it is no more than a wake-up.
	holds bool
	// whole says that a cluster which passes this point ends up with the whole set of the release: addons
	// that no list from here on names follow after those which are named.
	whole bool
}

// moments are the lifecycle points that addons are rolled out at, in the order of a cluster's life.
var moments = []moment{
	{
		point: release.AfterControlPlaneInitialized,
		due:   func(s Situation) bool { return s.Record.Applied == nil },
	},
	{
		point: release.BeforeClusterUpgrade,
		due: func(s Situation) bool {
			applied := s.Record.Applied
			return applied != nil && (applied.Version != s.Cluster.Version || applied.Release != s.Target.Release)
		},
		holds: true,
		whole: true,
	},
}

func momentOf(point release.Point) (moment, bool) {
	i := slices.IndexFunc(moments, func(m moment) bool { return m.point == point })
	if i < 0 {
		return moment{}, false
	}
	return moments[i], true
}

// Holds reports whether Cluster API waits at the point until it is proven.
func Holds(point release.Point) bool {
	m, known := momentOf(point)
	return known && m.holds
}

// Lists is what a release says about its stages; *release.Release does.
type Lists interface {
	Stages(release.Point) []release.Stage
	Addons() []string
}

// Stages returns what has to be done, in order, for a cluster to pass a point with a release.
//
// An upgrade brings the whole set of the release, whichever of its lists names an addon: what the list of the
// point leaves out follows after it, in the order in which the release first installs it. Otherwise a cluster
// that was upgraded would differ from one that was created.
func Stages(lists Lists, point release.Point) []release.Stage {
	stages := lists.Stages(point)
	m, known := momentOf(point)
	if !known || !m.whole {
		return stages
	}
	named := map[string]bool{}
	from := slices.IndexFunc(moments, func(m moment) bool { return m.point == point })
	for _, later := range moments[from:] {
		for _, stage := range lists.Stages(later.point) {
			named[stage.Name] = true
		}
	}
	set := lists.Addons()
	for _, stage := range lists.Stages(release.AfterControlPlaneInitialized) {
		if slices.Contains(set, stage.Name) && !named[stage.Name] {
			named[stage.Name] = true
			stages = append(stages, stage)
		}
	}
	for _, addon := range set {
		if !named[addon] {
			stages = append(stages, release.Stage{Name: addon, Action: release.Apply})
		}
	}
	return stages
}

// addonsAfter returns the addons that a cluster has once it has passed a point, sorted: what it had before and
// the release still has, and what the stages of the point apply, without what they delete.
func addonsAfter(lists Lists, before []string, stages []release.Stage) []string {
	set := lists.Addons()
	has := map[string]bool{}
	for _, addon := range before {
		has[addon] = slices.Contains(set, addon)
	}
	for _, stage := range stages {
		has[stage.Name] = stage.Action == release.Apply
	}
	maps.DeleteFunc(has, func(_ string, here bool) bool { return !here })
	return slices.Sorted(maps.Keys(has))
}
