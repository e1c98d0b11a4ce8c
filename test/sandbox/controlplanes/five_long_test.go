// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package controlplanes

import (
	"testing"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// TestFive creates a control plane of five machines, shrinks it to three, grows it again, and upgrades it.
func TestFive(t *testing.T) {
	t.Parallel()
	s := create(t, "five", 5, 1, older)
	s.verify(t, older)
	s.scale(t, 3, older)
	s.scale(t, 5, older)
	p := probe(t, s.mgmt.Kubeconfig(t, patience, s.NamespacedName))
	s.change(t, func(topology *clusterv1.Topology) { topology.Version = newer })
	s.await(t, 5, newer)
	p.end(t, 3, 500)
	s.verify(t, newer)
	s.delete(t)
}
