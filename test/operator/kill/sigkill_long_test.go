// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package kill

import (
	"math/rand/v2"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// wanted is how often the process is killed.
const wanted = 500

// TestKilledProcesses kills the process of the operator with SIGKILL at requests that are chosen by chance, again and
// again, until clusters have come up, were upgraded and are gone.
func TestKilledProcesses(t *testing.T) {
	m := newMatrix(t, 1)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	kills := 0
	for kills < wanted {
		m.tenants = m.tenants[:0]
		for range 8 {
			m.tenants = append(m.tenants, m.Tenant(t))
		}
		for _, p := range phases() {
			for i := 0; ; i++ {
				o := m.Live(t)
				m.KillAt(o, operatortest.Point{N: 1 + random.IntN(20), Moment: operatortest.Moment(random.IntN(int(operatortest.Moments)))})
				if i == 0 {
					for _, n := range m.tenants {
						p.begin(n, t)
					}
				}
				m.Await(t, o, m.tenants, p.reached)
				for _, n := range m.tenants {
					n.CheckGenerated(t)
				}
				killed := false
				select {
				case <-o.Done():
					killed = true
					kills++
				default:
				}
				o.End()
				if !killed {
					break
				}
			}
			o := m.Live(t)
			m.Await(t, o, m.tenants, p.reached)
			m.Check(t, o, m.tenants, operatortest.End{Texts: p.texts})
			o.End()
			if t.Failed() {
				t.Fatalf("after %d kills", kills)
			}
		}
		t.Logf("%d kills, and all came to the same end", kills)
	}
}
