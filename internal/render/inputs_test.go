// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

const chartYAML = "apiVersion: v2\nname: cni\nversion: v1\n"

func TestTheDigestOfValuesChangesWithThemOnly(t *testing.T) {
	digest := func(template, cluster string, user map[string]any) string {
		t.Helper()
		rel := withAddons(t, map[string]string{
			"cni/Chart.yaml": chartYAML, "cni/overwrite.yaml": template,
			"cni/templates/broken.yaml": "{{ fail `the templates of the chart have no part in it` }}",
		}, "cni")
		f := facts()
		f.Cluster["metadata"].(map[string]any)["name"] = cluster
		f.Values = map[string]map[string]any{"cni": user}
		in, has, err := render.ValuesInput(rel, "cni", f)
		if err != nil || !has {
			t.Fatalf("there is a template: %t, %v", has, err)
		}
		result, err := in.Render()
		if err != nil {
			t.Fatal(err)
		}
		return render.ValuesDigest(result)
	}
	named := digest("a: {{ .Cluster.metadata.name }}\n", "one", nil)
	if named == "" {
		t.Fatal("there is no digest")
	}
	if digest("a: {{ .Cluster.metadata.name }}\n", "two", nil) == named {
		t.Error("other values have the same digest")
	}
	if digest("a: one\n", "two", nil) != named {
		t.Error("the same values have another digest")
	}
	if digest("a: one\nb: null\n", "two", nil) == named {
		t.Error("null, which takes a default of the chart away, counts for nothing")
	}
	if digest("a: one\n", "two", map[string]any{"password": "hunter2"}) != named {
		t.Error("the digest tells about what the user sets, which may be secret")
	}
	if digest("a: {{ now | unixEpoch }}\n", "one", nil) != "" {
		t.Error("values by chance have a digest, which differs each time")
	}
}

func TestValuesTemplatesThatOverstayAreToldApart(t *testing.T) {
	chart := func(template string) render.Digest {
		t.Helper()
		rel := withAddons(t, map[string]string{"cni/Chart.yaml": chartYAML, "cni/overwrite.yaml": template}, "cni")
		in, _, err := render.ValuesInput(rel, "cni", facts())
		if err != nil {
			t.Fatal(err)
		}
		return render.NewDigests().Of(in.Chart)
	}
	if chart("a: 1\n") == chart("a: 2\n") {
		t.Error("who is suspected for one values template is suspected for all")
	}
	if first, second := chart("a: 1\n"), chart("a: 1\n"); first != second {
		t.Error("the same values template comes as another chart each time")
	}
}

func TestAnAddonWithoutValuesTemplateHasNoDigest(t *testing.T) {
	_, has, err := render.ValuesInput(withAddons(t, map[string]string{"cni/Chart.yaml": chartYAML}, "cni"), "cni", facts())
	if has || err != nil {
		t.Errorf("it has one: %t, %v", has, err)
	}
}
