// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClusterStackReleaseSpec belongs to the operator.
type ClusterStackReleaseSpec struct {
	// providerRef refers to the object of the provider integration for this release. Without it
	// nothing has to be done on the provider.
	// +optional
	ProviderRef *corev1.ObjectReference `json:"providerRef,omitempty"`
}

// ClusterStackReleaseStatus says how far a release got.
type ClusterStackReleaseStatus struct {
	// resources are the objects of the cluster class.
	// +optional
	// +listType=atomic
	Resources []Resource `json:"resources,omitempty"`

	// kubernetesVersion of the release with its patch version, for example v1.36.3. Clusters that
	// use the release carry it in spec.topology.version.
	// +optional
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`

	// kubernetesPatches are the patch versions that Clusters of the release may have beside
	// kubernetesVersion: any, or a range such as 4-9 or 4-.
	// +optional
	KubernetesPatches string `json:"kubernetesPatches,omitempty"`

	// source is where the release was fetched from.
	// +optional
	Source string `json:"source,omitempty"`

	// digest of the release, fixed when it was fetched first. A source that later offers something
	// else under the same name is reported and not followed.
	// +optional
	Digest string `json:"digest,omitempty"`

	// verification says who signed the release. It is missing when nobody asked for a signature, or
	// when none was found and none is required.
	// +optional
	Verification *ReleaseVerification `json:"verification,omitempty"`

	// ready is true when Clusters can use the release.
	// +optional
	// +kubebuilder:default:=false
	Ready bool `json:"ready,omitempty"`

	// observedGeneration is the generation that this status belongs to.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions of the release.
	// +optional
	Conditions Conditions `json:"conditions,omitempty"`
}

// ReleaseVerification is what the check of a signature came to.
type ReleaseVerification struct {
	// by is the signer: the fingerprint of a key, or subject and issuer of a certificate.
	By string `json:"by"`
}

// ClusterStackRelease is one release of a cluster stack; its name is the name of the release.
// The operator makes and removes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=clusterstackreleases,scope=Namespaced,shortName=cskr,categories={cluster-api,cluster-stack}
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels={"cluster.x-k8s.io/provider=cluster-stack-operator","cluster.x-k8s.io/v1beta1=v1beta1","clusterctl.cluster.x-k8s.io="}
// +kubebuilder:printcolumn:name="K8s Version",type="string",JSONPath=".status.kubernetesVersion"
// +kubebuilder:printcolumn:name="Ready",type="boolean",JSONPath=".status.ready"
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the ClusterStackRelease was created"
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason"
// +kubebuilder:printcolumn:name="Message",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].message"
// +kubebuilder:printcolumn:name="Paused",type="string",priority=10,JSONPath=".status.conditions[?(@.type=='Paused')].status"
type ClusterStackRelease struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClusterStackReleaseSpec   `json:"spec,omitempty"`
	Status ClusterStackReleaseStatus `json:"status,omitempty"`
}

// GetConditions returns the conditions of the release.
func (r *ClusterStackRelease) GetConditions() Conditions { return r.Status.Conditions }

// SetConditions replaces the conditions of the release.
func (r *ClusterStackRelease) SetConditions(conditions Conditions) { r.Status.Conditions = conditions }

// ClusterStackReleaseList is a list of ClusterStackReleases.
//
// +kubebuilder:object:root=true
type ClusterStackReleaseList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterStackRelease `json:"items"`
}
