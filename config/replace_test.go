// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// Our CustomResourceDefinitions are applied over those of the existing operator, which checked next to nothing.
// What was stored then and would be refused today can still be read, reported on, labelled, let go, and
// changed in what is not wrong with it.
func TestReplacesTheFormerKindsInPlace(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	namespace := kinds.Namespace(t, c)
	crd := &apiextensionsv1.CustomResourceDefinition{}
	key := client.ObjectKey{Name: "clusterstacks.clusterstack.x-k8s.io"}
	if err := c.Get(t.Context(), key, crd); err != nil {
		t.Fatal(err)
	}
	ours := crd.DeepCopy()
	unchecked(crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
	if err := c.Update(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	stack := func(name string, spec map[string]any) *unstructured.Unstructured {
		obj := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"provider": "docker", "name": "scs", "kubernetesVersion": "1.30"}}}
		for field, value := range spec {
			obj.Object["spec"].(map[string]any)[field] = value
		}
		obj.SetAPIVersion("clusterstack.x-k8s.io/v1alpha1")
		obj.SetKind("ClusterStack")
		obj.SetNamespace(namespace)
		obj.SetName(name)
		obj.SetFinalizers([]string{"example.com/hold"})
		return obj
	}
	withoutProvider := stack("without-provider", map[string]any{"autoSubscribe": false})
	mixed := stack("mixed", map[string]any{"provider": "a-b", "noProvider": true, "versions": []any{"v1", "v0-sha.abc1234"}})
	for _, obj := range []*unstructured.Unstructured{withoutProvider, mixed} {
		eventually(t, "the former kind takes "+obj.GetName(), func() error { return c.Create(t.Context(), obj) })
	}

	if err := c.Get(t.Context(), key, crd); err != nil {
		t.Fatal(err)
	}
	crd.Spec = ours.Spec
	if err := c.Update(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	eventually(t, "our kind refuses what was taken before", func() error {
		err := c.Create(t.Context(), stack("another", nil), client.DryRunAll)
		switch {
		case err == nil:
			return errors.New("it was accepted")
		case strings.Contains(err.Error(), "providerRef is required"):
			return nil
		}
		return err
	})

	for _, obj := range []*unstructured.Unstructured{withoutProvider, mixed} {
		obj.Object["status"] = map[string]any{"usableVersions": "v1", "summary": []any{map[string]any{"name": "v1", "ready": true, "phase": "done"}},
			"conditions": []any{map[string]any{"type": "Ready", "status": "True", "lastTransitionTime": "2024-05-01T10:00:00Z"}}}
		if err := c.Status().Update(t.Context(), obj); err != nil {
			t.Errorf("status: %v", err)
		}
		obj.SetLabels(map[string]string{"a": "b"})
		if err := c.Update(t.Context(), obj); err != nil {
			t.Errorf("label: %v", err)
		}
	}
	if err := unstructured.SetNestedField(mixed.Object, false, "spec", "autoSubscribe"); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), mixed); err != nil {
		t.Errorf("change of another field: %v", err)
	}
	if err := unstructured.SetNestedStringSlice(mixed.Object, []string{"v0-sha.abc1234", "v0-sha.def5678"}, "spec", "versions"); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), mixed); err == nil || !strings.Contains(err.Error(), "versions of the channel stable have the form v1") {
		t.Errorf("another version of the wrong form: got %v, want a refusal", err)
	}
	for _, obj := range []*unstructured.Unstructured{withoutProvider, mixed} {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(t.Context(), obj); err != nil {
			t.Errorf("delete: %v", err)
		}
		if err := c.Patch(t.Context(), obj, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
			t.Errorf("finalizer: %v", err)
		}
	}
}

// unchecked takes out of a schema what the existing operator's does not have.
func unchecked(schema *apiextensionsv1.JSONSchemaProps) {
	schema.XValidations, schema.XListType, schema.XListMapKeys = nil, nil, nil
	schema.Pattern, schema.MaxLength, schema.MaxItems = "", nil, nil
	if schema.Items != nil && schema.Items.Schema != nil {
		unchecked(schema.Items.Schema)
	}
	for name, prop := range schema.Properties {
		unchecked(&prop)
		schema.Properties[name] = prop
	}
}

// eventually tries until an API server has taken over a changed definition.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
