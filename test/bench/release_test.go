// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package bench

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

// chartsVariable names the folder with the two public charts.
const chartsVariable = "CLUSTER_STACK_BENCH_CHARTS"

const (
	tag     = "docker-bench-1-36-v1"
	version = "v1.36.4" // as releasetest has it
)

// published is a release in a folder of the source "directory".
type published struct {
	folder  string
	name    release.Name
	release *release.Release
}

// newRelease publishes a release whose addons are public charts as people use them: a network that generates
// certificates while it renders, and metrics-server. They have 27 objects.
func newRelease(b *testing.B) published {
	b.Helper()
	charts := os.Getenv(chartsVariable)
	if charts == "" {
		charts = filepath.Join(root, "..", "shared", "charts")
	}
	addons := map[string]string{
		"cilium/overwrite.yaml": `values: |
  k8sServiceHost: {{ .Cluster.spec.controlPlaneEndpoint.host }}
  k8sServicePort: {{ .Cluster.spec.controlPlaneEndpoint.port }}
`,
	}
	for _, archive := range []string{"cilium-1.16.6.tgz", "metrics-server-3.12.2.tgz"} {
		files, err := unpack(filepath.Join(charts, archive))
		if err != nil {
			b.Fatalf("the numbers are those of two public charts; put them into a folder and name it in %s: %v", chartsVariable, err)
		}
		maps.Copy(addons, files)
	}
	files := releasetest.Multistage(tag)
	files[release.StagesFile] = &fstest.MapFile{Mode: 0o644, Data: []byte(`apiVersion: clusteraddonconfig.x-k8s.io/v1alpha1
clusterAddonVersion: clusteraddons.clusterstack.x-k8s.io/v1alpha1
addonStages:
  AfterControlPlaneInitialized: &all
    - {name: cilium, action: apply}
    - {name: metrics-server, action: apply}
  BeforeClusterUpgrade: *all
`)}
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Mode: 0o644, Data: releasetest.Archive(addons)}
	files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Mode: 0o644, Data: releasetest.Archive(classChart(b))}

	name, err := release.ParseName(tag)
	if err != nil {
		b.Fatal(err)
	}
	p := published{folder: b.TempDir(), name: name}
	if err := os.CopyFS(filepath.Join(p.folder, tag), files); err != nil {
		b.Fatal(err)
	}
	if p.release, err = release.Open(files, name); err != nil {
		b.Fatal(err)
	}
	return p
}

// classChart is the class of the stack that we ship.
func classChart(b *testing.B) map[string]string {
	b.Helper()
	const name = "docker-bench-1-36-cluster-class"
	from := filepath.Join(root, "stacks", "docker", "starter", "1-36", "cluster-class")
	files := map[string]string{name + "/Chart.yaml": releasetest.Chart(name, "v1")}
	entries, err := os.ReadDir(filepath.Join(from, "templates"))
	if err != nil {
		b.Fatal(err)
	}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(from, "templates", entry.Name()))
		if err != nil {
			b.Fatal(err)
		}
		files[name+"/templates/"+entry.Name()] = string(data)
	}
	return files
}

// unpack returns the files of a Helm package.
func unpack(archive string) (map[string]string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for reader := tar.NewReader(zipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			return nil, err
		}
		files[header.Name] = string(data)
	}
}
