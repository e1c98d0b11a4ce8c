// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

func TestKeys(t *testing.T) {
	machine := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "m"}}
	if got := machineKeys(machine); len(got) != 0 {
		t.Errorf("a Machine without infrastructure leads to %v", got)
	}
	machine.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{APIGroup: "infrastructure.cluster.x-k8s.io", Kind: "OpenStackMachine", Name: "x"}
	want := []key{{
		schema.GroupKind{Group: "infrastructure.cluster.x-k8s.io", Kind: "OpenStackMachine"},
		types.NamespacedName{Namespace: "n", Name: "x"},
	}}
	if diff := cmp.Diff(want, machineKeys(machine)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOwner(t *testing.T) {
	object := &unstructured.Unstructured{}
	object.SetOwnerReferences([]metav1.OwnerReference{
		{APIVersion: "addons.example.com/v1", Kind: "Cluster", Name: "other"},
		{APIVersion: "cluster.x-k8s.io/v1beta1", Kind: "Cluster", Name: "one"},
		{APIVersion: "controlplane.cluster.x-k8s.io/v1beta2", Kind: "KubeadmControlPlane", Name: "kcp"},
	})
	if got := owner(object, "Cluster"); got != "one" {
		t.Errorf("cluster %q, want the one of Cluster API's group in any version", got)
	}
	if got := owner(object, "Machine"); got != "" {
		t.Errorf("machine %q, want none", got)
	}
}

func TestClusterSpec(t *testing.T) {
	name := types.NamespacedName{Namespace: "n", Name: "c"}
	cases := map[string]struct {
		give clusterv1.ClusterNetwork
		want workload.Spec
	}{
		"Defaults": {clusterv1.ClusterNetwork{}, workload.Spec{NamespacedName: name, ServiceSubnet: "10.96.0.0/12", DNSDomain: "cluster.local"}},
		"Given": {
			clusterv1.ClusterNetwork{
				Pods:          clusterv1.NetworkRanges{CIDRBlocks: []string{"192.168.0.0/16", "fd01::/64"}},
				Services:      clusterv1.NetworkRanges{CIDRBlocks: []string{"10.128.0.0/12"}},
				ServiceDomain: "c.example.com",
			},
			workload.Spec{NamespacedName: name, PodSubnet: "192.168.0.0/16,fd01::/64", ServiceSubnet: "10.128.0.0/12", DNSDomain: "c.example.com"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cluster := &clusterv1.Cluster{
				ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"},
				Spec:       clusterv1.ClusterSpec{ClusterNetwork: c.give},
			}
			if diff := cmp.Diff(c.want, clusterSpec(cluster)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestSettled(t *testing.T) {
	resource := schema.GroupResource{Resource: "things"}
	cases := map[string]struct {
		err  error
		want bool
	}{
		"Conflict": {apierrors.NewConflict(resource, "x", errors.New("changed")), true},
		"Gone":     {apierrors.NewNotFound(resource, "x"), true},
		"Other":    {errors.New("broken"), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := settled(c.err) == nil; got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}
