// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Cluster is what there is to know about a Cluster.
type Cluster struct {
	// UID is empty when the Cluster is gone.
	UID      string
	Deleting bool
	Paused   bool
	// Ours says that its class comes from a release of a cluster stack.
	Ours bool
	// Initialized says that its control plane answers for the first time or ever did.
	Initialized bool
	// Version of Kubernetes that it asks for.
	Version string
	// ControlPlaneVersion is the version that all its control plane has; empty when that is unknown or mixed.
	ControlPlaneVersion string
}

// Target is the release that the cluster uses, once it was opened.
type Target struct {
	Release
	// Kubernetes is the version that the release is made for.
	Kubernetes string
	Lists      Lists
}

// Situation holds all facts that a move depends on.
type Situation struct {
	Cluster Cluster
	// Target is nil until the release was opened.
	Target *Target
	Record Record
	// Asked is the lifecycle point that Cluster API asked for and that was not answered yet, or nil.
	Asked *Ask
	// InventoryLost says that there is no inventory although the record says that something was applied.
	InventoryLost bool
	// Inputs identifies the values that the addons would be rendered with now.
	Inputs string
	// Progress is what came of the moves of this pass, by stage. It starts empty.
	Progress map[string]Progress
}

// Progress is what came of one stage in this pass.
type Progress struct {
	Pre, Work, Post, Health Result
}

// Result is what came of one thing that was tried.
type Result int

const (
	// Untried means that it was not tried in this pass.
	Untried Result = iota
	// Good means that it is done, or met.
	Good
	// Bad means that it failed, or is not met yet.
	Bad
)

// Move is what comes next: one of the types below.
type Move interface{ move() }

type (
	// LetGo lets the ClusterAddon go. Nothing is deleted in the cluster, which is going as a whole.
	LetGo struct{}

	// Stand does nothing at all while the Cluster is paused.
	Stand struct{}

	// Leave leaves a cluster alone that is not, or no longer, ours: nothing is applied and nothing deleted.
	Leave struct{}

	// Fetch opens the release that the cluster uses, and makes it the target.
	Fetch struct{}

	// Await ends the pass; something outside has to change first.
	Await struct {
		// Stage that holds up the others; empty when it is not a stage.
		Stage  string
		Reason Reason
		// Message for people, where the reason alone does not say it.
		Message string
		// Record to be saved when it differs from the one that is stored.
		Record Record
	}

	// Begin opens a rollout. Its record is to be saved before anything else is done, in one write, which
	// voids the proof of the rollout before it.
	Begin struct{ Record Record }

	// Evaluate evaluates the condition before or after a stage and reports Good or Bad as Pre or Post.
	Evaluate struct {
		Stage  release.Stage
		Before bool
	}

	// Apply applies the addon of a stage, with the journal, and reports Work: Good when every object was
	// answered for and the inventory is saved.
	Apply struct{ Stage release.Stage }

	// Delete deletes the objects of the addon of a stage, which the inventory names, and reports Work.
	Delete struct{ Stage release.Stage }

	// CheckHealth looks whether all objects of a stage are healthy and reports Health.
	CheckHealth struct{ Stage release.Stage }

	// Finish ends a rollout. Its record, which holds the proof, is to be saved in one write.
	Finish struct{ Record Record }

	// Prune deletes what the inventory holds and the applied addons do not have. When that is done its record
	// is to be saved.
	Prune struct {
		// Addons that the cluster keeps.
		Addons []string
		// Nothing says that the first pass after a lost inventory deletes nothing.
		Nothing bool
		Record  Record
	}

	// Refresh applies the addons again, because the values they are rendered with have changed. When that is
	// done its record is to be saved.
	Refresh struct {
		Addons []string
		Record Record
	}

	// Rest means that all is as it should be.
	Rest struct{}
)

func (LetGo) move()       {}
func (Stand) move()       {}
func (Leave) move()       {}
func (Fetch) move()       {}
func (Await) move()       {}
func (Begin) move()       {}
func (Evaluate) move()    {}
func (Apply) move()       {}
func (Delete) move()      {}
func (CheckHealth) move() {}
func (Finish) move()      {}
func (Prune) move()       {}
func (Refresh) move()     {}
func (Rest) move()        {}

// Reason says what is awaited.
type Reason string

// What can be awaited.
const (
	// ControlPlane is not initialized yet.
	ControlPlane Reason = "ControlPlane"
	// Version of the Cluster and that of the release do not fit.
	Version Reason = "Version"
	// PreCondition of the stage is not met.
	PreCondition Reason = "PreCondition"
	// PostCondition of the stage is not met.
	PostCondition Reason = "PostCondition"
	// Health of the objects of the stage.
	Health Reason = "Health"
	// Retry of stages that failed.
	Retry Reason = "Retry"
)

// Next returns the move that comes next.
func Next(s Situation) Move {
	switch {
	case s.Cluster.UID == "":
		return LetGo{}
	case s.Cluster.Paused:
		// Before the question whether it is deleted: whoever moves clusters between management clusters
		// pauses them, deletes the originals and counts on nobody else touching them.
		return Stand{}
	case s.Cluster.Deleting:
		return LetGo{}
	case !s.Cluster.Ours:
		return Leave{}
	case !s.Cluster.Initialized:
		return Await{Reason: ControlPlane, Record: s.Record}
	case s.Target == nil:
		return Fetch{}
	case minor(s.Cluster.Version) != minor(s.Target.Kubernetes):
		return Await{
			Reason: Version,
			Message: fmt.Sprintf("the Cluster asks for Kubernetes %s, but ClusterClass %s is made for %s: set spec.topology.version to it",
				s.Cluster.Version, s.Target.Class, s.Target.Kubernetes),
			Record: s.Record,
		}
	}

	if begin, due := opening(s); due {
		return begin
	}
	if s.Record.Open() != nil {
		return proceed(s)
	}
	return keep(s)
}

// opening returns the rollout to open now, if there is one.
func opening(s Situation) (Begin, bool) {
	passage, due := wanted(s)
	if !due {
		return Begin{}, false
	}
	record := s.Record.clone()
	record.Rollout = &Rollout{
		Passage: passage,
		Inputs:  s.Inputs,
		Late:    passage.From != passage.To && passage.From != "" && s.Cluster.ControlPlaneVersion == passage.To,
		// What was lost stays lost until a rollout ends well, however often another one is opened before.
		Rebuilt: s.InventoryLost || s.Record.Open() != nil && s.Record.Open().Rebuilt,
	}
	return Begin{Record: record}, true
}

// wanted returns the passage that a rollout has to be opened for.
func wanted(s Situation) (Passage, bool) {
	passage := Passage{Release: s.Target.Release, To: s.Cluster.Version, Cluster: s.Cluster.UID}

	// What Cluster API asks for goes first: it waits for exactly this passage, and what we would have thought
	// of ourselves proves nothing to it.
	if ask := s.Asked; ask != nil && Holds(ask.Point) &&
		ask.Cluster == s.Cluster.UID && ask.Namespace == s.Target.Namespace && ask.Class == s.Target.Class && ask.To == s.Cluster.Version {
		passage.Point, passage.From = ask.Point, ask.From
		if underWay(s, passage) {
			return Passage{}, false
		}
		proven := s.Record.Proves(*ask) && s.Record.Rollout.Release == s.Target.Release && !s.InventoryLost
		return passage, !proven
	}

	if open := s.Record.Open(); open != nil && underWay(s, open.Passage) &&
		open.Release == s.Target.Release && open.To == s.Cluster.Version && open.Cluster == s.Cluster.UID {
		return Passage{}, false
	}
	// An open rollout to somewhere else has left the cluster between two releases. It has to be brought to its
	// target by another one, even if that target is where it came from.
	astray := s.Record.Open() != nil
	for _, m := range moments {
		if m.due(s) || (astray || s.InventoryLost) && m.whole && s.Record.Applied != nil {
			passage.Point = m.point
			if s.Record.Applied != nil {
				passage.From = s.Record.Applied.Version
			}
			return passage, true
		}
	}
	return Passage{}, false
}

// underWay reports whether the passage is the one of the open rollout, with nothing happened since that
// makes it start anew.
func underWay(s Situation, passage Passage) bool {
	open := s.Record.Open()
	return open != nil && open.Passage == passage && open.Inputs == s.Inputs && (open.Rebuilt || !s.InventoryLost)
}

// proceed returns the next move of an open rollout. Stages run in order. One that failed does not hold up
// those after it, unless it says that they shall wait: by a condition after it, or by asking for health.
func proceed(s Situation) Move {
	record := s.Record.clone()
	open := record.Rollout
	stages := Stages(s.Target.Lists, open.Point)
	var failed []string
	for _, stage := range stages {
		if slices.Contains(open.Done, stage.Name) {
			continue
		}
		p := s.Progress[stage.Name]
		held := func(reason Reason) Move { return Await{Stage: stage.Name, Reason: reason, Record: record} }

		if stage.PreCondition != nil && p.Work == Untried && p.Pre != Good {
			if p.Pre == Untried {
				return Evaluate{Stage: stage, Before: true}
			}
			return held(PreCondition)
		}
		if p.Work == Untried {
			if stage.Action == release.Delete {
				return Delete{Stage: stage}
			}
			return Apply{Stage: stage}
		}
		if p.Work == Bad {
			failed = append(failed, stage.Name)
			if stage.PostCondition != nil || stage.WaitForHealthy {
				return held(Retry)
			}
			continue
		}
		if stage.PostCondition != nil && p.Post != Good {
			if p.Post == Untried {
				return Evaluate{Stage: stage}
			}
			return held(PostCondition)
		}
		if stage.WaitForHealthy && stage.Action == release.Apply && p.Health != Good {
			if p.Health == Untried {
				return CheckHealth{Stage: stage}
			}
			return held(Health)
		}
		open.Done = append(open.Done, stage.Name)
	}
	if len(failed) > 0 {
		return Await{Stage: failed[0], Reason: Retry, Record: record}
	}

	var before []string
	if record.Applied != nil {
		before = record.Applied.Addons
	}
	record.Applied = &Applied{
		Release: open.Release,
		Version: open.To,
		Addons:  addonsAfter(s.Target.Lists, before, stages),
		Inputs:  open.Inputs,
	}
	open.Finished = true
	open.Done = nil
	return Finish{Record: record}
}

// keep returns the next move of a cluster that has the addons of its target.
func keep(s Situation) Move {
	record := s.Record.clone()
	applied := record.Applied
	switch {
	case !applied.Pruned:
		applied.Pruned = true
		return Prune{Addons: applied.Addons, Nothing: record.Rollout != nil && record.Rollout.Rebuilt, Record: record}
	case applied.Inputs != s.Inputs:
		// Other values may render fewer objects.
		applied.Inputs, applied.Pruned = s.Inputs, false
		return Refresh{Addons: applied.Addons, Record: record}
	}
	return Rest{}
}

// minor returns "1.36" of "v1.36.3", and a version of another form as it is.
func minor(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return version
	}
	return parts[0] + "." + parts[1]
}
