// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package stacks_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

const openStackCRDs = "../test/sandbox/providers/testdata/openstack-crds.yaml"

// Cluster API itself makes a cluster of each class, with no variable set and with all of them.
func TestVariablesReachOpenStack(t *testing.T) {
	config := sandboxtest.Management(t, sandboxtest.WithCRDs(openStackCRDs)).Config()
	// All minors have the same templates, by links.
	for _, folder := range slices.Sorted(slices.Values(foldersOf(t, "openstack")))[:1] {
		rel := open(t, folder, "v1")
		version := rel.Metadata.Kubernetes
		for name, tt := range map[string]struct {
			variables string
			// wanted in the specifications of the OpenStackCluster, and of the machines of the control plane and of the workers.
			cluster, controlPlane, worker string
		}{
			"defaults": {
				cluster: `
identityRef: {name: openstack, cloudName: openstack}
apiServerLoadBalancer: {enabled: true}
managedSubnets: [{cidr: 10.8.0.0/20, dnsNameservers: [9.9.9.9, 149.112.112.112]}]`,
				controlPlane: `{flavor: SCS-2V-4, image: {filter: {name: ubuntu-capi-image-` + version + `}}, rootVolume: {sizeGiB: 50}}`,
				worker:       `{flavor: SCS-2V-4, image: {filter: {name: ubuntu-capi-image-` + version + `}}, rootVolume: {sizeGiB: 50}}`,
			},
			"all": {
				variables: `
identityRef: {name: clouds-yaml, cloudName: mine, region: west}
imageName: my-image
imageAddVersion: false
controlPlaneFlavor: large
controlPlaneRootDisk: 0
controlPlaneServerGroupID: 11111111-2222-3333-4444-555555555555
workerFlavor: huge
workerRootDisk: 120
workerRootDiskType: ssd
workerServerGroupID: 66666666-2222-3333-4444-555555555555
controlPlaneAvailabilityZones: [a, b]
sshKeyName: admin
nodeCIDR: 10.20.0.0/16
dnsNameservers: [192.0.2.53]
externalNetworkName: public
apiServerFloatingIP: 192.0.2.10
disableAPIServerFloatingIP: true
apiServerLoadBalancer: {provider: ovn, allowedCIDRs: [192.0.2.0/24, 10.20.0.0/16]}
certSANs: [api.example.org]`,
				cluster: `
identityRef: {name: clouds-yaml, cloudName: mine, region: west}
apiServerLoadBalancer: {enabled: true, provider: ovn, allowedCIDRs: [192.0.2.0/24, 10.20.0.0/16]}
apiServerFloatingIP: 192.0.2.10
disableAPIServerFloatingIP: true
controlPlaneAvailabilityZones: [a, b]
externalNetwork: {filter: {name: public}}
managedSubnets: [{cidr: 10.20.0.0/16, dnsNameservers: [192.0.2.53]}]`,
				controlPlane: `{flavor: large, image: {filter: {name: my-image}}, serverGroup: {id: 11111111-2222-3333-4444-555555555555}, sshKeyName: admin}`,
				worker:       `{flavor: huge, image: {filter: {name: my-image}}, rootVolume: {sizeGiB: 120, type: ssd}, serverGroup: {id: 66666666-2222-3333-4444-555555555555}, sshKeyName: admin}`,
			},
		} {
			t.Run(folder+"/"+name, func(t *testing.T) {
				c := clustertest.Connect(t, config)
				namespace := strings.NewReplacer("/", "-").Replace(folder) + "-" + name
				create(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
				class, err := render.Class(rel, namespace)
				if err != nil {
					t.Fatal(err)
				}
				for _, object := range class.Objects {
					object.SetNamespace(namespace)
					create(t, c, object)
				}
				cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: namespace}}
				cluster.Spec.Topology = clusterv1.Topology{ClassRef: clusterv1.ClusterClassRef{Name: rel.Name.ClassName()}, Version: version, Variables: variables(t, tt.variables)}
				cluster.Spec.Topology.ControlPlane.Replicas = new(int32(1))
				cluster.Spec.Topology.Workers.MachineDeployments = []clusterv1.MachineDeploymentTopology{{Class: "default-worker", Name: "md-0", Replicas: new(int32(1))}}
				create(t, c, cluster)

				infra := await(t, c, namespace, "OpenStackCluster", "")
				delete(infra, "controlPlaneEndpoint")
				delete(infra, "managedSecurityGroups") // as the class has it
				compare(t, "OpenStackCluster", tt.cluster, infra)
				machine := func(labels string) map[string]any {
					spec := await(t, c, namespace, "OpenStackMachineTemplate", labels)
					inner, _, err := unstructured.NestedMap(spec, "template", "spec")
					if err != nil {
						t.Fatal(err)
					}
					return inner
				}
				compare(t, "control plane", tt.controlPlane, machine("!"+clusterv1.ClusterTopologyMachineDeploymentNameLabel))
				compare(t, "worker", tt.worker, machine(clusterv1.ClusterTopologyMachineDeploymentNameLabel))
				if name == "all" {
					list := &unstructured.UnstructuredList{}
					list.SetGroupVersionKind(schema.GroupVersionKind{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmControlPlaneList"})
					if err := c.List(t.Context(), list, client.InNamespace(namespace)); err != nil || len(list.Items) != 1 {
						t.Fatalf("%d control planes, %v", len(list.Items), err)
					}
					names, _, err := unstructured.NestedStringSlice(list.Items[0].Object, "spec", "kubeadmConfigSpec", "clusterConfiguration", "apiServer", "certSANs")
					if diff := cmp.Diff([]string{"api.example.org"}, names); err != nil || diff != "" {
						t.Error(diff, err)
					}
				}
				if err := c.Delete(t.Context(), cluster); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func create(t *testing.T, c client.Client, object client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), object); err != nil {
		t.Fatalf("%T %s: %v", object, object.GetName(), err)
	}
}

func variables(t *testing.T, text string) []clusterv1.ClusterVariable {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	var all []clusterv1.ClusterVariable
	for name, value := range values {
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, clusterv1.ClusterVariable{Name: name, Value: apiextensionsv1.JSON{Raw: data}})
	}
	return all
}

// await returns the specification of the only object of a kind that has the labels, once it is there.
func await(t *testing.T, c client.WithWatch, namespace, kind, labels string) map[string]any {
	t.Helper()
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta1", Kind: kind + "List"})
	var spec map[string]any
	clustertest.Await(t, c, 3*time.Minute, list, func(list *unstructured.UnstructuredList) error {
		var found []map[string]any
		for _, item := range list.Items {
			// The class's own templates belong to no cluster.
			if _, ours := item.GetLabels()[clusterv1.ClusterNameLabel]; !ours {
				continue
			}
			_, worker := item.GetLabels()[clusterv1.ClusterTopologyMachineDeploymentNameLabel]
			if labels == "" || worker == !strings.HasPrefix(labels, "!") {
				inner, _, err := unstructured.NestedMap(item.Object, "spec")
				if err != nil {
					return err
				}
				found = append(found, inner)
			}
		}
		if len(found) != 1 {
			return fmt.Errorf("%d objects %s", len(found), kind)
		}
		spec = found[0]
		return nil
	}, client.InNamespace(namespace))
	return spec
}

func compare(t *testing.T, what, want string, got map[string]any) {
	t.Helper()
	wanted := map[string]any{}
	if err := yaml.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	// Numbers of both in one type.
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	got = map[string]any{}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}
