// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

func TestReconcile(t *testing.T) {
	workload := workloadServer(t)
	for name, test := range map[string]func(*env){
		"Creates":                       testCreates,
		"AwaitsTheControlPlane":         testAwaitsTheControlPlane,
		"AwaitsTheRelease":              testAwaitsTheRelease,
		"OutlivesItsRelease":            testOutlivesItsRelease,
		"HoldsAtGates":                  testHoldsAtGates,
		"PassesAFailingAddon":           testPassesAFailingAddon,
		"ReportsConflicts":              testReportsConflicts,
		"UpgradesTheStackAndBack":       testUpgradesTheStackAndBack,
		"UpgradesKubernetes":            testUpgradesKubernetes,
		"HoldsForABrokenRelease":        testHoldsForABrokenRelease,
		"AwaitsTheRightVersion":         testAwaitsTheRightVersion,
		"DeletesWhereAStageSaysSo":      testDeletesWhereAStageSaysSo,
		"StandsStillWhilePaused":        testStandsStillWhilePaused,
		"LeavesForeignClasses":          testLeavesForeignClasses,
		"LeavesOtherShards":             testLeavesOtherShards,
		"LetsGoWithTheCluster":          testLetsGoWithTheCluster,
		"SurvivesADeletedClusterAddon":  testSurvivesADeletedClusterAddon,
		"SurvivesALostInventory":        testSurvivesALostInventory,
		"RebuildsForACorrectedRelease":  testRebuildsForACorrectedRelease,
		"CorrectsDrift":                 testCorrectsDrift,
		"FollowsTheValues":              testFollowsTheValues,
		"WaitsForATurnToRender":         testWaitsForATurnToRender,
		"KeepsGeneratedValues":          testKeepsGeneratedValues,
		"WaitsForHealth":                testWaitsForHealth,
		"ReadsWhatTheClusterRefersTo":   testReadsWhatTheClusterRefersTo,
		"StartsAnewWithoutARecord":      testStartsAnewWithoutARecord,
		"ConnectsAgain":                 testConnectsAgain,
		"AppliesAReleaseWithoutStages":  testAppliesALegacyRelease,
		"UpgradesReleasesWithoutStages": testUpgradesLegacyReleases,
		"AppliesAReleaseWithoutObjects": testAppliesNothing,
		"PrunesWhatMoved":               testPrunesWhatMoved,
		"PrunesNothingThatIsTheSame":    testPrunesNothingThatIsTheSame,
		"ForgetsNoDrift":                testForgetsNoDrift,
		"LetsGoOfAnotherCluster":        testLetsGoOfAnotherCluster,
		"PrunesNothingWithoutMemory":    testPrunesNothingWithoutMemory,
		"UsesKindsOfEarlierStages":      testUsesKindsOfEarlierStages,
		"KeepsWhatHooksMade":            testKeepsWhatHooksMade,
		"NamesWhatIsLeft":               testNamesWhatIsLeft,
		"AwaitsJobs":                    testAwaitsJobs,
		"FindsItsOwnerAgain":            testFindsItsOwnerAgain,
		"LetsGoInTheMiddle":             testLetsGoInTheMiddle,
		"RefusesOneObjectOfTwoAddons":   testRefusesOneObjectOfTwoAddons,
		"RunsHooksOfARollBack":          testRunsHooksOfARollBack,
		"RunsAHookThatFailedAgain":      testRunsAHookThatFailedAgain,
		"AsksWhatTheClusterServes":      testAsksWhatTheClusterServes,
		"DiesBetweenStages":             testDiesBetweenStages,
		"TakesOver":                     testTakesOver,
		"TakesOverInTheMiddle":          testTakesOverInTheMiddle,
		"TakesOverWhateverDies":         testTakesOverWhateverDies,
		"WarnsOfDrift":                  testWarnsOfDrift,
		"WatchesForDrift":               testWatchesForDrift,
	} {
		t.Run(name, func(t *testing.T) { test(newEnv(t, workload)) })
	}
}

var (
	starter1 = addons{"cni": object("cni", "1"), "metrics": object("metrics", "1") + object("extra", "1")}
	starter2 = addons{"cni": object("cni", "2"), "csi": object("csi", "2")}
)

func testCreates(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.running(v1, k135)
	o := e.start()
	result, err := o.once()
	if err != nil {
		e.Fatal(err)
	}
	if result.RequeueAfter <= 0 || result.RequeueAfter > 10*time.Minute {
		e.Errorf("looks again after %s, want some minutes", result.RequeueAfter)
	}
	e.wantReady()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
	_, writes, reads := o.faults.counts()
	if writes != 3 || writes+reads > 3+6 {
		e.Errorf("%d writes and %d reads for 3 objects, want 3 and at most 20: six, and what it takes to ask again", writes, reads)
	}

	addon := e.addon()
	cluster := e.getCluster()
	if got := addon.Spec.ClusterStack + " " + addon.Spec.Version + " " + addon.Spec.Hook; got != v1+" v1 " {
		e.Errorf("spec says %q", got)
	}
	if got := addon.Annotations[v1alpha1.ClusterAddonStageAnnotation]; got != "created" {
		e.Errorf("annotation %s is %q", v1alpha1.ClusterAddonStageAnnotation, got)
	}
	if diff := cmp.Diff(&corev1.ObjectReference{
		APIVersion: clusterv1.GroupVersion.String(), Kind: "Cluster", Namespace: e.ns, Name: cluster.Name, UID: cluster.UID,
	}, addon.Spec.ClusterRef); diff != "" {
		e.Errorf("clusterRef (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]v1alpha1.StageStatus{
		{Name: "cni", Action: "apply", Phase: v1alpha1.StagePhaseDone}, {Name: "metrics", Action: "apply", Phase: v1alpha1.StagePhaseDone},
	}, addon.Status.Stages); diff != "" {
		e.Errorf("stages (-want +got):\n%s", diff)
	}
	if addon.Status.Inventory == nil || addon.Status.Inventory.Objects != 3 || addon.Status.Inventory.Shared != 0 {
		e.Errorf("inventory is %+v, want 3 objects of ours", addon.Status.Inventory)
	}
	if got := addon.Status.AppliedRelease; got == nil || got.Name != v1 || got.KubernetesVersion != k135 || !strings.HasPrefix(got.Digest, "sha256:") {
		e.Errorf("applied release is %+v", got)
	}
	if got := owners(e.secret("inventory")); !slices.Contains(got, addon.UID) {
		e.Errorf("the inventory is owned by %v, want the ClusterAddon", got)
	}
	for _, conditionType := range []string{
		v1alpha1.ClusterReadyCondition, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.EvaluatedCELCondition,
		v1alpha1.HelmChartAppliedCondition, v1alpha1.LeftoversPrunedCondition,
	} {
		if c := addon.Status.Conditions.Get(conditionType); c == nil || c.Status != metav1.ConditionTrue || c.Reason == "" || c.Message == "" {
			e.Errorf("condition %s is %+v, want True with reason and message", conditionType, c)
		}
	}
	if record := e.record(); !record.Rollout.Finished || record.Rollout.Cluster != string(cluster.UID) || !record.Applied.Pruned {
		e.Errorf("record is %s", record)
	}

	// The pass has seen what it wrote into the spec itself, which takes no other one.
	for _, c := range addon.Status.Conditions {
		if c.ObservedGeneration != addon.Generation {
			e.Errorf("condition %s is about generation %d, want %d", c.Type, c.ObservedGeneration, addon.Generation)
		}
	}
	if addon.Generation < 2 || addon.Status.ObservedGeneration != addon.Generation {
		e.Errorf("observed generation is %d, want %d", addon.Status.ObservedGeneration, addon.Generation)
	}

	// At rest nothing is written, also not by an operator that was just started.
	resourceVersions := e.versions()
	for _, o := range []*operator{o, e.start()} {
		mutating, _, _ := o.faults.counts()
		for range 3 {
			if _, err := o.once(); err != nil {
				e.Fatal(err)
			}
		}
		if after, _, _ := o.faults.counts(); after != mutating {
			e.Errorf("%d writes at rest", after-mutating)
		}
	}
	if diff := cmp.Diff(resourceVersions, e.versions()); diff != "" {
		e.Errorf("written at rest (-before +after):\n%s", diff)
	}
}

// versions returns the resource versions of everything that the operator writes in the management cluster.
func (e *env) versions() map[string]string {
	e.Helper()
	versions := map[string]string{"addon": e.addon().ResourceVersion}
	secrets := &corev1.SecretList{}
	if err := e.client.List(e.Context(), secrets, client.InNamespace(e.ns)); err != nil {
		e.Fatal(err)
	}
	for i := range secrets.Items {
		versions[secrets.Items[i].Name] = secrets.Items[i].ResourceVersion
	}
	return versions
}

func testAwaitsTheControlPlane(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.cluster(v1, k135)
	o := e.start()
	o.settle()
	e.wantCondition(v1alpha1.ClusterReadyCondition, "False", v1alpha1.ControlPlaneNotReadyReason, "not initialized")
	e.initialize()
	o.clusters.connected = false
	o.settle()
	e.wantCondition(v1alpha1.ClusterReadyCondition, "False", v1alpha1.ControlPlaneNotReadyReason, "no connection to the API server")
	e.wantObjects()
	o.clusters.connected = true
	o.settle()
	e.wantReady()
}

func testAwaitsTheRelease(e *env) {
	if err := e.client.Create(e.Context(), apitest.ClusterStackRelease(e.ns, v1)); err != nil {
		e.Fatal(err)
	}
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantCondition(v1alpha1.ClusterStackReleaseDownloadedCondition, "False", v1alpha1.NotPublishedReason, v1)
	e.publish(v1, both("cni"), starter1)
	o.settle()
	e.wantReady()
}

// The store is lost, and the source no longer has the release. The cluster is said to be what it is, until somebody wants
// something for which the release is needed.
func testOutlivesItsRelease(e *env) {
	e.publish(v1, both("cni"), starter1)
	rel := apitest.ClusterStackRelease(e.ns, v1)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	e.fix(rel, e.record().Applied.Digest)
	o.settle()
	before := e.addon()

	e.source.Withdraw(v1)
	var err error
	if e.store, err = store.Open(e.TempDir(), store.Options{}); err != nil {
		e.Fatal(err)
	}
	lost := e.store
	e.Cleanup(func() { _ = lost.Close() })
	o = e.start()
	after := o.settle()
	e.wantReady()
	e.wantCondition(v1alpha1.ClusterStackReleaseDownloadedCondition, "True", v1alpha1.DoneReason, v1+" is in place; it cannot be opened at present")
	if diff := cmp.Diff(before.Status.TargetRelease, after.Status.TargetRelease); diff != "" {
		e.Errorf("target (-before +after):\n%s", diff)
	}
	if mutating, _, _ := o.faults.counts(); mutating != 1 {
		e.Errorf("%d writes, want the one of the status", mutating)
	}

	// Without the release nothing can be taken out, and that is not to be told as done.
	e.set(v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{{Name: "cni", Disabled: true}}})
	o.settle()
	e.wantCondition(v1alpha1.ClusterStackReleaseDownloadedCondition, "False", v1alpha1.NotPublishedReason, v1)
	e.set(v1alpha1.ClusterAddonSettingsSpec{})
	o.settle()
	e.wantReady()

	// Another content under the name is another release.
	e.fix(rel, "sha256:"+strings.Repeat("0", 64))
	o.settle()
	e.wantCondition(v1alpha1.ClusterStackReleaseDownloadedCondition, "False", v1alpha1.NotPublishedReason, v1)
	e.fix(rel, before.Status.AppliedRelease.Digest)
	o.settle()
	e.wantReady()
	e.edit(func(cluster *clusterv1.Cluster) { cluster.Spec.Topology.Version = "v1.35.5" })
	o.settle()
	e.wantCondition(v1alpha1.ClusterStackReleaseDownloadedCondition, "False", v1alpha1.NotPublishedReason, v1)
}

// fix fixes the digest of a release, as its controller does.
func (e *env) fix(rel *v1alpha1.ClusterStackRelease, digest string) {
	e.Helper()
	if err := e.client.Get(e.Context(), client.ObjectKeyFromObject(rel), rel); err != nil {
		e.Fatal(err)
	}
	rel.Annotations = map[string]string{v1alpha1.PinAnnotation: releases.Pinned{Source: "memory", Digest: digest}.String()}
	if err := e.client.Update(e.Context(), rel); err != nil {
		e.Fatal(err)
	}
}

func testHoldsAtGates(e *env) {
	gate := `waitFor%sCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: ` + e.key.Name + `-%s, namespace: kube-system}], conditions: o.data.text == "go"}`
	e.publish(v1, both(
		"{name: cni, action: apply, "+strings.NewReplacer("%sC", "PostC", "-%s", "-after").Replace(gate)+"}",
		"{name: metrics, action: apply, "+strings.NewReplacer("%sC", "PreC", "-%s", "-before").Replace(gate)+"}",
	), starter1)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantCondition(v1alpha1.EvaluatedCELCondition, "False", v1alpha1.WaitingForPostConditionReason, "ConfigMap kube-system/"+e.key.Name+"-after to exist")
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.WaitingForPostConditionReason, "stage cni")
	e.wantObjects("cni: 1")
	if got := e.addon().Status.Stages; len(got) != 2 || got[0].Phase != v1alpha1.StagePhaseWaitingForPostCondition || got[1].Phase != v1alpha1.StagePhasePending {
		e.Errorf("stages are %+v", got)
	}
	if !slices.Contains(o.clusters.watches[forGates], "ConfigMap") {
		e.Errorf("watches %v, want ConfigMaps", o.clusters.watches)
	}
	_, before, _ := o.faults.counts()

	e.put("after", map[string]string{"text": "wait"})
	if result, err := o.once(); err != nil || result.RequeueAfter > time.Second {
		e.Errorf("looks again after %s, %v; want the interval of polling", result.RequeueAfter, err)
	}
	e.put("after", map[string]string{"text": "go"})
	o = e.start() // what it waited for is not lost with the process
	o.settle()
	e.wantCondition(v1alpha1.EvaluatedCELCondition, "False", v1alpha1.WaitingForPreConditionReason, "stage metrics")
	e.wantObjects("after: go", "cni: 1")
	if got := e.addon().Status.Stages; got[0].Phase != v1alpha1.StagePhaseDone || got[1].Phase != v1alpha1.StagePhaseWaitingForPreCondition {
		e.Errorf("stages are %+v", got)
	}
	e.put("before", map[string]string{"text": "go"})
	o.settle()
	e.wantReady()
	e.wantCondition(v1alpha1.EvaluatedCELCondition, "True", v1alpha1.DoneReason, "")
	if _, writes, _ := o.faults.counts(); before != 1 || writes != 2 {
		e.Errorf("%d and %d writes to the cluster, want 1 for cni before the condition and 2 for metrics after it", before, writes)
	}
}

func testPassesAFailingAddon(e *env) {
	broken := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"{{ .Values.cluster }}_not-a-name\"\n"
	e.publish(v1, both("broken", "cni"), addons{"broken": broken, "cni": object("cni", "1")})
	e.running(v1, k135)
	o := e.start()
	if _, err := o.once(); err == nil {
		e.Error("an addon that fails has to be tried again")
	}
	e.wantObjects("cni: 1")
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.FailedToApplyObjectsReason, "stage broken")
	if got := e.addon().Status.Resources; len(got) != 1 || got[0].Kind != "ConfigMap" || got[0].Status != v1alpha1.ResourceStatusNotSynced || got[0].Error == "" {
		e.Errorf("resources are %+v, want the one that failed", got)
	}
	if e.record().Rollout.Finished {
		e.Error("a rollout with a failed addon is finished")
	}
	message := e.addon().Status.Conditions.Get(v1alpha1.HelmChartAppliedCondition).Message
	version := e.addon().ResourceVersion
	_, _ = o.once()
	if again := e.addon(); again.ResourceVersion != version {
		e.Errorf("the same failure was written again: %q, then %s", message, describe(again))
	}
}

func testReportsConflicts(e *env) {
	e.publish(v1, both("cni"), starter1)
	cm := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: e.key.Name + "-cni"}, Data: map[string]string{"text": "mine"},
	}
	if err := e.workload.Patch(e.Context(), cm, client.Apply, client.FieldOwner("somebody")); err != nil { //nolint:staticcheck // a typed object is what a person applies
		e.Fatal(err)
	}
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ConflictReason, `"somebody"`)
	e.wantObjects("cni: mine")
	if err := e.workload.Delete(e.Context(), cm); err != nil {
		e.Fatal(err)
	}
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1")
}

func testUpgradesTheStackAndBack(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	// Its list for upgrades leaves the CNI out.
	e.publish(v2, map[release.Point][]string{
		release.AfterControlPlaneInitialized: {"cni", "csi"}, release.BeforeClusterUpgrade: {"csi"},
	}, starter2)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	uid := e.uid("cni")

	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "csi: 2")
	if got := e.uid("cni"); got != uid {
		e.Error("the CNI was deleted and made anew")
	}
	if got := e.addon().Annotations[v1alpha1.ClusterAddonStageAnnotation]; got != "upgraded" {
		e.Errorf("annotation %s is %q", v1alpha1.ClusterAddonStageAnnotation, got)
	}

	e.use(v1, k135)
	e.start().settle()
	e.wantReady()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
	if got := e.addon().Spec.ClusterStack; got != v1 {
		e.Errorf("spec.clusterStack is %s", got)
	}
}

func (e *env) uid(name string) string {
	e.Helper()
	cm := &corev1.ConfigMap{}
	if err := e.workload.Get(e.Context(), client.ObjectKey{Namespace: "kube-system", Name: e.key.Name + "-" + name}, cm); err != nil {
		e.Fatal(err)
	}
	return string(cm.UID)
}

func testUpgradesKubernetes(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publish(up, both("cni", "csi"), starter2)
	e.running(v1, k135)
	o := e.start()
	o.settle()

	e.use(up, k136)
	// The hook comes before the controller has seen anything.
	ask := e.ask(up, k135, k136)
	if e.record().Proves(ask) {
		e.Fatal("proven before anything was done")
	}
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "csi: 2")
	if !e.record().Proves(ask) {
		e.Errorf("not proven: %s", e.record())
	}
	if got, there := e.addon().Annotations[v1alpha1.LifecyclePointAnnotation]; there {
		e.Errorf("what was asked for stays: %s", got)
	}
	other := ask
	other.From = "v1.35.2"
	if e.record().Proves(other) {
		e.Error("another upgrade is proven")
	}
}

func testHoldsForABrokenRelease(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.publish(v2, both("cni"), addons{"cni": "{{ fail \"no\" }}"})
	e.publish(v3, both("cni"), addons{"cni": object("cni", "3")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.use(v2, k135)
	result, err := o.once()
	if err == nil && result.RequeueAfter > 20*time.Minute {
		e.Errorf("a release that cannot be rendered: %v, %v", result, err)
	}
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.RenderFailedReason, "stage cni")
	e.wantObjects("cni: 1")
	if record := e.record(); record.Rollout.Finished || e.addon().Spec.ClusterStack != v1 {
		e.Errorf("a failed render counts as success: %s", record)
	}
	e.use(v3, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 3")
}

func testAwaitsTheRightVersion(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.publish(up, both("cni"), starter2)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.use(up, k135)
	o.settle()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.VersionMismatchReason, k136)
	e.wantObjects("cni: 1")
	e.use(up, k136)
	o.settle()
	e.wantReady()
}

func testDeletesWhereAStageSaysSo(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publish(v2, map[release.Point][]string{
		release.AfterControlPlaneInitialized: {"cni", "metrics"}, release.BeforeClusterUpgrade: {"-metrics", "cni"},
	}, starter1)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1")
	if got := e.record().Applied.Addons; !slices.Equal(got, []string{"cni"}) {
		e.Errorf("addons are %v", got)
	}
}

func testStandsStillWhilePaused(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.publish(v2, both("cni"), starter2)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	paused := true
	e.edit(func(c *clusterv1.Cluster) { c.Spec.Paused = &paused; apitest.Use(c, v2, k135) })
	o.settle()
	e.wantCondition(v1alpha1.PausedCondition, "True", v1alpha1.PausedReason, "paused")
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "True", v1alpha1.DoneReason, v1)
	e.wantObjects("cni: 1")
	if err := e.client.Delete(e.Context(), e.addon()); err != nil {
		e.Fatal(err)
	}
	version := e.addon().ResourceVersion
	o.settle()
	if addon := e.addon(); addon.ResourceVersion != version || len(addon.Finalizers) == 0 {
		e.Error("the ClusterAddon of a paused Cluster was written")
	}
}

func testLeavesOtherShards(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.running(v1, k135)
	e.edit(func(c *clusterv1.Cluster) { c.Labels = map[string]string{clusterv1.WatchLabel: "blue"} })
	o := e.start()
	o.watchFilter = "green"
	version := e.addon().ResourceVersion
	o.settle()
	if e.addon().ResourceVersion != version {
		e.Error("the ClusterAddon of a Cluster of another shard was written")
	}
	o.watchFilter = "blue"
	o.settle()
	e.wantObjects("cni: 1")
}

func testLeavesForeignClasses(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.edit(func(c *clusterv1.Cluster) { apitest.Use(c, "somebody-elses", k135) })
	o.settle()
	e.wantCondition(v1alpha1.ReadyCondition, "False", v1alpha1.NotAClusterStackReason, "left as they are")
	e.wantObjects("cni: 1")
	e.use(v1, k135)
	o.settle()
	e.wantReady()
}

func testLetsGoWithTheCluster(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = []string{"example.com/machines"} })
	if err := e.client.Delete(e.Context(), e.getCluster()); err != nil {
		e.Fatal(err)
	}
	o.clusters.connected = false // its API server may be gone by now
	o.settle()
	if got := e.addon().Finalizers; len(got) != 0 {
		e.Errorf("finalizers %v are left", got)
	}
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = nil })
	if _, err := o.once(); err != nil {
		e.Errorf("after the Cluster is gone: %v", err)
	}
	e.wantObjects("cni: 1")
}

func testSurvivesADeletedClusterAddon(e *env) {
	e.publish(v1, both("cni", "metrics"), addons{
		"cni":     object("cni", "{{ randAlphaNum 20 }}"),
		"metrics": starter1["metrics"],
	})
	e.publish(v2, both("cni"), addons{"cni": object("cni", "{{ randAlphaNum 20 }}")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	before := e.has()

	if err := e.client.Delete(e.Context(), e.addon()); err != nil {
		e.Fatal(err)
	}
	if _, err := o.once(); err != nil {
		e.Fatal(err)
	}
	err := e.client.Get(e.Context(), e.addonKey(), &v1alpha1.ClusterAddon{})
	if !apierrors.IsNotFound(err) {
		e.Fatalf("the deleted ClusterAddon is still there: %v", err)
	}
	if got := owners(e.secret("inventory")); !slices.Equal(got, []types.UID{e.getCluster().UID}) {
		e.Errorf("the inventory is owned by %v, want the Cluster", got)
	}
	if _, err := (&creator{client: e.client}).Reconcile(e.Context(), e.getCluster()); err != nil {
		e.Fatal(err)
	}
	o.settle()
	e.wantReady()
	if diff := cmp.Diff(before, e.has()); diff != "" {
		e.Errorf("objects changed (-before +after):\n%s", diff)
	}
	e.use(v2, k135)
	o.settle()
	if got := e.has(); len(got) != 1 || got[0] != before[0] {
		e.Errorf("objects after the upgrade are %v, want the CNI with its generated value of %v", got, before)
	}
}

func testSurvivesALostInventory(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publish(v2, both("cni", "csi"), starter2)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	if err := e.client.Delete(e.Context(), e.secret("inventory")); err != nil {
		e.Fatal(err)
	}
	e.put("foreign", map[string]string{"text": "foreign"})
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	// Nothing is pruned this time, though all of it is known to be ours again.
	e.wantObjects("cni: 2", "csi: 2", "extra: 1", "foreign: foreign", "metrics: 1")
	if got := e.addon().Status.Inventory; got == nil || got.Shared != 0 {
		e.Errorf("inventory is %+v, want nothing shared", got)
	}
	e.use(v1, k135)
	o.settle()
	e.wantObjects("cni: 1", "extra: 1", "foreign: foreign", "metrics: 1")
}

// A release was corrected under the same name, and what its addons were before helps to find out what is there, no more.
func testRebuildsForACorrectedRelease(e *env) {
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1") + object("old", "1")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	if err := e.client.Delete(e.Context(), e.secret("inventory")); err != nil {
		e.Fatal(err)
	}
	e.publish(v1, both("cni"), addons{"cni": object("cni", "2")})
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "old: 1")
	if record := e.record(); record.Applied.Digest != e.addon().Status.TargetRelease.Digest {
		e.Errorf("record is %s", record)
	}
}

func testCorrectsDrift(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: e.key.Name + "-metrics"}}
	if err := e.workload.Delete(e.Context(), cm); err != nil {
		e.Fatal(err)
	}
	e.put("cni", map[string]string{"text": "edited"})
	o.settle()
	e.wantObjects("cni: edited", "extra: 1") // it is not looked at all the time
	_, before, _ := o.faults.counts()
	e.clock.Step(15 * time.Minute)
	o.settle()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
	// For the one that is gone the first request says which object it is meant for, and is refused.
	if _, after, _ := o.faults.counts(); after-before > 3 {
		e.Errorf("%d writes for two objects that had changed", after-before)
	}
	e.wantEvent("DriftCorrected")
}

// statuses watches the ClusterAddon, and returns what gives every status that it had from now on.
func (e *env) statuses() func() []v1alpha1.ClusterAddonStatus {
	e.Helper()
	watch, err := e.client.Watch(e.Context(), &v1alpha1.ClusterAddonList{}, client.InNamespace(e.ns))
	if err != nil {
		e.Fatal(err)
	}
	return func() []v1alpha1.ClusterAddonStatus {
		defer watch.Stop()
		var all []v1alpha1.ClusterAddonStatus
		for last := e.addon().ResourceVersion; ; {
			addon, ok := (<-watch.ResultChan()).Object.(*v1alpha1.ClusterAddon)
			if !ok {
				e.Fatal("the watch has ended")
			}
			all = append(all, addon.Status)
			if addon.ResourceVersion == last {
				return all
			}
		}
	}
}

// wantEvent looks for an event among those that were recorded so far.
func (e *env) wantEvent(reason string) {
	e.Helper()
	for {
		select {
		case event := <-e.recorder.Events:
			if strings.Contains(event, " "+reason+" ") {
				return
			}
		default:
			e.Errorf("no event %s", reason)
			return
		}
	}
}

// testWaitsForATurnToRender: that so many others render is nothing that anybody has done wrong.
func testWaitsForATurnToRender(e *env) {
	e.publish(v1, both("cni", "csi"), addons{"cni": object("cni", "{{ .Values.colour }}"), "csi": object("csi", "1")})
	e.running(v1, k135)
	o := e.start()
	renders := o.options.Render
	crowded := func(string) bool { return true }
	o.options.Render = func(ctx context.Context, in render.Input) (*render.Result, error) {
		if crowded(in.Subject) {
			return nil, fmt.Errorf("render %s: %w", in.Subject, errCrowded)
		}
		return renders(ctx, in)
	}
	waits := func(objects ...string) {
		e.Helper()
		result, err := o.once()
		if err != nil || result.RequeueAfter <= 0 || result.RequeueAfter > time.Minute {
			e.Errorf("the pass ends with %v, and is tried again after %s", err, result.RequeueAfter)
		}
		e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ObjectsApplyingOngoingReason, "a turn to render")
		e.wantObjects(objects...)
	}
	waits() // to know whether its values have changed

	values := true
	crowded = func(subject string) bool {
		if !strings.HasPrefix(subject, "addon cni ") {
			return false
		}
		was := values
		values = false
		return !was
	}
	waits("csi: 1") // for one chart, which holds up no other

	crowded = func(string) bool { return false }
	o.settle()
	e.wantReady()
	e.putConfigMap("mine", "colour: red\n")
	e.set(valuesOf("cni", fromConfigMap("mine")))
	crowded = func(string) bool { return true }
	waits("cni: ", "csi: 1") // at rest
	crowded = func(string) bool { return false }
	o.settle()
	e.wantReady()
	e.wantObjects("cni: red", "csi: 1")
	for len(e.recorder.Events) > 0 {
		if event := <-e.recorder.Events; strings.HasPrefix(event, "Warning") {
			e.Errorf("it is blamed: %s", event)
		}
	}
}

func testFollowsTheValues(e *env) {
	e.publish(v1, both("cni", "metrics"), addons{
		"cni":     object("cni", "{{ .Values.colour }}"),
		"metrics": "{{ if eq .Values.colour \"red\" }}" + object("red", "1") + "{{ else }}" + object("other", "1") + "{{ end }}",
	})
	e.running(v1, k135)
	e.edit(func(c *clusterv1.Cluster) { c.Labels = map[string]string{"colour": "red"} })
	o := e.start()
	o.settle()
	e.wantObjects("cni: red", "red: 1")
	e.edit(func(c *clusterv1.Cluster) { c.Labels["colour"] = "blue" })
	o.settle()
	e.wantReady()
	e.wantObjects("cni: blue", "other: 1")
}

func testKeepsGeneratedValues(e *env) {
	password := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"{{ .Values.cluster }}-password\"\ndata:\n  text: {{ randAlphaNum 20 }}\n"
	e.publish(v1, both("cni"), addons{"cni": password})
	e.publish(v2, both("cni"), addons{"cni": password + object("cni", "2")})
	e.running(v1, k135)
	o := e.start()
	// It dies between the render and the first apply: the generated value must be known by then.
	o.faults.dieAt = 4
	_, _ = o.once()
	e.start().settle()
	e.wantReady()
	before := e.has()[0]
	e.use(v2, k135)
	e.start().settle()
	e.wantObjects("cni: 2", before)
	if got := owners(e.secret("generated")); !slices.Contains(got, e.addon().UID) {
		e.Errorf("the generated values are owned by %v, want the ClusterAddon", got)
	}
}

func testWaitsForHealth(e *env) {
	claim := "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: \"{{ .Values.cluster }}\"\nspec:\n  accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Mi}}\n"
	e.publish(v1, both("{name: csi, action: apply, waitForHealthy: true}", "cni"), addons{"csi": claim, "cni": object("cni", "1")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.StageNotHealthyReason, "PersistentVolumeClaim kube-system/"+e.key.Name+" (InProgress)")
	e.wantObjects()
	pvc := &corev1.PersistentVolumeClaim{}
	if err := e.workload.Get(e.Context(), client.ObjectKey{Namespace: "kube-system", Name: e.key.Name}, pvc); err != nil {
		e.Fatal(err)
	}
	pvc.Status.Phase = corev1.ClaimBound
	if err := e.workload.Status().Update(e.Context(), pvc); err != nil {
		e.Fatal(err)
	}
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1")
}

func testReadsWhatTheClusterRefersTo(e *env) {
	e.publish(v1, both("cni"), addons{"cni": object("cni", "{{ .Values.cluster }}")})
	e.cluster(v1, k135)
	e.edit(func(c *clusterv1.Cluster) {
		c.Spec.ControlPlaneRef = clusterv1.ContractVersionedObjectReference{APIGroup: "controlplane.cluster.x-k8s.io", Kind: "KubeadmControlPlane", Name: "missing"}
	})
	e.initialize()
	o := e.start()
	if _, err := o.once(); err == nil {
		e.Error("values were made without the control plane that the Cluster refers to")
	}
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.InternalErrorReason, "KubeadmControlPlane missing")
	e.wantObjects()
}

func testStartsAnewWithoutARecord(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	for _, text := range []string{"", "{nonsense"} {
		addon := e.addon()
		before := addon.DeepCopy()
		addon.Annotations[v1alpha1.RolloutAnnotation] = text
		if err := e.client.Patch(e.Context(), addon, client.MergeFrom(before)); err != nil {
			e.Fatal(err)
		}
		_, writes, _ := o.faults.counts()
		o.settle()
		e.wantReady()
		if _, after, _ := o.faults.counts(); after != writes {
			e.Errorf("%d writes for objects that the inventory knows", after-writes)
		}
		if record := e.record(); !record.Proves(record.Rollout.About()) {
			e.Errorf("record is %s", record)
		}
	}
	// It is what a user is told to do to have the addons rolled out anew.
	if err := e.workload.Delete(e.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: e.key.Name + "-cni"}}); err != nil {
		e.Fatal(err)
	}
	addon := e.addon()
	before := addon.DeepCopy()
	delete(addon.Annotations, v1alpha1.RolloutAnnotation)
	if err := e.client.Patch(e.Context(), addon, client.MergeFrom(before)); err != nil {
		e.Fatal(err)
	}
	o.settle()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
}

func testConnectsAgain(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.publish(v2, both("cni"), starter2)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	before, err := o.connections.to(e.key, o.clusters.config, time.Time{})
	if err != nil {
		e.Fatal(err)
	}
	if again, _ := o.connections.to(e.key, o.clusters.config, time.Time{}); again != before {
		e.Error("a second connection was made to the same cluster")
	}
	o.clusters.config = rest.CopyConfig(o.clusters.config) // as after a disconnect
	o.settle()
	if after, _ := o.connections.to(e.key, o.clusters.config, time.Time{}); after == before {
		e.Error("the connection was kept over a reconnect")
	}
	e.use(v2, k135)
	o.settle()
	e.wantObjects("cni: 2")
}

func testAppliesALegacyRelease(e *env) {
	files := releaseOf(v1, nil, nil)
	for name, file := range legacyRelease(e.T, v1) {
		files[name] = file
	}
	delete(files, release.StagesFile)
	e.source.Publish(v1, files)
	if err := e.client.Create(e.Context(), apitest.ClusterStackRelease(e.ns, v1)); err != nil {
		e.Fatal(err)
	}
	e.running(v1, k135)
	e.start().settle()
	e.wantReady()
	e.wantObjects("addon: 1")
	if got := e.addon().Status.Stages; len(got) != 1 || got[0].Name != release.LegacyAddon {
		e.Errorf("stages are %+v", got)
	}
}

// Releases that are a single chart: objects that are there already change with the next one. One for another minor of
// Kubernetes has addons of the same version, and the upgrade is let go on all the same.
func testUpgradesLegacyReleases(e *env) {
	first, next := object("cni", "1")+object("old", "1"), object("cni", "2")+object("young", "2")
	e.publishLegacy(v1, first)
	e.publishLegacy(v2, next)
	e.publishLegacy(up, first)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1", "old: 1")
	uid := e.uid("cni")
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "young: 2")
	e.use(v1, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1", "old: 1")

	_, before, _ := o.faults.counts()
	version := e.addon().Spec.Version
	e.use(up, k136)
	ask := e.ask(up, k135, k136)
	if e.record().Proves(ask) {
		e.Error("proven before anything was compared")
	}
	o.settle()
	e.wantReady()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "True", v1alpha1.DoneReason, up)
	if !e.record().Proves(ask) {
		e.Errorf("the upgrade is held for ever: %s", e.record())
	}
	if got := e.addon().Spec; got.Version != version || got.ClusterStack != up {
		e.Errorf("the addons are %s of %s; the test is about the same version in another release", got.Version, got.ClusterStack)
	}
	if _, after, _ := o.faults.counts(); after != before {
		e.Errorf("%d writes to the cluster for addons that are the same", after-before)
	}
	if e.uid("cni") != uid {
		e.Error("an object that all releases have was deleted and made anew")
	}
}

func testAppliesNothing(e *env) {
	e.publish(v1, both("cni"), addons{"cni": "# nothing\n"})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	version := e.addon().ResourceVersion
	e.start().settle()
	if e.addon().ResourceVersion != version || e.record().Rollout.Rebuilt {
		e.Errorf("an empty inventory was taken for a lost one: %s", e.record())
	}
}

func testPrunesWhatMoved(e *env) {
	elsewhere := strings.Replace(object("moved", "2"), "metadata:\n", "metadata:\n  namespace: kube-public\n", 1)
	e.publish(v1, both("cni", "metrics", "logs"), addons{
		"cni":     object("cni", "1") + object("given", "1"),
		"metrics": object("metrics", "1") + object("moved", "1"),
		"logs":    object("logs", "1"),
	})
	// One addon has another name, one is gone, one object has another namespace, and one another addon.
	e.publish(v2, both("monitoring", "cni"), addons{
		"monitoring": object("metrics", "2") + object("given", "2") + elsewhere,
		"cni":        object("cni", "1"),
	})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantObjects("cni: 1", "given: 1", "logs: 1", "metrics: 1", "moved: 1")
	uids := e.uid("metrics") + e.uid("given")
	told := e.statuses()

	e.use(v2, k135)
	o.settle()
	e.wantReady()
	for _, status := range told() {
		pruned := status.Conditions.IsTrue(v1alpha1.LeftoversPrunedCondition)
		if status.Ready && pruned && status.AppliedRelease.Name == v2 && status.Inventory.Objects != 4 {
			e.Errorf("says that leftovers are gone, and at the same time counts %d objects, want 4", status.Inventory.Objects)
		}
	}
	e.wantObjects("cni: 1", "given: 2", "metrics: 2")
	if e.uid("metrics")+e.uid("given") != uids {
		e.Error("what only went to another addon was made anew")
	}
	moved := &corev1.ConfigMap{}
	if err := e.workload.Get(e.Context(), client.ObjectKey{Namespace: "kube-public", Name: e.key.Name + "-moved"}, moved); err != nil || moved.Data["text"] != "2" {
		e.Errorf("the object in its new namespace: %v, %v", moved.Data, err)
	}
	addon := e.addon()
	if got := addon.Status.Inventory; got == nil || got.Objects != 4 || got.Shared != 0 {
		e.Errorf("inventory is %+v, want 4 objects of ours", got)
	}
	var stages []string
	for _, stage := range addon.Status.Stages {
		stages = append(stages, stage.Name)
	}
	if !slices.Equal(stages, []string{"monitoring", "cni"}) || len(addon.Status.Resources) != 0 {
		e.Errorf("stages are %v, resources %+v", stages, addon.Status.Resources)
	}
	if got := e.record().Applied; !slices.Equal(got.Addons, []string{"cni", "monitoring"}) || !got.Pruned {
		e.Errorf("applied is %+v", got)
	}
}

// The next release says in full where an object is, and brings one of another kind with the same name.
func testPrunesNothingThatIsTheSame(e *env) {
	inFull := strings.Replace(object("cni", "2"), "metadata:\n", "metadata:\n  namespace: kube-system\n", 1)
	account := "---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: \"{{ .Values.cluster }}-cni\"\n"
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1")})
	e.publish(v2, both("cni"), addons{"cni": account + inFull})
	e.publish(v3, both("cni"), addons{"cni": account})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	uid := e.uid("cni")
	is := func(kind client.Object) error {
		return e.workload.Get(e.Context(), client.ObjectKey{Namespace: "kube-system", Name: e.key.Name + "-cni"}, kind)
	}
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2")
	if e.uid("cni") != uid {
		e.Error("an object whose namespace is said in full was deleted and made anew")
	}
	if err := is(&corev1.ServiceAccount{}); err != nil {
		e.Errorf("what has the name of an object that was there before was not made: %v", err)
	}
	e.use(v3, k135)
	o.settle()
	e.wantReady()
	e.wantObjects()
	if err := is(&corev1.ServiceAccount{}); err != nil {
		e.Errorf("it went with an object of another kind: %v", err)
	}
	e.use(v1, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1")
	if err := is(&corev1.ServiceAccount{}); !apierrors.IsNotFound(err) {
		e.Errorf("it stays because of an object of another kind: %v", err)
	}
}

func testForgetsNoDrift(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	// Nothing about the CNI has changed, so it is sent only if the comparison says that it has to be.
	e.publish(v2, both("cni", "metrics"), addons{"cni": starter1["cni"], "metrics": object("metrics", "2")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	if err := e.workload.Delete(e.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: e.key.Name + "-cni"}}); err != nil {
		e.Fatal(err)
	}
	e.use(v2, k135)
	// The first write opens the rollout. The next one is the inventory, which the management cluster refuses once.
	mutating, _, _ := o.faults.counts()
	o.faults.dieAt = mutating + 2
	if _, err := o.once(); err == nil {
		e.Error("an inventory that was not saved is no error")
	}
	o.faults.dieAt, o.faults.dead = 0, false
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1", "metrics: 2")
}

func testLetsGoOfAnotherCluster(e *env) {
	e.publish(v1, both("cni"), addons{"cni": object("cni", "{{ randAlphaNum 20 }}")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	// The Cluster is gone and another one has its name before anybody has deleted what belonged to the first.
	if err := e.client.Delete(e.Context(), e.getCluster()); err != nil {
		e.Fatal(err)
	}
	e.running(v1, k135)
	if _, err := o.once(); err != nil {
		e.Fatal(err)
	}
	if got := e.addon(); len(got.Finalizers) != 0 {
		e.Errorf("the ClusterAddon of a Cluster that is gone serves another one: finalizers %v", got.Finalizers)
	}
	if got, first := owners(e.secret("generated")), e.addon().UID; !slices.Equal(got, []types.UID{first}) {
		e.Errorf("the generated values are owned by %v, want the first ClusterAddon: another Cluster would get the same keys", got)
	}
}

func testPrunesNothingWithoutMemory(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publish(v2, both("cni"), starter2)
	e.running(v1, k135)
	e.start().settle()
	if err := e.client.Delete(e.Context(), e.secret("inventory")); err != nil {
		e.Fatal(err)
	}
	addon := e.addon()
	before := addon.DeepCopy()
	delete(addon.Annotations, v1alpha1.RolloutAnnotation)
	if err := e.client.Patch(e.Context(), addon, client.MergeFrom(before)); err != nil {
		e.Fatal(err)
	}
	o := e.start()
	o.settle()
	e.wantReady()
	if got := e.addon().Status.Inventory; got == nil || got.Objects != 3 || got.Shared != 3 {
		e.Errorf("inventory is %+v, want everything shared", got)
	}
	e.use(v2, k135)
	o.settle()
	e.clock.Step(15 * time.Minute)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "extra: 1", "metrics: 1")
}

func testUsesKindsOfEarlierStages(e *env) {
	group := e.key.Name + ".example.com"
	definition := `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.` + group + `
spec:
  group: ` + group + `
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`
	thing := func(name string) string {
		return "apiVersion: " + group + "/v1\nkind: Thing\nmetadata:\n  name: " + name + "\n"
	}
	e.publish(v1, both("definitions", "first", "second"), addons{"definitions": definition, "first": thing("first"), "second": thing("second")})
	e.running(v1, k135)
	o := e.start()
	_, err := o.once()
	for range 100 {
		if err == nil {
			break
		}
		// A busy API server serves a kind a moment before its discovery says so; the next pass finds it.
		e.awaitServed(group)
		_, err = o.once()
	}
	e.wantReady()
	_, writes, reads := o.faults.counts()
	if writes != 3 || writes+reads > 3+20 {
		e.Errorf("%d writes and %d reads for 3 objects, want 3 and at most 20: six, and what it takes to ask again", writes, reads)
	}
}

func testKeepsWhatHooksMade(e *env) {
	hook := strings.Replace(object("hook", "1"), "metadata:\n", "metadata:\n  annotations: {helm.sh/hook: \"post-install,post-upgrade\"}\n", 1)
	e.publish(v1, both("setup", "cni"), addons{"setup": hook, "cni": object("cni", "1")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1", "hook: 1")
	e.publish(v2, both("cni"), addons{"cni": object("cni", "1")})
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1")
}

func testNamesWhatIsLeft(e *env) {
	namespace := "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: \"{{ .Values.cluster }}\"\n"
	e.publish(v1, both("cni", "metrics"), addons{"cni": object("cni", "1"), "metrics": namespace})
	e.publish(v2, both("cni"), starter2)
	e.running(v1, k135)
	o := e.start()
	o.settle()
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: e.key.Name, Name: "foreign"}}
	if err := e.workload.Create(e.Context(), foreign); err != nil {
		e.Fatal(err)
	}
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantEvent(v1alpha1.LeftoversKeptReason)
	want := "Namespace " + e.key.Name
	e.wantCondition(v1alpha1.LeftoversPrunedCondition, "True", v1alpha1.DoneReason, want)
	_, _ = e.start().once()
	e.wantCondition(v1alpha1.LeftoversPrunedCondition, "True", v1alpha1.DoneReason, want)
	if err := e.workload.Delete(e.Context(), foreign); err != nil {
		e.Fatal(err)
	}
	e.clock.Step(15 * time.Minute)
	o.settle()
	e.wantCondition(v1alpha1.LeftoversPrunedCondition, "True", v1alpha1.DoneReason, "nothing is left")
}

func testAwaitsJobs(e *env) {
	job := "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: \"{{ .Values.cluster }}\"\n  annotations: {helm.sh/hook: pre-install}\n" +
		"spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}\n"
	e.publish(v1, both("csi", "cni"), addons{"csi": job + object("csi", "1"), "cni": object("cni", "1")})
	e.running(v1, k135)
	o := e.start()
	if result, err := o.once(); err != nil || result.RequeueAfter > time.Second {
		e.Errorf("looks again after %s, %v; want the interval of polling, since nothing has failed", result.RequeueAfter, err)
	}
	// Whoever does not need it goes on.
	e.wantObjects("cni: 1")
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ObjectsApplyingOngoingReason, "stage csi waits for the end of the chart's Job.batch kube-system/"+e.key.Name)
	e.wantCondition(v1alpha1.EvaluatedCELCondition, "True", v1alpha1.DoneReason, "")
	if got := e.addon().Status.Stages[0]; got.Phase != v1alpha1.StagePhaseApplyingOrDeleting || !strings.Contains(got.Message, "Job.batch") {
		e.Errorf("the stage is %+v", got)
	}
	if got := o.clusters.watches[forGates]; !slices.Equal(got, []string{"Job"}) {
		e.Errorf("watches %v, want Jobs", o.clusters.watches)
	}
	running := &batchv1.Job{}
	if err := e.workload.Get(e.Context(), client.ObjectKey{Namespace: "kube-system", Name: e.key.Name}, running); err != nil {
		e.Fatal(err)
	}
	now := metav1.Now()
	running.Status.StartTime, running.Status.CompletionTime, running.Status.Succeeded = &now, &now, 1
	for _, is := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		running.Status.Conditions = append(running.Status.Conditions, batchv1.JobCondition{Type: is, Status: corev1.ConditionTrue})
	}
	if err := e.workload.Status().Update(e.Context(), running); err != nil {
		e.Fatal(err)
	}
	// The machine of a test may be too slow for so little patience.
	for range 100 {
		if o.settle(); e.record().Rollout.Finished {
			break
		}
	}
	e.wantReady()
	e.wantObjects("cni: 1", "csi: 1")
}

func testFindsItsOwnerAgain(e *env) {
	e.publish(v1, both("cni"), starter1)
	e.running(v1, k135)
	addon := e.addon()
	want := addon.OwnerReferences
	before := addon.DeepCopy()
	addon.OwnerReferences = nil // as a backup may restore it
	if err := e.client.Patch(e.Context(), addon, client.MergeFrom(before)); err != nil {
		e.Fatal(err)
	}
	e.start().settle()
	e.wantReady()
	if diff := cmp.Diff(want, e.addon().OwnerReferences); diff != "" || len(want) != 1 {
		e.Errorf("owner (-want +got):\n%s", diff)
	}
}

func testLetsGoInTheMiddle(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.running(v1, k135)
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = []string{"example.com/machines"} })
	o := e.start()
	var once sync.Once
	o.clusters.config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return next.RoundTrip(r)
			}
			// With the first change the Cluster is deleted, and its machines are gone at once.
			once.Do(func() {
				if err := e.client.Delete(e.Context(), e.getCluster()); err != nil {
					e.Error(err)
				}
			})
			return nil, syscall.ECONNREFUSED
		})
	})
	if _, err := o.once(); err == nil {
		e.Error("objects that could not be applied are no error")
	}
	if record := e.record(); record.Rollout.Finished {
		e.Errorf("the rollout is finished: %s", record)
	}
	// It needs no connection to let go.
	if _, err := o.once(); err != nil {
		e.Error(err)
	}
	if got := e.addon().Finalizers; len(got) != 0 {
		e.Errorf("finalizers %v are left", got)
	}
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = nil })
}

func testRefusesOneObjectOfTwoAddons(e *env) {
	// One names its namespace and the other does not: only the cluster knows that it is the same object.
	inFull := strings.Replace(object("same", "2"), "metadata:\n", "metadata:\n  namespace: kube-system\n", 1)
	elsewhere := strings.Replace(object("same", "3"), "metadata:\n", "metadata:\n  namespace: default\n", 1)
	e.publish(v1, both("cni", "csi", "metrics"), addons{
		"cni": object("cni", "1") + object("same", "1"), "csi": object("csi", "1") + inFull, "metrics": object("metrics", "1") + elsewhere,
	})
	e.publish(v2, both("cni", "csi"), addons{"cni": object("cni", "2"), "csi": object("csi", "2") + inFull})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	// Nothing of either is there, and all of whoever has no part in it.
	e.wantObjects("metrics: 1")
	same := " has ConfigMap kube-system/" + e.key.Name + "-same, too; take it out of one of the two charts, or switch one addon off"
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ConflictReason, "stage cni: addon csi"+same)
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ConflictReason, "stage csi: addon cni"+same)
	if got := e.addon().Status.Inventory; got != nil && got.Objects != 2 {
		e.Errorf("inventory is %+v", got)
	}

	// The user decides for one of them.
	e.settings(v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{{Name: "cni", Disabled: true}}})
	o.settle()
	e.wantReady()
	e.wantObjects("csi: 1", "metrics: 1", "same: 2")

	// A corrected release brings both, and the object stays the one that it is.
	uid := e.uid("same")
	e.settings(v1alpha1.ClusterAddonSettingsSpec{})
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "csi: 2", "same: 2")
	if e.uid("same") != uid {
		e.Error("the object was made anew")
	}
}

func TestTwoAddonsWithOneNamespaceAreToldWhatToDo(t *testing.T) {
	namespace, other := apply.ID{Kind: "Namespace", Name: "monitoring"}, apply.ID{Kind: "ConfigMap", Namespace: "monitoring", Name: "x"}
	for want, objects := range map[string][]apply.ID{
		"addon csi has Namespace monitoring, too; leave it to the addon whose stage comes first, and take it out of the chart of the other one, which may have a value for that": {namespace},
		"addon csi has Namespace monitoring, ConfigMap monitoring/x, too; take it out of one of the two charts, or switch one addon off":                                         {namespace, other},
	} {
		if got := (&overlapError{other: "csi", objects: objects}).Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// hookOf is a ConfigMap that a chart's hook makes.
func hookOf(name, events, policies string) string {
	return strings.Replace(object(name, "hook"), "metadata:\n",
		"metadata:\n  annotations: {helm.sh/hook: \""+events+"\", helm.sh/hook-delete-policy: \""+policies+"\"}\n", 1)
}

func testRunsHooksOfARollBack(e *env) {
	hooks := hookOf("install", "post-install", "before-hook-creation") + hookOf("upgrade", "pre-upgrade", "before-hook-creation") +
		hookOf("rollback", "pre-rollback,post-rollback", "before-hook-creation") + hookOf("gone", "post-rollback", "hook-succeeded")
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1") + hooks})
	e.publish(v2, both("cni"), addons{"cni": object("cni", "2") + hooks})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1", "install: hook")
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "install: hook", "upgrade: hook")
	upgraded := e.uid("upgrade")
	e.use(v1, k135)
	o.settle()
	e.wantReady()
	// What has the policy hook-succeeded was there, and is gone.
	e.wantObjects("cni: 1", "install: hook", "rollback: hook", "upgrade: hook")
	if e.uid("upgrade") != upgraded {
		e.Error("a hook for an upgrade ran at a roll-back")
	}
	// Forward again is an upgrade, for which the hook is made anew.
	rolledBack := e.uid("rollback")
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	if e.uid("upgrade") == upgraded {
		e.Error("the hook for an upgrade did not run again")
	}
	if e.uid("rollback") != rolledBack {
		e.Error("a hook for a roll-back ran at an upgrade")
	}
}

func testRunsAHookThatFailedAgain(e *env) {
	job := "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: \"{{ .Values.cluster }}-fails\"\n  annotations: {helm.sh/hook: pre-upgrade}\n" +
		"spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}\n"
	e.publish(v1, both("csi", "cni"), addons{"csi": object("csi", "1"), "cni": object("cni", "1")})
	e.publish(v2, both("csi", "cni"), addons{"csi": job + object("csi", "2"), "cni": object("cni", "2")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.use(v2, k135)
	ended := map[types.UID]bool{}
	end := func(conditions ...batchv1.JobConditionType) {
		e.Helper()
		running := &batchv1.Job{}
		for range 100 {
			_, _ = o.once()
			err := e.workload.Get(e.Context(), client.ObjectKey{Namespace: "kube-system", Name: e.key.Name + "-fails"}, running)
			if client.IgnoreNotFound(err) != nil {
				e.Fatal(err)
			}
			if err == nil && !ended[running.UID] && running.DeletionTimestamp.IsZero() {
				break
			}
			if len(running.Finalizers) > 0 { // as the garbage collector does
				running.Finalizers = nil
				_ = e.workload.Update(e.Context(), running)
			}
		}
		if ended[running.UID] {
			e.Fatal("the Job that failed was not made anew")
		}
		ended[running.UID] = true
		now := metav1.Now()
		running.Status.StartTime = &now
		if conditions[len(conditions)-1] == batchv1.JobComplete {
			running.Status.CompletionTime, running.Status.Succeeded = &now, 1
		}
		for _, is := range conditions {
			running.Status.Conditions = append(running.Status.Conditions, batchv1.JobCondition{Type: is, Status: corev1.ConditionTrue})
		}
		if err := e.workload.Status().Update(e.Context(), running); err != nil {
			e.Fatal(err)
		}
	}
	end(batchv1.JobFailureTarget, batchv1.JobFailed)
	// The machine of a test may be too slow for so little patience with hooks.
	for range 200 {
		if _, _ = o.once(); has(e.addon(), v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.FailedToApplyObjectsReason) {
			break
		}
	}
	// The stage is not done, what stands after the hook has not begun, and nobody else is held up.
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.FailedToApplyObjectsReason, "Job.batch kube-system/"+e.key.Name+"-fails")
	e.wantObjects("cni: 2", "csi: 1")
	if e.record().Rollout.Finished {
		e.Error("the rollout is finished although a hook has failed")
	}
	end(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)
	for range 100 {
		if o.settle(); e.record().Rollout.Finished {
			break
		}
	}
	e.wantReady()
	e.wantObjects("cni: 2", "csi: 2")
}

func testAsksWhatTheClusterServes(e *env) {
	group := e.key.Name + ".example.com"
	asks := "{{ if .Capabilities.APIVersions.Has \"" + group + "/v1/Thing\" }}\n" + object("NAME", "served") + "\n{{ end }}\n" + object("cni", "1")
	e.publish(v1, both("{name: cni, action: apply, capabilities: cluster}", "csi"), addons{
		"cni": strings.Replace(asks, "NAME", "seen", 1), "csi": strings.Replace(strings.Replace(asks, "NAME", "unseen", 1), "-cni", "-csi", 1),
	})
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "things." + group},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced", "names": map[string]any{"kind": "Thing", "plural": "things"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}}}},
		},
	}}
	e.running(v1, k135)
	o := e.start()
	// Somebody else has installed the kind, which nothing in the release defines.
	if err := e.workload.Create(e.Context(), definition); err != nil {
		e.Fatal(err)
	}
	e.awaitServed(group)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1", "csi: 1", "seen: served")
}

// awaitServed waits until discovery of the workload cluster knows the kinds of a group. There is no event for that.
func (e *env) awaitServed(group string) {
	e.Helper()
	known, err := discovery.NewDiscoveryClientForConfig(e.config)
	if err != nil {
		e.Fatal(err)
	}
	err = wait.PollUntilContextTimeout(e.Context(), 50*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
		// That it has the group does not mean that it has what is in it.
		_, lists, err := known.ServerGroupsAndResources()
		if discovery.IsGroupDiscoveryFailedError(err) {
			err = nil // that of another test, say
		}
		return slices.ContainsFunc(lists, func(list *metav1.APIResourceList) bool {
			return strings.HasPrefix(list.GroupVersion, group+"/") && len(list.APIResources) > 0
		}), err
	})
	if err != nil {
		e.Fatal(err)
	}
}
