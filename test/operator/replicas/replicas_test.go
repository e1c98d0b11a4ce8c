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

func tenants(t *testing.T, w *operatortest.World, number int) []*operatortest.Tenant {
	t.Helper()
	var all []*operatortest.Tenant
	for range number {
		n := w.Tenant(t)
		n.Install(t)
		all = append(all, n)
	}
	return all
}

// replica is one of several operators, with what it has written to the management cluster.
type replica struct {
	*operatortest.Operator
	mu     sync.Mutex
	writes []string
	// renewed is how many of them there were when it wrote the lease last.
	renewed int
	// followed are those of before it wrote the lease for the first time.
	followed []string
	led      bool
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
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case e.Method == http.MethodGet:
		case strings.Contains(e.Path, "/leases"):
			if r.renewed = len(r.writes); !r.led {
				r.led, r.followed = true, slices.Clone(r.writes)
			}
		case strings.Contains(e.Path, "/namespaces/test-"):
			// What it asks about rights and Cluster API's features has the form of objects, too, in no namespace of ours.
			r.writes = append(r.writes, e.Method+" "+e.Path)
		}
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

// asFollower returns what a replica has written as long as it did not lead.
func (r *replica) asFollower() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.led {
		return r.followed
	}
	return slices.Clone(r.writes)
}

// terminate asks a replica to end, which it has to do by itself and soon. The last thing that a leader does is to give the
// lease back.
func (r *replica) terminate(t *testing.T) {
	t.Helper()
	began := time.Now()
	r.Terminate()
	ctx, cancel := context.WithTimeout(t.Context(), operatortest.Patience)
	defer cancel()
	select {
	case <-r.Done():
	case <-ctx.Done():
		t.Fatal("a replica that was asked to end goes on")
	}
	// It waits ten seconds for what is under way; the rest is for a busy machine.
	took := time.Since(began)
	if took > 40*time.Second {
		t.Errorf("it took the replica %s to end", took)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if late := r.writes[r.renewed:]; len(late) > 0 {
		t.Errorf("written after the lease was given back: %q", late)
	}
	t.Logf("the replica ended %s after it was asked to, with exit code %d", took.Round(time.Millisecond), r.ExitCode())
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
	w := operatortest.New(t)
	w.PublishLife(t)
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
			why:  "It gives its lease up before it ends.",
			lose: func(t *testing.T, first *replica) { first.terminate(t) },
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
			w.Await(t, first.Operator, clusters, operatortest.Reached(operatortest.First))
			second := start(t, w)

			for _, n := range clusters {
				n.Upgrade(t)
			}
			// As soon as the first of them is under way.
			w.Await(t, first.Operator, clusters[:1], func(_ *operatortest.Tenant, addon *v1alpha1.ClusterAddon) string {
				if strings.Contains(addon.Annotations[v1alpha1.RolloutAnnotation], operatortest.Next) {
					return ""
				}
				return "the upgrade has not begun"
			})
			began := time.Now()
			tc.lose(t, first)
			// Where the lease was given back it may lead by now.
			if got := second.asFollower(); slices.ContainsFunc(got, func(write string) bool { return !strings.Contains(write, "/clusteraddons/") }) {
				t.Errorf("a replica that does not lead writes more than what it was asked: %q", got)
			}
			leader(t, w, led)
			t.Logf("another replica leads after %s", time.Since(began).Round(time.Second))
			if tc.regain != nil {
				tc.regain(t, first)
			}
			w.Await(t, second.Operator, clusters, operatortest.Reached(operatortest.Next))
			w.Check(t, second.Operator, clusters, operatortest.End{Texts: operatortest.NextTexts})
			// The next case begins with nobody who leads.
			second.terminate(t)
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
	w.Await(t, first, clusters, operatortest.Reached(operatortest.First))
	w.AwaitRest(t, first)
	before, writes := versions(t, w), w.Writes()
	first.End()

	second := w.Live(t)
	w.Await(t, second, clusters, operatortest.Reached(operatortest.First))
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
