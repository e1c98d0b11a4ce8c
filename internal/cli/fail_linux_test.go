// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestExplainInvalid: the object has no name yet, and its fields are not what a person has typed.
func TestExplainInvalid(t *testing.T) {
	spec := field.NewPath("spec")
	invalid := func(causes ...*field.Error) error {
		return apierrors.NewInvalid(schema.GroupKind{Group: "sandbox.clusterstack.x-k8s.io", Kind: "Failure"}, "", causes)
	}
	for name, tc := range map[string]struct {
		give error
		want string
	}{
		"Rule": {invalid(field.Invalid(spec, "object", "delay has no meaning for this type")), "delay has no meaning for this type"},
		"Number": {
			invalid(field.Invalid(spec.Child("percent"), 101, "spec.percent in body should be less than or equal to 100")),
			"101: spec.percent in body should be less than or equal to 100",
		},
		"Several": {invalid(field.Invalid(spec, "object", "this"), field.Invalid(spec, "object", "that")), "this; that"},
		"Other":   {errors.New("no connection"), "no connection"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := explainInvalid(tc.give).Error(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
