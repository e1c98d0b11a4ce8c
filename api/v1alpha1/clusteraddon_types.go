// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StagePhase says how far a stage got.
type StagePhase string

const (
	// StagePhaseNone means that the stage was not looked at yet.
	StagePhaseNone StagePhase = ""
	// StagePhasePending means that the stage waits for its turn.
	StagePhasePending StagePhase = "Pending"
	// StagePhaseWaitingForPreCondition means that the condition before the stage is not met.
	StagePhaseWaitingForPreCondition StagePhase = "waitingForPreCondition"
	// StagePhaseApplyingOrDeleting means that the addon is being applied or deleted.
	StagePhaseApplyingOrDeleting StagePhase = "applyingOrDeleting"
	// StagePhaseWaitingForPostCondition means that the addon is applied, and that the condition after
	// the stage is not met or its objects are not healthy yet where the stage asks for that.
	StagePhaseWaitingForPostCondition StagePhase = "waitingForPostCondition"
	// StagePhaseDone means that the stage is done.
	StagePhaseDone StagePhase = "done"
)

// ClusterAddonSpec names the Cluster. Users write nothing here.
// +kubebuilder:validation:XValidation:rule="self.clusterRef.name == oldSelf.clusterRef.name",message="clusterRef.name cannot be changed"
type ClusterAddonSpec struct {
	// clusterRef refers to the Cluster, which is in the same namespace.
	// +required
	// +kubebuilder:validation:XValidation:rule="has(self.kind) && self.kind == 'Cluster'",message="clusterRef must refer to a Cluster"
	// +kubebuilder:validation:XValidation:rule="has(self.name) && size(self.name) > 0",message="clusterRef must name a Cluster"
	ClusterRef *corev1.ObjectReference `json:"clusterRef"`

	// clusterStack is the name of the ClusterClass whose addons were applied last. It is written once
	// a rollout is finished.
	// +optional
	ClusterStack string `json:"clusterStack,omitempty"`

	// version of the addons that were applied last, in the form of release names. It is written once a
	// rollout is finished.
	// +optional
	Version string `json:"version,omitempty"`

	// hook is no longer used and always empty.
	// +optional
	Hook string `json:"hook,omitempty"`
}

// AddonRelease names a release and its content.
type AddonRelease struct {
	// name of the release.
	Name string `json:"name"`
	// digest of the release.
	// +optional
	Digest string `json:"digest,omitempty"`
	// kubernetesVersion that the release is made for.
	// +optional
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`
}

// StageStatus says how far one stage of a rollout got.
type StageStatus struct {
	// name of the addon.
	// +optional
	Name string `json:"name,omitempty"`
	// action is apply or delete.
	// +optional
	Action string `json:"action,omitempty"`
	// phase says how far the stage got.
	// +optional
	Phase StagePhase `json:"phase,omitempty"`
	// message says what the stage waits for.
	// +optional
	Message string `json:"message,omitempty"`
}

// InventorySummary counts the objects in the cluster that come from the addons.
type InventorySummary struct {
	// objects that the addons have in the cluster.
	Objects int32 `json:"objects"`
	// shared is how many of them were there before; they stay when the addons go.
	Shared int32 `json:"shared"`
}

// RolloutResult says how a rollout ended.
type RolloutResult string

const (
	// RolloutCompleted means that all stages were done.
	RolloutCompleted RolloutResult = "Completed"
	// RolloutSuperseded means that another release was wanted before all stages were done.
	RolloutSuperseded RolloutResult = "Superseded"
)

// RolloutHistory is a rollout that ended.
type RolloutHistory struct {
	// release whose addons were rolled out.
	Release AddonRelease `json:"release"`

	// result is Completed or Superseded.
	Result RolloutResult `json:"result"`

	// startTime is when the rollout began.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// endTime is when the rollout ended.
	// +optional
	EndTime *metav1.Time `json:"endTime,omitempty"`
}

// ClusterAddonStatus says how far the addons of a Cluster got. It is for people: the operator reads
// nothing of it back.
type ClusterAddonStatus struct {
	// resources are the objects that could not be applied.
	// +optional
	// +listType=atomic
	Resources []Resource `json:"resources,omitempty"`

	// stages of the rollout that is going on, or of the last one.
	// +optional
	// +listType=atomic
	Stages []StageStatus `json:"stages,omitempty"`

	// appliedRelease is the release whose addons are in the cluster.
	// +optional
	AppliedRelease *AddonRelease `json:"appliedRelease,omitempty"`

	// targetRelease is the release whose addons are on their way into the cluster.
	// +optional
	TargetRelease *AddonRelease `json:"targetRelease,omitempty"`

	// inventory counts the objects in the cluster that come from the addons.
	// +optional
	Inventory *InventorySummary `json:"inventory,omitempty"`

	// ready is true when the addons of the release that the Cluster uses are in the cluster.
	// +optional
	// +kubebuilder:default:=false
	Ready bool `json:"ready,omitempty"`

	// observedGeneration is the generation that this status belongs to.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// history has the last ten rollouts that ended, newest first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	History []RolloutHistory `json:"history,omitempty"`

	// conditions of the addons.
	// +optional
	Conditions Conditions `json:"conditions,omitempty"`
}

// ClusterAddon holds the addons of one Cluster. The operator makes one for each Cluster that uses a
// cluster stack, and for no other.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=clusteraddons,scope=Namespaced,shortName=caddon,categories={cluster-api,cluster-stack}
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels={"cluster.x-k8s.io/provider=cluster-stack-operator","cluster.x-k8s.io/v1beta1=v1beta1","clusterctl.cluster.x-k8s.io="}
// +kubebuilder:printcolumn:name="Cluster",type="string",JSONPath=".metadata.ownerReferences[?(@.kind==\"Cluster\")].name"
// +kubebuilder:printcolumn:name="Hook",type="string",JSONPath=".spec.hook"
// +kubebuilder:printcolumn:name="Ready",type="boolean",JSONPath=".status.ready"
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the ClusterAddon was created"
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason"
// +kubebuilder:printcolumn:name="Message",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].message"
// +kubebuilder:printcolumn:name="Applied",type="string",priority=10,JSONPath=".status.appliedRelease.name"
// +kubebuilder:printcolumn:name="Target",type="string",priority=10,JSONPath=".status.targetRelease.name"
// +kubebuilder:printcolumn:name="Paused",type="string",priority=10,JSONPath=".status.conditions[?(@.type=='Paused')].status"
type ClusterAddon struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClusterAddonSpec   `json:"spec,omitempty"`
	Status ClusterAddonStatus `json:"status,omitempty"`
}

// GetConditions returns the conditions of the addons.
func (a *ClusterAddon) GetConditions() Conditions { return a.Status.Conditions }

// SetConditions replaces the conditions of the addons.
func (a *ClusterAddon) SetConditions(conditions Conditions) { a.Status.Conditions = conditions }

// ClusterAddonList is a list of ClusterAddons.
//
// +kubebuilder:object:root=true
type ClusterAddonList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterAddon `json:"items"`
}
