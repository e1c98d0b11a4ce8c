// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// kindsPage describes every kind as its CustomResourceDefinition does: that is what an API server checks and
// what kubectl explain prints.
func kindsPage(crds [][]byte) ([]byte, error) {
	var page bytes.Buffer
	page.WriteString(notice + `# Kinds

All kinds are namespaced and belong to ` + "`clusterstack.x-k8s.io/v1alpha1`" + `. ClusterStack and ClusterAddonSettings are written by people,
ClusterStackRelease and ClusterAddon by the operator. Required fields are set in bold. ` + "`kubectl explain`" + ` prints the same.
`)
	var conditions *apiextensionsv1.JSONSchemaProps
	for _, document := range crds {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(document, crd); err != nil {
			return nil, err
		}
		version := crd.Spec.Versions[0]
		schema := version.Schema.OpenAPIV3Schema
		names := crd.Spec.Names
		fmt.Fprintf(&page, "\n## %s\n\n%s\n\nShort name `%s`, resource `%s`, in the categories %s.\n",
			names.Kind, oneLine(schema.Description), strings.Join(names.ShortNames, "`, `"), names.Plural, quoted(names.Categories))
		page.WriteString("\n| field | type | default | meaning |\n|---|---|---|---|\n")
		for _, part := range []string{"spec", "status"} {
			props, ok := schema.Properties[part]
			if !ok {
				continue
			}
			for _, text := range validations(props) {
				fmt.Fprintf(&page, "| `%s` | | | %s |\n", part, cell(sentence(text)))
			}
			if list, ok := props.Properties["conditions"]; ok {
				conditions = list.Items.Schema
			}
			fields(&page, part, props)
		}
		page.WriteString("\n| column | shows | |\n|---|---|---|\n")
		for _, column := range version.AdditionalPrinterColumns {
			wide := ""
			if column.Priority > 0 {
				wide = "with `-o wide`"
			}
			fmt.Fprintf(&page, "| %s | `%s` | %s |\n", column.Name, cell(column.JSONPath), wide)
		}
	}
	if conditions != nil {
		page.WriteString("\n## Conditions\n\nThe entries of `status.conditions` of every kind. [Conditions and reasons](conditions.md) has their types and reasons.\n\n| field | type | default | meaning |\n|---|---|---|---|\n")
		fields(&page, "status.conditions[]", *conditions)
	}
	return page.Bytes(), nil
}

// fields writes a line for each field below path, those inside others after them.
func fields(page *bytes.Buffer, path string, schema apiextensionsv1.JSONSchemaProps) {
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		prop := schema.Properties[name]
		field := path + "." + name
		shown := "`" + field + "`"
		if slices.Contains(schema.Required, name) {
			shown = "**" + shown + "**"
		}
		meaning := []string{sentence(oneLine(prop.Description))}
		meaning = append(meaning, rules(prop)...)
		value := ""
		if prop.Default != nil {
			value = "`" + string(prop.Default.Raw) + "`"
		}
		fmt.Fprintf(page, "| %s | %s | %s | %s |\n", shown, typeOf(prop), value, cell(strings.Join(meaning, " ")))
		switch {
		case name == "conditions" || isReference(prop):
		case prop.Items != nil && prop.Items.Schema != nil:
			fields(page, field+"[]", *prop.Items.Schema)
		default:
			fields(page, field, prop)
		}
	}
}

// rules are what an API server checks about a field, in words.
func rules(prop apiextensionsv1.JSONSchemaProps) []string {
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	inner := prop
	if prop.Items != nil && prop.Items.Schema != nil {
		inner = *prop.Items.Schema
	}
	if len(inner.Enum) > 0 {
		var values []string
		for _, value := range inner.Enum {
			values = append(values, strings.Trim(string(value.Raw), `"`))
		}
		say("One of %s.", quoted(values))
	}
	if inner.Pattern != "" {
		say("Matches `%s`.", inner.Pattern)
	}
	if inner.Minimum != nil && inner.Maximum != nil {
		say("Between %v and %v.", *inner.Minimum, *inner.Maximum)
	} else if inner.Minimum != nil {
		say("At least %v.", *inner.Minimum)
	}
	if inner.MaxLength != nil {
		say("At most %d characters.", *inner.MaxLength)
	}
	if prop.MaxItems != nil {
		say("At most %d.", *prop.MaxItems)
	}
	if len(prop.XListMapKeys) > 0 {
		say("One for each %s.", strings.Join(prop.XListMapKeys, " and "))
	}
	for _, text := range append(validations(prop), itemValidations(prop)...) {
		said = append(said, sentence(text))
	}
	return said
}

func validations(prop apiextensionsv1.JSONSchemaProps) []string {
	var said []string
	for _, rule := range prop.XValidations {
		said = append(said, rule.Message)
	}
	return said
}

func itemValidations(prop apiextensionsv1.JSONSchemaProps) []string {
	if prop.Items == nil || prop.Items.Schema == nil {
		return nil
	}
	return validations(*prop.Items.Schema)
}

func typeOf(prop apiextensionsv1.JSONSchemaProps) string {
	switch {
	case isReference(prop):
		return "ObjectReference"
	case prop.Items != nil && prop.Items.Schema != nil:
		return "list of " + typeOf(*prop.Items.Schema)
	case prop.Format == "date-time":
		return "time"
	}
	return prop.Type
}

// isReference tells a reference to an object, which every Kubernetes user knows.
func isReference(prop apiextensionsv1.JSONSchemaProps) bool {
	_, uid := prop.Properties["uid"]
	_, path := prop.Properties["fieldPath"]
	return uid && path
}

func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.TrimSuffix(text, ".") + "."
}

func quoted(words []string) string { return "`" + strings.Join(words, "`, `") + "`" }

// cell makes text fit into a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
