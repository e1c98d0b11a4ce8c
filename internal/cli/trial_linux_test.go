// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	chart "helm.sh/helm/v4/pkg/chart/v2"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// A Cluster as kubectl prints it can be tried elsewhere.
func TestWhatAnotherManagementClusterWroteIsForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	const text = `
apiVersion: v1
kind: List
items:
- apiVersion: cluster.x-k8s.io/v1beta2
  kind: Cluster
  metadata: {name: mine, labels: {a: b}, uid: x, resourceVersion: "1", generation: 2, creationTimestamp: "2025-01-01T00:00:00Z", finalizers: [c], managedFields: []}
  spec:
    controlPlaneEndpoint: {host: x, port: 6443}
    controlPlaneRef: {kind: KubeadmControlPlane, name: mine-x}
    infrastructureRef: {kind: DevCluster, name: mine-x}
    topology: {version: v1.35.4}
  status: {phase: Provisioned}
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: fresh}
spec: {controlPlaneEndpoint: {host: x}}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	objects, err := readObjects(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	for _, object := range objects {
		got = append(got, object.Object)
	}
	want := []map[string]any{
		{
			"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": map[string]any{"name": "mine", "labels": map[string]any{"a": "b"}},
			"spec": map[string]any{"topology": map[string]any{"version": "v1.35.4"}},
		},
		{
			"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": map[string]any{"name": "fresh"},
			"spec": map[string]any{"controlPlaneEndpoint": map[string]any{"host": "x"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheReleaseBefore(t *testing.T) {
	parse := func(tag string) release.Name {
		name, err := release.ParseName(tag)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, tt := range map[string]struct {
		offers []string
		want   string
	}{
		"Newest":               {[]string{"docker-scs-1-35-v2", "docker-scs-1-35-v10", "docker-scs-1-35-v9"}, "docker-scs-1-35-v10"},
		"OfThisMinorFirst":     {[]string{"docker-scs-1-34-v20", "docker-scs-1-35-v1", "docker-scs-1-34-v30"}, "docker-scs-1-35-v1"},
		"OfTheMinorBefore":     {[]string{"docker-scs-1-34-v2", "docker-scs-1-34-v3", "docker-scs-1-33-v9", "docker-scs-1-36-v9"}, "docker-scs-1-34-v3"},
		"StableOnly":           {[]string{"docker-scs-1-35-v0-beta-3", "docker-scs-1-34-v1"}, "docker-scs-1-34-v1"},
		"OfThisStackOnly":      {[]string{"docker-other-1-35-v1", "openstack-scs-1-35-v1"}, ""},
		"NothingThatLeadsToIt": {[]string{"docker-scs-1-33-v1", "docker-scs-1-36-v1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var offers []source.Offer
			for _, tag := range tt.offers {
				offers = append(offers, source.Offer{Name: parse(tag)})
			}
			got, found := newestBefore(parse("docker-scs-1-35-v1"), offers)
			if found != (tt.want != "") || found && got.String() != tt.want {
				t.Errorf("%s, %t, want %q", got, found, tt.want)
			}
		})
	}
}

// The folder of a trial that was killed goes with the next one, and that of one that runs does not.
func TestFoldersOfKilledTrialsAreRemoved(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	stale := filepath.Join(tmp, testFolderName+"1")
	// What people have called alike is theirs.
	report, stack := filepath.Join(tmp, testFolderName+"report.xml"), filepath.Join(tmp, testFolderName+"mystack")
	for _, folder := range []string{filepath.Join(stale, "docker-scs-1-35-v1"), stack} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{filepath.Join(stale, testFolderMark), report} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, err := newTestFolder(false)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := newTestFolder(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.held.Close(); err != nil { // as at the end of csctl
		t.Fatal(err)
	}
	second, err := newTestFolder(false)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{stale: false, report: true, stack: true, first.path: true, second.path: true, kept.path: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %t", path, err, want)
		}
	}
	for _, folder := range []*testFolder{first, second} {
		if err := folder.remove(); err != nil {
			t.Error(err)
		}
	}
}

// The operator takes the first mirror that fits, of whatever is below its repository.
func TestChartsOfARepositoryBelowAnotherAreServed(t *testing.T) {
	const upper, lower = "https://charts.example.com/all/", "https://charts.example.com/all/more"
	charts := []repositoryChart{
		{upper, "a", "1.0.0", chartrepotest.Package("a", "1.0.0", nil)},
		{lower, "b", "2.0.0", chartrepotest.Package("b", "2.0.0", nil)},
		{upper, "a", "1.0.0", chartrepotest.Package("a", "1.0.0", nil)}, // two addons want it
		{"oci://registry.example.com/x", "c", "3.0.0", chartrepotest.Package("c", "3.0.0", nil)},
	}
	server, err := serveCharts(t.Context(), charts)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	options := chartrepo.Options{MirrorClient: http.DefaultClient}
	for _, text := range server.mirrors {
		mirror, err := chartrepo.ParseMirror(text)
		if err != nil {
			t.Fatal(err)
		}
		options.Mirrors = append(options.Mirrors, mirror)
	}
	versions, err := chartrepo.New(options).Versions(t.Context(), []*chart.Dependency{
		{Name: "a", Version: "~1.0", Repository: upper}, {Name: "b", Version: "2.0.0", Repository: lower}, {Name: "c", Version: "3.x", Repository: "oci://registry.example.com/x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1.0.0", "2.0.0", "3.0.0"}, versions); diff != "" {
		t.Error(diff)
	}
}
