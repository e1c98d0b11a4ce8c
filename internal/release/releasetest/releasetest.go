// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package releasetest makes small releases for tests, to use as they are or to spoil first.
package releasetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"slices"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Multistage returns the files of a valid release with the addons cni and metrics-server, which are
// applied at AfterControlPlaneInitialized and BeforeClusterUpgrade. The addon cni has a values template.
// It panics when tag is not the name of a release.
func Multistage(tag string) fstest.MapFS {
	name := parse(tag)
	files := common(name)
	files[release.StagesFile] = file(`apiVersion: clusteraddonconfig.x-k8s.io/v1alpha1
clusterAddonVersion: clusteraddons.clusterstack.x-k8s.io/v1alpha1
addonStages:
  AfterControlPlaneInitialized: &all
    - name: cni
      action: apply
    - name: metrics-server
      action: apply
  BeforeClusterUpgrade: *all
`)
	files[AddonPackage(tag)] = &fstest.MapFile{Mode: 0o644, Data: Archive(map[string]string{
		"cni/Chart.yaml":                 Chart("cni", "v1"),
		"cni/overwrite.yaml":             "cluster: {{ .Cluster.metadata.name }}\n",
		"cni/templates/config.yaml":      configMap("cni", "{{ .Values.cluster }}"),
		"metrics-server/Chart.yaml":      Chart("metrics-server", "v1"),
		"metrics-server/templates/m.yml": configMap("metrics-server", "{{ .Chart.Version }}"),
	})}
	return files
}

// Legacy returns the files of a valid release with a single addon chart.
// It panics when tag is not the name of a release.
func Legacy(tag string) fstest.MapFS {
	name := parse(tag)
	files := common(name)
	files[release.LegacyValuesFile] = file("values: |\n  cluster: {{ .Cluster.metadata.name }}\n")
	chart := name.Prefix() + "-cluster-addon"
	files[AddonPackage(tag)] = &fstest.MapFile{Mode: 0o644, Data: Archive(map[string]string{
		chart + "/Chart.yaml":            Chart(chart, name.Version.String()),
		chart + "/templates/config.yaml": configMap("addon", "{{ .Values.cluster }}"),
	})}
	return files
}

func common(name release.Name) fstest.MapFS {
	chart := name.Prefix() + "-cluster-class"
	return fstest.MapFS{
		release.MetadataFile: file(Metadata(name.Version.String(), "v"+name.Kubernetes+".4")),
		ClassPackage(name.String()): &fstest.MapFile{Mode: 0o644, Data: Archive(map[string]string{
			chart + "/Chart.yaml":            Chart(chart, name.Version.String()),
			chart + "/templates/config.yaml": configMap("{{ .Release.Name }}-{{ .Chart.Version }}", "class"),
		})},
	}
}

// ClassPackage returns the file name of the cluster class chart of a release.
func ClassPackage(tag string) string {
	name := parse(tag)
	return name.Prefix() + "-cluster-class-" + name.Version.String() + ".tgz"
}

// AddonPackage returns the file name of the addon archive of a release made here.
func AddonPackage(tag string) string {
	name := parse(tag)
	return name.Prefix() + "-cluster-addon-" + name.Version.String() + ".tgz"
}

// Metadata returns a metadata.yaml with the same version for all components.
func Metadata(version, kubernetes string) string {
	return fmt.Sprintf(`apiVersion: metadata.clusterstack.x-k8s.io/v1alpha1
versions:
    clusterStack: %[1]s
    kubernetes: %[2]s
    components:
        clusterAddon: %[1]s
        nodeImage: %[1]s
`, version, kubernetes)
}

// Chart returns a Chart.yaml.
func Chart(name, version string) string {
	return fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)
}

// Archive returns a tar.gz archive of files.
func Archive(files map[string]string) []byte {
	var entries []tar.Header
	for _, name := range slices.Sorted(maps.Keys(files)) {
		entries = append(entries, tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(files[name]))})
	}
	return ArchiveOf(entries, files)
}

// ArchiveOf returns a tar.gz archive with exactly these headers, however odd. The contents of regular
// files are taken from files by name. It panics when a header cannot be written.
func ArchiveOf(entries []tar.Header, files map[string]string) []byte {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for _, header := range entries {
		must(archive.WriteHeader(&header))
		if header.Typeflag == tar.TypeReg {
			_, err := archive.Write([]byte(files[header.Name]))
			must(err)
		}
	}
	must(archive.Close())
	must(zipped.Close())
	return out.Bytes()
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  value: %q\n", name, value)
}

func file(data string) *fstest.MapFile {
	return &fstest.MapFile{Mode: 0o644, Data: []byte(data)}
}

func parse(tag string) release.Name {
	name, err := release.ParseName(tag)
	must(err)
	return name
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
