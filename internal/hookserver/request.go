// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
)

// Request is what we read of the requests of lifecycle hooks. The same version of a hook carries the Cluster in
// the shape of v1beta1 before Cluster API 1.13 and in that of v1beta2 since; the type of either would silently
// lose the class of the other, and with it the answer to whose Cluster it is.
type Request struct {
	metav1.TypeMeta `json:",inline"`

	Cluster               Cluster `json:"cluster"`
	FromKubernetesVersion string  `json:"fromKubernetesVersion,omitempty"`
	ToKubernetesVersion   string  `json:"toKubernetesVersion,omitempty"`
	// KubernetesVersion is what hooks after an upgrade have instead.
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`
}

// Cluster is what we read of the Cluster of a request.
type Cluster struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Metadata   struct {
		Namespace         string                     `json:"namespace,omitempty"`
		Name              string                     `json:"name,omitempty"`
		UID               types.UID                  `json:"uid,omitempty"`
		DeletionTimestamp *metav1.Time               `json:"deletionTimestamp,omitempty"`
		Annotations       map[string]json.RawMessage `json:"annotations,omitempty"`
	} `json:"metadata"`
	Spec struct {
		Topology struct {
			Version string `json:"version,omitempty"`
			// ClassRef is v1beta2's.
			ClassRef struct {
				Name      string `json:"name,omitempty"`
				Namespace string `json:"namespace,omitempty"`
			} `json:"classRef"`
			// Class and ClassNamespace are v1beta1's.
			Class          string `json:"class,omitempty"`
			ClassNamespace string `json:"classNamespace,omitempty"`
		} `json:"topology"`
	} `json:"spec"`
}

// class returns namespace and name of the ClusterClass, none for a Cluster without topology.
func (c *Cluster) class() types.NamespacedName {
	topology := c.Spec.Topology
	class := types.NamespacedName{Namespace: topology.ClassRef.Namespace, Name: topology.ClassRef.Name}
	if class.Name == "" {
		class = types.NamespacedName{Namespace: topology.ClassNamespace, Name: topology.Class}
	}
	if class.Namespace == "" {
		class.Namespace = c.Metadata.Namespace
	}
	return class
}

// DeepCopyObject makes a Request a runtime.Object. The server copies empty ones only; what a request has is read and
// never changed.
func (r *Request) DeepCopyObject() runtime.Object {
	copied := *r
	return &copied
}

// The functions below stand for the hooks of their names; Cluster API's catalog takes the name of a hook from that
// of a function.

// BeforeClusterCreate stands for the hook of that name.
func BeforeClusterCreate(*Request, *runtimehooksv1.BeforeClusterCreateResponse) {}

// AfterControlPlaneInitialized stands for the hook of that name.
func AfterControlPlaneInitialized(*Request, *runtimehooksv1.AfterControlPlaneInitializedResponse) {}

// BeforeClusterUpgrade stands for the hook of that name.
func BeforeClusterUpgrade(*Request, *runtimehooksv1.BeforeClusterUpgradeResponse) {}

// BeforeControlPlaneUpgrade stands for the hook of that name.
func BeforeControlPlaneUpgrade(*Request, *runtimehooksv1.BeforeControlPlaneUpgradeResponse) {}

// AfterControlPlaneUpgrade stands for the hook of that name.
func AfterControlPlaneUpgrade(*Request, *runtimehooksv1.AfterControlPlaneUpgradeResponse) {}

// BeforeWorkersUpgrade stands for the hook of that name.
func BeforeWorkersUpgrade(*Request, *runtimehooksv1.BeforeWorkersUpgradeResponse) {}

// AfterWorkersUpgrade stands for the hook of that name.
func AfterWorkersUpgrade(*Request, *runtimehooksv1.AfterWorkersUpgradeResponse) {}

// AfterClusterUpgrade stands for the hook of that name.
func AfterClusterUpgrade(*Request, *runtimehooksv1.AfterClusterUpgradeResponse) {}

// BeforeClusterDelete stands for the hook of that name.
func BeforeClusterDelete(*Request, *runtimehooksv1.BeforeClusterDeleteResponse) {}
