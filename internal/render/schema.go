// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	chart "helm.sh/helm/v4/pkg/chart/v2"
)

const (
	schemaFile = "values.schema.json"
	schemaURL  = "file:///" + schemaFile
)

// checkSchemas validates the values against the schemas of the chart and its dependencies. Helm's own
// check would fetch what a schema refers to, from the network and from this machine's files.
func checkSchemas(cache *Cache, c *chart.Chart, values map[string]any) error {
	if c.Schema != nil {
		if err := checkSchema(cache, c.Schema, values); err != nil {
			err.File = strings.TrimPrefix(c.ChartFullPath()+"/"+schemaFile, c.Root().Name()+"/")
			return err
		}
	}
	for _, d := range c.Dependencies() {
		switch own := values[d.Name()].(type) {
		case nil:
		case map[string]any:
			if err := checkSchemas(cache, d, own); err != nil {
				return err
			}
		case valuesMap:
			if err := checkSchemas(cache, d, own); err != nil {
				return err
			}
		default:
			return invalid("", "the values of chart %s are not a map", d.Name())
		}
	}
	return nil
}

func checkSchema(cache *Cache, text []byte, values map[string]any) *InvalidError {
	schema, err := cache.schema(text)
	if err != nil {
		return invalid("", "%v", err)
	}
	var violated *jsonschema.ValidationError
	switch err := schema.Validate(values); {
	case err == nil:
		return nil
	case errors.As(err, &violated):
		violations := violationsOf(violated)
		slices.Sort(violations)
		return invalid("", "%s", strings.Join(slices.Compact(violations), "; "))
	default:
		return invalid("", "the values cannot be validated")
	}
}

func compileSchema(text []byte) (schema *jsonschema.Schema, err error) {
	defer func() {
		// The compiler panics on some malformed schemas.
		if recover() != nil {
			err = errors.New("the schema is malformed")
		}
	}()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(schemaURL, document); err != nil {
		return nil, err
	}
	schema, err = compiler.Compile(schemaURL)
	var outside *outsideError
	if errors.As(err, &outside) {
		return nil, outside
	}
	if err != nil {
		return nil, errors.New(firstLine(err))
	}
	return schema, nil
}

// noLoader refuses all that a schema could refer to outside of itself. Unresolved names (urn:) permit
// anything, as in Helm.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	if strings.HasPrefix(url, "urn:") {
		return true, nil
	}
	return nil, &outsideError{url}
}

type outsideError struct{ url string }

func (e *outsideError) Error() string {
	return fmt.Sprintf("the schema refers to %s, but a render reads neither network nor files: put the schema into %s", e.url, schemaFile)
}

// violationsOf names where the values break the schema and which rule, without quoting them.
func violationsOf(e *jsonschema.ValidationError) []string {
	if len(e.Causes) > 0 {
		var all []string
		for _, cause := range e.Causes {
			all = append(all, violationsOf(cause)...)
		}
		return all
	}
	place := "the values"
	if len(e.InstanceLocation) > 0 {
		place = strings.Join(e.InstanceLocation, ".")
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		return []string{fmt.Sprintf("%s: want %s, have %s", place, strings.Join(k.Want, " or "), k.Got)}
	case *kind.Required:
		return []string{fmt.Sprintf("%s: %s is missing", place, strings.Join(k.Missing, ", "))}
	case *kind.AdditionalProperties:
		return []string{fmt.Sprintf("%s: %s is not allowed", place, strings.Join(k.Properties, ", "))}
	default:
		return []string{fmt.Sprintf("%s: breaks the rule %q", place, strings.Join(e.ErrorKind.KeywordPath(), "/"))}
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
