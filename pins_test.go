// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package repository_test guards what holds for the repository as a whole: the set of versions that
// fit together, and the direction of imports between packages.
package repository_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// ours are the modules of this repository, by the folder of their go.mod.
var ours = []string{".", "api", "binaries", "tools"}

// pinned are the versions that were tried together. Helm 4.3 needs Kubernetes 0.37, Cluster API 1.14
// needs 0.36: to move one is to move all, which is why a tool that raises a single line fails here.
var pinned = map[string]string{
	"helm.sh/helm/v4":                "v4.2.4",
	"k8s.io/api":                     "v0.36.3",
	"k8s.io/apiextensions-apiserver": "v0.36.3",
	"k8s.io/apimachinery":            "v0.36.3",
	"k8s.io/client-go":               "v0.36.3",
	"k8s.io/component-base":          "v0.36.3",
	"k8s.io/kubernetes":              "v1.36.3",
	"go.etcd.io/etcd/server/v3":      "v3.6.14",
	"sigs.k8s.io/cluster-api":        "v1.14.2",
	"sigs.k8s.io/cluster-api/api":    "v1.14.2",
	"sigs.k8s.io/cluster-api/test":   "v1.14.0",
	"sigs.k8s.io/controller-runtime": "v0.24.1",
	"sigs.k8s.io/controller-tools":   "v0.21.0",
}

func TestModulesKeepThePinnedVersions(t *testing.T) {
	seen := map[string]bool{}
	for _, dir := range ours {
		for path, version := range requirements(t, dir) {
			want, ok := pinned[path]
			if !ok {
				continue
			}
			seen[path] = true
			if version != want {
				t.Errorf("%s/go.mod requires %s %s; the set that fits together has %s", dir, path, version, want)
			}
		}
	}
	for path := range pinned {
		if !seen[path] {
			t.Errorf("no go.mod requires %s, which this test pins", path)
		}
	}
}

func TestOneKubernetesMinorInEachModule(t *testing.T) {
	// Published on their own schedule, without a meaning for the minor of Kubernetes.
	apart := []string{"k8s.io/klog", "k8s.io/kube-openapi", "k8s.io/utils", "k8s.io/gengo", "k8s.io/system-validators", "k8s.io/kubernetes", "k8s.io/code-generator"}
	for _, dir := range ours {
		minors := map[string][]string{}
		for path, version := range requirements(t, dir) {
			if !strings.HasPrefix(path, "k8s.io/") || slices.ContainsFunc(apart, func(p string) bool { return strings.HasPrefix(path, p) }) {
				continue
			}
			minor := semver.MajorMinor(version)
			minors[minor] = append(minors[minor], path+" "+version)
		}
		if len(minors) > 1 {
			var lines []string
			for _, minor := range slices.Sorted(maps.Keys(minors)) {
				slices.Sort(minors[minor])
				lines = append(lines, fmt.Sprintf("%s: %s", minor, strings.Join(minors[minor], ", ")))
			}
			t.Errorf("%s/go.mod mixes Kubernetes minors:\n%s", dir, strings.Join(lines, "\n"))
		}
	}
}

// requirements are the versions that a go.mod of ours asks for, replacements applied.
func requirements(t *testing.T, dir string) map[string]string {
	t.Helper()
	name := dir + "/go.mod"
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse(name, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, r := range file.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	for _, r := range file.Replace {
		if _, required := versions[r.Old.Path]; required && r.New.Version != "" {
			versions[r.Old.Path] = r.New.Version
		}
	}
	return versions
}
