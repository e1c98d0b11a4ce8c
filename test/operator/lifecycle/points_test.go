// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// moment is a lifecycle point of an upgrade with the stage that waits there, and the versions that Cluster API has
// given to the control plane and the workers by then.
type moment struct {
	point                 release.Point
	stage                 string
	controlPlane, workers string
}

// upgrade are the moments of an upgrade by one minor, in their order.
var upgrade = []moment{
	{release.BeforeClusterUpgrade, "base", older, older},
	{release.BeforeControlPlaneUpgrade, "before-control-plane", older, older},
	{release.AfterControlPlaneUpgrade, "after-control-plane", newer, older},
	{release.BeforeWorkersUpgrade, "before-workers", newer, older},
	{release.AfterWorkersUpgrade, "after-workers", newer, newer},
	{release.AfterClusterUpgrade, "after-cluster", newer, newer},
}

const farewell = "farewell"

// everywhere publishes a first release, and a second one that has something to do at all points of an upgrade to it, and
// before the Cluster is deleted. With gates each stage of that waits for its own.
func (f *flow) everywhere(gate func(string) string) {
	f.Helper()
	f.publish("1-35-v1", always("name: base, action: apply"), addon{"base", object("base", "1")})
	at, addons := stages{}, []addon{}
	for _, m := range upgrade {
		at[m.point] = []string{"name: " + m.stage + ", action: apply" + gate(m.stage)}
		addons = append(addons, addon{m.stage, object(m.stage, "2")})
	}
	at[release.BeforeClusterDelete] = []string{"name: " + farewell + ", action: apply" + gate(farewell)}
	f.publish("1-36-v1", at, append(addons, addon{farewell, object(farewell, "2")})...)
	f.subscribe("1.35", "v1")
	f.subscribe("1.36", "v1")
}

// passed are the points that lie behind the cluster, in the order in which it came by.
func passed(t *testing.T, a *v1alpha1.ClusterAddon) []release.Point {
	t.Helper()
	record, err := rollout.ParseRecord(a.Annotations[v1alpha1.RolloutAnnotation])
	if err != nil || record.Applied == nil {
		t.Fatalf("the record says nothing: %v", err)
	}
	var points []release.Point
	for _, p := range record.Applied.Passed {
		points = append(points, p.Point)
	}
	return append(points, record.Rollout.Point)
}

func wanted() []release.Point {
	var points []release.Point
	for _, m := range upgrade {
		points = append(points, m.point)
	}
	return points
}

// notes are what was told of the Cluster in events.
func (f *flow) notes() []string {
	f.Helper()
	list := &eventsv1.EventList{}
	if err := f.List(f.Context(), list, client.InNamespace(f.name)); err != nil {
		f.Fatal(err)
	}
	var notes []string
	for _, e := range list.Items {
		if e.Regarding.Kind == clusterv1.ClusterKind {
			notes = append(notes, e.Reason+": "+e.Note)
		}
	}
	return notes
}

// Cluster API asks at each lifecycle point, and goes no further while the release has something to do there: the gates
// are opened one after the other, and at each the machines are as they were.
func TestEachLifecyclePointIsHeld(t *testing.T) {
	f := begin(t, "points", nil)
	f.everywhere(gated)

	// The release is not ready: its provider has images to make, say.
	rel := apitest.ClusterStackRelease(f.name, f.tag("1-35-v1"))
	f.annotate(rel, clusterv1.PausedAnnotation, "true")
	f.eventually("the release is paused", func() error {
		if err := f.Get(f.Context(), client.ObjectKeyFromObject(rel), rel); err != nil {
			return err
		}
		if !rel.Status.Conditions.IsTrue(v1alpha1.PausedCondition) {
			return fmt.Errorf("it is not: %v", rel.Status.Conditions)
		}
		return nil
	})
	if err := f.Status().Patch(f.Context(), rel, client.RawPatch(types.MergePatchType, []byte(`{"status":{"ready":false}}`))); err != nil {
		t.Fatal(err)
	}
	f.create(f.class("1-35-v1"), older, 1, 1)
	f.topology("waiting for ClusterStackRelease " + rel.Name + " to be ready")
	if f.cluster().Spec.InfrastructureRef.IsDefined() {
		t.Error("Cluster API has begun to make the cluster before its release is ready")
	}
	f.annotate(rel, clusterv1.PausedAnnotation, "")
	f.reached(f.class("1-35-v1"))

	names := []string{farewell}
	for _, m := range upgrade {
		names = append(names, m.stage)
	}
	f.gates(names...)
	f.AwaitCluster(t, patience, f.key(), available)
	f.use(f.class("1-36-v1"), newer)
	for _, m := range upgrade {
		f.waitsAt(m.stage)
		f.topology("stage " + m.stage + " waits for")
		if diff := cmp.Diff([]string{m.controlPlane, m.workers}, f.versions()); diff != "" {
			t.Errorf("versions of control plane and workers at %s (-want +got):\n%s", m.point, diff)
		}
		f.open(m.stage)
	}
	a := f.addons(func(a *v1alpha1.ClusterAddon) error {
		if len(passed(t, a)) < len(upgrade) || !a.Status.Ready {
			return fmt.Errorf("not all points lie behind")
		}
		return nil
	})
	if diff := cmp.Diff(wanted(), passed(t, a)); diff != "" {
		t.Errorf("points in the order in which they were passed (-want +got):\n%s", diff)
	}
	for _, note := range f.notes() {
		if strings.Contains(note, ", late:") {
			t.Errorf("Cluster API did not wait: %s", note)
		}
	}
	f.AwaitCluster(t, patience, f.key(), available)

	since := time.Now()
	if err := f.Delete(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	f.waitsAt(farewell)
	f.says(clusterv1.ClusterDeletingCondition, "Waiting for BeforeClusterDelete hook") // Cluster API's words: it does not pass ours on
	if len(f.versions()) != 2 {
		t.Error("the machines go before the farewell is over")
	}
	f.open(farewell)
	if took := f.gone(since); took > v1alpha1.FarewellTimeout+patience {
		t.Errorf("the deletion took %s", took)
	}
	if !slices.ContainsFunc(f.notes(), func(note string) bool { return strings.HasPrefix(note, v1alpha1.RolloutFinishedReason) }) {
		t.Error("nobody told of the rollouts")
	}
}

// No hook arrives: each of its twins sees in the Cluster itself that its moment has come. Nothing is left out, and the
// order is the same.
func TestLostHooksAreMadeUpFor(t *testing.T) {
	f := begin(t, "lost", map[string]string{deaf: ""})
	f.everywhere(func(string) string { return "" })
	f.create(f.class("1-35-v1"), older, 1, 1)
	f.reached(f.class("1-35-v1"))
	f.AwaitCluster(t, patience, f.key(), available)
	f.use(f.class("1-36-v1"), newer)
	a := f.addons(func(a *v1alpha1.ClusterAddon) error {
		if len(passed(t, a)) < len(upgrade) || !a.Status.Ready {
			return fmt.Errorf("not all points lie behind")
		}
		return nil
	})
	if diff := cmp.Diff(wanted(), passed(t, a)); diff != "" {
		t.Errorf("points in the order in which they were passed (-want +got):\n%s", diff)
	}
	if a.Annotations[v1alpha1.LifecyclePointAnnotation] != "" {
		t.Errorf("a hook arrived all the same: %s", a.Annotations[v1alpha1.LifecyclePointAnnotation])
	}
	since := time.Now()
	if err := f.Delete(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	f.gone(since)
}

// available tells whether a Cluster has come to what is asked of it.
func available(c *clusterv1.Cluster) error {
	for _, condition := range []string{clusterv1.ClusterAvailableCondition, clusterv1.ClusterTopologyReconciledCondition} {
		i := slices.IndexFunc(c.Status.Conditions, func(has metav1.Condition) bool { return has.Type == condition })
		if i < 0 || c.Status.Conditions[i].Status != "True" || c.Status.Conditions[i].ObservedGeneration != c.Generation {
			return fmt.Errorf("Cluster %s has not %s: %+v", c.Name, condition, c.Status.Conditions)
		}
	}
	return nil
}

// annotate sets an annotation, or removes it.
func (f *flow) annotate(obj client.Object, key, value string) {
	f.Helper()
	var set any
	if value != "" {
		set = value
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: set}}})
	if err != nil {
		f.Fatal(err)
	}
	if err := f.Patch(f.Context(), obj, client.RawPatch(types.MergePatchType, patch)); err != nil {
		f.Fatal(err)
	}
}
