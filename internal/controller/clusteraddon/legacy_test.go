// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"testing"
	"testing/fstest"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

type metav1UID = types.UID

// noWatcher stands for the controller that watches are added to.
type noWatcher struct{}

func (noWatcher) Watch(source.TypedSource[ctrl.Request]) error { return nil }

var _ interface {
	Watch(source.TypedSource[ctrl.Request]) error
} = noWatcher{}

// legacyRelease returns a release without stages, whose one object says "addon: 1".
func legacyRelease(t *testing.T, tag string) fstest.MapFS {
	t.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	chart := name.Prefix() + "-cluster-addon"
	return fstest.MapFS{
		release.LegacyValuesFile: {Mode: 0o644, Data: []byte("values: |\n  cluster: {{ .Cluster.metadata.name }}\n")},
		releasetest.AddonPackage(tag): {Mode: 0o644, Data: releasetest.Archive(map[string]string{
			chart + "/Chart.yaml":         releasetest.Chart(chart, "v1"),
			chart + "/templates/all.yaml": object("addon", "1"),
		})},
	}
}

var _ context.Context
