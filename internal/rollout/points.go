// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"maps"
	"slices"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// moment says what a lifecycle point means for the addons of a cluster. Adding a point is adding a row.
type moment struct {
	point release.Point
	// twin is the twin of the hook: it sees in the facts alone that the point has come, since a hook can get
	// lost, comes only for changes of the version, and never comes for clusters older than we are.
	twin func(Situation) sight
	// holds says that Cluster API waits at this point until it is proven. Only then is an ask a reason to
	// open a rollout; at any other point it is no more than a wake-up.
	holds bool
	// whole says that a cluster which passes this point ends up with the whole set of the release: addons
	// that no list from here on names follow after those which are named.
	whole bool
	// during says that the point is passed in the course of an upgrade, which a point that is whole has opened.
	during bool
	// hops says that the point is passed once for each version of Kubernetes on the way.
	hops bool
}

// sight is what the twin of a hook sees.
type sight struct {
	due bool
	// hop is the version of Kubernetes that the point is passed for, where it is passed once for each.
	hop string
	// late says that its moment has passed already.
	late bool
}

// moments are the lifecycle points that addons are rolled out at, in the order of a cluster's life.
//
// An upgrade of Kubernetes over several minor versions passes those in the middle once for each version on its
// way. Where only the release changes, no version of a machine tells when a point has come and no hook does: then
// all of them are due at once, in their order.
var moments = []moment{
	{
		point: release.AfterControlPlaneInitialized,
		twin:  func(s Situation) sight { return sight{due: s.Record.Applied == nil} },
	},
	{
		point: release.BeforeClusterUpgrade,
		twin: func(s Situation) sight {
			applied := s.Record.Applied
			if applied == nil || applied.Version == s.Cluster.Version && applied.Release == s.Target.Release {
				return sight{}
			}
			late := applied.Version != s.Cluster.Version && s.Cluster.ControlPlane.All(s.Cluster.Version)
			return sight{due: true, late: late}
		},
		holds: true,
		whole: true,
	},
	{point: release.BeforeControlPlaneUpgrade, twin: beforeControlPlane, holds: true, during: true, hops: true},
	{point: release.AfterControlPlaneUpgrade, twin: afterControlPlane, holds: true, during: true, hops: true},
	{point: release.BeforeWorkersUpgrade, twin: beforeWorkers, holds: true, during: true, hops: true},
	{point: release.AfterWorkersUpgrade, twin: afterWorkers, holds: true, during: true, hops: true},
	{
		point: release.AfterClusterUpgrade,
		twin: func(s Situation) sight {
			return sight{due: s.still() || s.Cluster.ControlPlane.All(s.Cluster.Version) && s.Cluster.workersAt(s.Cluster.Version)}
		},
		holds: true, during: true,
	},
	{
		// It comes when the Cluster is deleted, which Next sees first.
		point: release.BeforeClusterDelete,
		twin:  func(Situation) sight { return sight{} },
		holds: true,
	},
}

// still says that only the release changes, as far as is known, and that no machine is on its way.
func (s Situation) still() bool {
	return s.Record.Applied.From == s.Record.Applied.Version && !s.Cluster.onItsWay()
}

// onItsWay tells whether a machine is known to have another version than the one that the Cluster asks for.
func (c Cluster) onItsWay() bool {
	elsewhere := func(m Machines) bool { return len(m.Versions) > 0 && !m.All(c.Version) }
	return elsewhere(c.ControlPlane) || !c.NoWorkers && elsewhere(c.Workers)
}

func beforeControlPlane(s Situation) sight {
	machines, goal := s.Cluster.ControlPlane, s.Cluster.Version
	switch {
	case s.still():
		return sight{due: true, hop: goal}
	case machines.All(goal):
		return sight{due: true, hop: goal, late: true}
	case len(machines.Versions) != 1:
		return sight{} // between two versions, or nothing is known
	}
	// What is on its way to the machines is in the plan no more. Whatever skips a minor version is thus not next.
	next := goal
	if len(machines.Plan) > 0 {
		next = machines.Plan[0]
	}
	return sight{due: follows(machines.Versions[0], next), hop: next}
}

func afterControlPlane(s Situation) sight {
	machines, goal := s.Cluster.ControlPlane, s.Cluster.Version
	if s.still() {
		return sight{due: true, hop: goal}
	}
	if len(machines.Versions) != 1 || !newer(s.Record.Applied.From, machines.Versions[0]) {
		return sight{}
	}
	hop := machines.Versions[0]
	return sight{due: true, hop: hop, late: s.Cluster.Workers.All(hop)}
}

func beforeWorkers(s Situation) sight {
	machines, goal := s.Cluster.Workers, s.Cluster.Version
	switch {
	case s.still():
		return sight{due: true, hop: goal}
	case s.Cluster.NoWorkers:
		return sight{due: s.Cluster.ControlPlane.All(goal), hop: goal}
	case machines.All(goal):
		return sight{due: s.Cluster.ControlPlane.All(goal), hop: goal, late: true}
	case len(machines.Versions) != 1:
		return sight{}
	}
	next := goal
	if len(machines.Plan) > 0 {
		next = machines.Plan[0]
	}
	return sight{due: s.Cluster.ControlPlane.All(next), hop: next}
}

func afterWorkers(s Situation) sight {
	machines, goal := s.Cluster.Workers, s.Cluster.Version
	switch {
	case s.still():
		return sight{due: true, hop: goal}
	case s.Cluster.NoWorkers:
		return sight{due: s.Cluster.ControlPlane.All(goal), hop: goal}
	case len(machines.Versions) != 1 || !newer(s.Record.Applied.From, machines.Versions[0]):
		return sight{}
	}
	return sight{due: true, hop: machines.Versions[0]}
}

// Machines is what Cluster API says about the versions of the control plane's machines, or of all workers.
type Machines struct {
	// Versions that they have, each once; empty when that is unknown.
	Versions []string
	// Plan has the versions that they have yet to be brought to, one after the other. Cluster API has told them
	// since 1.14.
	Plan []string
}

// All tells whether all machines have that version.
func (m Machines) All(version string) bool { return len(m.Versions) == 1 && m.Versions[0] == version }

// workersAt tells whether all workers, if there are any, have that version.
func (c Cluster) workersAt(version string) bool { return c.NoWorkers || c.Workers.All(version) }

// follows tells whether Cluster API would go from one version to the other in one step.
func follows(from, to string) bool {
	a, ok1 := numbers(from)
	b, ok2 := numbers(to)
	return ok1 && ok2 && a[0] == b[0] && b[1] <= a[1]+1
}

// newer tells whether Kubernetes of version b is newer than that of version a.
func newer(a, b string) bool {
	x, ok1 := numbers(a)
	y, ok2 := numbers(b)
	return ok1 && ok2 && slices.Compare(x[:], y[:]) < 0
}

// numbers returns 1, 35 and 4 of "v1.35.4", whatever follows.
func numbers(version string) (n [3]int, ok bool) {
	_, err := fmt.Sscanf(version, "v%d.%d.%d", &n[0], &n[1], &n[2])
	return n, err == nil
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

// busy returns the points at which a release has something to do, in their order. To bring a release is always
// something to do.
func busy(lists Lists) []release.Point {
	var points []release.Point
	for _, m := range moments {
		if m.whole || len(lists.Stages(m.point)) > 0 {
			points = append(points, m.point)
		}
	}
	return points
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
	for _, stage := range stages {
		named[stage.Name] = true
	}
	for name := range ahead(lists) {
		named[name] = true
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

// ahead returns the addons that are named at a point in the course of an upgrade.
func ahead(lists Lists) map[string]bool {
	named := map[string]bool{}
	for _, m := range moments {
		if m.during {
			for _, stage := range lists.Stages(m.point) {
				named[stage.Name] = true
			}
		}
	}
	return named
}

// pass returns what a cluster has once it has passed a point of the rollout: what it had before and the release
// still has, and what the stages of the point apply, without what they delete and what is switched off.
//
// An addon that the release names at a later point only stays as an earlier release left it until then.
func pass(lists Lists, before *Applied, point release.Point, stages []release.Stage, off []string) (addons, behind, switchedOff []string) {
	var has, waits, without = map[string]bool{}, map[string]bool{}, map[string]bool{}
	m, _ := momentOf(point)
	if before != nil && m.whole {
		later := ahead(lists)
		for _, addon := range slices.Concat(before.Addons, before.Behind) {
			waits[addon] = later[addon]
		}
	} else if before != nil {
		for _, addon := range before.Addons {
			has[addon] = true
		}
		for _, addon := range before.Behind {
			waits[addon] = true
		}
		for _, addon := range before.Off {
			without[addon] = true
		}
	}
	for _, stage := range stages {
		delete(waits, stage.Name)
		isOff := slices.Contains(off, stage.Name)
		has[stage.Name] = stage.Action == release.Apply && !isOff
		without[stage.Name] = stage.Action == release.Apply && isOff
	}
	return sorted(has), sorted(waits), sorted(without)
}

func sorted(set map[string]bool) []string {
	maps.DeleteFunc(set, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(set))
}
