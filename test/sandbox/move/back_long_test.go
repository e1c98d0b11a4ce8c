// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package move

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestMoveThereAndBack: the management cluster that a cluster came from remembers nothing that is in its way when it
// comes back.
func TestMoveThereAndBack(t *testing.T) {
	operator, releases := operatortest.Program(t), publish(t)
	here := sandboxtest.NewManagement(t, sandboxtest.WithOperator(operator, releases))
	there := sandboxtest.NewManagement(t, sandboxtest.WithOperator(operator, releases))
	begin := tell(t, here)
	create(t, begin)
	must(t, begin.Reached(t.Context(), cluster, goal, 2*patience))
	ca, secrets := authority(t, clustertest.New(t, here)), remembered(t, begin.Client)

	from, to := here, there
	for range 4 {
		move(t, from, to)
		target, s := clustertest.New(t, to), tell(t, to)
		must(t, s.Reached(t.Context(), cluster, goal, 2*patience))
		wantNothing(t, clustertest.New(t, from), from.Dir())
		wantAddons(t, target, s.Client, secrets)
		if diff := cmp.Diff(ca, authority(t, target)); diff != "" {
			t.Errorf("another certificate authority: %s", diff)
		}
		from, to = to, from
	}
	deleteAll(t, clustertest.New(t, here), begin.Client)
}
