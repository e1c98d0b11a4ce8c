// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

const tag = "docker-ferrol-1-35-v1"

// publicChart returns a chart of the folder beside the repository, as it was published.
func publicChart(tb testing.TB, file string) []byte {
	tb.Helper()
	// Tests run in the folder of their package.
	path := filepath.Join("..", "..", "..", "shared", "charts", file)
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		tb.Skipf("the public charts for tests are not there: %s", path)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// wrapped returns a release with one addon, whose chart has the given package as its only dependency,
// as stacks commonly do it.
func wrapped(tb testing.TB, addon, dependency, version string, packed []byte, extra map[string]string) *release.Release {
	tb.Helper()
	files := map[string]string{
		addon + "/Chart.yaml": "apiVersion: v2\nname: " + addon + "\nversion: v1\ndependencies:\n" +
			"- name: " + dependency + "\n  version: " + version + "\n  repository: https://charts.example.com\n",
		addon + "/charts/" + dependency + "-" + version + ".tgz": string(packed),
	}
	for name, text := range extra {
		files[addon+"/"+name] = text
	}
	return withAddons(tb, files, addon)
}

// withAddons returns a release with the given files as its addon archive.
func withAddons(tb testing.TB, files map[string]string, addons ...string) *release.Release {
	tb.Helper()
	stages := "addonStages:\n  AfterControlPlaneInitialized: &all\n"
	for _, addon := range addons {
		stages += "  - {name: " + addon + ", action: apply}\n"
	}
	stages += "  BeforeClusterUpgrade: *all\n"
	fsys := releasetest.Multistage(tag)
	fsys[release.StagesFile] = &fstest.MapFile{Data: []byte(stages)}
	fsys[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(files)}
	return open(tb, fsys)
}

func open(tb testing.TB, fsys fstest.MapFS) *release.Release {
	tb.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		tb.Fatal(err)
	}
	rel, err := release.Open(fsys, name)
	if err != nil {
		tb.Fatal(err)
	}
	return rel
}

func facts() render.Facts {
	return render.Facts{Cluster: map[string]any{
		"apiVersion": "cluster.x-k8s.io/v1beta1",
		"kind":       "Cluster",
		"metadata":   map[string]any{"name": "my-cluster", "namespace": "customer"},
		"spec": map[string]any{
			"controlPlaneEndpoint": map[string]any{"host": "10.0.0.7", "port": int64(6443)},
			"clusterNetwork":       map[string]any{"pods": map[string]any{"cidrBlocks": []any{"192.168.0.0/16", "fd00:10::/48"}}},
		},
	}}
}
