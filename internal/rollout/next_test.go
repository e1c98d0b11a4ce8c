// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// lists is a release that has nothing but lists of stages.
type lists map[release.Point][]release.Stage

func (l lists) Stages(p release.Point) []release.Stage {
	return append([]release.Stage(nil), l[p]...)
}

func (l lists) Addons() []string {
	has := map[string]bool{}
	for _, p := range []release.Point{
		release.AfterControlPlaneInitialized, release.BeforeClusterUpgrade,
		release.BeforeControlPlaneUpgrade, release.AfterControlPlaneUpgrade,
		release.BeforeWorkersUpgrade, release.AfterWorkersUpgrade, release.AfterClusterUpgrade,
	} {
		for _, stage := range l[p] {
			has[stage.Name] = stage.Action == release.Apply
		}
	}
	maps.DeleteFunc(has, func(_ string, here bool) bool { return !here })
	return slices.Sorted(maps.Keys(has))
}

// at are machines that all have that version.
func at(versions ...string) Machines { return Machines{Versions: versions} }

func apply(name string) release.Stage  { return release.Stage{Name: name, Action: release.Apply} }
func remove(name string) release.Stage { return release.Stage{Name: name, Action: release.Delete} }

func before(stage release.Stage) release.Stage {
	stage.PreCondition = &release.Condition{Expression: "ready"}
	return stage
}

func after(stage release.Stage) release.Stage {
	stage.PostCondition = &release.Condition{Expression: "ready"}
	return stage
}

func healthy(stage release.Stage) release.Stage {
	stage.WaitForHealthy = true
	return stage
}

var (
	v1 = Release{Namespace: "stacks", Class: "docker-starter-1-35-v1", Digest: "sha256:1"}
	v2 = Release{Namespace: "stacks", Class: "docker-starter-1-35-v2", Digest: "sha256:2"}
	// up is the release for the next minor version.
	up = Release{Namespace: "stacks", Class: "docker-starter-1-36-v1", Digest: "sha256:36"}

	plain = lists{
		release.AfterControlPlaneInitialized: {apply("cni"), apply("metrics-server")},
		release.BeforeClusterUpgrade:         {apply("cni"), apply("metrics-server")},
	}

	plainPoints = []release.Point{release.AfterControlPlaneInitialized, release.BeforeClusterUpgrade}

	here   = Cluster{UID: "uid", Ours: true, Initialized: true, Version: "v1.35.4", ControlPlane: at("v1.35.4")}
	here36 = Cluster{UID: "uid", Ours: true, Initialized: true, Version: "v1.36.3", ControlPlane: at("v1.35.4")}

	target1  = &Target{Release: v1, Kubernetes: "v1.35.4", Lists: plain}
	target2  = &Target{Release: v2, Kubernetes: "v1.35.4", Lists: plain}
	target36 = &Target{Release: up, Kubernetes: "v1.36.3", Lists: plain}

	created = Passage{Release: v1, Point: release.AfterControlPlaneInitialized, To: "v1.35.4", Cluster: "uid"}
	raised  = Passage{Release: up, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.36.3", Cluster: "uid"}
	renewed = Passage{Release: v2, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.35.4", Cluster: "uid"}

	has1 = &Applied{Release: v1, Version: "v1.35.4", Addons: []string{"cni", "metrics-server"}, Pruned: true}
	// settled is the record of a cluster that was created with v1.
	settled = Record{Applied: has1, Rollout: &Rollout{Passage: created, Finished: true}}
)

var (
	going = Cluster{UID: "uid", Deleting: true, Ours: true, Initialized: true, Version: "v1.35.4"}
	// polite is a cluster whose release says farewell.
	polite = Record{
		Applied: &Applied{Release: v1, Version: "v1.35.4", Points: []release.Point{release.BeforeClusterUpgrade, release.BeforeClusterDelete}, Addons: []string{"cni"}, Pruned: true},
		Rollout: &Rollout{Passage: created, Finished: true},
	}
	politeTarget = &Target{Release: v1, Kubernetes: "v1.35.4", Lists: lists{
		release.AfterControlPlaneInitialized: {apply("cni")},
		release.AfterWorkersUpgrade:          {apply("csi")},
		release.BeforeClusterDelete:          {remove("csi")},
	}}
)

func goodbye(finished bool) Record {
	record := polite.clone()
	record.Applied.Passed = []Passed{{Point: release.AfterControlPlaneInitialized, Cluster: "uid"}}
	record.Rollout = &Rollout{Passage: Passage{Release: v1, Point: release.BeforeClusterDelete, To: "v1.35.4", Cluster: "uid"}, Finished: finished}
	return record
}

// opened is settled after a further rollout was opened.
func opened(passage Passage, change func(*Rollout)) Record {
	record := Record{Applied: has1, Rollout: &Rollout{Passage: passage}}
	if change != nil {
		change(record.Rollout)
	}
	return record
}

func TestNext(t *testing.T) {
	good := Progress{Work: Good}
	gated := func(change func(release.Stage) release.Stage) *Target {
		return &Target{Release: v1, Kubernetes: "v1.35.4", Lists: lists{
			release.AfterControlPlaneInitialized: {change(apply("cni")), apply("metrics-server")},
		}}
	}
	creating := Record{Rollout: &Rollout{Passage: created}}
	creatingDone := func(done ...string) Record {
		return Record{Rollout: &Rollout{Passage: created, Done: done}}
	}

	cases := map[string]struct {
		why  string
		give Situation
		want Move
	}{
		"LetsGoWhenTheClusterIsGone": {
			why:  "Nobody is left to have addons; the finalizer would hold the object for ever.",
			give: Situation{Cluster: Cluster{}, Record: settled},
			want: LetGo{},
		},
		"LetsGoWhenTheClusterIsDeleted": {
			why:  "The machines go as a whole. Deleting the CNI first would only disturb that.",
			give: Situation{Cluster: Cluster{UID: "uid", Deleting: true, Ours: true, Initialized: true}, Record: settled},
			want: LetGo{},
		},
		"StandsStillWhilePaused": {
			why:  "A paused Cluster may be under way to another management cluster, where another operator works on it.",
			give: Situation{Cluster: Cluster{UID: "uid", Paused: true, Ours: true, Initialized: true, Version: "v1.36.3"}, Record: settled},
			want: Stand{},
		},
		"StandsStillWhilePausedAndDeleted": {
			why:  "That is how a move ends on the side it comes from.",
			give: Situation{Cluster: Cluster{UID: "uid", Paused: true, Deleting: true, Ours: true}, Record: settled},
			want: Stand{},
		},
		"LeavesForeignClassesAlone": {
			why:  "The user took the cluster out of our hands; uninstalling its CNI is not what they asked for.",
			give: Situation{Cluster: Cluster{UID: "uid", Initialized: true, Version: "v1.35.4"}, Record: settled},
			want: Leave{},
		},
		"AwaitsTheControlPlane": {
			why:  "There is no API server to apply anything to.",
			give: Situation{Cluster: Cluster{UID: "uid", Ours: true, Version: "v1.35.4"}},
			want: Await{Reason: ControlPlane},
		},
		"FetchesBeforeItDecides": {
			why:  "Whether the release is another one depends on its digest.",
			give: Situation{Cluster: here},
			want: Fetch{},
		},
		"AwaitsTheRightVersion": {
			why:  "Class and version were changed in two edits. The addons of one minor are not for the other.",
			give: Situation{Cluster: here, Target: target36, Record: settled},
			want: Await{Reason: Version, Message: "the Cluster asks for Kubernetes v1.35.4, but ClusterClass docker-starter-1-36-v1 is made for v1.36.3: set spec.topology.version to it", Record: settled},
		},
		"TakesAnotherPatchVersion": {
			why:  "A patch of Kubernetes changes nothing that addons rely on.",
			give: Situation{Cluster: Cluster{UID: "uid", Ours: true, Initialized: true, Version: "v1.35.9"}, Target: target1},
			want: Begin{Record: Record{Rollout: &Rollout{Passage: Passage{Release: v1, Point: release.AfterControlPlaneInitialized, To: "v1.35.9", Cluster: "uid"}}}},
		},

		"OpensTheFirstRollout": {
			why:  "No hook is needed: the condition of the Cluster is its twin.",
			give: Situation{Cluster: here, Target: target1, Inputs: "values"},
			want: Begin{Record: Record{Rollout: &Rollout{Passage: created, Inputs: "values"}}},
		},
		"OpensTheFirstRolloutLongAfterCreation": {
			why:  "A cluster that is older than the operator is adopted like a new one.",
			give: Situation{Cluster: here, Target: target1, Asked: nil},
			want: Begin{Record: creating},
		},
		"OpensAnUpgradeOfKubernetesWithoutTheHook": {
			why:  "Hooks get lost. The changed version says the same.",
			give: Situation{Cluster: here36, Target: target36, Record: settled},
			want: Begin{Record: opened(raised, nil)},
		},
		"OpensALateUpgrade": {
			why:  "The control plane went ahead because nobody held it. The addons follow, and the record says so.",
			give: Situation{Cluster: Cluster{UID: "uid", Ours: true, Initialized: true, Version: "v1.36.3", ControlPlane: at("v1.36.3")}, Target: target36, Record: settled},
			want: Begin{Record: opened(raised, func(r *Rollout) { r.Late = true })},
		},
		"OpensAnUpgradeOfTheStack": {
			why:  "Cluster API calls no hook when the version stays.",
			give: Situation{Cluster: here, Target: target2, Record: settled},
			want: Begin{Record: opened(renewed, nil)},
		},
		"OpensForACorrectedRelease": {
			why:  "The same name with another content is another release.",
			give: Situation{Cluster: here, Target: &Target{Release: Release{Namespace: v1.Namespace, Class: v1.Class, Digest: "sha256:other"}, Kubernetes: "v1.35.4", Lists: plain}, Record: settled},
			want: Begin{Record: opened(Passage{Release: Release{Namespace: v1.Namespace, Class: v1.Class, Digest: "sha256:other"}, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.35.4", Cluster: "uid"}, nil)},
		},
		"OpensForTheSameClassInAnotherNamespace": {
			why:  "Two namespaces may have different releases of one name.",
			give: Situation{Cluster: here, Target: &Target{Release: Release{Namespace: "others", Class: v1.Class, Digest: v1.Digest}, Kubernetes: "v1.35.4", Lists: plain}, Record: settled},
			want: Begin{Record: opened(Passage{Release: Release{Namespace: "others", Class: v1.Class, Digest: v1.Digest}, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.35.4", Cluster: "uid"}, nil)},
		},
		"OpensForAPatchOfKubernetesWithTheSameRelease": {
			why:  "Cluster API holds that upgrade too and wants an answer.",
			give: Situation{Cluster: Cluster{UID: "uid", Ours: true, Initialized: true, Version: "v1.35.9"}, Target: target1, Record: settled},
			want: Begin{Record: opened(Passage{Release: v1, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.35.9", Cluster: "uid"}, nil)},
		},
		"OpensAnotherWhenTheClassFlipsInTheMiddle": {
			why:  "The cluster stands between v1 and v2. Work is needed to bring it to up, and no proof may be left.",
			give: Situation{Cluster: here36, Target: target36, Record: opened(renewed, func(r *Rollout) { r.Done = []string{"cni"} })},
			want: Begin{Record: opened(raised, nil)},
		},
		"OpensAnotherWhenTheClassFlipsBack": {
			why:  "The record says v1 is applied, but half of v2 is in the cluster: going back is work too.",
			give: Situation{Cluster: here, Target: target1, Record: opened(renewed, func(r *Rollout) { r.Done = []string{"cni"} })},
			want: Begin{Record: opened(Passage{Release: v1, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.35.4", Cluster: "uid"}, nil)},
		},
		"OpensAnotherWhenTheFirstReleaseIsReplaced": {
			why:  "A corrected release gets a cluster moving whose creation was stuck.",
			give: Situation{Cluster: here, Target: target2, Record: creatingDone("cni")},
			want: Begin{Record: Record{Rollout: &Rollout{Passage: Passage{Release: v2, Point: release.AfterControlPlaneInitialized, To: "v1.35.4", Cluster: "uid"}}}},
		},
		"OpensAnotherWhenTheValuesChange": {
			why:  "Stages that are done were rendered with other values than those to come.",
			give: Situation{Cluster: here, Target: target1, Record: creatingDone("cni"), Inputs: "changed"},
			want: Begin{Record: Record{Rollout: &Rollout{Passage: created, Inputs: "changed"}}},
		},
		"OpensAnotherAfterAMove": {
			why:  "A rollout half done on another Cluster object proves nothing for this one.",
			give: Situation{Cluster: Cluster{UID: "moved", Ours: true, Initialized: true, Version: "v1.35.4"}, Target: target1, Record: creatingDone("cni")},
			want: Begin{Record: Record{Rollout: &Rollout{Passage: Passage{Release: v1, Point: release.AfterControlPlaneInitialized, To: "v1.35.4", Cluster: "moved"}}}},
		},
		"RestsAfterAMove": {
			why:  "The cluster is the same and has everything.",
			give: Situation{Cluster: Cluster{UID: "moved", Ours: true, Initialized: true, Version: "v1.35.4"}, Target: target1, Record: settled},
			want: Rest{},
		},
		"OpensWhenTheInventoryIsLost": {
			why:  "What is in the cluster has to be found out again, and the proof was about what is known.",
			give: Situation{Cluster: here, Target: target1, Record: settled, InventoryLost: true},
			want: Begin{Record: opened(Passage{Release: v1, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.35.4", Cluster: "uid"}, func(r *Rollout) { r.Rebuilt = true })},
		},
		"OpensWhenTheInventoryIsLostInTheMiddle": {
			why:  "The stages that are done are known to the inventory only.",
			give: Situation{Cluster: here36, Target: target36, Record: opened(raised, func(r *Rollout) { r.Done = []string{"cni"} }), InventoryLost: true},
			want: Begin{Record: opened(raised, func(r *Rollout) { r.Rebuilt = true })},
		},
		"RemembersTheLossAcrossFlips": {
			why:  "A rollout that replaces one that was to prune nothing knows no more than that one.",
			give: Situation{Cluster: here, Target: target1, Record: opened(renewed, func(r *Rollout) { r.Rebuilt = true })},
			want: Begin{Record: opened(Passage{Release: v1, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.35.4", Cluster: "uid"}, func(r *Rollout) { r.Rebuilt = true })},
		},

		"AnswersWhatIsAskedFor": {
			why:  "Cluster API counts from the version of the control plane, which may be older than what we know.",
			give: Situation{Cluster: here36, Target: target36, Record: settled, Asked: &Ask{Namespace: up.Namespace, Class: up.Class, Point: release.BeforeClusterUpgrade, From: "v1.35.2", To: "v1.36.3", Cluster: "uid"}},
			want: Begin{Record: opened(Passage{Release: up, Point: release.BeforeClusterUpgrade, From: "v1.35.2", To: "v1.36.3", Cluster: "uid"}, nil)},
		},
		"AnswersWhatIsAskedForBeforeTheFirstRollout": {
			why:  "The version was raised before the first addon was applied. The upgrade would otherwise be held for ever.",
			give: Situation{Cluster: here36, Target: target36, Asked: &Ask{Namespace: up.Namespace, Class: up.Class, Point: release.BeforeClusterUpgrade, From: "v1.35.4", To: "v1.36.3", Cluster: "uid"}},
			want: Begin{Record: Record{Rollout: &Rollout{Passage: raised}}},
		},
		"GoesOnWithWhatIsAskedFor": {
			why:  "The watch came first and opened the very rollout that the hook asks for.",
			give: Situation{Cluster: here36, Target: target36, Record: opened(raised, nil), Asked: ptr(raised.About())},
			want: Apply{Stage: apply("cni")},
		},
		"DoesNothingTwice": {
			why:  "An ask that stayed behind is answered by the proof that is there.",
			give: Situation{Cluster: here36, Target: target36, Asked: ptr(raised.About()), Record: Record{Applied: &Applied{Release: up, Version: "v1.36.3", Addons: has1.Addons, Pruned: true}, Rollout: &Rollout{Passage: raised, Finished: true}}},
			want: Rest{},
		},
		"IgnoresAnAskOfAnotherClass": {
			why:  "It is older than the class that the Cluster has now.",
			give: Situation{Cluster: here36, Target: target36, Record: settled, Asked: &Ask{Namespace: up.Namespace, Class: "docker-starter-1-36-v0", Point: release.BeforeClusterUpgrade, From: "v1.35.1", To: "v1.36.3", Cluster: "uid"}},
			want: Begin{Record: opened(raised, nil)},
		},
		"IgnoresAnAskOfAnotherCluster": {
			why:  "A Cluster of the same name that was deleted meanwhile.",
			give: Situation{Cluster: here, Target: target1, Record: settled, Asked: &Ask{Namespace: v1.Namespace, Class: v1.Class, Point: release.BeforeClusterUpgrade, From: "v1.34.0", To: "v1.35.4", Cluster: "other"}},
			want: Rest{},
		},
		"TakesAnAskThatHoldsNothingAsAWakeUp": {
			why:  "AfterControlPlaneInitialized waits for nobody, so it is no reason to do anything twice.",
			give: Situation{Cluster: here, Target: target1, Record: settled, Asked: &Ask{Namespace: v1.Namespace, Class: v1.Class, Point: release.AfterControlPlaneInitialized, To: "v1.35.4", Cluster: "uid"}},
			want: Rest{},
		},

		"StartsWithTheFirstStage": {
			give: Situation{Cluster: here, Target: target1, Record: creating},
			want: Apply{Stage: apply("cni")},
		},
		"GoesOnAfterARestart": {
			why:  "What is recorded as done needs no second look.",
			give: Situation{Cluster: here, Target: target1, Record: creatingDone("cni")},
			want: Apply{Stage: apply("metrics-server")},
		},
		"EvaluatesTheConditionBeforeAStage": {
			give: Situation{Cluster: here, Target: gated(before), Record: creating},
			want: Evaluate{Stage: before(apply("cni")), Before: true},
		},
		"HoldsEverythingBehindAnUnmetConditionBefore": {
			why:  "The list is an order: who writes a condition wants what follows to wait as well.",
			give: Situation{Cluster: here, Target: gated(before), Record: creating, Progress: map[string]Progress{"cni": {Pre: Bad}}},
			want: Await{Stage: "cni", Reason: PreCondition, Record: creating},
		},
		"AppliesWhenTheConditionBeforeIsMet": {
			give: Situation{Cluster: here, Target: gated(before), Record: creating, Progress: map[string]Progress{"cni": {Pre: Good}}},
			want: Apply{Stage: before(apply("cni"))},
		},
		"EvaluatesTheConditionAfterAStage": {
			give: Situation{Cluster: here, Target: gated(after), Record: creating, Progress: map[string]Progress{"cni": good}},
			want: Evaluate{Stage: after(apply("cni"))},
		},
		"HoldsEverythingBehindAnUnmetConditionAfter": {
			why:  "The next stage may need the objects of this one.",
			give: Situation{Cluster: here, Target: gated(after), Record: creating, Progress: map[string]Progress{"cni": {Work: Good, Post: Bad}}},
			want: Await{Stage: "cni", Reason: PostCondition, Record: creating},
		},
		"AsksForHealthWhereTheStageDoes": {
			give: Situation{Cluster: here, Target: gated(healthy), Record: creating, Progress: map[string]Progress{"cni": good}},
			want: CheckHealth{Stage: healthy(apply("cni"))},
		},
		"HoldsUntilTheStageIsHealthy": {
			why:  "The next stage may need the objects of this one.",
			give: Situation{Cluster: here, Target: gated(healthy), Record: creating, Progress: map[string]Progress{"cni": {Work: Good, Health: Bad}}},
			want: Await{Stage: "cni", Reason: Health, Record: creating},
		},
		"GoesOnPastAnAddonThatFails": {
			why:  "metrics-server has nothing to do with the fault of the CNI.",
			give: Situation{Cluster: here, Target: target1, Record: creating, Progress: map[string]Progress{"cni": {Work: Bad}}},
			want: Apply{Stage: apply("metrics-server")},
		},
		"DoesNotFinishWithAFailure": {
			why:  "An error is never a success. What went well is remembered.",
			give: Situation{Cluster: here, Target: target1, Record: creating, Progress: map[string]Progress{"cni": {Work: Bad}, "metrics-server": good}},
			want: Await{Stage: "cni", Reason: Retry, Record: creatingDone("metrics-server")},
		},
		"StopsAtAFailureThatOthersWaitFor": {
			why:  "A condition after a stage cannot be met by a stage that failed.",
			give: Situation{Cluster: here, Target: gated(after), Record: creating, Progress: map[string]Progress{"cni": {Work: Bad}}},
			want: Await{Stage: "cni", Reason: Retry, Record: creating},
		},
		"FinishesAfterTheLastStage": {
			give: Situation{Cluster: here, Target: target1, Record: creating, Progress: map[string]Progress{"cni": good, "metrics-server": good}},
			want: Finish{Record: Record{
				Applied: &Applied{Release: v1, Version: "v1.35.4", Points: plainPoints, Addons: []string{"cni", "metrics-server"}},
				Rollout: &Rollout{Passage: created, Finished: true},
			}},
		},
		"FinishesAReleaseWithoutAddons": {
			why:  "Nothing to do is done.",
			give: Situation{Cluster: here, Target: &Target{Release: v1, Kubernetes: "v1.35.4", Lists: lists{}}, Record: creating},
			want: Finish{Record: Record{
				Applied: &Applied{Release: v1, Version: "v1.35.4", Points: []release.Point{release.BeforeClusterUpgrade}},
				Rollout: &Rollout{Passage: created, Finished: true},
			}},
		},

		"PrunesAfterTheRollout": {
			give: Situation{Cluster: here, Target: target1, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: []string{"cni"}}, Rollout: &Rollout{Passage: created, Finished: true}}},
			want: Prune{Addons: []string{"cni"}, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: []string{"cni"}, Pruned: true}, Rollout: &Rollout{Passage: created, Finished: true}}},
		},
		"PrunesNothingAfterALostInventory": {
			why:  "What is not known to be ours is not deleted.",
			give: Situation{Cluster: here, Target: target1, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4"}, Rollout: &Rollout{Passage: created, Finished: true, Rebuilt: true}}},
			want: Prune{Nothing: true, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Pruned: true}, Rollout: &Rollout{Passage: created, Finished: true, Rebuilt: true}}},
		},
		"RefreshesWhenTheValuesChange": {
			why:  "Values are made of fields of the Cluster, which a user may edit at any time.",
			give: Situation{Cluster: here, Target: target1, Record: settled, Inputs: "changed"},
			want: Refresh{Addons: has1.Addons, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: has1.Addons, Inputs: "changed"}, Rollout: settled.Rollout}},
		},
		"PrunesWhatIsSwitchedOff": {
			why:  "Its objects go like those of an addon that a release has no more.",
			give: Situation{Cluster: here, Target: target1, Record: settled, Off: []string{"metrics-server", "unknown"}},
			want: Prune{Addons: []string{"cni"}, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: []string{"cni"}, Off: []string{"metrics-server"}, Pruned: true}, Rollout: settled.Rollout}},
		},
		"RestsWithoutWhatIsSwitchedOff": {
			give: Situation{Cluster: here, Target: target1, Off: []string{"metrics-server"}, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: []string{"cni"}, Off: []string{"metrics-server"}, Pruned: true}, Rollout: settled.Rollout}},
			want: Rest{},
		},
		"RefreshesWhatIsOnAgain": {
			give: Situation{Cluster: here, Target: target1, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: []string{"cni"}, Off: []string{"metrics-server"}, Pruned: true}, Rollout: settled.Rollout}},
			want: Refresh{Addons: has1.Addons, Record: Record{Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: has1.Addons, Off: []string{}}, Rollout: settled.Rollout}},
		},
		"SkipsWhatIsSwitchedOff": {
			give: Situation{Cluster: here, Target: target1, Record: creating, Off: []string{"cni"}},
			want: Apply{Stage: apply("metrics-server")},
		},
		"DeletesWhatIsSwitchedOff": {
			why:  "It may be there from before.",
			give: Situation{Cluster: here, Target: gated(func(s release.Stage) release.Stage { s.Action = release.Delete; return s }), Record: creating, Off: []string{"cni"}},
			want: Delete{Stage: remove("cni")},
		},
		"LetsTheClusterGoWithoutFarewell": {
			why:  "By default nothing is deleted in a cluster that goes as a whole.",
			give: Situation{Cluster: going, Record: settled},
			want: LetGo{},
		},
		"FetchesForAFarewell": {
			give: Situation{Cluster: going, Record: polite},
			want: Fetch{},
		},
		"OpensAFarewell": {
			why:  "The release has something to do before the machines go, such as letting go of volumes.",
			give: Situation{Cluster: going, Record: polite, Target: politeTarget},
			want: Begin{Record: goodbye(false)},
		},
		"CarriesOutAFarewell": {
			give: Situation{Cluster: going, Record: goodbye(false), Target: politeTarget},
			want: Delete{Stage: remove("csi")},
		},
		"LetsGoAfterTheFarewell": {
			give: Situation{Cluster: going, Record: goodbye(true), Target: politeTarget},
			want: LetGo{},
		},
		"LetsGoAfterTheFarewellWithoutTheRelease": {
			why:  "It may have gone from the source meanwhile, and a cluster that goes does not wait for it.",
			give: Situation{Cluster: going, Record: goodbye(true)},
			want: LetGo{},
		},
		"LetsGoWhenItMay": {
			why:  "Cluster API was told to go on, time is over, or the user does not want to wait.",
			give: Situation{Cluster: Cluster{UID: "uid", Deleting: true, MayGo: true, Ours: true, Initialized: true, Version: "v1.35.4"}, Record: polite, Target: politeTarget},
			want: LetGo{},
		},
		"LetsGoInTheMiddleOfAnUpgrade": {
			why:  "What is in the cluster is not what the stages of either release are about.",
			give: Situation{Cluster: going, Record: polite, Target: target2},
			want: LetGo{},
		},
		"LetsTheObjectGoThatIsDeletedAlone": {
			give: Situation{Cluster: Cluster{UID: "uid", Dismissed: true, Ours: true, Initialized: true, Version: "v1.35.4"}, Record: polite, Target: politeTarget},
			want: LetGo{},
		},
		"AnswersAtAPointItsTwinCannotSee": {
			why:  "The record was lost on the way, or Cluster API tells no versions.",
			give: Situation{Cluster: here, Target: politeTarget, Record: settled, Asked: &Ask{Namespace: v1.Namespace, Class: v1.Class, Point: release.AfterWorkersUpgrade, To: "v1.35.4", Hop: "v1.35.4", Cluster: "uid"}},
			want: Begin{Record: Record{
				Applied: &Applied{Release: v1, Version: "v1.35.4", Addons: has1.Addons, Pruned: true, Passed: []Passed{{Point: release.AfterControlPlaneInitialized, Cluster: "uid"}}},
				Rollout: &Rollout{Passage: Passage{Release: v1, Point: release.AfterWorkersUpgrade, To: "v1.35.4", Hop: "v1.35.4", Cluster: "uid"}},
			}},
		},
		"Rests": {
			give: Situation{Cluster: here, Target: target1, Record: settled},
			want: Rest{},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			stored := c.give.Record.String()
			if diff := cmp.Diff(c.want, Next(c.give)); diff != "" {
				t.Errorf("%s\nmove (-want +got):\n%s", c.why, diff)
			}
			if c.give.Record.String() != stored {
				t.Error("Next changed the record that it was given")
			}
		})
	}
}

func TestStages(t *testing.T) {
	cases := map[string]struct {
		why   string
		lists lists
		point release.Point
		want  []release.Stage
	}{
		"TheListOfThePoint": {
			lists: plain,
			point: release.AfterControlPlaneInitialized,
			want:  []release.Stage{apply("cni"), apply("metrics-server")},
		},
		"AnUpgradeBringsWhatItsListLeavesOut": {
			why: "An upgraded cluster shall not differ from a created one, nor lose its CNI.",
			lists: lists{
				release.AfterControlPlaneInitialized: {apply("cni"), healthy(apply("csi")), apply("metrics-server")},
				release.BeforeClusterUpgrade:         {apply("metrics-server")},
			},
			point: release.BeforeClusterUpgrade,
			want:  []release.Stage{apply("metrics-server"), apply("cni"), healthy(apply("csi"))},
		},
		"AnUpgradeDoesNotBringWhatItDeletes": {
			lists: lists{
				release.AfterControlPlaneInitialized: {apply("cni"), apply("ccm")},
				release.BeforeClusterUpgrade:         {remove("ccm"), apply("cni")},
			},
			point: release.BeforeClusterUpgrade,
			want:  []release.Stage{remove("ccm"), apply("cni")},
		},
		"AnUpgradeLeavesToLaterPointsWhatTheyName": {
			why: "It has its turn there.",
			lists: lists{
				release.AfterControlPlaneInitialized: {apply("cni")},
				release.BeforeClusterUpgrade:         {apply("cni")},
				release.AfterClusterUpgrade:          {apply("csi")},
			},
			point: release.BeforeClusterUpgrade,
			want:  []release.Stage{apply("cni")},
		},
		"AnUpgradeLeavesToLaterPointsWhatTheyDelete": {
			why: "Until then it stays as it is.",
			lists: lists{
				release.AfterControlPlaneInitialized: {apply("cni"), apply("ccm")},
				release.AfterControlPlaneUpgrade:     {remove("ccm")},
			},
			point: release.BeforeClusterUpgrade,
			want:  []release.Stage{apply("cni")},
		},
		"WhatHappensAtDeletionIsNoPartOfTheSet": {
			lists: lists{
				release.AfterControlPlaneInitialized: {apply("cni"), apply("csi")},
				release.BeforeClusterDelete:          {remove("csi"), apply("goodbye")},
			},
			point: release.BeforeClusterUpgrade,
			want:  []release.Stage{apply("cni"), apply("csi")},
		},
		"CreationDoesNotBringWhatUpgradesName": {
			lists: lists{
				release.AfterControlPlaneInitialized: {apply("cni")},
				release.BeforeClusterUpgrade:         {apply("cni"), apply("backup")},
			},
			point: release.AfterControlPlaneInitialized,
			want:  []release.Stage{apply("cni")},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Stages(c.lists, c.point)); diff != "" {
				t.Errorf("%s\nstages (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func TestPass(t *testing.T) {
	set := lists{
		release.AfterControlPlaneInitialized: {apply("cni"), apply("csi")},
		release.AfterControlPlaneUpgrade:     {apply("later")},
		release.AfterClusterUpgrade:          {remove("old")},
	}
	const whole, during = release.BeforeClusterUpgrade, release.AfterControlPlaneUpgrade
	cases := map[string]struct {
		why    string
		before Applied
		point  release.Point
		stages []release.Stage
		off    []string
		want   [3][]string
	}{
		"WhatIsApplied":              {point: whole, stages: []release.Stage{apply("csi"), apply("cni")}, want: [3][]string{{"cni", "csi"}}},
		"NotWhatTheReleaseHasNoMore": {point: whole, before: Applied{Addons: []string{"gone"}}, stages: []release.Stage{apply("cni")}, want: [3][]string{{"cni"}}},
		"NotWhatIsDeleted":           {point: whole, before: Applied{Addons: []string{"cni", "csi"}}, stages: []release.Stage{remove("csi"), apply("cni")}, want: [3][]string{{"cni"}}},
		"BehindWhatALaterPointApplies": {
			why: "It is as the earlier release left it, so nothing of it may be deleted.", point: whole,
			before: Applied{Addons: []string{"cni", "later"}}, stages: []release.Stage{apply("cni")}, want: [3][]string{{"cni"}, {"later"}},
		},
		"BehindWhatALaterPointDeletes": {
			why: "Cluster API may count on it until then.", point: whole,
			before: Applied{Addons: []string{"cni", "old"}}, stages: []release.Stage{apply("cni")}, want: [3][]string{{"cni"}, {"old"}},
		},
		"BehindOverTwoUpgrades": {
			point: whole, before: Applied{Behind: []string{"old", "gone"}}, stages: []release.Stage{apply("cni")}, want: [3][]string{{"cni"}, {"old"}},
		},
		"NotBehindWhatTheClusterNeverHad": {point: whole, stages: []release.Stage{apply("cni")}, want: [3][]string{{"cni"}}},
		"CatchesUp": {
			point: during, before: Applied{Addons: []string{"cni"}, Behind: []string{"later", "old"}}, stages: []release.Stage{apply("later")},
			want: [3][]string{{"cni", "later"}, {"old"}},
		},
		"DeletesWhatIsBehind": {
			point: during, before: Applied{Addons: []string{"cni"}, Behind: []string{"old"}}, stages: []release.Stage{remove("old")}, want: [3][]string{{"cni"}},
		},
		"OffWhatIsSwitchedOff": {
			point: whole, before: Applied{Addons: []string{"cni", "csi"}}, stages: []release.Stage{apply("cni"), apply("csi")}, off: []string{"csi", "nobody"},
			want: [3][]string{{"cni"}, nil, {"csi"}},
		},
		"RemembersWhatIsSwitchedOff": {
			point: during, before: Applied{Addons: []string{"cni"}, Off: []string{"csi"}}, stages: []release.Stage{apply("later")}, off: []string{"csi"},
			want: [3][]string{{"cni", "later"}, nil, {"csi"}},
		},
		"NotOffWhatIsDeleted": {point: whole, stages: []release.Stage{remove("csi")}, off: []string{"csi"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got [3][]string
			got[0], got[1], got[2] = pass(set, &c.before, c.point, c.stages, c.off)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\naddons, behind, off (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

// TestTwins shows what is seen in the facts about a cluster in the course of an upgrade, hook or not.
func TestTwins(t *testing.T) {
	const v35, v36, v37 = "v1.35.4", "v1.36.3", "v1.37.1"
	due := func(hop string) sight { return sight{due: true, hop: hop} }
	late := func(hop string) sight { return sight{due: true, hop: hop, late: true} }
	then := func(m Machines, plan ...string) Machines { m.Plan = plan; return m }
	type sights = map[release.Point]sight
	const (
		beforeCP, afterCP           = release.BeforeControlPlaneUpgrade, release.AfterControlPlaneUpgrade
		beforeWorkers, afterWorkers = release.BeforeWorkersUpgrade, release.AfterWorkersUpgrade
		afterAll                    = release.AfterClusterUpgrade
	)
	cases := map[string]struct {
		why       string
		from, to  string
		cp        Machines
		workers   Machines
		noWorkers bool
		want      sights
	}{
		"BeforeTheFirstMachine": {
			from: v35, to: v36, cp: then(at(v35), v36), workers: then(at(v35), v36),
			want: sights{beforeCP: due(v36)},
		},
		"BeforeThereIsAPlan": {
			why:  "Cluster API before 1.14 has none, and a later one has none yet when the user has just edited the Cluster.",
			from: v35, to: v36, cp: at(v35), workers: at(v35),
			want: sights{beforeCP: due(v36)},
		},
		"BeforeThereIsAPlanOverTwoVersions": {
			why:  "Which version is next is not ours to guess.",
			from: v35, to: v37, cp: at(v35), workers: at(v35), want: sights{},
		},
		"ControlPlaneOnItsWay": {
			from: v35, to: v36, cp: at(v35, v36), workers: then(at(v35), v36), want: sights{},
		},
		"ControlPlaneThere": {
			why:  "That nobody asked before is known now, and said.",
			from: v35, to: v36, cp: at(v36), workers: then(at(v35), v36),
			want: sights{beforeCP: late(v36), afterCP: due(v36), beforeWorkers: due(v36)},
		},
		"WorkersOnTheirWay": {
			from: v35, to: v36, cp: at(v36), workers: at(v35, v36),
			want: sights{beforeCP: late(v36), afterCP: due(v36)},
		},
		"AllThere": {
			from: v35, to: v36, cp: at(v36), workers: at(v36),
			want: sights{beforeCP: late(v36), afterCP: late(v36), beforeWorkers: late(v36), afterWorkers: due(v36), afterAll: due("")},
		},
		"AllThereWithoutWorkers": {
			why:  "What a release names there has to come at some time.",
			from: v35, to: v36, cp: at(v36), noWorkers: true,
			want: sights{beforeCP: late(v36), afterCP: due(v36), beforeWorkers: due(v36), afterWorkers: due(v36), afterAll: due("")},
		},
		"FirstOfTwoVersions": {
			from: v35, to: v37, cp: then(at(v35), v36, v37), workers: then(at(v35), v37),
			want: sights{beforeCP: due(v36)},
		},
		"FirstOfTwoVersionsOnItsWayToTheMachines": {
			why:  "It is in the plan no more, and the next one does not follow on what the machines have.",
			from: v35, to: v37, cp: then(at(v35), v37), workers: then(at(v35), v37),
			want: sights{},
		},
		"BetweenTwoVersions": {
			from: v35, to: v37, cp: then(at(v36), v37), workers: then(at(v35), v37),
			want: sights{beforeCP: due(v37), afterCP: due(v36)},
		},
		"BetweenTwoVersionsWithWorkers": {
			from: v35, to: v37, cp: then(at(v36), v37), workers: then(at(v35), v36, v37),
			want: sights{beforeCP: due(v37), afterCP: due(v36), beforeWorkers: due(v36)},
		},
		"WorkersBetweenTwoVersions": {
			from: v35, to: v37, cp: then(at(v36), v37), workers: then(at(v36), v37),
			want: sights{beforeCP: due(v37), afterCP: sight{due: true, hop: v36, late: true}, afterWorkers: due(v36)},
		},
		"NothingKnown": {
			why:  "Cluster API before 1.14 tells no versions. Its hooks say when.",
			from: v35, to: v36, want: sights{},
		},
		"OnlyTheRelease": {
			why:  "No machine tells when, and no hook does: one point follows on the other.",
			from: v36, to: v36, cp: at(v36), workers: at(v36),
			want: sights{beforeCP: due(v36), afterCP: due(v36), beforeWorkers: due(v36), afterWorkers: due(v36), afterAll: due("")},
		},
		"OnlyTheReleaseAndNothingKnown": {
			from: v36, to: v36,
			want: sights{beforeCP: due(v36), afterCP: due(v36), beforeWorkers: due(v36), afterWorkers: due(v36), afterAll: due("")},
		},
		"OnlyTheReleaseInTheMiddle": {
			why:  "The release was replaced while machines were on their way to the version.",
			from: v36, to: v36, cp: at(v35), workers: at(v35),
			want: sights{beforeCP: due(v36)},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := Situation{
				Cluster: Cluster{Version: c.to, ControlPlane: c.cp, Workers: c.workers, NoWorkers: c.noWorkers},
				Record:  Record{Applied: &Applied{From: c.from, Version: c.to}},
			}
			got := sights{}
			for _, m := range moments {
				if !m.during {
					continue
				}
				if seen := m.twin(s); seen.due {
					got[m.point] = seen
				}
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(sight{})); diff != "" {
				t.Errorf("%s\nseen (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }
