// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterapi

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

//go:generate sh -c "cd schemas && go run ../../../../hack/schemas"

//go:embed schemas/*.json
var files embed.FS

// Schemas are the kinds whose fields are known.
type Schemas struct {
	crds     map[schema.GroupKind]*apiextensionsv1.CustomResourceDefinition
	mutex    sync.Mutex
	compiled map[schema.GroupVersionKind]*compiled
}

type compiled struct {
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator
}

// known are the kinds that come with Cluster API. To compile their rules takes longer than anything else.
var known = sync.OnceValues(func() (*Schemas, error) { return readSchemas(nil) })

// NewSchemas returns the kinds that come with Cluster API, and the given ones. Those given win.
func NewSchemas(given []*apiextensionsv1.CustomResourceDefinition) (*Schemas, error) {
	if len(given) == 0 {
		return known()
	}
	return readSchemas(given)
}

func readSchemas(given []*apiextensionsv1.CustomResourceDefinition) (*Schemas, error) {
	s := &Schemas{crds: map[schema.GroupKind]*apiextensionsv1.CustomResourceDefinition{}, compiled: map[schema.GroupVersionKind]*compiled{}}
	entries, err := files.ReadDir("schemas")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		data, err := files.ReadFile("schemas/" + entry.Name())
		if err != nil {
			return nil, err
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := json.Unmarshal(data, crd); err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		s.add(crd)
	}
	for _, crd := range given {
		s.add(crd)
	}
	return s, nil
}

func (s *Schemas) add(crd *apiextensionsv1.CustomResourceDefinition) {
	s.crds[schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}] = crd
}

// Problem is what an API server would say about an object.
type Problem struct {
	// Field is a path such as "spec.workers.machineDeployments[0].class"; empty where the object as a whole is meant.
	Field   string
	Message string
	// Unknown says that there is no such field.
	Unknown bool
}

// Check returns what the API server has against the fields of an object, sorted. Kinds that are not known are not checked.
func (s *Schemas) Check(ctx context.Context, object *unstructured.Unstructured) []Problem {
	gvk := object.GroupVersionKind()
	crd := s.crds[gvk.GroupKind()]
	if crd == nil {
		return nil
	}
	c, err := s.compile(crd, gvk)
	if err != nil {
		return []Problem{{Field: "apiVersion", Message: err.Error()}}
	}
	var problems []Problem
	content := object.DeepCopy().Object
	for _, path := range pruning.PruneWithOptions(content, c.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		problems = append(problems, Problem{Field: path, Message: "there is no such field", Unknown: true})
	}
	defaulting.Default(content, c.structural)
	found := validation.ValidateCustomResource(nil, content, c.validator)
	found = append(found, listtype.ValidateListSetsAndMaps(nil, c.structural, content)...)
	if len(found) == 0 && c.rules != nil {
		byRules, _ := c.rules.Validate(ctx, nil, c.structural, content, nil, celconfig.RuntimeCELCostBudget)
		found = append(found, byRules...)
	}
	return append(problems, problemsOf(found)...)
}

func problemsOf(found field.ErrorList) []Problem {
	unique := map[Problem]bool{}
	for _, err := range found {
		unique[Problem{Field: strings.TrimPrefix(err.Field, "<nil>"), Message: err.ErrorBody()}] = true
	}
	return slices.SortedFunc(maps.Keys(unique), func(a, b Problem) int { return strings.Compare(a.Field+a.Message, b.Field+b.Message) })
}

func (s *Schemas) compile(crd *apiextensionsv1.CustomResourceDefinition, gvk schema.GroupVersionKind) (*compiled, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if c := s.compiled[gvk]; c != nil {
		return c, nil
	}
	var versions []string
	for _, version := range crd.Spec.Versions {
		if version.Served {
			versions = append(versions, version.Name)
		}
		if version.Name != gvk.Version || !version.Served || version.Schema == nil || version.Schema.OpenAPIV3Schema == nil {
			continue
		}
		internal := &apiextensions.JSONSchemaProps{}
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, internal, nil); err != nil {
			return nil, err
		}
		structural, err := structuralschema.NewStructural(internal)
		if err != nil {
			return nil, err
		}
		validator, _, err := validation.NewSchemaValidator(internal)
		if err != nil {
			return nil, err
		}
		c := &compiled{structural: structural, validator: validator, rules: cel.NewValidator(structural, true, celconfig.PerCallLimit)}
		s.compiled[gvk] = c
		return c, nil
	}
	return nil, fmt.Errorf("%s is served in %s, not in %s", gvk.GroupKind(), strings.Join(versions, ", "), gvk.Version)
}
