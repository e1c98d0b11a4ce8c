// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package failure

import (
	_ "embed"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of Failure.
var GroupVersion = schema.GroupVersion{Group: "sandbox.clusterstack.x-k8s.io", Version: "v1alpha1"}

//go:embed crd/sandbox.clusterstack.x-k8s.io_failures.yaml
var crd []byte

// CRD returns the CustomResourceDefinition of Failure as YAML.
func CRD() []byte { return slices.Clone(crd) }

// AddToScheme makes a client know Failure.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Failure{}, &FailureList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
