// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// TestARestartSaysNothingOfAClusterThatNobodyTriedToReach: an operator that has just started is connected to no cluster,
// which says nothing about them.
func TestARestartSaysNothingOfAClusterThatNobodyTriedToReach(t *testing.T) {
	e := newEnv(t, workloadServer(t))
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1")})
	e.running(v1, k135)
	before := e.start().settle()
	e.wantReady()

	next := e.start()
	next.clusters.connected, next.clusters.untried = false, true
	result, err := next.once()
	if err != nil {
		t.Fatal(err)
	}
	if now := e.addon(); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("the ClusterAddon was written: %s", describe(now))
	}
	if result.RequeueAfter == 0 {
		t.Error("nobody looks again")
	}

	next.clusters.untried = false
	if _, err := next.once(); err != nil {
		t.Fatal(err)
	}
	e.wantCondition(v1alpha1.ClusterReadyCondition, "False", v1alpha1.ControlPlaneNotReadyReason, "no connection to the API server")
}
