// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package failure has the kind Failure, by which a sandbox is told what to let go wrong in a workload cluster, and
// the decisions about it: whether it is in force, and what it hits. How the failure shows is the simulator's.
//
// A Failure describes a state rather than an event: what it names is broken as long as it is there, and heals when
// it is deleted or when its duration is over. So nothing is lost when the simulator is restarted in between.
//
// +groupName=sandbox.clusterstack.x-k8s.io
// +versionName=v1alpha1
package failure

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:generate go tool -modfile=../../../tools/go.mod controller-gen object crd paths=. output:crd:dir=crd

// Type says what goes wrong.
// +kubebuilder:validation:Enum=MachineMissing;NodeMissing;MachineDead;InfraMachineError;InfraClusterError;PodNotReady;PodCrashLoop;PodImagePull;EtcdDown;EtcdHung;EtcdSlow;APIServerDown;APIServerHung;APIServerSlow;LoadBalancerRefuses;LoadBalancerSilent;LoadBalancerResets
type Type string

// Failures of machines.
const (
	// MachineMissing: the provider does not make the machine; with a delay it makes it late.
	MachineMissing Type = "MachineMissing"
	// NodeMissing: the machine is there but does not join the cluster; with a delay it joins late.
	NodeMissing Type = "NodeMissing"
	// MachineDead: the machine is switched off. When it heals it boots again.
	MachineDead Type = "MachineDead"
	// InfraMachineError: the provider reports an error for the machine. One that runs goes on to run, a new one is
	// not made.
	InfraMachineError Type = "InfraMachineError"
)

// InfraClusterError is the failure of a cluster's infrastructure: the provider reports an error for it. A cluster
// that has its infrastructure keeps it, a new one gets none.
const InfraClusterError Type = "InfraClusterError"

// Failures of pods in the workload cluster.
const (
	// PodNotReady: containers run, but their readiness probes fail.
	PodNotReady Type = "PodNotReady"
	// PodCrashLoop: containers end as soon as they are started.
	PodCrashLoop Type = "PodCrashLoop"
	// PodImagePull: images cannot be pulled. Containers that run need no image any more and go on.
	PodImagePull Type = "PodImagePull"
)

// Failures of a program on machines of the control plane.
const (
	// EtcdDown and APIServerDown: the program is killed, and killed again whenever it is started.
	EtcdDown      Type = "EtcdDown"
	APIServerDown Type = "APIServerDown"
	// EtcdHung and APIServerHung: the program is there and holds its connections, and says nothing, as if its
	// machine were cut off from the network.
	EtcdHung      Type = "EtcdHung"
	APIServerHung Type = "APIServerHung"
	// EtcdSlow and APIServerSlow: the program runs for a tenth of a second after each pause of the delay's length.
	EtcdSlow      Type = "EtcdSlow"
	APIServerSlow Type = "APIServerSlow"
)

// Failures of the load balancer in front of the API servers.
const (
	// LoadBalancerRefuses: new connections are reset.
	LoadBalancerRefuses Type = "LoadBalancerRefuses"
	// LoadBalancerSilent: new connections are taken and never answered.
	LoadBalancerSilent Type = "LoadBalancerSilent"
	// LoadBalancerResets: all connections are reset again and again, after each delay.
	LoadBalancerResets Type = "LoadBalancerResets"
)

// Role is what a machine is in its cluster.
// +kubebuilder:validation:Enum=ControlPlane;Worker
type Role string

// The roles of machines.
const (
	ControlPlane Role = "ControlPlane"
	Worker       Role = "Worker"
)

// Machines says which machines of the cluster are hit: those that fulfil everything that is set.
// +kubebuilder:object:generate=true
type Machines struct {
	// names of Machines.
	// +optional
	Names []string `json:"names,omitempty"`

	// role of the machines.
	// +optional
	Role Role `json:"role,omitempty"`

	// selector by labels of the Machines.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// count is how many machines are hit at most, over the whole life of the Failure: the oldest that are there, and
	// then new ones as they come. Machines that were hit and are gone count too, so that the replacement of a
	// machine can succeed.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Count *int32 `json:"count,omitempty"`
}

// Pods says which pods of the workload cluster are hit: those that fulfil everything that is set. Static pods are
// never hit: they are as their programs are.
// +kubebuilder:object:generate=true
type Pods struct {
	// namespace of the pods, in the workload cluster.
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// names of pods.
	// +optional
	Names []string `json:"names,omitempty"`

	// selector by labels of the pods.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// container is the name of the one container that is hit; by default all but the init containers are.
	// +optional
	Container string `json:"container,omitempty"`
}

// Spec says what goes wrong, where, and how long.
// +kubebuilder:validation:XValidation:rule="self.type.startsWith('Pod') == has(self.pods)",message="pods says which pods are hit; it is required for the types that begin with Pod, and has no meaning for others"
// +kubebuilder:validation:XValidation:rule="!has(self.machines) || self.type in ['MachineMissing', 'NodeMissing', 'MachineDead', 'InfraMachineError', 'EtcdDown', 'EtcdHung', 'EtcdSlow', 'APIServerDown', 'APIServerHung', 'APIServerSlow']",message="machines has no meaning for this type"
// +kubebuilder:validation:XValidation:rule="!has(self.delay) || self.type in ['MachineMissing', 'NodeMissing', 'EtcdSlow', 'APIServerSlow', 'LoadBalancerResets']",message="delay has no meaning for this type"
// +kubebuilder:validation:XValidation:rule="!(has(self.percent) || has(self.seed)) || self.type.startsWith('LoadBalancer')",message="percent and seed are for the types that begin with LoadBalancer"
// +kubebuilder:validation:XValidation:rule="!(has(self.reason) || has(self.message) || has(self.terminal)) || self.type in ['InfraMachineError', 'InfraClusterError']",message="reason, message and terminal are for InfraMachineError and InfraClusterError"
// +kubebuilder:validation:XValidation:rule="!has(self.exitCode) || self.type == 'PodCrashLoop'",message="exitCode is for PodCrashLoop"
// +kubebuilder:object:generate=true
type Spec struct {
	// clusterName is the Cluster, in the namespace of the Failure, in which something goes wrong.
	// +required
	// +kubebuilder:validation:MinLength=1
	ClusterName string `json:"clusterName"`

	// type is what goes wrong.
	// +required
	Type Type `json:"type"`

	// duration after which it ends by itself, counted from the Failure's creation. By default it lasts until the
	// Failure is deleted.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be a duration that is longer than nothing, such as 30s"
	Duration *metav1.Duration `json:"duration,omitempty"`

	// machines that are hit; by default all of the cluster that the type can hit.
	// +optional
	Machines *Machines `json:"machines,omitempty"`

	// pods that are hit.
	// +optional
	Pods *Pods `json:"pods,omitempty"`

	// delay is how late a machine or node comes, counted from when the simulator would have made it (never, by
	// default); how long a slow program stands still each time (half a second by default); or the time between two
	// resets of connections (a second by default).
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be a duration that is longer than nothing, such as 30s"
	Delay *metav1.Duration `json:"delay,omitempty"`

	// percent of the connections that a load balancer treats badly; all by default.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`

	// seed decides which connections these are: the same one hits the same connections, in the order that they come.
	// +optional
	Seed *int64 `json:"seed,omitempty"`

	// reason that the provider reports, such as QuotaExceeded.
	// +optional
	// +kubebuilder:validation:Pattern=`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`
	Reason string `json:"reason,omitempty"`

	// message that the provider reports.
	// +optional
	Message string `json:"message,omitempty"`

	// terminal says that the provider has given up. By contract v1beta1 it then sets failureReason and
	// failureMessage; contract v1beta2 knows no terminal errors.
	// +optional
	Terminal bool `json:"terminal,omitempty"`

	// exitCode of containers that crash; 1 by default.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=255
	ExitCode *int32 `json:"exitCode,omitempty"`
}

// Status says what the failure does.
// +kubebuilder:object:generate=true
type Status struct {
	// conditions has Active: True while something is hit.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// machines are the names of the Machines that were hit so far, also of those that are gone since.
	// +optional
	Machines []string `json:"machines,omitempty"`
}

// Active is the condition that tells whether something is hit.
const Active = "Active"

// Reasons of the condition Active.
const (
	// ReasonHits: something is hit; the message names it.
	ReasonHits = "Hits"
	// ReasonNothingToHit: the failure is in force, but what it would hit is not there.
	ReasonNothingToHit = "NothingToHit"
	// ReasonOverruled: the failure is in force, but an older one that the message names decides about the same thing.
	ReasonOverruled = "Overruled"
	// ReasonInvalid: a label selector cannot be used; the message says why.
	ReasonInvalid = "Invalid"
	// ReasonEnded: the duration is over.
	ReasonEnded = "Ended"
)

// Failure is something that goes wrong in a workload cluster for as long as the Failure is there.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Cluster",type=string,JSONPath=`.spec.clusterName`
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Active",type=string,JSONPath=`.status.conditions[?(@.type=="Active")].status`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Active")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Failure struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +required
	Spec Spec `json:"spec"`
	// +optional
	Status Status `json:"status,omitzero"`
}

// FailureList is a list of Failures.
// +kubebuilder:object:root=true
type FailureList struct { //nolint:revive // Kubernetes' name for it
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []Failure `json:"items"`
}
