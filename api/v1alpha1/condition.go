// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConditionSeverity says how much a condition that is False matters. The operator no longer
// sets it; it is kept so that objects stored with it stay valid.
type ConditionSeverity string

// Condition is one observation about an object. Reason and message are always set by the
// operator, but are optional because objects stored by earlier versions lack them where the
// status is True.
type Condition struct {
	// type of the condition in CamelCase, unique within the list.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Type string `json:"type"`

	// status of the condition: True, False or Unknown.
	// +required
	Status metav1.ConditionStatus `json:"status"`

	// severity of a condition that is False: Error, Warning or Info. No longer set.
	// +optional
	Severity ConditionSeverity `json:"severity,omitempty"`

	// observedGeneration is the generation of the object that the condition was set for.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// lastTransitionTime is when the status changed last.
	// +required
	LastTransitionTime metav1.Time `json:"lastTransitionTime"`

	// reason for the status, one CamelCase word for programs.
	// +optional
	Reason string `json:"reason,omitempty"`

	// message for people: what is the matter, with which object, and what cures it.
	// +optional
	Message string `json:"message,omitempty"`
}

// Conditions is the list of conditions of an object.
// +listType=map
// +listMapKey=type
type Conditions []Condition

// Get returns the condition of that type, or nil when there is none.
func (c Conditions) Get(conditionType string) *Condition {
	for i := range c {
		if c[i].Type == conditionType {
			return &c[i]
		}
	}
	return nil
}

// IsTrue tells whether the condition of that type is there and True.
func (c Conditions) IsTrue(conditionType string) bool {
	condition := c.Get(conditionType)
	return condition != nil && condition.Status == metav1.ConditionTrue
}
