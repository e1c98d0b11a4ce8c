// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInventoryEntry(t *testing.T) {
	for label, want := range map[string]struct{ kind, name string }{
		"cluster-api":           {"CoreProvider", "cluster-api"},
		"bootstrap-kubeadm":     {"BootstrapProvider", "kubeadm"},
		"control-plane-kubeadm": {"ControlPlaneProvider", "kubeadm"},
		"infrastructure-docker": {"InfrastructureProvider", "docker"},
	} {
		t.Run(label, func(t *testing.T) {
			got := inventoryEntry(installedProvider{label: label, namespace: "there"}, "v1.14.2")
			if diff := cmp.Diff(map[string]any{
				"apiVersion": "clusterctl.cluster.x-k8s.io/v1alpha3", "kind": "Provider",
				"metadata": map[string]any{"name": label, "namespace": "there", "labels": map[string]any{
					"clusterctl.cluster.x-k8s.io": "", "clusterctl.cluster.x-k8s.io/core": "inventory", "cluster.x-k8s.io/provider": label,
				}},
				"type": want.kind, "providerName": want.name, "version": "v1.14.2",
			}, got.Object); diff != "" {
				t.Error(diff)
			}
		})
	}
}
