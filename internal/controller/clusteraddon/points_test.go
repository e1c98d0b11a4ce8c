// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

func TestPoints(t *testing.T) {
	workload := workloadServer(t)
	for name, test := range map[string]func(*env){
		"InTheCourseOfAnUpgrade":      testPassesEveryPoint,
		"WithDriftBesideThem":         testPointsLeaveDriftToBeCorrected,
		"BeforeADeletion":             testSaysFarewell,
		"BeforeADeletionNotForLong":   testDoesNotSayFarewellForLong,
		"BeforeADeletionUnlessItMay":  testLetsGoWhenCapiDoes,
		"BeforeADeletionOnlyIfWanted": testDeletesNothingByDefault,
	} {
		t.Run(name, func(t *testing.T) { test(newEnv(t, workload)) })
	}
}

// machines says which versions the machines of the Cluster have.
func (e *env) machines(controlPlane, workers string) {
	e.Helper()
	cluster := e.getCluster()
	one := func(version string) []clusterv1.StatusVersion {
		return []clusterv1.StatusVersion{{Version: version, Replicas: 1}}
	}
	cluster.Status.ControlPlane = &clusterv1.ClusterControlPlaneStatus{Versions: one(controlPlane)}
	cluster.Status.Workers = &clusterv1.WorkersStatus{Versions: one(workers)}
	if err := e.client.Status().Update(e.Context(), cluster); err != nil {
		e.Fatal(err)
	}
}

func testPassesEveryPoint(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publish(up, map[release.Point][]string{
		release.AfterControlPlaneInitialized: {"cni", "csi"},
		release.BeforeClusterUpgrade:         {"cni"},
		release.AfterControlPlaneUpgrade:     {"csi"},
		release.AfterClusterUpgrade:          {"-metrics"},
	}, starter2)
	e.running(v1, k135)
	e.edit(func(c *clusterv1.Cluster) {
		c.Spec.Topology.Workers.MachineDeployments = []clusterv1.MachineDeploymentTopology{{Class: "default", Name: "md"}}
	})
	e.machines(k135, k135)
	o := e.start()
	o.settle()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")

	e.use(up, k136)
	o.settle()
	// What has its turn later is left whole.
	e.wantObjects("cni: 2", "extra: 1", "metrics: 1")
	e.machines(k136, k135)
	e.start().settle()
	e.wantObjects("cni: 2", "csi: 2", "extra: 1", "metrics: 1")
	e.machines(k136, k136)
	o = e.start()
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "csi: 2")
	cluster := e.getCluster()
	for _, point := range []release.Point{release.BeforeClusterUpgrade, release.AfterControlPlaneUpgrade, release.AfterClusterUpgrade} {
		ask := rollout.NewAsk(point, k136, k135, k136)
		ask.Namespace, ask.Class, ask.Cluster = e.ns, classOf(e.T, up), string(cluster.UID)
		if !e.record().Proves(ask) {
			e.Errorf("%s is not proven: %s", point, e.record())
		}
	}
	before := e.versions()
	e.start().settle()
	if after := e.versions(); after["addon"] != before["addon"] {
		e.Error("written at rest")
	}
}

// A point that applies some addons compares all. What it finds about the others is corrected at rest.
func testPointsLeaveDriftToBeCorrected(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publish(up, map[release.Point][]string{
		release.AfterControlPlaneInitialized: {"cni", "csi"},
		release.BeforeClusterUpgrade:         {"cni"},
		release.AfterControlPlaneUpgrade:     {"csi"},
	}, starter2)
	e.running(v1, k135)
	e.machines(k135, k135)
	o := e.start()
	o.settle()
	e.use(up, k136)
	o.settle()
	e.put("cni", map[string]string{"text": "changed"})
	e.machines(k136, k136)
	o.settle()
	e.wantObjects("cni: changed", "csi: 2")
	if c := e.addon().Status.Conditions.Get(v1alpha1.LeftoversPrunedCondition); strings.Contains(c.Message, "left of earlier releases:") {
		e.Errorf("says %q of what the release has", c.Message)
	}
	e.clock.Step(o.options.Recheck * 2)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "csi: 2")
}

// leaving is a cluster with a release that takes something out before its Cluster is deleted.
func (e *env) leaving() *operator {
	e.Helper()
	e.publish(v1, map[release.Point][]string{
		release.AfterControlPlaneInitialized: {"cni", "metrics"}, release.BeforeClusterDelete: {"-metrics"},
	}, starter1)
	e.running(v1, k135)
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = []string{"example.com/machines"} })
	o := e.start()
	o.settle()
	e.wantReady()
	return o
}

func (e *env) delete() {
	e.Helper()
	if err := e.client.Delete(e.Context(), e.getCluster()); err != nil {
		e.Fatal(err)
	}
	e.clock.SetTime(e.getCluster().DeletionTimestamp.Time)
}

func testSaysFarewell(e *env) {
	o := e.leaving()
	e.delete()
	o.settle()
	e.wantObjects("cni: 1")
	cluster := e.getCluster()
	ask := rollout.NewAsk(release.BeforeClusterDelete, k135, "", "")
	ask.Namespace, ask.Class, ask.Cluster = e.ns, classOf(e.T, v1), string(cluster.UID)
	if !e.record().Proves(ask) {
		e.Errorf("not proven: %s", e.record())
	}
	if _, err := o.once(); err != nil {
		e.Fatal(err)
	}
	if addon := e.addon(); len(addon.Finalizers) > 0 {
		e.Errorf("not let go: %v", addon.Finalizers)
	}
	e.wantObjects("cni: 1")
}

func testDoesNotSayFarewellForLong(e *env) {
	o := e.leaving()
	e.delete()
	o.clusters.connected = false
	result, err := o.once()
	if err != nil || result.RequeueAfter == 0 || result.RequeueAfter > v1alpha1.FarewellTimeout+2*time.Second {
		e.Errorf("%v, %v; want to look again when the time is over", result, err)
	}
	if addon := e.addon(); len(addon.Finalizers) == 0 {
		e.Error("let go at once")
	}
	e.clock.Step(v1alpha1.FarewellTimeout)
	if _, err := o.once(); err != nil {
		e.Fatal(err)
	}
	if addon := e.addon(); len(addon.Finalizers) > 0 {
		e.Errorf("not let go: %s", describe(addon))
	}
}

func testLetsGoWhenCapiDoes(e *env) {
	o := e.leaving()
	e.edit(func(c *clusterv1.Cluster) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, "runtime.cluster.x-k8s.io/ok-to-delete", "")
	})
	e.delete()
	o.settle()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
	if addon := e.addon(); len(addon.Finalizers) > 0 {
		e.Errorf("not let go: %s", describe(addon))
	}
}

func testDeletesNothingByDefault(e *env) {
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1")})
	e.running(v1, k135)
	e.edit(func(c *clusterv1.Cluster) { c.Finalizers = []string{"example.com/machines"} })
	o := e.start()
	o.settle()
	_, before, reads := o.faults.counts()
	e.delete()
	o.settle()
	if _, after, again := o.faults.counts(); after != before || again != reads {
		e.Errorf("%d writes to and %d reads from a cluster that is going", after-before, again-reads)
	}
	e.wantObjects("cni: 1")
}
