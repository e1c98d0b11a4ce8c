// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}

const (
	tag  = "docker-starter-1-36-v0-sha-abc"
	cls  = "docker-starter-1-36-v0-sha.abc"
	from = "v1.35.4"
	to   = "v1.36.4"
	uid  = types.UID("11111111-2222-3333-4444-555555555555")
)

// request is what Cluster API sends for the Cluster "c" of a namespace.
func request(namespace string) *Request {
	r := &Request{FromKubernetesVersion: from, ToKubernetesVersion: to}
	r.Cluster.Metadata.Namespace, r.Cluster.Metadata.Name, r.Cluster.Metadata.UID = namespace, "c", uid
	r.Cluster.Spec.Topology.ClassRef.Name = cls
	r.Cluster.Spec.Topology.Version = to
	return r
}

// passage is what has to be proven for that request.
func passage(namespace string) rollout.Passage {
	return rollout.Passage{
		Release: rollout.Release{Namespace: namespace, Class: cls, Digest: "sha256:1"},
		Point:   release.BeforeClusterUpgrade, From: from, To: to, Cluster: string(uid),
	}
}

// proof is a record that proves it.
func proof(namespace string) rollout.Record {
	p := passage(namespace)
	return rollout.Record{
		Applied: &rollout.Applied{Release: p.Release, Version: to},
		Rollout: &rollout.Rollout{Passage: p, Finished: true},
	}
}

func TestBeforeClusterUpgrade(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	cases := map[string]struct {
		why string
		// unknown leaves out the ClusterStackRelease, behind leaves it out of the cache.
		unknown, behind bool
		// digest that is fixed in it.
		digest string
		record func(namespace string) string
		addon  func(*v1alpha1.ClusterAddon)
		// missing leaves out the ClusterAddon.
		missing bool
		request func(*Request)
		// hold is a part of the message, empty to go on.
		hold string
		// quiet says that the controller is not woken.
		quiet bool
		// reads and writes that fail.
		broken string
	}{
		"GoesOnWithTheProof": {quiet: true},
		"GoesOnWithTheProofInV1Beta1": {
			why:     "Cluster API before 1.13 sends the Cluster in the other shape.",
			request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Name = ""; r.Cluster.Spec.Topology.Class = cls },
			quiet:   true,
		},
		"GoesOnWithoutTopology": {
			why:     "Such a Cluster is none of our business.",
			request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Name = "" },
			record:  func(string) string { return "" }, quiet: true,
		},
		"GoesOnWithAForeignClass": {
			request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Name = "quick-start" },
			record:  func(string) string { return "" }, quiet: true,
		},
		"GoesOnWithAForeignClassWhenNothingCanBeRead": {
			why:     "Our faults are not theirs.",
			request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Name = "quick-start" },
			broken:  "get ClusterStackRelease, get ClusterAddon", quiet: true,
		},
		"GoesOnWithAClassThatOnlyLooksLikeOurs": {
			why:     "Nobody has asked for such a release, and there is no ClusterAddon.",
			unknown: true, missing: true,
		},
		"HoldsWithoutClusterAddon": {
			why:     "It will be there in a moment.",
			missing: true, hold: "waiting for ClusterAddon cluster-addon-c to be created",
		},
		"HoldsWithoutClusterAddonWhenTheCacheIsBehind": {
			why:    "The release was made a moment ago, and another replica may have seen it.",
			behind: true, missing: true, hold: "waiting for ClusterAddon cluster-addon-c to be created",
		},
		"GoesOnWithTheProofOfTheFixedDigest": {digest: "sha256:1", quiet: true},
		"HoldsWithTheProofOfAnotherDigest": {
			why:    "The release was corrected under the same name since, and its addons are not in the cluster.",
			digest: "sha256:2", hold: "waiting for the addons of " + tag,
		},
		"HoldsWithTheProofOfAnotherDigestWhenTheCacheIsBehind": {
			why:    "The release was corrected a moment ago.",
			digest: "sha256:2", behind: true, hold: "waiting for the addons of " + tag,
		},
		"HoldsWithoutClusterStackRelease": {
			why:     "The ClusterAddon says that the Cluster is ours, whatever became of the release.",
			unknown: true, record: func(string) string { return "" }, hold: "waiting for the addons of " + tag + " before Kubernetes " + to,
		},
		"GoesOnWhereItsUserDoesNotWait": {
			request: func(r *Request) {
				r.Cluster.Metadata.Annotations = map[string]json.RawMessage{"clusterstack.x-k8s.io/skip-before-cluster-upgrade": json.RawMessage(`""`)}
			},
			record: func(string) string { return "" }, quiet: true,
		},
		"HoldsWhereItsUserDoesNotWaitForAnotherHook": {
			request: func(r *Request) {
				r.Cluster.Metadata.Annotations = map[string]json.RawMessage{"clusterstack.x-k8s.io/skip-after-cluster-upgrade": json.RawMessage(`""`)}
			},
			record: func(string) string { return "" }, hold: "waiting for",
		},
		"HoldsWithoutRecord": {
			record: func(string) string { return "" },
			hold:   "waiting for the addons of " + tag + " before Kubernetes " + to,
		},
		"HoldsWithADamagedRecord": {
			record: func(string) string { return "{" }, hold: "cannot be read", quiet: true,
		},
		"HoldsDuringTheRollout": {
			why: "The proof is written at its end. The controller is at work on the very thing, so it is left alone.",
			record: func(ns string) string {
				return rollout.Record{Rollout: &rollout.Rollout{Passage: passage(ns), Done: []string{"cni"}}}.String()
			},
			addon: func(a *v1alpha1.ClusterAddon) {
				a.Status.Conditions = v1alpha1.Conditions{{Type: v1alpha1.HelmChartAppliedCondition, Status: metav1.ConditionFalse, Reason: "X", Message: "stage cni waits for the sun", LastTransitionTime: metav1.Now()}}
			},
			hold: "waiting for the addons of " + tag + " before Kubernetes " + to + ": stage cni waits for the sun", quiet: true,
		},
		"HoldsWithTheProofOfAnotherFrom": {
			request: func(r *Request) { r.FromKubernetesVersion = "v1.35.2" }, hold: "waiting for",
		},
		"HoldsWithTheProofOfAnotherTo": {
			request: func(r *Request) { r.ToKubernetesVersion = "v1.36.9" }, hold: "before Kubernetes v1.36.9",
		},
		"HoldsWithTheProofOfAnotherCluster": {
			request: func(r *Request) { r.Cluster.Metadata.UID = "another" }, hold: "waiting for",
		},
		"HoldsWithTheProofOfAnotherNamespace": {
			why:     "The same name stands for another release there.",
			request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Namespace = "default" },
			hold:    "waiting for",
		},
		"HoldsWithTheProofOfAnotherClass": {
			request: func(r *Request) { r.Cluster.Spec.Topology.ClassRef.Name = "docker-starter-1-36-v9" },
			hold:    "waiting for the addons of docker-starter-1-36-v9",
		},
		"HoldsWithTheProofOfAClusterAddonThatGoes": {
			why:   "Another one is made in its place, and knows nothing of the proof.",
			addon: func(a *v1alpha1.ClusterAddon) { a.Finalizers = []string{v1alpha1.ClusterAddonFinalizer} },
			hold:  "waiting for", broken: "delete",
		},
		"HoldsWhenTheClusterAddonCannotBeRead":        {broken: "get ClusterAddon", hold: "cannot be read", quiet: true},
		"HoldsWhenTheClusterStackReleaseCannotBeRead": {broken: "get ClusterStackRelease", hold: "cannot be read", quiet: true},
		"HoldsWhenTheControllerCannotBeWoken": {
			why:    "A failure to ask is no answer.",
			record: func(string) string { return "" }, broken: "patch", hold: "cannot be written", quiet: true,
		},
		"SaysThatTheClusterIsPaused": {
			record: func(string) string { return "" },
			addon: func(a *v1alpha1.ClusterAddon) {
				a.Status.Conditions = v1alpha1.Conditions{{Type: v1alpha1.PausedCondition, Status: metav1.ConditionTrue, Reason: "X", Message: "the Cluster or its ClusterAddon is paused", LastTransitionTime: metav1.Now()}}
			},
			hold: ": the Cluster or its ClusterAddon is paused",
		},
		"SaysThatTheReleaseDoesNotFit": {
			why:    "No rollout is ever opened for it, and the user can cure it.",
			record: func(string) string { return "" },
			addon: func(a *v1alpha1.ClusterAddon) {
				a.Status.Conditions = v1alpha1.Conditions{{Type: v1alpha1.HelmChartAppliedCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.VersionMismatchReason, Message: "set spec.topology.version", LastTransitionTime: metav1.Now()}}
			},
			hold: ": set spec.topology.version",
		},
		"SaysWhyTheClusterCannotBeReached": {
			record: func(string) string { return "" },
			addon: func(a *v1alpha1.ClusterAddon) {
				a.Status.Conditions = v1alpha1.Conditions{{Type: v1alpha1.ClusterReadyCondition, Status: metav1.ConditionFalse, Reason: "X", Message: "the API server of the cluster does not answer", LastTransitionTime: metav1.Now()}}
			},
			hold: "the API server of the cluster does not answer",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ns := kinds.Namespace(t, c)
			if !tc.unknown {
				for _, tag := range []string{tag, "docker-starter-1-36-v9"} {
					rel := apitest.ClusterStackRelease(ns, tag)
					if err := c.Create(t.Context(), rel); err != nil {
						t.Fatal(err)
					}
					rel.Status.Digest = tc.digest
					if err := c.Status().Update(t.Context(), rel); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !tc.missing {
				text := proof(ns).String()
				if tc.record != nil {
					text = tc.record(ns)
				}
				create(t, c, ns, text, tc.addon, strings.Contains(tc.broken, "delete"))
			}
			r := request(ns)
			if tc.request != nil {
				tc.request(r)
			}
			broken, requests := breaking(c, tc.broken)
			h := &hooks{client: broken, reader: broken, live: broken, clock: clock.RealClock{}}
			if tc.behind {
				h.reader = interceptor.NewClient(c, interceptor.Funcs{Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
					return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("clusterstackreleases").GroupResource(), key.Name)
				}})
			}

			var first runtimehooksv1.BeforeClusterUpgradeResponse
			for i := range 2 {
				before := requests.Load()
				response := call(t, h, release.BeforeClusterUpgrade, r)
				if response.Status != runtimehooksv1.ResponseStatusSuccess {
					t.Errorf("%s\nstatus is %s", tc.why, response.Status)
				}
				if held := response.RetryAfterSeconds == retryAfter; held != (tc.hold != "") || !strings.Contains(response.Message, tc.hold) {
					t.Errorf("%s\nanswer is %d s, %q; want hold=%t with %q", tc.why, response.RetryAfterSeconds, response.Message, tc.hold != "", tc.hold)
				}
				if i == 0 {
					first = response
				} else if response.Message != first.Message {
					t.Errorf("the message changes from %q to %q", first.Message, response.Message)
				}
				// One read of each kind, and one patch the first time. Without a ClusterAddon the release is looked at twice.
				if sent := requests.Load() - before; sent > 3 || i > 0 && sent > 2 && tc.broken == "" && !tc.missing {
					t.Errorf("call %d sent %d requests", i+1, sent)
				}
			}
			if tc.missing {
				return
			}
			addon := &v1alpha1.ClusterAddon{}
			if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "cluster-addon-c"}, addon); err != nil {
				t.Fatal(err)
			}
			asked, err := rollout.ParseAsk(addon.Annotations[v1alpha1.LifecyclePointAnnotation])
			if err != nil || (asked == nil) != tc.quiet {
				t.Errorf("%s\nasked for %v, %v; want nothing: %t", tc.why, asked, err, tc.quiet)
			}
			if asked != nil && (asked.From != r.FromKubernetesVersion || asked.To != r.ToKubernetesVersion || asked.Cluster != string(r.Cluster.Metadata.UID)) {
				t.Errorf("asked for %v, the request was %+v", asked, r)
			}
		})
	}
}

// call asks at a point. All hooks that hold answer in the same shape.
func call(t *testing.T, h *hooks, point release.Point, r *Request) runtimehooksv1.BeforeClusterUpgradeResponse {
	t.Helper()
	var response runtimehooksv1.BeforeClusterUpgradeResponse
	handler[*runtimehooksv1.BeforeClusterUpgradeResponse](h, point)(t.Context(), r, &response)
	return response
}

// create creates the ClusterAddon of the Cluster "c".
func create(t *testing.T, c client.Client, ns, record string, change func(*v1alpha1.ClusterAddon), deleted bool) {
	t.Helper()
	addon := &v1alpha1.ClusterAddon{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cluster-addon-c", Annotations: map[string]string{}},
		Spec:       v1alpha1.ClusterAddonSpec{ClusterRef: &corev1.ObjectReference{Kind: "Cluster", Name: "c"}},
	}
	if record != "" {
		addon.Annotations[v1alpha1.RolloutAnnotation] = record
	}
	if change != nil {
		change(addon)
	}
	status := addon.Status
	if err := c.Create(t.Context(), addon); err != nil {
		t.Fatal(err)
	}
	addon.Status = status
	if err := c.Status().Update(t.Context(), addon); err != nil {
		t.Fatal(err)
	}
	if deleted {
		if err := c.Delete(t.Context(), addon); err != nil {
			t.Fatal(err)
		}
	}
}

// breaking counts requests, and lets some fail.
func breaking(c client.WithWatch, what string) (client.Client, *atomic.Int32) {
	requests := &atomic.Int32{}
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			requests.Add(1)
			if strings.Contains(what, "get "+strings.TrimPrefix(fmt.Sprintf("%T", obj), "*v1alpha1.")) {
				return errors.New("broken at " + fmt.Sprint(requests.Load()))
			}
			return c.Get(ctx, key, obj, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			requests.Add(1)
			if strings.Contains(what, "patch") {
				return errors.New("broken at " + fmt.Sprint(requests.Load()))
			}
			return c.Patch(ctx, obj, patch, opts...)
		},
	}), requests
}

func TestAfterControlPlaneInitialized(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	cases := map[string]struct {
		why    string
		record func(ns string) string
		class  string
		broken string
		woken  bool
	}{
		"WakesTheController":           {woken: true, class: cls},
		"DoesNotDisturbARollout":       {record: func(ns string) string { return proof(ns).String() }, class: cls},
		"LeavesForeignClusters":        {class: "quick-start"},
		"HoldsNothingWhenItCannotRead": {class: cls, broken: "get ClusterAddon", why: "Cluster API does not wait at this point, and the controller sees for itself."},
		"HoldsNothingWhenItCannotWake": {class: cls, broken: "patch"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ns := kinds.Namespace(t, c)
			record := ""
			if tc.record != nil {
				record = tc.record(ns)
			}
			create(t, c, ns, record, nil, false)
			r := request(ns)
			r.Cluster.Spec.Topology.ClassRef.Name = tc.class
			broken, _ := breaking(c, tc.broken)
			var response runtimehooksv1.AfterControlPlaneInitializedResponse
			(&hooks{client: broken, reader: broken, live: broken, clock: clock.RealClock{}}).wakeUp(t.Context(), r, &response)
			if response.Status != runtimehooksv1.ResponseStatusSuccess || response.Message != "" {
				t.Errorf("answer is %s %q", response.Status, response.Message)
			}
			addon := &v1alpha1.ClusterAddon{}
			if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "cluster-addon-c"}, addon); err != nil {
				t.Fatal(err)
			}
			if woken := addon.Annotations[v1alpha1.LifecyclePointAnnotation] != ""; woken != tc.woken {
				t.Errorf("%s\nwoken is %t, want %t", tc.why, woken, tc.woken)
			}
		})
	}
}

// TestManyCallsAtOnce calls from many sides while the record changes. Run with the race detector.
func TestManyCallsAtOnce(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	ns := kinds.Namespace(t, c)
	if err := c.Create(t.Context(), apitest.ClusterStackRelease(ns, tag)); err != nil {
		t.Fatal(err)
	}
	create(t, c, ns, "", nil, false)
	h := &hooks{client: c, reader: c, live: c, clock: clock.RealClock{}}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 10 {
				response := call(t, h, release.BeforeClusterUpgrade, request(ns))
				if response.Status != runtimehooksv1.ResponseStatusSuccess || response.RetryAfterSeconds != retryAfter {
					t.Errorf("answer is %s, %d s", response.Status, response.RetryAfterSeconds)
				}
			}
		})
	}
	wg.Wait()
}
