// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package crds brings the kinds of infrastructure providers into a sandbox: it finds
// CustomResourceDefinitions in whatever a provider publishes, makes them usable without the provider's
// manager, and installs them.
//
// Without the manager nobody converts between versions. So an object is stored in the version that
// follows Cluster API's contract, and Read warns where other versions differ from it.
package crds

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/contract"
)

// givenAnnotation marks what a user gave: when a sandbox is started again its own edition of the kind stays away.
const givenAnnotation = "sandbox.clusterstack.x-k8s.io/given"

// Set is what Read found.
type Set struct {
	CRDs []*apiextensionsv1.CustomResourceDefinition
	// Warnings are sentences for the user, about what is there but not as they may expect.
	Warnings []string
}

// Read reads CustomResourceDefinitions from files, folders and archives (.tar.gz, .tgz). A folder with a
// kustomization.yaml is read as kustomize would, without patches. Objects of other kinds are left out, so that the
// components file of a provider's release can be given as it is.
//
// Every path has to hold at least one. Of several with one name the last counts.
func Read(paths []string) (Set, error) {
	var set Set
	for _, path := range paths {
		found, err := find(path)
		if err != nil {
			return Set{}, fmt.Errorf("read CustomResourceDefinitions: %w", err)
		}
		if len(found.crds) == 0 {
			return Set{}, fmt.Errorf("read CustomResourceDefinitions: %s has none; give the CRDs of a provider, or the components file of its release", path)
		}
		if found.others > 0 {
			set.Warnings = append(set.Warnings, fmt.Sprintf("%s: objects of other kinds that were left out: %d", path, found.others))
		}
		set.CRDs = append(set.CRDs, found.crds...)
		set.Warnings = append(set.Warnings, adapt(path, found.crds)...)
	}
	set.CRDs = LastOfEach(set.CRDs)
	for _, crd := range set.CRDs {
		metav1.SetMetaDataAnnotation(&crd.ObjectMeta, givenAnnotation, "")
	}
	return set, nil
}

// LastOfEach leaves one CustomResourceDefinition of each name: a user may bring another edition of a kind
// that is there by default.
func LastOfEach(crds []*apiextensionsv1.CustomResourceDefinition) []*apiextensionsv1.CustomResourceDefinition {
	index := map[string]int{}
	var result []*apiextensionsv1.CustomResourceDefinition
	for _, crd := range crds {
		if i, ok := index[crd.Name]; ok {
			result[i] = crd
			continue
		}
		index[crd.Name] = len(result)
		result = append(result, crd)
	}
	return result
}

// adapt makes kinds usable without the manager of their provider, and tells what a user has to know.
func adapt(path string, crds []*apiextensionsv1.CustomResourceDefinition) (warnings []string) {
	var unlabelled []string
	differing := map[string][]string{} // names by the version to write
	for _, crd := range crds {
		preferred, labelled := contractVersion(crd)
		if !labelled {
			unlabelled = append(unlabelled, crd.Name)
		}
		if version, ok := withoutConversion(crd, preferred); !ok {
			differing[version] = append(differing[version], crd.Spec.Names.Plural)
		}
	}
	if len(unlabelled) > 0 {
		warnings = append(warnings, fmt.Sprintf("%s: no label cluster.x-k8s.io/v1beta1 or cluster.x-k8s.io/v1beta2 on %s; Cluster API cannot resolve references to these kinds. "+
			"The components file of a provider's release has these labels, and so has its folder config/crd with the kustomization", path, strings.Join(unlabelled, ", ")))
	}
	for _, version := range slices.Sorted(maps.Keys(differing)) {
		warnings = append(warnings, fmt.Sprintf("%s: write objects of %s as %s; their other versions differ, and the webhook that converts them does not run in a sandbox",
			path, strings.Join(differing[version], ", "), version))
	}
	return warnings
}

// contractVersion is the version of a kind that follows Cluster API's contract. Kinds of other groups follow none,
// and need no label.
func contractVersion(crd *apiextensionsv1.CustomResourceDefinition) (version string, ok bool) {
	kind, err := contract.Resolve(schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}, crd.Labels)
	if err != nil {
		return "", !strings.HasSuffix(crd.Spec.Group, ".cluster.x-k8s.io")
	}
	return kind.Version, true
}

// withoutConversion has objects stored as they are written. It answers the version to write, and whether the
// other versions that are served agree with it.
func withoutConversion(crd *apiextensionsv1.CustomResourceDefinition, preferred string) (version string, agree bool) {
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
	versions := crd.Spec.Versions
	// What is stored keeps only the fields of the stored version, so that has to be the one that is used.
	if i := slices.IndexFunc(versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == preferred && v.Served }); i >= 0 {
		for j := range versions {
			versions[j].Storage = i == j
		}
	}
	stored := slices.IndexFunc(versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Storage })
	if stored < 0 {
		return "", true // the API server refuses it, and says why
	}
	for _, v := range versions {
		if v.Served && !sameSchema(v.Schema, versions[stored].Schema) {
			return versions[stored].Name, false
		}
	}
	return versions[stored].Name, true
}

// sameSchema compares what schemas allow, not what they explain.
func sameSchema(a, b *apiextensionsv1.CustomResourceValidation) bool {
	return reflect.DeepEqual(bare(a), bare(b))
}

func bare(validation *apiextensionsv1.CustomResourceValidation) any {
	raw, err := json.Marshal(validation)
	if err != nil {
		return err.Error()
	}
	var schema any
	if err := json.Unmarshal(raw, &schema); err != nil {
		return err.Error()
	}
	return WithoutDescriptions(schema)
}

// WithoutDescriptions takes the texts out of a schema, or out of what has schemas in it. It changes the value itself.
func WithoutDescriptions(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, field := range v {
			// A property may have that name too; then the value is its schema.
			if _, text := field.(string); text && key == "description" {
				delete(v, key)
				continue
			}
			v[key] = WithoutDescriptions(field)
		}
	case []any:
		for i := range v {
			v[i] = WithoutDescriptions(v[i])
		}
	}
	return value
}
