// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package replicas

import (
	"math/rand/v2"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// TestLeadersEndInTime asks leaders to end while they have much to do, at moments that are chosen by chance.
func TestLeadersEndInTime(t *testing.T) {
	w := operatortest.New(t)
	w.PublishLife(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	for range 10 {
		clusters := tenants(t, w, 8)
		for range 5 {
			r := start(t, w)
			leader(t, w, "")
			w.AwaitWrites(t, r.Operator, w.Writes()+random.Int64N(25))
			r.terminate(t)
		}
		o := w.Live(t)
		w.Await(t, o, clusters, operatortest.Reached(operatortest.First))
		w.Check(t, o, clusters, operatortest.End{Texts: operatortest.FirstTexts})
		o.End()
	}
}
