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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
)

// providerLabel tells of what provider an object is a part.
const providerLabel = "cluster.x-k8s.io/provider"

// inventoryValue is the value of crds.InventoryLabel.
const inventoryValue = "inventory"

// entryKind is the kind of the entries of clusterctl's inventory.
var entryKind = schema.GroupVersionKind{Group: "clusterctl.cluster.x-k8s.io", Version: "v1alpha3", Kind: "Provider"}

// inventoryEntry is what `clusterctl init` writes down about a provider. The label tells its
// type and name; only the core's has no prefix.
func inventoryEntry(p installedProvider, version string) *unstructured.Unstructured {
	kind, name := "CoreProvider", p.label
	for prefix, of := range map[string]string{
		"bootstrap-": "BootstrapProvider", "control-plane-": "ControlPlaneProvider", "infrastructure-": "InfrastructureProvider",
	} {
		if rest, found := strings.CutPrefix(p.label, prefix); found {
			kind, name = of, rest
		}
	}
	entry := &unstructured.Unstructured{Object: map[string]any{"type": kind, "providerName": name, "version": version}}
	entry.SetGroupVersionKind(entryKind)
	entry.SetNamespace(p.namespace)
	entry.SetName(p.label)
	entry.SetLabels(map[string]string{crds.ClusterctlLabel: "", crds.InventoryLabel: inventoryValue, providerLabel: p.label})
	return entry
}

// inventoryCRDs is the kind of the entries, marked as clusterctl does.
func inventoryCRDs(manifests string) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	kinds, err := crds.ReadFolder(os.DirFS(filepath.Join(manifests, "clusterctl")), "crd")
	for _, crd := range kinds {
		crd.Labels = map[string]string{crds.InventoryLabel: inventoryValue}
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
