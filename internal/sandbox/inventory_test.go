// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
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
			if diff := cmp.Diff(&clusterctlv1.Provider{
				TypeMeta: metav1.TypeMeta{APIVersion: "clusterctl.cluster.x-k8s.io/v1alpha3", Kind: "Provider"},
				ObjectMeta: metav1.ObjectMeta{Name: label, Namespace: "there", Labels: map[string]string{
					"clusterctl.cluster.x-k8s.io": "", "clusterctl.cluster.x-k8s.io/core": "inventory", "cluster.x-k8s.io/provider": label,
				}},
				Type: want.kind, ProviderName: want.name, Version: "v1.14.2",
			}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
