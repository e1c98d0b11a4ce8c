// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package outages

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// TestOutagesAgainAndAgain has clusters come up and upgraded in groups, while outages that are chosen by chance follow one
// another with a few seconds between them.
func TestOutagesAgainAndAgain(t *testing.T) {
	s := newSite(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	all := []struct {
		name   string
		outage outage
		lasts  time.Duration
	}{
		{"the API server is killed", kill(sandboxtest.KubeAPIServer), 0},
		{"etcd is killed", kill(sandboxtest.Etcd), 0},
		{"etcd stalls", stall(sandboxtest.Etcd), 5 * time.Second},
		{"etcd stalls for long", stall(sandboxtest.Etcd), 20 * time.Second},
		{"the API server stalls", stall(sandboxtest.KubeAPIServer), 20 * time.Second},
		{"etcd is full", fillDisk, 10 * time.Second},
	}
	counts := map[string]int{}
	for range 5 {
		var clusters []*operatortest.Tenant
		for range 5 {
			clusters = append(clusters, s.Tenant(t))
		}
		s.live(t, func(string) {
			for range 4 {
				chosen := all[random.IntN(len(all))]
				counts[chosen.name]++
				chosen.outage(t, s.control, chosen.lasts)
				<-time.After(time.Duration(random.IntN(3000)) * time.Millisecond)
			}
		}, clusters...)
		s.Check(t, s.operator, clusters, operatortest.End{Texts: operatortest.NextTexts, Like: s.calm})
	}
	t.Logf("%v; 25 clusters came up and were upgraded", counts)
}
