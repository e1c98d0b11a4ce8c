// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the kinds of group clusterstack.x-k8s.io: ClusterStack and
// ClusterAddonSettings, which a person writes, and ClusterStackRelease and ClusterAddon, which the
// operator writes.
//
// Everything that the first releases of this group stored stays readable: fields, names,
// defaults and condition types are kept, new fields are optional.
//
// +kubebuilder:object:generate=true
// +groupName=clusterstack.x-k8s.io
package v1alpha1
