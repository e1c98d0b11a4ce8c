// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package providers

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestMinors has a cluster of every minor that a sandbox offers in a management cluster of every minor.
func TestMinors(t *testing.T) {
	for _, management := range binaries.Minors() {
		t.Run("In"+management, func(t *testing.T) {
			instance := sandboxtest.Management(t, sandboxtest.WithKubernetes(management))
			t.Cleanup(func() {
				if err := instance.Stop(); err != nil {
					t.Error(err)
				}
			})
			if got := emulated(t, instance.Config()); got != management {
				t.Errorf("the management cluster behaves like %s", got)
			}
			mgmt := clustertest.New(t, instance)
			for name, version := range map[string]string{"oldest": oldest, "older": older, "newest": newest} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					mgmt.Namespace(t, name)
					clustertest.CreateClass(t, mgmt, name)
					cluster := types.NamespacedName{Namespace: name, Name: name}
					if err := mgmt.Create(t.Context(), clustertest.NewCluster(cluster, version, 1, 1)); err != nil {
						t.Fatal(err)
					}
					clustertest.InstallNetwork(t, mgmt.Workload(t, patience, cluster))
					mgmt.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
					if got := emulated(t, mgmt.Kubeconfig(t, patience, cluster)); got != minor(version) {
						t.Errorf("the cluster behaves like %s", got)
					}
					mgmt.DeleteCluster(t, patience, cluster)
				})
			}
		})
	}
}
