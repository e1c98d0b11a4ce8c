// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplanes

import (
	"testing"
	"time"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// TestScale grows a control plane of one machine to three, and shrinks it again.
func TestScale(t *testing.T) {
	t.Parallel()
	s := create(t, "scaled", 1, 1, newer)
	s.verify(t, newer)
	s.scale(t, 3, newer)
	s.scale(t, 1, newer)
	s.delete(t)
}

// TestUpgradeWhileTheEndpointAnswers upgrades three control plane machines by a minor. Whoever uses the cluster
// through its endpoint meanwhile may notice it at most in three of 500 requests.
func TestUpgradeWhileTheEndpointAnswers(t *testing.T) {
	t.Parallel()
	s := create(t, "upgraded", 3, 1, older)
	s.verify(t, older)
	before := s.controlPlaneMachines(t)

	p := probe(t, s.mgmt.Kubeconfig(t, patience, s.NamespacedName))
	begin := time.Now()
	s.change(t, func(topology *clusterv1.Topology) { topology.Version = newer })
	s.await(t, 3, newer)
	t.Logf("upgraded in %s", took(begin))
	p.end(t, 3, 500)

	s.verify(t, newer)
	for _, old := range before {
		for _, now := range s.controlPlaneMachines(t) {
			if old == now {
				t.Errorf("machine %s was not replaced", old)
			}
		}
	}
	s.delete(t)
}
