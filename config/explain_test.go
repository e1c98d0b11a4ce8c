// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"maps"
	"slices"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/config"
)

// Whoever asks kubectl explain about a field is told something.
func TestEveryFieldIsExplained(t *testing.T) {
	fields := 0
	var explained func(path string, schema apiextensionsv1.JSONSchemaProps)
	explained = func(path string, schema apiextensionsv1.JSONSchemaProps) {
		for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
			field := schema.Properties[name]
			fields++
			if field.Description == "" && path+"."+name != ".metadata" { // Kubernetes explains that one
				t.Errorf("%s.%s has no description", path, name)
			}
			explained(path+"."+name, field)
		}
		if schema.Items != nil && schema.Items.Schema != nil {
			explained(path+"[]", *schema.Items.Schema)
		}
		if schema.AdditionalProperties != nil && schema.AdditionalProperties.Schema != nil {
			explained(path+"[*]", *schema.AdditionalProperties.Schema)
		}
	}
	for _, document := range config.CRDs() {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(document, crd); err != nil {
			t.Fatal(err)
		}
		t.Run(crd.Spec.Names.Kind, func(t *testing.T) {
			for _, version := range crd.Spec.Versions {
				if version.Schema.OpenAPIV3Schema.Description == "" {
					t.Error("the kind has no description")
				}
				explained("", *version.Schema.OpenAPIV3Schema)
			}
		})
	}
	if fields < 50 {
		t.Errorf("only %d fields were seen", fields)
	}
}
