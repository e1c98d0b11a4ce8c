// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"archive/tar"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

const tag = "docker-scs-1-35-v0-sha-abc1234"

func open(t *testing.T, fsys fs.FS, tag string) (*release.Release, error) {
	t.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return release.Open(fsys, name)
}

func mustOpen(t *testing.T, fsys fs.FS, tag string) *release.Release {
	t.Helper()
	rel, err := open(t, fsys, tag)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func names(chart release.Chart) (names []string) {
	for _, f := range chart {
		names = append(names, f.Name)
	}
	return names
}

func TestOpenMultistage(t *testing.T) {
	rel := mustOpen(t, releasetest.Multistage(tag), tag)
	version := release.Version{Channel: "sha", Suffix: "abc1234"}
	want := release.Metadata{ClusterStack: version, Kubernetes: "v1.35.4", ClusterAddon: version, NodeImage: &version}
	if diff := cmp.Diff(want, rel.Metadata); diff != "" {
		t.Errorf("metadata: %s", diff)
	}
	if len(rel.Warnings) > 0 || !rel.Multistage() {
		t.Errorf("multistage %t, warnings %q", rel.Multistage(), rel.Warnings)
	}
	if diff := cmp.Diff([]string{"Chart.yaml", "templates/config.yaml"}, names(rel.ClassChart())); diff != "" {
		t.Errorf("class chart: %s", diff)
	}
	if diff := cmp.Diff([]string{"cni", "metrics-server"}, rel.Addons()); diff != "" {
		t.Errorf("addons: %s", diff)
	}
	for _, point := range []release.Point{release.AfterControlPlaneInitialized, release.BeforeClusterUpgrade} {
		stages := []release.Stage{{Name: "cni", Action: release.Apply}, {Name: "metrics-server", Action: release.Apply}}
		if diff := cmp.Diff(stages, rel.Stages(point)); diff != "" {
			t.Errorf("stages at %s: %s", point, diff)
		}
	}
	if stages := rel.Stages(release.AfterClusterUpgrade); stages != nil {
		t.Errorf("stages at a point that is not listed: %v", stages)
	}
	chart, err := rel.AddonChart("cni")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Chart.yaml", "overwrite.yaml", "templates/config.yaml"}, names(chart)); diff != "" {
		t.Errorf("addon chart: %s", diff)
	}
	if template, found := rel.ValuesTemplate("cni"); !found || string(template) != "cluster: {{ .Cluster.metadata.name }}\n" {
		t.Errorf("values template of cni: %q, %t", template, found)
	}
	if template, found := rel.ValuesTemplate("metrics-server"); found {
		t.Errorf("values template of metrics-server: %q", template)
	}
	if _, err := rel.AddonChart("absent"); err == nil {
		t.Error("a chart that is not there was found")
	}
}

func TestOpenLegacy(t *testing.T) {
	rel := mustOpen(t, releasetest.Legacy(tag), tag)
	if rel.Multistage() {
		t.Error("multistage")
	}
	want := []release.Stage{{Name: release.LegacyAddon, Action: release.Apply}}
	for _, point := range []release.Point{release.AfterControlPlaneInitialized, release.BeforeClusterUpgrade} {
		if diff := cmp.Diff(want, rel.Stages(point)); diff != "" {
			t.Errorf("stages at %s: %s", point, diff)
		}
	}
	if diff := cmp.Diff([]string{release.LegacyAddon}, rel.Addons()); diff != "" {
		t.Errorf("addons: %s", diff)
	}
	chart, err := rel.AddonChart(release.LegacyAddon)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Chart.yaml", "templates/config.yaml"}, names(chart)); diff != "" {
		t.Errorf("addon chart: %s", diff)
	}
	if template, found := rel.ValuesTemplate(release.LegacyAddon); !found || !strings.HasPrefix(string(template), "values: |") {
		t.Errorf("values template: %q, %t", template, found)
	}
}

// file returns a change that replaces a file of a release.
func file(name, data string) func(fstest.MapFS) {
	return func(fsys fstest.MapFS) { fsys[name] = &fstest.MapFile{Data: []byte(data)} }
}

func without(name string) func(fstest.MapFS) {
	return func(fsys fstest.MapFS) { delete(fsys, name) }
}

func renamed(from, to string) func(fstest.MapFS) {
	return func(fsys fstest.MapFS) { fsys[to] = fsys[from]; delete(fsys, from) }
}

func TestOpenTolerates(t *testing.T) {
	class := releasetest.ClassPackage(tag)
	for name, tt := range map[string]struct {
		why     string
		change  func(fstest.MapFS)
		warning string
	}{
		"UnknownFiles":      {why: "published releases have them", change: file("topology-docker.yaml", "x")},
		"UnpackedAddons":    {why: "the existing operator unpacks beside the archive", change: file("docker-scs-1-35-cluster-addon-v0-sha.abc1234/cni/Chart.yaml", "x")},
		"NoNodeImage":       {change: file("metadata.yaml", "versions: {clusterStack: v0-sha.abc1234, kubernetes: v1.35.4, components: {clusterAddon: v0-sha.abc1234}}")},
		"LongerPackageName": {change: renamed(class, strings.TrimSuffix(class, ".tgz")+"+build.7.tgz")},
		"NeighbourVersion":  {why: "v1 is the beginning of v10", change: file(strings.TrimSuffix(class, ".tgz")+"0.tgz", "x")},
		"OtherStackVersion": {change: file("metadata.yaml", releasetest.Metadata("v0-sha.abc1234", "v1.36.0")), warning: "metadata.yaml: versions.kubernetes is v1.36.0"},
		"OtherChartVersion": {
			change:  file(class, string(releasetest.Archive(map[string]string{"x/Chart.yaml": releasetest.Chart("x", "v9")}))),
			warning: `the chart's version is "v9"`,
		},
		"DeleteWithoutChart": {why: "what to delete is known from what was applied", change: file(release.StagesFile, "addonStages: {BeforeClusterUpgrade: [{name: old, action: delete}]}")},
		"UnknownPoint":       {change: file(release.StagesFile, "addonStages: {AtFullMoon: []}"), warning: "clusteraddon.yaml: addonStages.AtFullMoon"},
		"KubernetesBuild":    {change: file("metadata.yaml", releasetest.Metadata("v0-sha.abc1234", "v1.35.4+rke2r1"))},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := releasetest.Multistage(tag)
			tt.change(fsys)
			rel, err := open(t, fsys, tag)
			if err != nil {
				t.Fatalf("%s: %v", tt.why, err)
			}
			warnings := strings.Join(rel.Warnings, "\n")
			if contradicts := len(rel.Contradictions) > 0; contradicts != strings.HasPrefix(name, "Other") {
				t.Errorf("contradicts its name: %t", contradicts)
			}
			if tt.warning == "" && warnings != "" || !strings.Contains(warnings, tt.warning) {
				t.Errorf("got warnings %q, want %q", warnings, tt.warning)
			}
		})
	}
}

// A release v1-sha.abc is none of the version v1, whatever its metadata say.
func TestStableReleaseIsNotMadeOfAnUnstableOne(t *testing.T) {
	files := releasetest.Multistage("docker-scs-1-35-v1-sha-abc")
	files[release.MetadataFile] = &fstest.MapFile{Data: []byte(releasetest.Metadata("v1", "v1.35.4"))}
	var invalid *release.InvalidError
	if _, err := open(t, files, "docker-scs-1-35-v1"); !errors.As(err, &invalid) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	class, addon := releasetest.ClassPackage(tag), releasetest.AddonPackage(tag)
	archive := func(name string, files map[string]string) func(fstest.MapFS) {
		return file(name, string(releasetest.Archive(files)))
	}
	for name, tt := range map[string]struct {
		legacy bool
		change func(fstest.MapFS)
		want   string
	}{
		"NoMetadata":     {change: without("metadata.yaml"), want: "release " + tag + ": file metadata.yaml is missing"},
		"MetadataNoYAML": {change: file("metadata.yaml", "a: ["), want: "metadata.yaml: "},
		"MetadataHuge":   {change: file("metadata.yaml", strings.Repeat("#", 2<<20)), want: "metadata.yaml: larger than 1 MiB"},
		"MetadataLink": {
			change: func(fsys fstest.MapFS) { fsys["metadata.yaml"].Mode = fs.ModeSymlink },
			want:   "file metadata.yaml is missing",
		},
		"NoPatchVersion":  {change: file("metadata.yaml", releasetest.Metadata("v1", "v1.35")), want: `metadata.yaml: versions.kubernetes: "v1.35" is not a version with patch`},
		"BadStackVersion": {change: file("metadata.yaml", releasetest.Metadata("1", "v1.35.4")), want: "metadata.yaml: versions.clusterStack: "},
		"NoClassChart":    {change: without(class), want: "file docker-scs-1-35-cluster-class-v0-sha.abc1234.tgz is missing"},
		"OnlyNeighbour":   {change: renamed(class, strings.TrimSuffix(class, ".tgz")+"0.tgz"), want: "is missing"},
		"OtherProvider":   {change: renamed(class, "my"+class), want: "is missing"},
		"OnlyChannelOfIt": {change: renamed(class, strings.TrimSuffix(class, ".tgz")+"-sha.def.tgz"), want: "is missing"},
		"OnlyMinorOfIt":   {change: renamed(class, strings.TrimSuffix(class, ".tgz")+".1.tgz"), want: "is missing"},
		"TwoClassCharts": {change: func(fsys fstest.MapFS) {
			fsys["a-"+class], fsys["b-"+class] = fsys[class], fsys[class]
			delete(fsys, class)
		}, want: "could each be"},
		"ClassNoArchive":     {change: file(class, "x"), want: class + ": not a gzip archive"},
		"ClassWithoutFolder": {change: archive(class, map[string]string{"Chart.yaml": releasetest.Chart("x", "v1")}), want: `"Chart.yaml" is outside of the chart's folder`},
		"ClassInTwoFolders":  {change: archive(class, map[string]string{"a/Chart.yaml": releasetest.Chart("x", "v1"), "b/x": ""}), want: "outside of the chart's folder"},
		"ClassNoChart":       {change: archive(class, map[string]string{"a/values.yaml": ""}), want: "no Chart.yaml found"},
		"ChartNoVersion":     {change: archive(class, map[string]string{"a/Chart.yaml": "name: x"}), want: "lacks a name or a version"},
		"NoAddonArchive":     {change: without(addon), want: "cluster-addon-v0-sha.abc1234.tgz is missing"},
		"AddonWithTopFolder": {
			change: archive(addon, map[string]string{"cluster-addon/cni/Chart.yaml": releasetest.Chart("cni", "v1")}),
			want:   "addon cni of the stages at AfterControlPlaneInitialized: no Chart.yaml found",
		},
		"UnknownAction": {change: file(release.StagesFile, "addonStages: {BeforeClusterUpgrade: [{name: cni, action: update}]}"), want: `clusteraddon.yaml: addonStages.BeforeClusterUpgrade[0] (cni): action "update"`},
		"LinkInArchive": {
			change: file(addon, string(releasetest.ArchiveOf([]tar.Header{{Name: "cni/Chart.yaml", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}, nil))),
			want:   "links and devices are refused",
		},
		"LegacyNoValues": {legacy: true, change: without(release.LegacyValuesFile), want: "file cluster-addon-values.yaml is missing"},
		"LegacyNoChart":  {legacy: true, change: archive(addon, map[string]string{"a/x": ""}), want: "no Chart.yaml found"},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := releasetest.Multistage(tag)
			if tt.legacy {
				fsys = releasetest.Legacy(tag)
			}
			tt.change(fsys)
			_, err := open(t, fsys, tag)
			var invalid *release.InvalidError
			if !errors.As(err, &invalid) || !invalid.Permanent() || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an InvalidError with %q", err, tt.want)
			}
		})
	}
}

// brokenFS fails to read one file, as a disk may.
type brokenFS struct {
	fs.FS
	file string
}

func (b brokenFS) Open(name string) (fs.File, error) {
	if name == b.file {
		return nil, fs.ErrPermission
	}
	return b.FS.Open(name)
}

func TestOpenTellsADiskFaultFromABadRelease(t *testing.T) {
	var invalid *release.InvalidError
	_, err := open(t, brokenFS{releasetest.Multistage(tag), "metadata.yaml"}, tag)
	if !errors.Is(err, fs.ErrPermission) || errors.As(err, &invalid) {
		t.Errorf("got %v, which another release would not cure", err)
	}
}

func TestStagesCannotBeChanged(t *testing.T) {
	rel := mustOpen(t, releasetest.Multistage(tag), tag)
	rel.Stages(release.BeforeClusterUpgrade)[0].Name = "changed"
	if got := rel.Stages(release.BeforeClusterUpgrade)[0].Name; got != "cni" {
		t.Errorf("got %q", got)
	}
}
