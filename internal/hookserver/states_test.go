// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// world is what the hook server reads, with faults.
type world struct {
	client.Writer
	addon   *v1alpha1.ClusterAddon
	release *v1alpha1.ClusterStackRelease
	// broken are the kinds that cannot be read, and "patch".
	broken  string
	reads   int
	patches int
}

func (w *world) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	w.reads++
	missing := apierrors.NewNotFound(schema.GroupResource{Resource: "x"}, key.Name)
	switch into := obj.(type) {
	case *v1alpha1.ClusterAddon:
		if strings.Contains(w.broken, "addon") {
			return errors.New("no answer")
		}
		if w.addon == nil || client.ObjectKeyFromObject(w.addon) != key {
			return missing
		}
		w.addon.DeepCopyInto(into)
	case *v1alpha1.ClusterStackRelease:
		if strings.Contains(w.broken, "release") {
			return errors.New("no answer")
		}
		if w.release == nil || client.ObjectKeyFromObject(w.release) != key {
			return missing
		}
		w.release.DeepCopyInto(into)
	}
	return nil
}

func (w *world) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("the hook server lists nothing")
}

func (w *world) Patch(_ context.Context, _ client.Object, patch client.Patch, _ ...client.PatchOption) error {
	w.patches++
	if strings.Contains(w.broken, "patch") {
		return errors.New("no answer")
	}
	data, err := patch.Data(nil)
	if err != nil {
		return err
	}
	var change v1alpha1.ClusterAddon
	if err := json.Unmarshal(data, &change); err != nil {
		return err
	}
	for key, value := range change.Annotations {
		metav1.SetMetaDataAnnotation(&w.addon.ObjectMeta, key, value)
	}
	return nil
}

var held = []release.Point{
	release.BeforeClusterUpgrade, release.BeforeControlPlaneUpgrade, release.AfterControlPlaneUpgrade,
	release.BeforeWorkersUpgrade, release.AfterWorkersUpgrade, release.AfterClusterUpgrade, release.BeforeClusterDelete,
}

// TestNothingPassesWithoutProof goes through the states that a ClusterAddon can be in, at every point, with the
// Cluster as it was when that was written or changed since, and with faults. Whoever is let go on without being
// foreign has its addons in the cluster: the state says so, and nothing has changed or failed.
func TestNothingPassesWithoutProof(t *testing.T) {
	const other = "docker-starter-1-36-v7"
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	passageAt := func(point release.Point) rollout.Passage {
		ask := rollout.NewAsk(point, to, from, to)
		return rollout.Passage{
			Release: rollout.Release{Namespace: "ns", Class: cls, Digest: "sha256:1"},
			Point:   point, From: ask.From, To: ask.To, Hop: ask.Hop, Cluster: string(uid),
		}
	}
	appliedAt := func(points ...release.Point) *rollout.Applied {
		return &rollout.Applied{Release: passageAt(held[0]).Release, Version: to, From: from, Points: points}
	}
	open := func(p rollout.Passage) *rollout.Rollout { return &rollout.Rollout{Passage: p} }
	done := func(p rollout.Passage) *rollout.Rollout { return &rollout.Rollout{Passage: p, Finished: true} }

	// states by whether they prove the point that is asked for.
	states := map[string]struct {
		record func(point release.Point) rollout.Record
		proves func(point release.Point) bool
	}{
		"Nothing": {record: func(release.Point) rollout.Record { return rollout.Record{} }},
		"Open":    {record: func(p release.Point) rollout.Record { return rollout.Record{Rollout: open(passageAt(p))} }},
		"OpenAgain": {record: func(p release.Point) rollout.Record {
			r := rollout.Record{Applied: appliedAt(held...), Rollout: open(passageAt(p))}
			r.Applied.Passed = []rollout.Passed{{Point: p, From: passageAt(p).From, Hop: passageAt(p).Hop, Cluster: string(uid)}}
			return r
		}},
		"Done": {
			record: func(p release.Point) rollout.Record {
				return rollout.Record{Applied: appliedAt(held...), Rollout: done(passageAt(p))}
			},
			proves: func(release.Point) bool { return true },
		},
		"DoneAndGoneOn": {
			record: func(p release.Point) rollout.Record {
				r := rollout.Record{Applied: appliedAt(held...), Rollout: done(passageAt(release.AfterControlPlaneInitialized))}
				r.Applied.Passed = []rollout.Passed{{Point: p, From: passageAt(p).From, Hop: passageAt(p).Hop, Cluster: string(uid)}}
				return r
			},
			proves: func(release.Point) bool { return true },
		},
		"DoneAtAnotherPoint": {
			record: func(release.Point) rollout.Record {
				return rollout.Record{Applied: appliedAt(held...), Rollout: done(passageAt(release.AfterControlPlaneInitialized))}
			},
		},
		"NothingToDoAtOtherPoints": {
			record: func(release.Point) rollout.Record {
				return rollout.Record{Applied: appliedAt(release.BeforeClusterUpgrade), Rollout: done(passageAt(release.BeforeClusterUpgrade))}
			},
			proves: func(release.Point) bool { return true },
		},
		"PointsUnknown": {
			record: func(release.Point) rollout.Record {
				return rollout.Record{Applied: appliedAt(), Rollout: done(passageAt(release.AfterControlPlaneInitialized))}
			},
			// What no release is known to want is not waited for when the Cluster goes.
			proves: func(p release.Point) bool { return p == release.BeforeClusterDelete },
		},
		"Edited": {record: func(p release.Point) rollout.Record {
			r := rollout.Record{Applied: appliedAt(held...), Rollout: done(passageAt(p))}
			r.Applied.Digest = "sha256:edited"
			return r
		}},
	}
	// changes to what is asked, by whether what was proven still counts.
	changes := map[string]struct {
		request func(*Request)
		harmful func(release.Point) bool
	}{
		"None":      {request: func(*Request) {}, harmful: func(release.Point) bool { return false }},
		"Class":     {request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Name = other }, harmful: func(p release.Point) bool { return p != release.BeforeClusterDelete }},
		"Namespace": {request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Namespace = "elsewhere" }, harmful: func(p release.Point) bool { return p != release.BeforeClusterDelete }},
		"Cluster":   {request: func(r *Request) { r.Cluster.Metadata.UID = "another" }, harmful: func(release.Point) bool { return true }},
		"Versions": {
			request: func(r *Request) { r.FromKubernetesVersion, r.ToKubernetesVersion = "v1.35.1", "v1.36.1" },
			harmful: func(p release.Point) bool { return passageAt(p).From != "" || passageAt(p).Hop != "" },
		},
	}
	faults := []string{"", "addon", "release", "patch", "digest", "going", "absent"}

	cases := 0
	for stateName, state := range states {
		for _, point := range held {
			for changeName, change := range changes {
				for _, fault := range faults {
					cases++
					w := &world{broken: fault}
					w.release = &v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: tag}}
					w.release.Status.Digest = "sha256:1"
					w.addon = &v1alpha1.ClusterAddon{ObjectMeta: metav1.ObjectMeta{
						Namespace: "ns", Name: "cluster-addon-c", Annotations: map[string]string{v1alpha1.RolloutAnnotation: state.record(point).String()},
					}}
					switch fault {
					case "digest":
						w.release.Status.Digest = "sha256:corrected"
					case "going":
						w.addon.DeletionTimestamp = &metav1.Time{Time: noon}
					case "absent":
						w.addon = nil
					}
					r := request("ns")
					r.Cluster.Metadata.DeletionTimestamp = &metav1.Time{Time: noon.Add(-time.Second)}
					change.request(r)
					h := &hooks{client: w, reader: w, live: w, clock: testingclock.NewFakeClock(noon)}
					first, message := h.answer(t.Context(), point, r)
					reads, patches := w.reads, w.patches
					second, again := h.answer(t.Context(), point, r)

					at := fmt.Sprintf("%s at %s, changed: %s, fault: %q", stateName, point, changeName, fault)
					if first != second || message != again {
						t.Errorf("%s: answers differ: %s %q, then %s %q", at, first, message, second, again)
					}
					if reads > 3 || patches > 1 || fault != "patch" && w.patches > patches {
						t.Errorf("%s: %d reads, %d and %d patches", at, reads, patches, w.patches-patches)
					}
					if first == wait && message == "" {
						t.Errorf("%s: waits without saying for what", at)
					}

					deleting := point == release.BeforeClusterDelete
					proven := state.proves != nil && state.proves(point) && !change.harmful(point)
					if deleting {
						// A Cluster has to go: it waits for nothing but what its own release is known to want.
						rec := state.record(point)
						proven = proven || !rec.Farewell() || changeName == "Class" || changeName == "Namespace" || fault == "absent"
						proven = proven && fault != "addon"
					} else {
						// A cluster of ours is held by every fault, but for one of the request that is not needed.
						unknown := changeName == "Class" || changeName == "Namespace"
						corrected := fault == "digest" && !unknown
						proven = proven && fault != "addon" && fault != "release" && fault != "going" && fault != "absent" && !corrected
						if fault == "absent" && unknown {
							proven = first == foreign // nobody has such a release, and there is no ClusterAddon
						}
						idle := stateName == "NothingToDoAtOtherPoints" && point != release.BeforeClusterUpgrade
						if idle && (changeName == "Cluster" || changeName == "Versions") {
							continue // shown below: where nothing is to be done it does not matter who asks
						}
					}
					if (first != wait) != proven {
						t.Errorf("%s: answer is %s %q, want to go on: %t", at, first, message, proven)
					}
				}
			}
		}
	}
	t.Logf("%d cases", cases)
}

// TestPointsWithNothingToDo are answered at once from what is recorded about the release, without waking anybody.
func TestPointsWithNothingToDo(t *testing.T) {
	for _, point := range held[1:] {
		record := proof("ns")
		record.Applied.Points = []release.Point{release.BeforeClusterUpgrade}
		w := &world{
			release: &v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: tag}},
			addon: &v1alpha1.ClusterAddon{ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: "cluster-addon-c", Annotations: map[string]string{v1alpha1.RolloutAnnotation: record.String()},
			}},
		}
		r := request("ns")
		r.FromKubernetesVersion, r.ToKubernetesVersion, r.KubernetesVersion = "", "", "v1.35.9"
		r.Cluster.Metadata.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		h := &hooks{client: w, reader: w, live: w, clock: testingclock.NewFakeClock(time.Now())}
		if d, message := h.answer(t.Context(), point, r); d != proceed || w.patches != 0 {
			t.Errorf("%s: %s %q after %d patches", point, d, message, w.patches)
		}
	}
}

func TestBeforeClusterCreate(t *testing.T) {
	noRelease := &world{}
	ready := &world{release: &v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: tag}}}
	ready.release.Status.Ready = true
	notReady := &world{release: &v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: tag}}}
	notReady.release.Status.Conditions = v1alpha1.Conditions{{Type: v1alpha1.ReadyCondition, Status: "False", Message: "node images are imported"}}
	going := &world{release: ready.release.DeepCopy()}
	going.release.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	for name, tc := range map[string]struct {
		world   *world
		class   string
		want    decision
		message string
	}{
		"Ready":        {world: ready, want: proceed},
		"NotReady":     {world: notReady, want: wait, message: "waiting for ClusterStackRelease " + tag + " to be ready: node images are imported"},
		"Going":        {world: going, want: wait, message: "waiting for ClusterStackRelease " + tag + " to be ready"},
		"Unreadable":   {world: &world{broken: "release"}, want: wait, message: "ClusterStackRelease " + tag + " cannot be read"},
		"Unknown":      {world: noRelease, want: foreign},
		"ForeignClass": {world: &world{broken: "release"}, class: "quick-start", want: foreign},
	} {
		t.Run(name, func(t *testing.T) {
			r := request("ns")
			if tc.class != "" {
				r.Cluster.Spec.Topology.ClassRef.Name = tc.class
			}
			h := &hooks{client: tc.world, reader: noRelease, live: tc.world, clock: testingclock.NewFakeClock(time.Now())}
			if d, message := h.answer(t.Context(), release.BeforeClusterCreate, r); d != tc.want || message != tc.message {
				t.Errorf("answer is %s %q, want %s %q", d, message, tc.want, tc.message)
			}
		})
	}
}

// TestDeletionIsNotHeldForLong has a Cluster whose farewell never comes to an end.
func TestDeletionIsNotHeldForLong(t *testing.T) {
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	record := proof("ns")
	record.Applied.Points = []release.Point{release.BeforeClusterUpgrade, release.BeforeClusterDelete}
	w := &world{addon: &v1alpha1.ClusterAddon{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cluster-addon-c", Annotations: map[string]string{v1alpha1.RolloutAnnotation: record.String()},
	}}}
	r := request("ns")
	r.Cluster.Metadata.DeletionTimestamp = &metav1.Time{Time: noon}
	for after, want := range map[time.Duration]decision{0: wait, 119 * time.Second: wait, 2 * time.Minute: expired, time.Hour: expired} {
		for _, broken := range []string{"", "addon"} {
			w.broken = broken
			h := &hooks{client: w, reader: w, live: w, clock: testingclock.NewFakeClock(noon.Add(after))}
			if d, message := h.answer(t.Context(), release.BeforeClusterDelete, r); d != want {
				t.Errorf("after %s with fault %q: %s %q, want %s", after, broken, d, message, want)
			}
		}
	}
	r.Cluster.Metadata.Annotations = map[string]json.RawMessage{"clusterstack.x-k8s.io/skip-before-cluster-delete": json.RawMessage(`""`)}
	h := &hooks{client: w, reader: w, live: w, clock: testingclock.NewFakeClock(noon)}
	if d, _ := h.answer(t.Context(), release.BeforeClusterDelete, r); d != skipped {
		t.Errorf("with the annotation: %s", d)
	}
}
