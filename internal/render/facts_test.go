// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

func TestClusterFactsHaveTheShapeThatTemplatesKnow(t *testing.T) {
	cluster := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{
			Name: "my-cluster", Namespace: "customer",
			Labels:        map[string]string{"managed-secret": "cloud-config"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "somebody"}},
		},
		Spec: clusterv1.ClusterSpec{
			Paused:               ptr.To(false),
			ClusterNetwork:       clusterv1.ClusterNetwork{Pods: clusterv1.NetworkRanges{CIDRBlocks: []string{"192.168.0.0/16"}}, ServiceDomain: "cluster.local"},
			ControlPlaneEndpoint: clusterv1.APIEndpoint{Host: "10.0.0.7", Port: 6443},
			ControlPlaneRef:      clusterv1.ContractVersionedObjectReference{APIGroup: "controlplane.cluster.x-k8s.io", Kind: "KubeadmControlPlane", Name: "cp"},
			InfrastructureRef:    clusterv1.ContractVersionedObjectReference{APIGroup: "infrastructure.cluster.x-k8s.io", Kind: "DevCluster", Name: "infra"},
			Topology: clusterv1.Topology{
				ClassRef:  clusterv1.ClusterClassRef{Name: "docker-ferrol-1-35-v1"},
				Version:   "v1.35.4",
				Variables: []clusterv1.ClusterVariable{{Name: "flavor", Value: apiextensionsv1.JSON{Raw: []byte(`{"size": 3}`)}}},
				Workers:   clusterv1.WorkersTopology{MachineDeployments: []clusterv1.MachineDeploymentTopology{{Name: "md", Class: "default", Replicas: ptr.To[int32](2)}}},
			},
		},
		Status: clusterv1.ClusterStatus{Initialization: clusterv1.ClusterInitializationStatus{ControlPlaneInitialized: ptr.To(true)}},
	}
	before := cluster.DeepCopy()
	controlPlane := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "controlplane.cluster.x-k8s.io/v1beta2", "kind": "KubeadmControlPlane",
		"metadata": map[string]any{"name": "cp", "managedFields": []any{}},
	}}

	f, err := render.ClusterFacts(cluster, controlPlane, nil)
	if err != nil {
		t.Fatal(err)
	}
	const template = `
name: {{ .Cluster.metadata.name }}
is: {{ .Cluster.apiVersion }} {{ .Cluster.kind }}
class: {{ .Cluster.spec.topology.class }}
version: {{ .Cluster.spec.topology.version }}
host: {{ .Cluster.spec.controlPlaneEndpoint.host }}:{{ .Cluster.spec.controlPlaneEndpoint.port }}
pods: {{ index .Cluster.spec.clusterNetwork.pods.cidrBlocks 0 }}
apiServerPort: {{ .Cluster.spec.clusterNetwork.apiServerPort }}
flavor: {{ (index .Cluster.spec.topology.variables 0).value.size }}
workers: {{ (index .Cluster.spec.topology.workers.machineDeployments 0).replicas }}
controlPlane: {{ with .Cluster.spec.controlPlaneRef }}{{ .apiVersion }} {{ .kind }} {{ .namespace }} {{ .name }}{{ end }}
infrastructure: {{ with .Cluster.spec.infrastructureRef }}{{ .kind }} {{ .namespace }} {{ .name }}{{ end }}
ready: {{ .Cluster.status.controlPlaneReady }}
annotations: {{ .Cluster.metadata.annotations }}
managedFields: {{ .Cluster.metadata.managedFields }} {{ .ControlPlane.metadata.managedFields }}
itself: {{ .ControlPlane.kind }}
infra: {{ .InfraCluster }}
`
	got, err := render.Values([]byte(template), f)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"name":           "my-cluster",
		"is":             "cluster.x-k8s.io/v1beta1 Cluster",
		"class":          "docker-ferrol-1-35-v1",
		"version":        "v1.35.4",
		"host":           "10.0.0.7:6443",
		"pods":           "192.168.0.0/16",
		"apiServerPort":  "<no value>",
		"flavor":         3.0,
		"workers":        2.0,
		"controlPlane":   "controlplane.cluster.x-k8s.io/v1beta2 KubeadmControlPlane customer cp",
		"infrastructure": "DevCluster customer infra",
		"ready":          true,
		"annotations":    "<no value>",
		"managedFields":  "<no value> <no value>",
		"itself":         "KubeadmControlPlane",
		"infra":          "<no value>",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, cluster); diff != "" {
		t.Errorf("the Cluster that was given has changed:\n%s", diff)
	}
}

func TestClustersWithoutTopologyHaveFacts(t *testing.T) {
	f, err := render.ClusterFacts(&clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "plain"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.ControlPlane != nil || f.InfraCluster != nil {
		t.Error("objects that are not there have facts")
	}
	got, err := render.Values([]byte("a: {{ .Cluster.metadata.name }}"), f)
	if err != nil || got["a"] != "plain" {
		t.Errorf("%v, %v", got, err)
	}
}
