// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package faults brings clusters up and upgrades them while requests, answers and watches get lost, in the management
// cluster and in theirs. All come to the end that they come to without.
package faults

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// share answers one in ten requests of an operator to its workload clusters.
func share(answer http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if rand.IntN(10) > 0 {
			return false
		}
		answer(w, r)
		return true
	}
}

func TestFaults(t *testing.T) {
	w := operatortest.New(t)
	w.Publish(t, v1, operatortest.Release(t, v1,
		operatortest.Addon{Name: "cni", Templates: configMap("cni", "1")}, operatortest.Addon{Name: "metrics", Templates: configMap("metrics", "1")}))
	w.Publish(t, up, operatortest.Release(t, up,
		operatortest.Addon{Name: "cni", Templates: configMap("cni", "2")}, operatortest.Addon{Name: "csi", Templates: configMap("csi", "2")}))
	w.Goes = func(n *operatortest.Tenant) {
		if texts, err := n.Texts(t.Context()); err != nil || !slices.Contains(texts, "cni: 2") || !slices.Contains(texts, "csi: 2") {
			t.Errorf("Cluster API may go on, there is only %q, %v", texts, err)
		}
	}
	for name, tc := range map[string]struct {
		management string // rules of the proxy before the management cluster
		workload   http.HandlerFunc
		// disconnect is how often all connections to the management cluster end.
		disconnect time.Duration
	}{
		"ManagementLosesRequests": {management: "write /**/namespaces/** p=0.1 drop"},
		"ManagementLosesAnswers":  {management: "write /**/namespaces/** p=0.1 drop-answer"},
		"ManagementFails":         {management: "* /**/namespaces/** p=0.1 status=500; * /**/namespaces/** p=0.1 status=503"},
		"ManagementThrottles":     {management: `* /**/namespaces/** p=0.1 status=429 reason=TooManyRequests header="Retry-After: 1"`},
		"ManagementIsSlow":        {management: "* /**/namespaces/** p=0.3 delay=500ms"},
		"ManagementConflicts":     {management: "PATCH|PUT /**/namespaces/** p=0.1 status=409 reason=Conflict"},
		"ManagementWatchesEnd":    {management: "watch /** p=0.7 cut=4000"},
		"ManagementWatchesStall":  {management: "watch /** p=0.5 freeze=5 for=4s"},
		"ManagementDisconnects":   {disconnect: 3 * time.Second},
		"WorkloadClustersAreGone": {workload: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"WorkloadClustersFail": {workload: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "etcdserver: leader changed", http.StatusInternalServerError)
		}},
		"WorkloadClustersThrottle": {workload: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
		}},
		"WorkloadClustersHang": {workload: func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(3 * time.Second):
			}
			panic(http.ErrAbortHandler)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.workload != nil {
				harm := share(tc.workload)
				w.Harm.Store(&harm)
				t.Cleanup(func() { w.Harm.Store(nil) })
			}
			proxy := w.Proxy(t, nil)
			if err := proxy.Set(faultproxy.MustParse(tc.management).Rules...); err != nil {
				t.Fatal(err)
			}
			o := w.Start(t, proxy)
			o.AwaitReady(t)
			if tc.disconnect > 0 {
				tick, done := time.NewTicker(tc.disconnect), make(chan struct{})
				t.Cleanup(func() { close(done); tick.Stop() })
				go func() {
					for {
						select {
						case <-tick.C:
							proxy.Disconnect()
						case <-done:
							return
						}
					}
				}()
			}
			var clusters []*operatortest.Tenant
			for range 2 {
				n := w.Tenant(t, "1.35", "1.36")
				n.Create(t, v1, k135)
				clusters = append(clusters, n)
			}
			w.Await(t, o, clusters, operatortest.Reached(v1))
			for _, n := range clusters {
				n.Use(t, up, k136)
			}
			w.Await(t, o, clusters, operatortest.Reached(up))
			for _, n := range clusters {
				texts, err := n.Texts(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(texts)
				if diff := cmp.Diff([]string{"cni: 2", "csi: 2"}, texts); diff != "" {
					t.Errorf("%s (-want +got):\n%s", n.Namespace, diff)
				}
				n.CheckForeign(t)
			}
			if tc.management != "" && len(proxy.Faults()) == 0 {
				t.Error("no request came to harm; the test proves nothing")
			}
			t.Logf("%d requests to the management cluster came to harm", len(proxy.Faults()))
			o.End()
		})
	}
}
