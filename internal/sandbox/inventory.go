// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
)

// inventoryEntry is what `clusterctl init` writes down about a provider. The label tells its type and name; only the
// core's has no prefix.
func inventoryEntry(p installedProvider, version string) *clusterctlv1.Provider {
	kind, name := clusterctlv1.CoreProviderType, p.label
	for prefix, of := range map[string]clusterctlv1.ProviderType{
		"bootstrap-":      clusterctlv1.BootstrapProviderType,
		"control-plane-":  clusterctlv1.ControlPlaneProviderType,
		"infrastructure-": clusterctlv1.InfrastructureProviderType,
	} {
		if rest, found := strings.CutPrefix(p.label, prefix); found {
			kind, name = of, rest
		}
	}
	return &clusterctlv1.Provider{
		TypeMeta: metav1.TypeMeta{APIVersion: clusterctlv1.GroupVersion.String(), Kind: "Provider"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.namespace, Name: p.label,
			Labels: map[string]string{
				clusterctlv1.ClusterctlLabel:     "",
				clusterctlv1.ClusterctlCoreLabel: clusterctlv1.ClusterctlCoreLabelInventoryValue,
				clusterv1.ProviderNameLabel:      p.label,
			},
		},
		Type: string(kind), ProviderName: name, Version: version,
	}
}

// inventoryCRDs is the kind of the entries, marked as clusterctl does.
func inventoryCRDs(manifests string) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	kinds, err := crds.ReadFolder(os.DirFS(filepath.Join(manifests, "clusterctl")), "crd")
	for _, crd := range kinds {
		crd.Labels = map[string]string{clusterctlv1.ClusterctlCoreLabel: clusterctlv1.ClusterctlCoreLabelInventoryValue}
	}
	return kinds, err
}

// writeInventory tells clusterctl which providers there are, so that its commands work with a sandbox as they do
// with a management cluster that it has made.
func (s *Sandbox) writeInventory(ctx context.Context) (string, error) {
	for _, provider := range s.manifests.providers {
		if err := s.apply(ctx, inventoryEntry(provider, binaries.Pinned().ClusterAPI)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d providers", len(s.manifests.providers)), nil
}
