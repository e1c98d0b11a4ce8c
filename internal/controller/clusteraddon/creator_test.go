// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestCreator(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	classes := kinds.Namespace(t, c)
	if err := c.Create(t.Context(), apitest.ClusterStackRelease(classes, v1)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		why     string
		cluster func(namespace string) *clusterv1.Cluster
		filter  string
		want    bool
	}{
		"ClassOfItsNamespace": {
			cluster: func(ns string) *clusterv1.Cluster { return apitest.Cluster(ns, "c", "docker-starter-1-35-v2", k135) },
			want:    true,
		},
		"ClassOfAnotherNamespace": {
			why: "Classes are often kept in a namespace of the platform team.",
			cluster: func(ns string) *clusterv1.Cluster {
				cluster := apitest.Cluster(ns, "c", v1, k135)
				cluster.Spec.Topology.ClassRef.Namespace = classes
				return cluster
			},
			want: true,
		},
		"ClassWithAHashVersion": {
			why: "Classes are written with a dot, releases with a dash.",
			cluster: func(ns string) *clusterv1.Cluster {
				return apitest.Cluster(ns, "c", "docker-starter-1-35-v0-sha.abc", k135)
			},
			want: true,
		},
		"ForeignClass": {
			cluster: func(ns string) *clusterv1.Cluster { return apitest.Cluster(ns, "c", "quick-start", k135) },
		},
		"ClassThatOnlyLooksLikeOurs": {
			why:     "There is no such release.",
			cluster: func(ns string) *clusterv1.Cluster { return apitest.Cluster(ns, "c", "docker-starter-1-35-v9", k135) },
		},
		"NoTopology": {
			cluster: func(ns string) *clusterv1.Cluster { return apitest.PlainCluster(ns, "c") },
		},
		"Paused": {
			why: "It may be under way to another management cluster, together with its ClusterAddon.",
			cluster: func(ns string) *clusterv1.Cluster {
				cluster := apitest.Cluster(ns, "c", "docker-starter-1-35-v2", k135)
				paused := true
				cluster.Spec.Paused = &paused
				return cluster
			},
		},
		"Deleted": {
			cluster: func(ns string) *clusterv1.Cluster {
				cluster := apitest.Cluster(ns, "c", "docker-starter-1-35-v2", k135)
				cluster.Finalizers = []string{"example.com/machines"}
				return cluster
			},
		},
		"OfAShard": {
			cluster: func(ns string) *clusterv1.Cluster {
				cluster := apitest.Cluster(ns, "c", "docker-starter-1-35-v2", k135)
				cluster.Labels = map[string]string{clusterv1.WatchLabel: "blue"}
				return cluster
			},
			want: true,
		},
		"OfAnotherShard": {
			why: "A release that appears wakes the creators of all shards.",
			cluster: func(ns string) *clusterv1.Cluster {
				cluster := apitest.Cluster(ns, "c", "docker-starter-1-35-v2", k135)
				cluster.Labels = map[string]string{clusterv1.WatchLabel: "blue"}
				return cluster
			},
			filter: "green",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := kinds.Namespace(t, c)
			for _, tag := range []string{"docker-starter-1-35-v2", "docker-starter-1-35-v0-sha-abc"} {
				if err := c.Create(t.Context(), apitest.ClusterStackRelease(ns, tag)); err != nil {
					t.Fatal(err)
				}
			}
			cluster := tc.cluster(ns)
			if err := c.Create(t.Context(), cluster); err != nil {
				t.Fatal(err)
			}
			if len(cluster.Finalizers) > 0 {
				if err := c.Delete(t.Context(), cluster); err != nil {
					t.Fatal(err)
				}
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(cluster), cluster); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if _, err := (&creator{client: c, watchFilter: tc.filter}).Reconcile(t.Context(), cluster); err != nil {
					t.Fatal(err)
				}
			}
			addon := &v1alpha1.ClusterAddon{}
			err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "cluster-addon-c"}, addon)
			if client.IgnoreNotFound(err) != nil {
				t.Fatal(err)
			}
			if got := !apierrors.IsNotFound(err); got != tc.want {
				t.Fatalf("%s\nthere is a ClusterAddon: %t, want %t", tc.why, got, tc.want)
			}
			if !tc.want {
				return
			}
			owner := metav1.OwnerReference{APIVersion: clusterv1.GroupVersion.String(), Kind: "Cluster", Name: "c", UID: cluster.UID}
			if len(addon.OwnerReferences) != 1 || addon.OwnerReferences[0] != owner {
				t.Errorf("owners are %+v, want %+v", addon.OwnerReferences, owner)
			}
			if addon.Labels[clusterv1.WatchLabel] != cluster.Labels[clusterv1.WatchLabel] {
				t.Errorf("labels are %v, those of the Cluster %v", addon.Labels, cluster.Labels)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	type object = client.Object
	addon := func(change func(*v1alpha1.ClusterAddon)) object {
		a := &v1alpha1.ClusterAddon{ObjectMeta: metav1.ObjectMeta{Generation: 1, Annotations: map[string]string{v1alpha1.RolloutAnnotation: "{}"}}}
		change(a)
		return a
	}
	// record is that of a rollout of one release where another one is applied, if any.
	record := func(brought, applied string, finished bool) rollout.Record {
		r := rollout.Record{Rollout: &rollout.Rollout{Passage: rollout.Passage{Release: rollout.Release{Class: classOf(t, brought)}, To: k135}, Finished: finished}}
		if applied != "" {
			r.Applied = &rollout.Applied{Release: rollout.Release{Class: classOf(t, applied)}, Version: k135}
		}
		return r
	}
	has := func(a *v1alpha1.ClusterAddon, r rollout.Record) {
		a.Annotations = map[string]string{v1alpha1.RolloutAnnotation: r.String()}
	}
	says := func(a *v1alpha1.ClusterAddon, applied string) {
		a.Generation, a.Spec.ClusterStack = 2, classOf(t, applied)
	}
	cluster := func(change func(*clusterv1.Cluster)) object {
		c := apitest.Cluster("ns", "c", v1, k135)
		change(c)
		return c
	}
	rel := func(change func(*v1alpha1.ClusterStackRelease)) object {
		r := apitest.ClusterStackRelease("ns", v1)
		change(r)
		return r
	}
	now := metav1.Now()
	for name, tc := range map[string]struct {
		predicate predicate.Predicate
		before    object
		after     object
		want      bool
	}{
		"OurRecord": {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v1, "", false)) }), false},
		"OurFinish": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v1, "", false))
			a.Annotations[v1alpha1.LifecyclePointAnnotation] = "x"
		}), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v1, v1, true)); says(a, v1) }), false},
		"OurFirstFinish": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { a.Annotations = nil }), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v1, v1, true))
			says(a, v1)
		}), false},
		"OurNextRollout": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v1, v1, true)) }), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v2, v1, false))
		}), false},
		"RestoredAtRest": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v2, v2, true)) }), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v1, v1, true))
			says(a, v1)
		}), true},
		"RestoredInARollout": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v2, v1, false)) }), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v1, v1, true))
			says(a, v1)
		}), true},
		"RestoredFromARollout": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v2, v2, true)) }), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v2, v1, false))
			says(a, v1)
		}), true},
		"RestoredRecord": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v2, v2, true)) }), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v1, v1, true))
		}), true},
		"RecordAndAnotherSpec": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { has(a, record(v2, v1, false)) }), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v2, v2, true))
			says(a, v1)
		}), true},
		"RecordBroken": {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { a.Annotations[v1alpha1.RolloutAnnotation] = "{" }), true},
		"AskedMeanwhile": {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v1, "", false))
			a.Annotations[v1alpha1.LifecyclePointAnnotation] = "x"
		}), addon(func(a *v1alpha1.ClusterAddon) {
			has(a, record(v1, v1, true))
			a.Annotations[v1alpha1.LifecyclePointAnnotation] = "y"
		}), true},
		"AskTakenBack":   {othersChanges(), addon(func(a *v1alpha1.ClusterAddon) { a.Annotations[v1alpha1.LifecyclePointAnnotation] = "x" }), addon(func(*v1alpha1.ClusterAddon) {}), true},
		"SpecByHand":     {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { a.Generation = 2 }), true},
		"OurStatus":      {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { a.Status.Ready = true }), false},
		"RecordGone":     {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { a.Annotations = nil }), true},
		"Asked":          {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { a.Annotations[v1alpha1.LifecyclePointAnnotation] = "x" }), true},
		"PausedByHand":   {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { a.Annotations[clusterv1.PausedAnnotation] = "" }), true},
		"AddonDeleted":   {othersChanges(), addon(func(*v1alpha1.ClusterAddon) {}), addon(func(a *v1alpha1.ClusterAddon) { a.DeletionTimestamp = &now }), true},
		"ClusterSpec":    {clusterChanges(), cluster(func(*clusterv1.Cluster) {}), cluster(func(c *clusterv1.Cluster) { c.Generation = 2 }), true},
		"ClusterLabel":   {clusterChanges(), cluster(func(*clusterv1.Cluster) {}), cluster(func(c *clusterv1.Cluster) { c.Labels = map[string]string{"a": "b"} }), true},
		"Initialized":    {clusterChanges(), cluster(func(*clusterv1.Cluster) {}), cluster(apitest.Initialize), true},
		"ClusterDeleted": {clusterChanges(), cluster(func(*clusterv1.Cluster) {}), cluster(func(c *clusterv1.Cluster) { c.DeletionTimestamp = &now }), true},
		"Progress":       {clusterChanges(), cluster(func(*clusterv1.Cluster) {}), cluster(func(c *clusterv1.Cluster) { c.Status.Phase = "Provisioned" }), false},
		"ControlPlaneUpgraded": {clusterChanges(), cluster(func(*clusterv1.Cluster) {}), cluster(func(c *clusterv1.Cluster) {
			c.Status.ControlPlane = &clusterv1.ClusterControlPlaneStatus{Versions: []clusterv1.StatusVersion{{Version: k136}}}
		}), true},
		"DigestFixed":     {releaseChanges(), rel(func(*v1alpha1.ClusterStackRelease) {}), rel(func(r *v1alpha1.ClusterStackRelease) { r.Status.Digest = "sha256:1" }), true},
		"ReleaseProgress": {releaseChanges(), rel(func(*v1alpha1.ClusterStackRelease) {}), rel(func(r *v1alpha1.ClusterStackRelease) { r.Status.KubernetesVersion = k135 }), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.predicate.Update(event.UpdateEvent{ObjectOld: tc.before, ObjectNew: tc.after}); got != tc.want {
				t.Errorf("wakes: %t, want %t", got, tc.want)
			}
		})
	}
}

// The API server refuses an event with a longer text, and nobody would hear of it.
func TestTellsWhatAnEventCanCarry(t *testing.T) {
	recorder := events.NewFakeRecorder(2)
	w := &work{recorder: recorder, addon: &v1alpha1.ClusterAddon{}, cluster: &clusterv1.Cluster{}}
	w.tell("Reason", strings.Repeat("…", 1000))
	for range 2 {
		// The recorder puts type and reason before the text.
		_, text, _ := strings.Cut(<-recorder.Events, " Reason ")
		if len(text) > noteLimit || len(text) < noteLimit-10 || !utf8.ValidString(text) || !strings.HasSuffix(text, " …") {
			t.Errorf("an event has %d bytes: %q", len(text), text)
		}
	}
}

// A rollout that ends with all conditions met is one thing that happened, and is told once.
func TestTheEndOfARolloutIsToldOnce(t *testing.T) {
	recorder := events.NewFakeRecorder(10)
	addon := &v1alpha1.ClusterAddon{}
	pass := func(reasons ...string) (told []string) {
		o := &once{EventRecorder: recorder}
		for _, reason := range reasons {
			o.Eventf(addon, nil, "Normal", reason, reason, "note")
		}
		for len(recorder.Events) > 0 {
			_, rest, _ := strings.Cut(<-recorder.Events, " ")
			reason, _, _ := strings.Cut(rest, " ")
			told = append(told, reason)
		}
		return told
	}
	for name, tt := range map[string]struct{ reasons, want []string }{
		"RolloutEnds":     {[]string{"RolloutFinished", "RolloutFinished", "Ready", "Ready"}, []string{"RolloutFinished", "RolloutFinished"}},
		"AnswersAgain":    {[]string{"Ready", "Ready"}, []string{"Ready", "Ready"}},
		"EndsAndIsNotYet": {[]string{"RolloutFinished", "LeftoversKept"}, []string{"RolloutFinished", "LeftoversKept"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := pass(tt.reasons...); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
