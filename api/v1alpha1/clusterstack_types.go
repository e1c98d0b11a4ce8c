// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Channel is the kind of releases that a ClusterStack subscribes to.
// +kubebuilder:validation:Enum=stable;custom
type Channel string

const (
	// ChannelStable has the numbered releases: v1, v2, v3.
	ChannelStable Channel = "stable"
	// ChannelCustom has releases that somebody named: v1-custom.foo.
	ChannelCustom Channel = "custom"
)

// ReleasePhase says how far a release got.
type ReleasePhase string

const (
	// ReleasePhaseNone means that nothing was done yet.
	ReleasePhaseNone ReleasePhase = ""
	// ReleasePhaseDownloading means that the release is being fetched.
	ReleasePhaseDownloading ReleasePhase = "downloading release assets"
	// ReleasePhaseProvider means that the provider integration is at work.
	ReleasePhaseProvider ReleasePhase = "provider-specific work"
	// ReleasePhaseApplying means that the cluster class is being applied.
	ReleasePhaseApplying ReleasePhase = "applying objects"
	// ReleasePhaseDone means that the release can be used.
	ReleasePhaseDone ReleasePhase = "done"
)

// ClusterStackSpec says which releases of a cluster stack shall be usable.
// +kubebuilder:validation:XValidation:rule="(has(self.noProvider) && self.noProvider) || has(self.providerRef)",message="providerRef is required unless noProvider is true"
type ClusterStackSpec struct {
	// provider is the name of the infrastructure provider, as in the names of the releases.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="provider cannot be changed"
	Provider string `json:"provider"`

	// name of the cluster stack, as in the names of the releases.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="name cannot be changed"
	Name string `json:"name"`

	// kubernetesVersion is the minor version of Kubernetes, for example 1.36.
	// +required
	// +kubebuilder:validation:Pattern=`^\d\.\d+$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kubernetesVersion cannot be changed: make another ClusterStack for another minor version"
	KubernetesVersion string `json:"kubernetesVersion"`

	// channel of releases to subscribe to.
	// +optional
	// +kubebuilder:default:=stable
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="channel cannot be changed"
	Channel Channel `json:"channel,omitempty"`

	// versions that are always kept, for example v1 or v0-sha.abc1234.
	// +optional
	// +kubebuilder:validation:items:Pattern=`^v\d+(-\w+\.\w+)?$`
	Versions []string `json:"versions,omitempty"`

	// autoSubscribe makes the newest release of the channel usable as soon as it is published.
	// +optional
	// +kubebuilder:default:=true
	AutoSubscribe bool `json:"autoSubscribe"`

	// noProvider tells that nothing has to be done on the provider for a release to be usable.
	// +optional
	// +kubebuilder:default:=false
	NoProvider bool `json:"noProvider,omitempty"`

	// providerRef refers to the template from which the object of the provider integration is made
	// for each release. It is looked up in the namespace of the ClusterStack.
	// +optional
	ProviderRef *corev1.ObjectReference `json:"providerRef,omitempty"`
}

// ClusterStackStatus says which releases are usable.
type ClusterStackStatus struct {
	// latestRelease is the newest usable release and its Kubernetes version, as "<name> | <version>".
	// +optional
	LatestRelease string `json:"latestRelease,omitempty"`

	// summary has one entry for each release.
	// +optional
	Summary []ClusterStackReleaseSummary `json:"summary,omitempty"`

	// usableVersions are the versions that can be used, separated by ", ".
	// +optional
	UsableVersions string `json:"usableVersions,omitempty"`

	// observedGeneration is the generation that this status belongs to.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions of the ClusterStack.
	// +optional
	Conditions Conditions `json:"conditions,omitempty"`
}

// ClusterStackReleaseSummary tells how far one release got.
type ClusterStackReleaseSummary struct {
	// name is the version of the release in the form of release names, for example v0-sha-abc1234.
	Name string `json:"name"`
	// ready is true when the release can be used.
	Ready bool `json:"ready"`
	// phase says how far the release got.
	Phase ReleasePhase `json:"phase"`
	// message says what the release waits for.
	// +optional
	Message string `json:"message,omitempty"`
}

// ClusterStack asks for releases of one cluster stack for one minor version of Kubernetes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=clusterstacks,scope=Namespaced,shortName=csk
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels={"cluster.x-k8s.io/provider=cluster-stack-operator","cluster.x-k8s.io/v1beta1=v1beta1","clusterctl.cluster.x-k8s.io=","clusterctl.cluster.x-k8s.io/move-hierarchy="}
// +kubebuilder:printcolumn:name="Provider",type="string",JSONPath=".spec.provider"
// +kubebuilder:printcolumn:name="ClusterStack",type="string",JSONPath=".spec.name"
// +kubebuilder:printcolumn:name="K8s",type="string",JSONPath=".spec.kubernetesVersion"
// +kubebuilder:printcolumn:name="Channel",type="string",JSONPath=".spec.channel"
// +kubebuilder:printcolumn:name="Autosubscribe",type="string",JSONPath=".spec.autoSubscribe"
// +kubebuilder:printcolumn:name="Usable",type="string",JSONPath=".status.usableVersions"
// +kubebuilder:printcolumn:name="Latest",type="string",JSONPath=".status.latestRelease"
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the ClusterStack was created"
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason"
// +kubebuilder:printcolumn:name="Message",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].message"
type ClusterStack struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClusterStackSpec   `json:"spec,omitempty"`
	Status ClusterStackStatus `json:"status,omitempty"`
}

// GetConditions returns the conditions of the ClusterStack.
func (c *ClusterStack) GetConditions() Conditions { return c.Status.Conditions }

// SetConditions replaces the conditions of the ClusterStack.
func (c *ClusterStack) SetConditions(conditions Conditions) { c.Status.Conditions = conditions }

// ClusterStackList is a list of ClusterStacks.
//
// +kubebuilder:object:root=true
type ClusterStackList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterStack `json:"items"`
}
