// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // templates of existing stacks know no other shape
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Facts is what values templates can know about a cluster: .Cluster, .ControlPlane and .InfraCluster.
// The last two are nil where the Cluster refers to no such object.
type Facts struct {
	// Cluster has the v1beta1 shape, whatever version is stored: existing templates rely on it.
	Cluster      map[string]any
	ControlPlane map[string]any
	InfraCluster map[string]any
	// Values are what the user of the cluster sets for addons, by the name of the addon. Templates do not see
	// them. They win over what the values template makes: maps are merged, everything else is replaced, and null
	// takes a default of the chart away. They may be secret, so no error quotes them.
	Values map[string]map[string]any
}

// data returns the facts as templates see them. A key that is missing prints as "<no value>".
func (f Facts) data() map[string]any {
	data := map[string]any{"Cluster": f.Cluster}
	if f.ControlPlane != nil {
		data["ControlPlane"] = f.ControlPlane
	}
	if f.InfraCluster != nil {
		data["InfraCluster"] = f.InfraCluster
	}
	return data
}

// UnmarshalJSON reads whole numbers as such: as floating-point ones templates would print large ones
// in another form.
func (f *Facts) UnmarshalJSON(data []byte) error {
	var read struct {
		Cluster, ControlPlane, InfraCluster map[string]any
		Values                              map[string]map[string]any
	}
	if err := utiljson.Unmarshal(data, &read); err != nil {
		return err
	}
	objects := []map[string]any{read.Cluster, read.ControlPlane, read.InfraCluster}
	for _, values := range read.Values {
		objects = append(objects, values)
	}
	for _, object := range objects {
		if err := utiljson.ConvertMapNumbers(object, 0); err != nil {
			return err
		}
	}
	*f = Facts(read)
	return nil
}

// ClusterFacts returns the facts about a cluster. The Cluster is brought into its v1beta1 shape by
// Cluster API's own conversion, and its references by the objects given, which may be nil. The result
// shares nothing with the arguments.
func ClusterFacts(cluster *clusterv1.Cluster, controlPlane, infraCluster *unstructured.Unstructured) (Facts, error) {
	converted := &clusterv1beta1.Cluster{}
	// The conversion writes shared parts through, so it gets a copy.
	if err := clusterv1beta1.Convert_v1beta2_Cluster_To_v1beta1_Cluster(cluster.DeepCopy(), converted, nil); err != nil {
		return Facts{}, fmt.Errorf("bring Cluster %s/%s into its v1beta1 shape: %w", cluster.Namespace, cluster.Name, err)
	}
	converted.SetGroupVersionKind(clusterv1beta1.GroupVersion.WithKind("Cluster"))
	complete(converted, cluster, controlPlane, infraCluster)

	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(converted)
	if err != nil {
		return Facts{}, fmt.Errorf("bring Cluster %s/%s into its v1beta1 shape: %w", cluster.Namespace, cluster.Name, err)
	}
	// Who wrote which field is nobody's value.
	unstructured.RemoveNestedField(object, "metadata", "managedFields")
	return Facts{Cluster: object, ControlPlane: content(controlPlane), InfraCluster: content(infraCluster)}, nil
}

// complete adds what the generated conversion cannot know. Cluster API's webhooks do the same, with a
// client to look up the version of a reference; we have the object that it refers to.
func complete(converted *clusterv1beta1.Cluster, cluster *clusterv1.Cluster, controlPlane, infraCluster *unstructured.Unstructured) {
	spec := &converted.Spec
	spec.ControlPlaneRef = reference(cluster.Spec.ControlPlaneRef, cluster.Namespace, controlPlane)
	spec.InfrastructureRef = reference(cluster.Spec.InfrastructureRef, cluster.Namespace, infraCluster)
	if network := spec.ClusterNetwork; network != nil && network.APIServerPort != nil && *network.APIServerPort == 0 {
		network.APIServerPort = nil
	}
	if spec.Topology == nil {
		return
	}
	inNamespace := func(check *clusterv1beta1.MachineHealthCheckTopology) {
		if check != nil && check.RemediationTemplate != nil {
			check.RemediationTemplate.Namespace = cluster.Namespace
		}
	}
	inNamespace(spec.Topology.ControlPlane.MachineHealthCheck)
	if spec.Topology.Workers == nil {
		return
	}
	for i := range spec.Topology.Workers.MachineDeployments {
		deployment := &spec.Topology.Workers.MachineDeployments[i]
		inNamespace(deployment.MachineHealthCheck)
		if deployment.FailureDomain != nil && *deployment.FailureDomain == "" {
			deployment.FailureDomain = nil
		}
	}
}

func reference(ref clusterv1.ContractVersionedObjectReference, namespace string, object *unstructured.Unstructured) *corev1.ObjectReference {
	if !ref.IsDefined() {
		return nil
	}
	old := &corev1.ObjectReference{Kind: ref.Kind, Namespace: namespace, Name: ref.Name}
	if object != nil {
		old.APIVersion = object.GetAPIVersion()
	}
	return old
}

func content(object *unstructured.Unstructured) map[string]any {
	if object == nil {
		return nil
	}
	object = object.DeepCopy()
	object.SetManagedFields(nil)
	return object.Object
}
