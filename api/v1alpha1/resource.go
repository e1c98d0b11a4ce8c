// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// ResourceStatus tells whether an object was brought into its cluster.
type ResourceStatus string

const (
	// ResourceStatusSynced means that the object was applied.
	ResourceStatusSynced ResourceStatus = "synced"
	// ResourceStatusNotSynced means that the object could not be applied.
	ResourceStatusNotSynced ResourceStatus = "not-synced"
)

// Resource names an object that was applied, or could not be.
type Resource struct {
	// group of the object, empty for the core group.
	// +optional
	Group string `json:"group,omitempty"`
	// version in which the object was applied.
	// +optional
	Version string `json:"version,omitempty"`
	// kind of the object.
	// +optional
	Kind string `json:"kind,omitempty"`
	// namespace of the object, empty for one of the whole cluster.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// name of the object.
	// +optional
	Name string `json:"name,omitempty"`
	// status is synced or not-synced.
	// +optional
	Status ResourceStatus `json:"status,omitempty"`
	// error tells why the object is not synced.
	// +optional
	Error string `json:"error,omitempty"`
}
