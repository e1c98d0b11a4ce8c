// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package endurance

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// comeAndGo lets clusters come up and deletes them, and returns what the operator uses when they are gone.
func comeAndGo(t *testing.T, w *operatortest.World, o *operatortest.Operator, number int) operatortest.Usage {
	t.Helper()
	var clusters []*operatortest.Tenant
	for range number {
		n := w.Tenant(t)
		n.Install(t)
		clusters = append(clusters, n)
	}
	w.Await(t, o, clusters, operatortest.Reached(operatortest.First))
	for _, n := range clusters {
		n.Delete(t)
	}
	w.Await(t, o, clusters, operatortest.Gone)
	w.AwaitRest(t, o)
	for _, n := range clusters {
		n.Forget()
	}
	used, err := o.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// leak lets clusters come and go in rounds. What the operator uses then it compares from the middle on: for some minutes
// it remembers the events that it has recorded, so that it can count those that are repeated.
func leak(t *testing.T, rounds, clusters int) (before, after operatortest.Usage) {
	t.Helper()
	w := operatortest.New(t)
	w.PublishLife(t)
	o := w.Live(t)
	for i := range rounds {
		after = comeAndGo(t, w, o, clusters)
		t.Logf("after %d clusters: %+v", (i+1)*clusters, after)
		if i == rounds/2 {
			before = after
		}
	}
	after = settles(t, o, before)
	t.Logf("in the end: %+v", after)
	return before, after
}

// TestAThousandClustersLeaveNothingBehind: neither goroutines, nor connections, nor memory stay in the operator of
// clusters that are gone.
func TestAThousandClustersLeaveNothingBehind(t *testing.T) {
	before, after := leak(t, 50, 20)
	if after.HeapMiB > before.HeapMiB+10 {
		t.Errorf("the heap has grown from %.1f to %.1f MiB", before.HeapMiB, after.HeapMiB)
	}
}

// TestTenThousandReleases: a source offers as many, and a thousand are usable, a hundred in each of ten namespaces.
func TestTenThousandReleases(t *testing.T) {
	if used := history(t, 10_000, 10, 100); used.HeapMiB > 100 {
		t.Errorf("the heap is %.1f MiB", used.HeapMiB)
	}
}

func TestCertificatesAreRenewedAHundredTimes(t *testing.T) { rotate(t, 100) }

// TestHooksOfForeignClusters asks 10,000 times, 64 at once, whether upgrades of 1,000 Clusters may go on that are none of
// the operator's, while a process of it is killed now and then. All that is answered is: go on. Nothing is written.
func TestHooksOfForeignClusters(t *testing.T) {
	w := operatortest.New(t)
	ns := kinds.Namespace(t, w.Client)
	clusters := make([]*clusterv1.Cluster, 1000)
	for i := range clusters {
		clusters[i] = apitest.Cluster(ns, fmt.Sprintf("foreign-%d", i), "somebody-elses-class", "v1.35.0")
		if err := w.Client.Create(t.Context(), clusters[i]); err != nil {
			t.Fatal(err)
		}
	}
	var operator atomic.Pointer[operatortest.Operator]
	operator.Store(w.Live(t))
	// Other tests of the package leave work for the operator in other namespaces.
	there := func() map[string]string {
		found := map[string]string{}
		for _, list := range []client.ObjectList{&clusterv1.ClusterList{}, &v1alpha1.ClusterAddonList{}, &corev1.EventList{}, &corev1.SecretList{}} {
			if err := w.Client.List(t.Context(), list, client.InNamespace(ns)); err != nil {
				t.Fatal(err)
			}
			maps.Copy(found, operatortest.Versions(fmt.Sprintf("%T", list), list))
		}
		return found
	}
	before := there()
	var calls, answers atomic.Int64
	var work sync.WaitGroup
	began := time.Now()
	for range 64 {
		work.Go(func() {
			for {
				n := calls.Add(1)
				if n > 10_000 {
					return
				}
				for t.Context().Err() == nil {
					hold, err := operator.Load().AskFor(t.Context(), clusters[n%1000], "v1.35.0", "v1.36.0")
					if hold != "" {
						t.Errorf("a foreign cluster is held: %s", hold)
					}
					if err == nil {
						answers.Add(1)
						break
					}
				}
			}
		})
	}
	for range 4 {
		for next := answers.Load() + 2000; answers.Load() < next; {
			<-time.After(10 * time.Millisecond)
		}
		operator.Load().End()
		operator.Store(w.Live(t))
	}
	work.Wait()
	if diff := cmp.Diff(before, there()); diff != "" {
		t.Errorf("what there is of the foreign clusters (-before +after):\n%s", diff)
	}
	t.Logf("%d answers in %s, over four kills", answers.Load(), time.Since(began).Round(time.Second))
}
