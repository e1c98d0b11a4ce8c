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
	UID string
	// Dismissed says that somebody deletes its addons' object alone, Deleting that the Cluster itself goes.
	Dismissed bool
	Deleting  bool
	// MayGo says that a Cluster that is being deleted waits for nobody any more: Cluster API was told to go on,
	// the time for it is over, or its user does not want to wait.
	MayGo  bool
	Paused bool
	// Ours says that its class comes from a release of a cluster stack.
	Ours bool
	// Initialized says that its control plane answers for the first time or ever did.
	Initialized bool
	// Version of Kubernetes that it asks for.
	Version string
	// ControlPlane and Workers are the versions that its machines have.
	ControlPlane, Workers Machines
	// NoWorkers says that it has none, so that their versions are no matter.
	NoWorkers bool
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
	// Off are the addons that the user of the cluster has switched off.
	Off []string
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
		// Addons that the cluster keeps, each with the objects that its release renders.
		Addons []string
		// Behind are addons of which it keeps everything: they are still those of an earlier release.
		Behind []string
		// Nothing says that the first pass after a lost inventory deletes nothing.
		Nothing bool
		Record  Record
	}

	// Refresh applies the addons again, because the values they are rendered with have changed or one that was
	// switched off is on again. When that is done its record is to be saved.
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
		return farewell(s)
	case s.Cluster.Dismissed:
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

// farewell returns the next move for a cluster that is being deleted. By default there is nothing to do: the
// machines go as a whole. A release may want something done first, for which Cluster API waits a while.
func farewell(s Situation) Move {
	cluster := s.Cluster
	if cluster.MayGo || !cluster.Ours || !cluster.Initialized || !s.Record.Farewell() {
		return LetGo{}
	}
	if last := s.Record.Rollout; last != nil && last.Finished && last.Point == release.BeforeClusterDelete && last.Cluster == cluster.UID {
		return LetGo{} // said, and the release need not be there any more
	}
	if s.Target == nil {
		return Fetch{}
	}
	if s.Target.Release != s.Record.Applied.Release || s.InventoryLost {
		return LetGo{} // what is in the cluster is not what the stages are about
	}
	passage := Passage{Release: s.Target.Release, Point: release.BeforeClusterDelete, To: s.Record.Applied.Version, Cluster: cluster.UID}
	if s.Record.Open() == nil || s.Record.Open().Passage != passage {
		return open(s, passage, false)
	}
	return proceed(s)
}

// opening returns the rollout to open now, if there is one.
func opening(s Situation) (Begin, bool) {
	passage, late, due := wanted(s)
	if !due {
		return Begin{}, false
	}
	return open(s, passage, late), true
}

func open(s Situation, passage Passage, late bool) Begin {
	record := s.Record.clone()
	if m, _ := momentOf(passage.Point); m.whole && record.Applied != nil {
		// What was proven on the way of another upgrade proves nothing on this one.
		record.Applied.Passed = nil
	} else if last := record.Rollout; record.Applied != nil && last != nil && last.Finished {
		record.Applied.Passed = append(record.Applied.Passed, last.passed())
	}
	record.Rollout = &Rollout{
		Passage: passage,
		Inputs:  s.Inputs,
		Late:    late,
		// What was lost stays lost until something was pruned, however often another one is opened before.
		Rebuilt: s.InventoryLost || rebuilt(s.Record),
	}
	return Begin{Record: record}
}

// rebuilt tells whether the inventory was lost since something was pruned last.
func rebuilt(r Record) bool {
	return r.Rollout != nil && r.Rollout.Rebuilt && (!r.Rollout.Finished || r.Applied != nil && !r.Applied.Pruned)
}

// wanted returns the passage that a rollout has to be opened for, and whether it is late.
func wanted(s Situation) (_ Passage, late, due bool) {
	passage := Passage{Release: s.Target.Release, To: s.Cluster.Version, Cluster: s.Cluster.UID}
	ask := s.Asked
	if ask != nil && (ask.Cluster != s.Cluster.UID || ask.Namespace != s.Target.Namespace || ask.Class != s.Target.Class || ask.To != s.Cluster.Version) {
		ask = nil // older than what the Cluster is now
	}

	// What Cluster API asks for goes first: it waits for exactly this passage, and what we would have thought
	// of ourselves proves nothing to it.
	if ask != nil && ask.Point == release.BeforeClusterUpgrade {
		passage.Point, passage.From = ask.Point, ask.From
		if underWay(s, passage) {
			return Passage{}, false, false
		}
		proven := s.Record.Proves(*ask) && s.Record.Rollout.Release == s.Target.Release && !s.InventoryLost
		if !proven {
			return passage, ask.From != ask.To && s.Cluster.ControlPlane.All(ask.To), true
		}
		passage.From = ""
	}

	if open := s.Record.Open(); open != nil && open.Release == s.Target.Release && open.To == s.Cluster.Version && open.Cluster == s.Cluster.UID {
		if underWay(s, open.Passage) {
			return Passage{}, false, false
		}
		if m, _ := momentOf(open.Point); m.during && !s.InventoryLost {
			return open.Passage, open.Late, true // with other values
		}
	}
	// An open rollout to somewhere else has left the cluster between two releases. It has to be brought to its
	// target by another one, even if that target is where it came from.
	astray := s.Record.Open() != nil
	applied := s.Record.Applied
	for _, m := range moments {
		if m.during {
			break
		}
		if seen := m.twin(s); seen.due || (astray || s.InventoryLost) && m.whole && applied != nil {
			passage.Point = m.point
			if applied != nil {
				passage.From = applied.Version
			}
			return passage, seen.late, true
		}
	}
	return course(s, passage, ask)
}

// course returns the passage of the next point in the course of an upgrade that has come. Points are passed in
// their order, also when Cluster API asks for a later one first: what it did not wait for is late.
func course(s Situation, passage Passage, ask *Ask) (_ Passage, late, due bool) {
	created := s.Record.Applied.From == "" // and not upgraded since, as far as we remember
	for _, m := range moments {
		if !m.during || len(s.Target.Lists.Stages(m.point)) == 0 {
			continue
		}
		passage.Point = m.point
		if seen := m.twin(s); seen.due && !created && !s.Record.hasPassed(m.point, seen.hop) {
			passage.Hop = seen.hop
			// Cluster API asks at the very moment.
			return passage, seen.late && (ask == nil || ask.Point != m.point || ask.Hop != seen.hop), true
		}
		if ask != nil && ask.Point == m.point && !s.Record.Proves(*ask) {
			passage.Hop = ask.Hop
			return passage, false, true
		}
	}
	return Passage{}, false, false
}

// hasPassed tells whether a point in the course of the upgrade lies behind the cluster, whichever management
// cluster it was in then.
func (r Record) hasPassed(point release.Point, hop string) bool {
	is := func(p Passed) bool { return p.Point == point && p.Hop == hop }
	return r.Rollout != nil && r.Rollout.Finished && is(r.Rollout.passed()) || slices.ContainsFunc(r.Applied.Passed, is)
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
		if slices.Contains(open.Done, stage.Name) || s.skips(stage) {
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

	record.Applied = applied(s, open, stages)
	open.Finished = true
	open.Done = nil
	return Finish{Record: record}
}

// skips tells whether a stage is left out because its addon is switched off.
func (s Situation) skips(stage release.Stage) bool {
	return stage.Action == release.Apply && slices.Contains(s.Off, stage.Name)
}

// applied returns what the cluster has when the stages of the open rollout are done.
func applied(s Situation, open *Rollout, stages []release.Stage) *Applied {
	before := s.Record.Applied
	next := Applied{Release: open.Release, Version: open.To, Points: busy(s.Target.Lists), Inputs: open.Inputs}
	if m, _ := momentOf(open.Point); m.whole {
		next.From = open.From
		if before != nil && before.Version == open.To && before.From != "" && s.Cluster.onItsWay() {
			next.From = before.From // the same upgrade, with another release
		}
	} else if before != nil {
		next.From, next.Passed = before.From, slices.Clone(before.Passed)
	}
	next.Addons, next.Behind, next.Off = pass(s.Target.Lists, before, open.Point, stages, s.Off)
	return &next
}

// keep returns the next move of a cluster that has the addons of its target.
func keep(s Situation) Move {
	record := s.Record.clone()
	applied := record.Applied
	isOff := func(addon string) bool { return slices.Contains(s.Off, addon) }
	switch {
	case slices.ContainsFunc(applied.Addons, isOff) || slices.ContainsFunc(applied.Behind, isOff):
		for _, addon := range slices.Concat(applied.Addons, applied.Behind) {
			if isOff(addon) {
				applied.Off = append(applied.Off, addon)
			}
		}
		slices.Sort(applied.Off)
		applied.Addons, applied.Behind = slices.DeleteFunc(applied.Addons, isOff), slices.DeleteFunc(applied.Behind, isOff)
		fallthrough
	case !applied.Pruned:
		applied.Pruned = true
		return Prune{
			Addons: applied.Addons, Behind: applied.Behind,
			Nothing: record.Rollout != nil && record.Rollout.Rebuilt, Record: record,
		}
	case applied.Inputs != s.Inputs || slices.ContainsFunc(applied.Off, func(addon string) bool { return !isOff(addon) }):
		for _, addon := range applied.Off {
			// What the release has no more, or not at the points passed so far, does not come back by this.
			if !isOff(addon) && slices.Contains(s.Target.Lists.Addons(), addon) {
				applied.Addons = append(applied.Addons, addon)
			}
		}
		slices.Sort(applied.Addons)
		applied.Off = slices.DeleteFunc(applied.Off, func(addon string) bool { return !isOff(addon) })
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
