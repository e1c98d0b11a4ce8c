// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// widgets is a definition with some versions of which the last one is stored, and one object of it in that version. Each
// version has the field that is named like it.
func widgets(versions ...string) string {
	text := `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.lifecycle.test}
spec:
  group: lifecycle.test
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  versions:
`
	stored := versions[len(versions)-1]
	for _, version := range versions {
		name, unserved := strings.CutSuffix(version, "-unserved")
		served, storage := "true", "false"
		if unserved {
			served = "false"
		}
		if version == stored {
			storage = "true"
		}
		text += "  - {name: " + name + ", served: " + served + ", storage: " + storage + `, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {
        kept: {type: string}, v1alpha1: {type: string}, v1: {type: string}}}}}}}
`
	}
	return text + "---\napiVersion: lifecycle.test/" + stored + "\nkind: Widget\nmetadata: {name: widget}\nspec: {kept: same, " + stored + ": is set}\n"
}

const scaler = `---
apiVersion: autoscaling/VERSION
kind: HorizontalPodAutoscaler
metadata: {name: scaler}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: coredns}
  maxReplicas: 3
`

var scalers = map[string]string{
	"v1": strings.ReplaceAll(scaler, "VERSION", "v1") + "  targetCPUUtilizationPercentage: 50\n",
	"v2": strings.ReplaceAll(scaler, "VERSION", "v2") + "  metrics: [{type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 60}}}]\n",
}

// The next release has its objects in another version of their API: one that Kubernetes converts, and one of the addon's
// own, whose definition comes with it. They stay the same objects. In the end the namespace of the Cluster is deleted,
// which is at rest.
func TestVersionsOfAPIsChange(t *testing.T) {
	f := begin(t, "versions", nil)
	stages := always("name: base, action: apply")
	f.publish("1-35-v1", stages, addon{"base", widgets("v1alpha1") + scalers["v1"]})
	f.publish("1-35-v2", stages, addon{"base", widgets("v1alpha1", "v1") + scalers["v2"]})
	f.publish("1-35-v3", stages, addon{"base", widgets("v1alpha1-unserved", "v1") + scalers["v2"]})
	f.subscribe("1.35", "v1", "v2", "v3")
	f.create(f.class("1-35-v1"), older, 1, 0)
	f.reached(f.class("1-35-v1"))

	widget, scaler := schema.GroupKind{Group: "lifecycle.test", Kind: "Widget"}, schema.GroupKind{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}
	first := []*unstructured.Unstructured{f.live(widget.WithVersion("v1alpha1"), "widget"), f.live(scaler.WithVersion("v1"), "scaler")}
	for _, version := range []string{"1-35-v2", "1-35-v3"} {
		f.use(f.class(version), older)
		f.reached(f.class(version))
		now := []*unstructured.Unstructured{f.live(widget.WithVersion("v1"), "widget"), f.live(scaler.WithVersion("v2"), "scaler")}
		for i, before := range first {
			if now[i].GetUID() != before.GetUID() {
				t.Errorf("%s: %s is another object", version, before.GetKind())
			}
			if diff := cmp.Diff([]string{now[i].GetAPIVersion()}, applied(now[i])); diff != "" {
				t.Errorf("%s: versions in which %s is applied (-want +got):\n%s", version, before.GetKind(), diff)
			}
		}
		if diff := cmp.Diff(map[string]any{"kept": "same", "v1": "is set"}, now[0].Object["spec"]); diff != "" {
			t.Errorf("%s: Widget (-want +got):\n%s", version, diff)
		}
		metrics, _, err := unstructured.NestedSlice(now[1].Object, "spec", "metrics")
		if err != nil || len(metrics) != 1 || metrics[0].(map[string]any)["resource"].(map[string]any)["name"] != "memory" {
			t.Errorf("%s: metrics of the HorizontalPodAutoscaler are %v, %v", version, metrics, err)
		}
	}
	f.end(f.name)
}

// live reads an object of an addon.
func (f *flow) live(kind schema.GroupVersionKind, name string) *unstructured.Unstructured {
	f.Helper()
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(kind)
	if err := f.workload().Get(f.Context(), client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: name}, obj); err != nil {
		f.Fatal(err)
	}
	return obj
}

// applied are the versions in which the operator has applied an object, by its managed fields.
func applied(obj client.Object) []string {
	var versions []string
	for _, entry := range obj.GetManagedFields() {
		if entry.Manager == user && entry.Operation == metav1.ManagedFieldsOperationApply {
			versions = append(versions, entry.APIVersion)
		}
	}
	slices.Sort(versions)
	return versions
}
