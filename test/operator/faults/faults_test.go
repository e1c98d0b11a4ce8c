// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package faults brings clusters up and upgrades them while requests, answers and watches get lost, in the management
// cluster and in theirs. All come to the end that they come to without.
package faults

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

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

// lives lets clusters come up and upgrades them.
func lives(t *testing.T, w *operatortest.World, o *operatortest.Operator, number int) []*operatortest.Tenant {
	t.Helper()
	var clusters []*operatortest.Tenant
	for range number {
		n := w.Tenant(t)
		n.Install(t)
		clusters = append(clusters, n)
	}
	w.Await(t, o, clusters, operatortest.Reached(operatortest.First))
	for _, n := range clusters {
		n.Upgrade(t)
	}
	w.Await(t, o, clusters, operatortest.Reached(operatortest.Next))
	return clusters
}

func TestFaults(t *testing.T) {
	w := operatortest.New(t)
	w.PublishLife(t)
	o := w.Live(t)
	calm := lives(t, w, o, 1)[0]
	o.End()
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
		// A client that is told that its version is too old lists anew, so nothing is lost for good.
		"ManagementWatchesAreTooOld":  {management: "watch /** p=0.3 cut=4000; watch /** p=0.3 status=410 reason=Expired", disconnect: 2 * time.Second},
		"ManagementWatchesLoseEvents": {management: "watch /** p=0.3 status=410 reason=Expired; watch /** p=0.5 swallow=2-4", disconnect: 2 * time.Second},
		"ManagementWatchesRepeat":     {management: "watch /** p=0.7 repeat=2-"},
		"WorkloadClustersAreGone":     {workload: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
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
		"WorkloadClustersDribble": {workload: func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for range 30 {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-tick.C:
				}
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
			calmDown := func() {}
			if tc.disconnect > 0 {
				calmDown = disconnect(t, proxy, tc.disconnect)
			}
			o.AwaitReady(t)
			clusters := lives(t, w, o, 2)
			if tc.management != "" && len(proxy.Faults()) == 0 {
				t.Error("no request came to harm; the test proves nothing")
			}
			t.Logf("%d requests to the management cluster came to harm", len(proxy.Faults()))
			// What goes wrong again and again keeps the operator busy. Now it is over.
			w.Harm.Store(nil)
			if err := proxy.Set(); err != nil {
				t.Fatal(err)
			}
			calmDown()
			proxy.Disconnect()
			w.Check(t, o, clusters, operatortest.End{Texts: operatortest.NextTexts, Like: calm})
			o.End()
		})
	}
}

// disconnect ends all connections through a proxy, again and again, until stop is called or the test ends.
func disconnect(t *testing.T, proxy *faultproxy.Proxy, interval time.Duration) (stop func()) {
	t.Helper()
	tick, done := time.NewTicker(interval), make(chan struct{})
	stop = sync.OnceFunc(func() { close(done); tick.Stop() })
	t.Cleanup(stop)
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
	return stop
}
