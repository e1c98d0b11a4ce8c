// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package restart

import (
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestThreeControlPlanesGoOn: their etcds need each other, so they have to come up together.
func TestThreeControlPlanesGoOn(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *sandbox){
		"Kept":   func(t *testing.T, s *sandbox) { s.csctl(t, "down", "--keep") },
		"Killed": func(t *testing.T, s *sandbox) { clustertest.Kill(t, s.state(t).PID) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			goesOn(t, 3, end)
		})
	}
}
