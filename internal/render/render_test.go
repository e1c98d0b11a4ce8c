// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// A render in another process gets its input, and gives its result, as JSON.
func TestInputAndResultSurviveJSON(t *testing.T) {
	files := secrets(map[string]string{"a": "randAlphaNum 24", "b": ".Values.port", "c": ".Values.missing"})
	files["overwrite.yaml"] = "port: \"{{ .Cluster.spec.controlPlaneEndpoint.port }}\"\nmissing: {{ .InfraCluster }}\n"
	files["templates/hook.yaml"] = "apiVersion: v1\nkind: Pod\nmetadata: {name: h, annotations: {helm.sh/hook: pre-install}}\n"
	rel := addonOf(t, files)
	f := facts()
	spec(f.Cluster)["controlPlaneEndpoint"].(map[string]any)["port"] = int64(12345678)
	first, err := render.Addon(rel, "x", f, nil)
	if err != nil {
		t.Fatal(err)
	}

	in, err := render.AddonInput(rel, "x", f, first.Record)
	if err != nil {
		t.Fatal(err)
	}
	var sent render.Input
	through(t, in, &sent)
	there, err := sent.Render()
	if err != nil {
		t.Fatal(err)
	}
	var received render.Result
	through(t, there, &received)

	here, err := in.Render()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(here, &received); diff != "" {
		t.Errorf("a result from another process differs:\n%s", diff)
	}
	if got := valuesIn(here)["b"]; got != "12345678" {
		t.Errorf("a whole number became %s", got)
	}
}

func through(t *testing.T, from, to any) {
	t.Helper()
	data, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatal(err)
	}
}

func TestACacheGivesWhatARenderGives(t *testing.T) {
	rel := addonOf(t, secrets(map[string]string{"a": "randAlphaNum 24", "b": `(genCA "cn" 1).Cert`}))
	cache := render.NewCache(10)
	one := done(t)(cache.Addon(rel, "x", facts(), nil))
	two := done(t)(cache.Addon(rel, "x", facts(), nil))
	if valuesIn(one)["a"] == valuesIn(two)["a"] {
		t.Fatal("two clusters share a password")
	}

	var wait sync.WaitGroup
	for _, first := range []*render.Result{one, two, one, two} {
		wait.Go(func() {
			for range 5 {
				again, err := cache.Addon(rel, "x", facts(), first.Record)
				if err != nil {
					t.Error(err)
					return
				}
				if diff := cmp.Diff(valuesIn(first), valuesIn(again)); diff != "" || again.NewValues {
					t.Errorf("a cached render differs:\n%s", diff)
				}
				// What a caller does with its objects is not seen by others.
				again.Objects[0].SetName("spoilt")
				again.Objects = again.Objects[:1]
				clear(again.Record)
			}
		})
	}
	wait.Wait()
}

func TestACacheDependsOnTheWholeInput(t *testing.T) {
	files := secrets(map[string]string{"a": "print .Values .Release.Namespace .Capabilities.KubeVersion.Version"})
	files["overwrite.yaml"] = "name: {{ .Cluster.metadata.name }}\n"
	rel := addonOf(t, files)
	cache := render.NewCache(10)
	base, err := render.AddonInput(rel, "x", facts(), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*render.Input){
		"Nothing":    func(*render.Input) {},
		"Values":     func(in *render.Input) { in.Facts.Cluster = map[string]any{"metadata": map[string]any{"name": "other"}} },
		"Namespace":  func(in *render.Input) { in.Namespace = "other" },
		"Kubernetes": func(in *render.Input) { in.Kubernetes = "v1.36.0" },
	} {
		in := base
		change(&in)
		result := done(t)(cache.Render(in))
		again := done(t)(cache.Render(in))
		if diff := cmp.Diff(result, again); diff != "" {
			t.Errorf("%s: a remembered result differs:\n%s", name, diff)
		}
		if other, ok := seen[valuesIn(result)["a"]]; ok {
			t.Errorf("the results for %s and %s are the same", name, other)
		}
		seen[valuesIn(result)["a"]] = name
	}
}

// done returns a function that takes a render that must have succeeded.
func done(t *testing.T) func(*render.Result, error) *render.Result {
	t.Helper()
	return func(result *render.Result, err error) *render.Result {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
}

// What a package holds was chosen when it was made; only a chart that comes as a folder has its
// .helmignore followed.
func TestIgnoreFilesOfPackagesAreNotFollowed(t *testing.T) {
	fsys := releasetest.Legacy(tag)
	fsys[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(under("x", map[string]string{
		"Chart.yaml": releasetest.Chart("x", "v1"), ".helmignore": "*.yaml\n", "templates/a.yaml": secret("a", ".Release.Name"),
	}))}
	result := mustRender(t, open(t, fsys), "cluster-addon", nil)
	if len(result.Objects) != 1 {
		t.Errorf("%d objects, want 1", len(result.Objects))
	}
}

func TestByteOrderMarksAreNoText(t *testing.T) {
	const mark = "\ufeff"
	files := secrets(map[string]string{"a": ".Values.a"})
	for name := range files {
		files[name] = mark + files[name]
	}
	files["values.yaml"] = mark + "a: b\n"
	if got := valuesIn(mustRender(t, addonOf(t, files), "x", nil))["a"]; got != "b" {
		t.Errorf("value is %q", got)
	}
}

// An addon can count on the APIs that another addon of the same release brings, as far as that is sure.
func TestOtherAddonsOfTheReleaseAddAPIs(t *testing.T) {
	crd := func(kind string) string {
		return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\nspec: {group: example.com, names: {kind: " + kind + "}, versions: [{name: v1, served: true}]}\n"
	}
	dependency := func(name string) map[string]string {
		return map[string]string{
			"charts/" + name + "/Chart.yaml":    releasetest.Chart(name, "1.0.0"),
			"charts/" + name + "/crds/crd.yaml": crd(strings.ToUpper(name)),
		}
	}
	files := under("apis", map[string]string{
		"Chart.yaml":  releasetest.Chart("apis", "v1") + "dependencies:\n- {name: always, version: 1.0.0}\n- {name: perhaps, version: 1.0.0, condition: perhaps.enabled}\n",
		"crds/a.yaml": crd("Own"),
	})
	maps.Copy(files, under("apis", dependency("always")))
	maps.Copy(files, under("apis", dependency("perhaps")))
	asks := secrets(nil)
	for _, kind := range []string{"Own", "ALWAYS", "PERHAPS", "Missing"} {
		asks["templates/"+kind+".yaml"] = secret(strings.ToLower(kind), `.Capabilities.APIVersions.Has "example.com/v1/`+kind+`"`)
	}
	maps.Copy(files, under("asks", asks))
	rel := withAddons(t, files, "apis", "asks")

	want := map[string]string{"own": "true", "always": "true", "perhaps": "false", "missing": "false"}
	if diff := cmp.Diff(want, valuesIn(mustRender(t, rel, "asks", nil))); diff != "" {
		t.Error(diff)
	}
	cache := render.NewCache(1)
	for range 2 {
		result := done(t)(cache.Addon(rel, "asks", facts(), nil))
		if diff := cmp.Diff(want, valuesIn(result)); diff != "" {
			t.Error(diff)
		}
	}
}

// An addon without a values template has the values of its chart, whatever was rendered before it.
func TestValuesOfOneAddonDoNotReachAnother(t *testing.T) {
	files := under("first", secrets(map[string]string{"a": ".Values"}))
	files["first/overwrite.yaml"] = "a: geheim\n"
	maps.Copy(files, under("second", secrets(map[string]string{"a": ".Values"})))
	rel := withAddons(t, files, "first", "second")
	cache := render.NewCache(10)
	f := facts()
	f.Values = map[string]map[string]any{"first": {"b": "geheim"}}
	for _, addon := range []string{"first", "second", "first", "second"} {
		result := done(t)(cache.Addon(rel, addon, f, nil))
		if has := strings.Contains(valuesIn(result)["a"], "geheim"); has != (addon == "first") {
			t.Errorf("values of %s: %s", addon, valuesIn(result)["a"])
		}
	}
	in, err := render.AddonInput(rel, "second", f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text(t, in.Facts), "geheim") {
		t.Error("the input of an addon has values of another one")
	}
}

// What the cluster serves takes the place of Helm's list, and what the release defines itself is added to both.
func TestTheClusterCanSayWhatItServes(t *testing.T) {
	files := secrets(map[string]string{
		"widget": `.Capabilities.APIVersions.Has "example.com/v1/Widget"`,
		"old":    `.Capabilities.APIVersions.Has "policy/v1beta1"`,
		"own":    `.Capabilities.APIVersions.Has "example.com/v1/Own"`,
	})
	files["crds/own.yaml"] = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\nspec: {group: example.com, names: {kind: Own}, versions: [{name: v1, served: true}]}\n"
	in, err := render.AddonInput(addonOf(t, files), "x", facts(), nil)
	if err != nil {
		t.Fatal(err)
	}
	cache := render.NewCache(10)
	for name, c := range map[string]struct {
		served []string
		want   map[string]string
	}{
		"Helm":    {nil, map[string]string{"widget": "false", "old": "true", "own": "true"}},
		"Cluster": {[]string{"v1", "v1/Secret", "example.com/v1/Widget"}, map[string]string{"widget": "true", "old": "false", "own": "true"}},
		"Nothing": {[]string{}, map[string]string{"widget": "false", "old": "false", "own": "true"}},
	} {
		in.APIVersions = c.served
		result := done(t)(cache.Render(in))
		got := valuesIn(result)
		delete(got, "x")
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTheClassOfAReleaseIsRendered(t *testing.T) {
	rel := open(t, releasetest.Multistage(tag))
	for name, class := range map[string]func() (*render.Result, error){
		"Plain":  func() (*render.Result, error) { return render.Class(rel, "customer") },
		"Cached": func() (*render.Result, error) { return render.NewCache(1).Class(rel, "customer") },
	} {
		result, err := class()
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Objects) != 1 || result.Objects[0].GetName() != tag || result.NewValues {
			t.Errorf("%s: %v", name, result)
		}
	}
}

func TestPackagesInPackagesAreBounded(t *testing.T) {
	packed := releasetest.Archive(under("inner", map[string]string{"Chart.yaml": releasetest.Chart("inner", "1.0.0"), "templates/a.yaml": secret("inner", ".Chart.Name")}))
	chart := func(packed []byte) map[string]string {
		return map[string]string{"Chart.yaml": releasetest.Chart("outer", "1.0.0"), "charts/inner-1.0.0.tgz": string(packed)}
	}
	result := mustRender(t, addonOf(t, chart(packed)), "x", nil)
	if len(result.Objects) != 1 || result.Objects[0].GetName() != "inner" {
		t.Errorf("objects: %v", result.Objects)
	}

	deep := packed
	for range 10 {
		deep = releasetest.Archive(under("outer", chart(deep)))
	}
	_, err := render.Addon(addonOf(t, chart(deep)), "x", facts(), nil)
	if err == nil || !strings.Contains(err.Error(), "packed in one another more than 8 deep") {
		t.Errorf("error: %v", err)
	}

	// Each package alone is within bounds.
	bomb := under("b", map[string]string{"Chart.yaml": releasetest.Chart("b", "1.0.0")})
	for i := range 6 {
		bomb["b/zeros"+string(rune('a'+i))] = strings.Repeat("0", 4<<20)
	}
	packedBomb := releasetest.Archive(bomb)
	files := map[string]string{"Chart.yaml": releasetest.Chart("x", "v1")}
	for i := range 5 {
		files["charts/b"+string(rune('a'+i))+".tgz"] = string(packedBomb)
	}
	_, err = render.Addon(addonOf(t, files), "x", facts(), nil)
	if err == nil || !strings.Contains(err.Error(), "unpacks to more than 100 MiB") {
		t.Errorf("error: %v", err)
	}
}

func TestObjectsAreLabelled(t *testing.T) {
	result, err := renderFolder(t, "testdata/order")
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range result.Objects {
		if object.GetLabels()[render.OwnedLabel] != render.OwnedValue {
			t.Errorf("%s %s has no label", object.GetKind(), object.GetName())
		}
		pods, _, _ := unstructured.NestedStringMap(object.Object, "spec", "template", "metadata", "labels")
		if _, isWorkload, _ := unstructured.NestedMap(object.Object, "spec", "template"); isWorkload && pods[render.OwnedLabel] != render.OwnedValue {
			t.Errorf("the pods of %s %s have no label", object.GetKind(), object.GetName())
		}
	}
}

func TestValuesOfTheUserWin(t *testing.T) {
	files := map[string]string{
		"Chart.yaml":     releasetest.Chart("x", "v1"),
		"values.yaml":    "a: chart\nb: chart\nc: {kept: chart, gone: chart}\nlist: [chart]\n",
		"overwrite.yaml": "b: release\nc: {host: \"{{ .Cluster.metadata.name }}\"}\n",
		"templates/all.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n" +
			"data: {all: {{ list .Values.a .Values.b .Values.c .Values.list .Values.size | toJson | quote }}}\n",
	}
	values := map[string]any{
		"b": "user", "c": map[string]any{"gone": nil, "more": "user"}, "list": []any{"user"}, "size": int64(12345678),
	}
	f := facts()
	f.Values = map[string]map[string]any{"x": values, "y": {"a": "of another addon"}}
	var sent render.Facts
	through(t, f, &sent)
	for name, f := range map[string]render.Facts{"here": f, "in another process": sent} {
		for range 2 {
			result, err := render.NewCache(1).Addon(addonOf(t, files), "x", f, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, _, _ := unstructured.NestedString(result.Objects[0].Object, "data", "all")
			want := `["chart","user",{"host":"my-cluster","kept":"chart","more":"user"},["user"],12345678]`
			if got != want {
				t.Errorf("%s: values are %s, want %s", name, got, want)
			}
		}
	}

	cache := render.NewCache(10)
	render := func() string {
		result, err := cache.Addon(addonOf(t, files), "x", f, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _, _ := unstructured.NestedString(result.Objects[0].Object, "data", "all")
		return got
	}
	before := render()
	values["b"] = "changed"
	if after := render(); after == before {
		t.Error("a cache does not see that the values of the user changed")
	}
}

func TestObjectsAreFromTheirFiles(t *testing.T) {
	rel := withAddons(t, map[string]string{
		"cni/Chart.yaml":                 releasetest.Chart("cni", "v1"),
		"cni/templates/a.yaml":           "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
		"cni/templates/hook.yaml":        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: h, annotations: {helm.sh/hook: pre-install}}\n",
		"cni/charts/sub/Chart.yaml":      releasetest.Chart("sub", "1.0.0"),
		"cni/charts/sub/templates/b.yml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n",
	}, "cni")
	in, err := render.AddonInput(rel, "cni", facts(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, from, err := in.RenderFiles()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for object, file := range from {
		got[object.GetName()] = file
	}
	want := map[string]string{"a": "templates/a.yaml", "b": "charts/sub/templates/b.yml", "h": "templates/hook.yaml"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
