// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// resting is how long clusters at rest are watched: each is compared with its inventory once in ten minutes, give or take
// a fifth, so that each has its turn.
const resting = 12*time.Minute + 30*time.Second

// beginRest installs once more, through proxies that count, and leaves the clusters alone. What it returns waits
// until they have been alone for long enough, and reports what was asked of them meanwhile.
func beginRest(b *testing.B, program string, rel published, servers []*apiServer, report func(string, float64)) func(func(string, float64)) {
	s := newSite(b, program, rel, true)
	var clusters []*clusterv1.Cluster
	var initialized []time.Time
	for i, server := range servers {
		server.count.take()
		clusters = append(clusters, s.add(b, fmt.Sprintf("rest-%d", i), server.proxied))
	}
	s.await(b, &v1alpha1.ClusterAddonList{}, "ClusterAddons are made", func(client.Object) bool { return true }, len(clusters))
	for _, cluster := range clusters {
		// One after the other: that all of them come up in the same second is another question.
		initialized = append(initialized, time.Now())
		s.initialize(b, cluster)
		s.installed(b, []*clusterv1.Cluster{cluster})
	}
	most, slowest := 0, time.Duration(0)
	for i, server := range servers {
		requests, _, first, seen := server.count.take()
		if requests > most {
			most = requests
			_ = os.WriteFile(filepath.Join(s.dir, "requests"), []byte(strings.Join(seen, "\n")), 0o644)
		}
		slowest = max(slowest, first.Sub(initialized[i]))
	}
	report("requests_per_install", float64(most))
	report("first_addon_request_seconds", slowest.Seconds())

	s.settle(b)
	for _, server := range servers {
		server.count.take()
	}
	begin := time.Now()
	written := s.writes.Load()
	return func(report func(string, float64)) {
		select {
		case <-time.After(resting - time.Since(begin)):
		case <-s.operator.Done():
			b.Fatalf("the operator has ended: %v", s.operator.Err())
		}
		minutes := time.Since(begin).Minutes()
		writes, requests := s.writes.Load()-written, 0
		for _, server := range servers {
			r, w, _, _ := server.count.take()
			requests += r
			writes += int64(w)
		}
		s.stop(b)
		report("writes_at_rest", float64(writes))
		report("requests_at_rest_per_minute", float64(requests)/minutes/float64(len(servers)))
	}
}

// settle waits until the operator has written nothing for ten seconds.
func (s *site) settle(b *testing.B) {
	b.Helper()
	deadline := time.Now().Add(patience)
	for last, since := s.writes.Load(), time.Now(); time.Since(since) < 10*time.Second; {
		time.Sleep(100 * time.Millisecond)
		if now := s.writes.Load(); now != last {
			last, since = now, time.Now()
		}
		if time.Now().After(deadline) {
			b.Fatalf("the operator still writes after %s", patience)
		}
	}
}
