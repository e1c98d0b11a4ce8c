// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

const needsCNI = "dependencies:\n- {name: cni, version: ~1.2, repository: https://charts.example.org}\n"

func TestIncompleteCharts(t *testing.T) {
	const tag = "docker-scs-1-35-v1"
	chart := releasetest.Chart("metrics-server", "1.0.0")
	for name, tt := range map[string]struct {
		addon map[string]string // the files of the addon's chart
		want  []release.IncompleteChart
	}{
		"NeedsNothing":     {addon: map[string]string{"Chart.yaml": chart}},
		"Missing":          {map[string]string{"Chart.yaml": chart + needsCNI}, incomplete(chart+needsCNI, "")},
		"Locked":           {map[string]string{"Chart.yaml": chart + needsCNI, "Chart.lock": "x"}, incomplete(chart+needsCNI, "x")},
		"OldFormat":        {map[string]string{"Chart.yaml": chart, "requirements.yaml": needsCNI, "requirements.lock": "x"}, inRequirements(incomplete(needsCNI, "x"))},
		"Packed":           {addon: map[string]string{"Chart.yaml": chart + needsCNI, "charts/cni-1.2.3.tgz": "x"}},
		"Unpacked":         {addon: map[string]string{"Chart.yaml": chart + needsCNI, "charts/cni/Chart.yaml": "name: cni\nversion: 1.2.3\n"}},
		"UnpackedRenamed":  {addon: map[string]string{"Chart.yaml": chart + needsCNI, "charts/x/Chart.yaml": "name: cni\nversion: 1.2.3\n"}},
		"LongerName":       {map[string]string{"Chart.yaml": chart + needsCNI, "charts/cni-extra-1.2.3.tgz": "x"}, incomplete(chart+needsCNI, "")},
		"LongerNameInV":    {map[string]string{"Chart.yaml": chart + needsCNI, "charts/cni-viewer-1.2.3.tgz": "x"}, incomplete(chart+needsCNI, "")},
		"InsideOfAnother":  {map[string]string{"Chart.yaml": chart + needsCNI, "charts/x/charts/cni/Chart.yaml": "name: cni\n"}, incomplete(chart+needsCNI, "")},
		"FileWithoutChart": {map[string]string{"Chart.yaml": chart + needsCNI, "charts/cni/README.md": "x"}, incomplete(chart+needsCNI, "")},
	} {
		t.Run(name, func(t *testing.T) {
			rel, err := release.Open(withAddon(tag, tt.addon), parse(t, tag))
			if err != nil {
				t.Fatal(err)
			}
			got, err := rel.Incomplete()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// incomplete is a legacy addon that lacks cni.
func incomplete(metadata, lock string) []release.IncompleteChart {
	c := release.IncompleteChart{
		Folder: "cluster-addon/cluster-addon", Metadata: []byte(metadata), Missing: []string{"cni"},
		MetadataFile: "Chart.yaml", LockFile: "Chart.lock",
	}
	if lock != "" {
		c.Lock = []byte(lock)
	}
	return []release.IncompleteChart{c}
}

// inRequirements says that the lists are in files of their own.
func inRequirements(charts []release.IncompleteChart) []release.IncompleteChart {
	for i := range charts {
		charts[i].MetadataFile, charts[i].LockFile = "requirements.yaml", "requirements.lock"
	}
	return charts
}

// withAddon returns a release whose only addon is a chart with the given files.
func withAddon(tag string, addon map[string]string) fstest.MapFS {
	files := releasetest.Legacy(tag)
	inFolder := map[string]string{}
	for name, text := range addon {
		inFolder["addon/"+name] = text
	}
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(inFolder)}
	return files
}

func TestDependencyNamesAreNames(t *testing.T) {
	const tag = "docker-scs-1-35-v1"
	rel, err := release.Open(withAddon(tag, map[string]string{"Chart.yaml": releasetest.Chart("a", "1.0.0") + "dependencies:\n- {name: ../../evil}\n"}), parse(t, tag))
	if err != nil {
		t.Fatal(err)
	}
	var invalid *release.InvalidError
	if got, err := rel.Incomplete(); !errors.As(err, &invalid) {
		t.Errorf("got %v, %v", got, err)
	}
}

// What was fetched later is seen like what a release brings along.
func TestFetchedDependenciesBelongToTheChart(t *testing.T) {
	const tag = "docker-scs-1-35-v1"
	files := withAddon(tag, map[string]string{"Chart.yaml": releasetest.Chart("a", "1.0.0") + needsCNI})
	files["dependencies/cluster-addon/cluster-addon/cni-1.2.3.tgz"] = &fstest.MapFile{Data: []byte("packed")}
	rel, err := release.Open(files, parse(t, tag))
	if err != nil {
		t.Fatal(err)
	}
	chart, err := rel.AddonChart(release.LegacyAddon)
	if err != nil {
		t.Fatal(err)
	}
	if data, found := chart.File("charts/cni-1.2.3.tgz"); !found || string(data) != "packed" {
		t.Errorf("got %q, %t", data, found)
	}
	if left, err := rel.Incomplete(); err != nil || len(left) > 0 {
		t.Errorf("still incomplete: %v, %v", left, err)
	}
}

func parse(t *testing.T, tag string) release.Name {
	t.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return name
}
