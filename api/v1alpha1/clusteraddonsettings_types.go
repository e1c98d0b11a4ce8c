// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DriftPolicy says what is done about objects of addons that somebody else changed or deleted.
// +kubebuilder:validation:Enum=correct;warn;ignore
type DriftPolicy string

const (
	// DriftCorrect applies them again.
	DriftCorrect DriftPolicy = "correct"
	// DriftWarn tells of them and leaves them.
	DriftWarn DriftPolicy = "warn"
	// DriftIgnore does not look.
	DriftIgnore DriftPolicy = "ignore"
)

// ClusterAddonSettingsSpec says what is different about the addons of one Cluster.
type ClusterAddonSettingsSpec struct {
	// drift says what is done about objects of the addons that somebody else changed or deleted. Without
	// it they are corrected.
	// +optional
	Drift DriftPolicy `json:"drift,omitempty"`

	// watch looks for such changes all the time instead of every ten minutes. It costs one
	// watch per kind of object.
	// +optional
	Watch bool `json:"watch,omitempty"`

	// addons with settings of their own.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Addons []AddonSettings `json:"addons,omitempty"`
}

// AddonSettings says what is different about one addon of a Cluster.
type AddonSettings struct {
	// name of the addon, as in the stages of the release. The addons of a release that is a single
	// chart are called cluster-addon.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// disabled takes the addon out of the Cluster: it is not applied, and what it had is removed.
	// +optional
	Disabled bool `json:"disabled,omitempty"`

	// drift overrides the policy of all addons for this one.
	// +optional
	Drift DriftPolicy `json:"drift,omitempty"`

	// valuesFrom has values for the chart, which win over those of the release; later ones win over
	// earlier ones.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	ValuesFrom []ValuesReference `json:"valuesFrom,omitempty"`
}

// ValuesKind is the kind of an object that holds values.
// +kubebuilder:validation:Enum=ConfigMap;Secret
type ValuesKind string

const (
	// ValuesFromConfigMap refers to a ConfigMap.
	ValuesFromConfigMap ValuesKind = "ConfigMap"
	// ValuesFromSecret refers to a Secret.
	ValuesFromSecret ValuesKind = "Secret"
)

// DefaultValuesKey is the key of values where none is named.
const DefaultValuesKey = "values.yaml"

// ValuesReference refers to values in a ConfigMap or Secret in the namespace of the Cluster.
type ValuesReference struct {
	// kind is ConfigMap or Secret.
	// +required
	Kind ValuesKind `json:"kind"`

	// name of the ConfigMap or Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// key of the values, a YAML document.
	// +optional
	// +kubebuilder:default:="values.yaml"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`

	// optional lets the object or the key be missing. Otherwise the addon waits for it.
	// +optional
	Optional bool `json:"optional,omitempty"`
}

// ClusterAddonSettings says what is different about the addons of one Cluster: the one in the same
// namespace with the same name. What it comes to is told by the ClusterAddon.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=clusteraddonsettings,scope=Namespaced,shortName=caset,categories={cluster-api,cluster-stack}
// +kubebuilder:metadata:labels={"cluster.x-k8s.io/provider=cluster-stack-operator","cluster.x-k8s.io/v1beta1=v1beta1","clusterctl.cluster.x-k8s.io=","clusterctl.cluster.x-k8s.io/move="}
// +kubebuilder:printcolumn:name="Drift",type="string",JSONPath=".spec.drift"
// +kubebuilder:printcolumn:name="Watch",type="boolean",JSONPath=".spec.watch"
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the ClusterAddonSettings was created"
type ClusterAddonSettings struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ClusterAddonSettingsSpec `json:"spec,omitempty"`
}

// ClusterAddonSettingsList is a list of ClusterAddonSettings.
//
// +kubebuilder:object:root=true
type ClusterAddonSettingsList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterAddonSettings `json:"items"`
}
