// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each folder of testdata holds a chart and the objects that it renders to. Where the values template
// stands beside the chart, the chart is the only addon of a release without stages; in the folder
// "class", it is a cluster class.
func TestChartsRenderToTheirObjects(t *testing.T) {
	cases, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Name() == "fuzz" || !c.IsDir() {
			continue
		}
		t.Run(c.Name(), func(t *testing.T) {
			folder := filepath.Join("testdata", c.Name())
			result, err := renderFolder(t, folder)
			if err != nil {
				t.Fatal(err)
			}
			got := print(t, result)
			golden := filepath.Join(folder, "objects.yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("rendered (-want +got); if this is right, run the test with -update:\n%s", diff)
			}
		})
	}
}

func renderFolder(t *testing.T, folder string) (*render.Result, error) {
	t.Helper()
	chart := filesOf(t, filepath.Join(folder, "chart"))
	name := filepath.Base(folder)
	if name == "class" {
		fsys := releasetest.Multistage(tag)
		fsys[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(under("class", chart))}
		return render.Class(open(t, fsys), "customer")
	}
	legacyValues, err := os.ReadFile(filepath.Join(folder, release.LegacyValuesFile))
	if err == nil {
		fsys := releasetest.Legacy(tag)
		fsys[release.LegacyValuesFile] = &fstest.MapFile{Data: legacyValues}
		fsys[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(under("addon", chart))}
		return render.Addon(open(t, fsys), release.LegacyAddon, facts(), nil)
	}
	return render.Addon(withAddons(t, under(name, chart), name), name, facts(), nil)
}

func filesOf(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	fsys := os.DirFS(folder)
	err := fs.WalkDir(fsys, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(fsys, path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func under(folder string, files map[string]string) map[string]string {
	moved := map[string]string{}
	for name, text := range files {
		moved[folder+"/"+name] = text
	}
	return moved
}

func print(t *testing.T, result *render.Result) string {
	t.Helper()
	var out strings.Builder
	for _, object := range result.Objects {
		out.WriteString("---\n" + asYAML(t, object.Object))
	}
	for _, hook := range result.Hooks {
		fmt.Fprintf(&out, "--- # hook: %s; weight %d; %s\n%s", strings.Join(hook.Events, ", "), hook.Weight,
			strings.Join(hook.DeletePolicies, ", "), asYAML(t, hook.Object.Object))
	}
	return out.String()
}

func asYAML(t *testing.T, object any) string {
	t.Helper()
	data, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
