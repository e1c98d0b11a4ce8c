// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// Existing stacks were written for `helm template` of Helm 3. What it makes of a chart is asked of its own code here:
// all charts of testdata, and the public ones where they are there.
func TestRendersWhatHelm3Renders(t *testing.T) {
	addon := helm3{name: render.AddonReleaseName, namespace: render.AddonNamespace, crds: true}
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
			with := addon
			with.defines = []string{"example.com/v1", "example.com/v1/Part", "example.com/v1/Widget"}
			if c.Name() == "class" {
				with = helm3{name: "docker-ferrol-1-35", namespace: "customer"}
			}
			loaded, err := loader.LoadDir(filepath.Join(folder, "chart"))
			if err != nil {
				t.Fatal(err)
			}
			ours, err := renderFolder(t, folder)
			if err != nil {
				t.Fatal(err)
			}
			with.values = valuesOf(t, filepath.Join(folder, release.LegacyValuesFile), filepath.Join(folder, "chart", release.OverwriteFile))
			compare(t, with, loaded, ours)
		})
	}
	for _, public := range []struct{ name, version string }{{"cilium", "1.16.6"}, {"metrics-server", "3.12.2"}} {
		t.Run(public.name, func(t *testing.T) {
			packed := publicChart(t, public.name+"-"+public.version+".tgz")
			ours := mustRender(t, wrapped(t, "addon", public.name, public.version, packed, nil), "addon", nil)
			loaded, err := loader.LoadFiles([]*loader.BufferedFile{
				{Name: "Chart.yaml", Data: []byte("apiVersion: v2\nname: addon\nversion: v1\ndependencies:\n- name: " + public.name + "\n  version: " + public.version + "\n  repository: https://charts.example.com\n")},
				{Name: "charts/" + public.name + "-" + public.version + ".tgz", Data: packed},
			})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, addon, loaded, ours)
		})
	}
}

// valuesOf returns what the values template makes that is there, if any is.
func valuesOf(t *testing.T, files ...string) map[string]any {
	t.Helper()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		values, err := render.Values(text, facts())
		if err != nil {
			t.Fatal(err)
		}
		return values
	}
	return map[string]any{}
}

// helm3 is a call of `helm template`.
type helm3 struct {
	name, namespace string
	crds            bool
	values          map[string]any
	// defines are the APIs of the chart's own folders crds.
	defines []string
}

// template does what `helm template` does without a cluster, and returns objects and hooks as YAML documents in order.
func (h helm3) template(c *chart.Chart) (objects, hooks []string, err error) {
	capabilities := chartutil.DefaultCapabilities.Copy()
	version, err := chartutil.ParseKubeVersion("v1.35.4")
	if err != nil {
		return nil, nil, err
	}
	capabilities.KubeVersion = *version
	// As documented, a chart sees what it defines itself, which Helm leaves out without a cluster.
	capabilities.APIVersions = append(slices.Clone(capabilities.APIVersions), h.defines...)
	if err := chartutil.ProcessDependenciesWithMerge(c, h.values); err != nil {
		return nil, nil, err
	}
	top, err := chartutil.ToRenderValues(c, h.values, chartutil.ReleaseOptions{Name: h.name, Namespace: h.namespace, Revision: 1, IsInstall: true}, capabilities)
	if err != nil {
		return nil, nil, err
	}
	files, err := engine.Engine{}.Render(c, top)
	if err != nil {
		return nil, nil, err
	}
	for file := range files {
		if strings.HasSuffix(file, "NOTES.txt") {
			delete(files, file)
		}
	}
	found, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, nil, err
	}
	if h.crds {
		for _, crd := range c.CRDObjects() {
			objects = append(objects, strings.Split(string(crd.File.Data), "\n---")...)
		}
	}
	for _, m := range manifests {
		objects = append(objects, m.Content+"\n") // as it is printed
	}
	for _, hook := range found {
		if len(hook.DeletePolicies) == 0 {
			hook.DeletePolicies = append(hook.DeletePolicies, helmrelease.HookBeforeHookCreation) // as when it is run
		}
		events := slices.DeleteFunc(hook.Events, func(event helmrelease.HookEvent) bool { return event == helmrelease.HookTest })
		if len(events) > 0 {
			hooks = append(hooks, fmt.Sprintf("# %v %d %v\n%s", events, hook.Weight, hook.DeletePolicies, hook.Manifest+"\n"))
		}
	}
	return objects, hooks, nil
}

func compare(t *testing.T, with helm3, c *chart.Chart, ours *render.Result) {
	t.Helper()
	objects, hooks, err := with.template(c)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, text := range objects {
		want = append(want, plain(t, text)...)
	}
	for _, obj := range ours.Objects {
		got = append(got, plain(t, asYAML(t, obj.Object))...)
	}
	// In which order they are applied is not the chart's.
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects (-Helm 3 +ours):\n%s", diff)
	}
	want, got = nil, nil
	for _, text := range hooks {
		head, manifest, _ := strings.Cut(text, "\n")
		for _, object := range plain(t, manifest) {
			want = append(want, head+"\n"+object)
		}
	}
	for _, hook := range ours.Hooks {
		head := fmt.Sprintf("# %v %d %v", hook.Events, hook.Weight, hook.DeletePolicies)
		for _, object := range plain(t, asYAML(t, hook.Object.Object)) {
			got = append(got, head+"\n"+object)
		}
	}
	slices.Sort(want) // Helm sorts them when it runs them.
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hooks (-Helm 3 +ours):\n%s", diff)
	}
}

// plain returns the objects of a document as YAML, without what the label of a cluster stack adds and without what is
// generated by chance in Secrets.
func plain(t *testing.T, document string) []string {
	t.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(document), &content); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	if len(content) == 0 {
		return nil
	}
	if items, is := content["items"].([]any); is && strings.HasSuffix(content["kind"].(string), "List") {
		var all []string
		for _, item := range items {
			object := item.(map[string]any)
			if object["kind"] == nil {
				object["kind"], object["apiVersion"] = strings.TrimSuffix(content["kind"].(string), "List"), content["apiVersion"]
			}
			all = append(all, plain(t, asYAML(t, object))...)
		}
		return all
	}
	for _, metadata := range [][]string{{"metadata"}, {"spec", "template", "metadata"}} {
		unstructured.RemoveNestedField(content, append(metadata, "labels", render.OwnedLabel)...)
		for _, field := range [][]string{append(slices.Clone(metadata), "labels"), metadata} {
			if value, found, _ := unstructured.NestedFieldNoCopy(content, field...); found && fmt.Sprint(value) == "map[]" || value == nil {
				unstructured.RemoveNestedField(content, field...)
			}
		}
	}
	data, _ := content["data"].(map[string]any)
	for key := range data {
		if content["kind"] == "Secret" {
			data[key] = "generated"
		}
	}
	return []string{asYAML(t, content)}
}
