// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package replicas runs more than one replica of the operator, and one after the other.
package replicas

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	v1         = "docker-starter-1-35-v1"
	up         = "docker-starter-1-36-v1"
	k135, k136 = "v1.35.4", "v1.36.4"
)

func configMap(name, text string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  text: \"" + text + "\"\n"
}

func newWorld(t *testing.T) *operatortest.World {
	t.Helper()
	w := operatortest.New(t)
	w.Publish(t, v1, operatortest.Release(t, v1,
		operatortest.Addon{Name: "cni", Templates: configMap("cni", "1")}, operatortest.Addon{Name: "metrics", Templates: configMap("metrics", "1")}))
	w.Publish(t, up, operatortest.Release(t, up,
		operatortest.Addon{Name: "cni", Templates: configMap("cni", "2")}, operatortest.Addon{Name: "csi", Templates: configMap("csi", "2")}))
	return w
}

func tenants(t *testing.T, w *operatortest.World, number int) []*operatortest.Tenant {
	t.Helper()
	var all []*operatortest.Tenant
	for range number {
		n := w.Tenant(t, "1.35", "1.36")
		n.Create(t, v1, k135)
		all = append(all, n)
	}
	return all
}

// replica is one of several operators, with what it has written to the management cluster.
type replica struct {
	*operatortest.Operator
	mu     sync.Mutex
	writes []string
}

// election is short enough for a test and long enough for a busy machine.
var election = []string{
	"--leader-elect=true", "--leader-elect-namespace=" + operatortest.Home,
	"--leader-elect-lease-duration=12s", "--leader-elect-renew-deadline=8s", "--leader-elect-retry-period=1s",
}

func start(t *testing.T, w *operatortest.World) *replica {
	t.Helper()
	r := &replica{}
	proxy := w.Proxy(t, func(e faultproxy.Event) {
		// What it asks about rights and Cluster API's features has the form of objects, too, in no namespace of ours.
		if e.Method == http.MethodGet || !strings.Contains(e.Path, "/namespaces/test-") {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.writes = append(r.writes, e.Method+" "+e.Path)
	})
	r.Operator = w.Start(t, proxy, election...)
	r.AwaitReady(t)
	return r
}

// since returns what a replica has written after the first n writes.
func (r *replica) since(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.writes[n:])
}

// leader waits until one of some replicas leads, and returns it and the lease.
func leader(t *testing.T, w *operatortest.World, not string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), operatortest.Patience)
	defer cancel()
	watch, err := w.Client.Watch(ctx, &coordinationv1.LeaseList{}, client.InNamespace(operatortest.Home))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		lease, is := event.Object.(*coordinationv1.Lease)
		if is && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" && *lease.Spec.HolderIdentity != not {
			return *lease.Spec.HolderIdentity
		}
	}
	t.Fatal("nobody leads")
	return ""
}

// TestReplicas has all its cases in one management cluster, one after the other.
func TestReplicas(t *testing.T) {
	w := newWorld(t)
	t.Run("ARestartAtRestWritesNothing", func(t *testing.T) { restart(t, w) })
	t.Run("TheOtherOneGoesOn", func(t *testing.T) { loseLeaders(t, w) })
}

// loseLeaders loses the leader in the middle of upgrades, in each way that it can be lost. The other one
// takes over and brings them to their end; a leader that was stopped, and wakes up when another one leads, writes nothing
// any more.
func loseLeaders(t *testing.T, w *operatortest.World) {
	t.Helper()
	for name, tc := range map[string]struct {
		why string
		// lose loses the leader, and regain is what happens when the other one leads.
		lose   func(t *testing.T, first *replica)
		regain func(t *testing.T, first *replica)
	}{
		"Killed": {
			why:  "It gives nothing up: the other one has to wait for its lease to end.",
			lose: func(_ *testing.T, first *replica) { first.End() },
		},
		"Stopped": {
			why: "It gives its lease up before it ends.",
			lose: func(t *testing.T, first *replica) {
				if err := first.Stop(t.Context()); err != nil {
					t.Error(err)
				}
			},
		},
		"Suspended": {
			why:  "It does not know that time has passed.",
			lose: func(_ *testing.T, first *replica) { first.Suspend() },
			regain: func(t *testing.T, first *replica) {
				before := len(first.since(0))
				first.Resume()
				ended, cancel := context.WithTimeout(t.Context(), operatortest.Patience)
				defer cancel()
				select {
				case <-first.Done():
				case <-ended.Done():
					t.Error("a replica that has lost its lease goes on")
				}
				if late := first.since(before); len(late) > 0 {
					t.Errorf("written after the lease had ended: %q", late)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := start(t, w)
			led := leader(t, w, "")
			clusters := tenants(t, w, 4)
			w.Await(t, first.Operator, clusters, operatortest.Reached(v1))
			second := start(t, w)

			for _, n := range clusters {
				n.Use(t, up, k136)
			}
			// As soon as the first of them is under way.
			w.Await(t, first.Operator, clusters[:1], func(_ *operatortest.Tenant, addon *v1alpha1.ClusterAddon) string {
				if strings.Contains(addon.Annotations[v1alpha1.RolloutAnnotation], up) {
					return ""
				}
				return "the upgrade has not begun"
			})
			began := time.Now()
			tc.lose(t, first)
			if got := second.since(0); slices.ContainsFunc(got, func(write string) bool { return !strings.Contains(write, "/clusteraddons/") }) {
				t.Errorf("a replica that does not lead writes more than what it was asked: %q", got)
			}
			leader(t, w, led)
			t.Logf("another replica leads after %s", time.Since(began).Round(time.Second))
			if tc.regain != nil {
				tc.regain(t, first)
			}
			w.Await(t, second.Operator, clusters, operatortest.Reached(up))
			for _, n := range clusters {
				n.CheckForeign(t)
				n.CheckEvents(t)
				texts, err := n.Texts(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(texts)
				if diff := cmp.Diff([]string{"cni: 2", "csi: 2"}, texts); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", n.Namespace, tc.why, diff)
				}
			}
			// The next case begins with nobody who leads.
			if err := second.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: operatortest.Home, Name: "clusterstack.x-k8s.io"}}
			if err := w.Client.Delete(t.Context(), lease); err != nil {
				t.Error(err)
			}
		})
	}
}

// restart: with many clusters at rest an operator starts, looks at all of them, and leaves
// everything as it is.
func restart(t *testing.T, w *operatortest.World) {
	t.Helper()
	clusters := tenants(t, w, 12)
	first := w.Live(t)
	w.Await(t, first, clusters, operatortest.Reached(v1))
	w.AwaitRest(t, first)
	before, writes := versions(t, w), w.Writes()
	first.End()

	second := w.Live(t)
	w.Await(t, second, clusters, operatortest.Reached(v1))
	w.AwaitRest(t, second)
	if n := w.Writes() - writes; n > 0 {
		t.Errorf("%d requests to change something", n)
	}
	if diff := cmp.Diff(before, versions(t, w)); diff != "" {
		t.Errorf("resource versions (-before +after):\n%s", diff)
	}
}

// versions are the resource versions of all that the operator has to do with in the management cluster.
func versions(t *testing.T, w *operatortest.World) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, list := range []client.ObjectList{
		&v1alpha1.ClusterStackList{}, &v1alpha1.ClusterStackReleaseList{}, &v1alpha1.ClusterAddonList{}, &corev1.SecretList{}, &corev1.EventList{},
	} {
		if err := w.Client.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		maps.Copy(found, operatortest.Versions(fmt.Sprintf("%T", list), list))
	}
	return found
}
