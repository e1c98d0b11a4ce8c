// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestAPreviewKnowsWhichKindsHaveNamespaces(t *testing.T) {
	client, err := discovery.NewDiscoveryClientForConfig(sandboxtest.APIServer(t))
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(gv.Group, ".com") {
			continue // what other tests have installed
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "patch") {
				continue // nothing that can be applied
			}
			obj := &unstructured.Unstructured{Object: map[string]any{}}
			obj.SetGroupVersionKind(gv.WithKind(r.Kind))
			obj.SetName("x")
			objects, _, err := apply.Preview(apply.Set{Objects: []*unstructured.Unstructured{obj}, Namespace: "ns"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if namespaced := objects[0].GetNamespace() == "ns"; namespaced != r.Namespaced {
				t.Errorf("%s of %s has a namespace: %t, want %t", r.Kind, gv, namespaced, r.Namespaced)
			}
			asked++
		}
	}
	if asked < 40 {
		t.Errorf("only %d kinds compared", asked)
	}
}

func TestAPreviewIsWhatWouldBeSentInItsOrder(t *testing.T) {
	set := apply.Set{Namespace: "kube-system", Objects: objects(t, "", `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hook, namespace: by-mistake}
---
apiVersion: example.com/v1
kind: Wide
metadata: {name: wide, namespace: by-mistake}
---
apiVersion: example.com/v1
kind: Narrow
metadata: {name: narrow}
---
apiVersion: example.org/v1
kind: Unknown
metadata: {name: unknown}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: twice, resourceVersion: "5"}
data: {a: first}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: twice, creationTimestamp: null}
data: {a: last}
---
`+crd("example.com", "Wide")+"\n---\n"+crd("example.com", "Narrow"))}
	for _, obj := range set.Objects {
		if obj.GetKind() == "CustomResourceDefinition" {
			scope := "Namespaced"
			if strings.HasPrefix(obj.GetName(), "wide") {
				scope = "Cluster"
			}
			if err := unstructured.SetNestedField(obj.Object, scope, "spec", "scope"); err != nil {
				t.Fatal(err)
			}
		}
	}
	set.Hooks = []apply.Hook{{Object: object(t, "", "{apiVersion: batch/v1, kind: Job, metadata: {name: job}}"), Events: []string{"pre-install"}}}
	before := set.Objects[0].DeepCopy()

	sent, hooks, err := apply.Preview(set, func(gk schema.GroupKind) bool { return gk.Group == "example.org" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, obj := range sent {
		got = append(got, strings.TrimSpace(obj.GetKind()+" "+obj.GetNamespace()+"/"+obj.GetName()))
	}
	want := []string{
		"CustomResourceDefinition /wides.example.com", "CustomResourceDefinition /narrows.example.com",
		"ConfigMap kube-system/twice",
		"Wide /wide", "Narrow kube-system/narrow", "Unknown kube-system/unknown",
		"ValidatingWebhookConfiguration /hook",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	last := sent[2].Object
	if value, _, _ := unstructured.NestedString(last, "data", "a"); value != "last" {
		t.Errorf("of two objects with one name the one with %q counts", value)
	}
	for _, field := range []string{"resourceVersion", "creationTimestamp"} {
		if _, is, _ := unstructured.NestedFieldNoCopy(last, "metadata", field); is {
			t.Errorf("metadata.%s would be sent", field)
		}
	}
	if len(hooks) != 1 || hooks[0].Object.GetNamespace() != "kube-system" {
		t.Errorf("hooks: %v", hooks)
	}
	if diff := cmp.Diff(before, set.Objects[0]); diff != "" {
		t.Errorf("the set was changed:\n%s", diff)
	}
}
