// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apitest builds API objects for tests in as few words as they need.
package apitest

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// Cluster returns a Cluster that asks for a version of Kubernetes with a class of its own namespace.
func Cluster(namespace, name, class, version string) *clusterv1.Cluster {
	cluster := &clusterv1.Cluster{
		TypeMeta:   metav1.TypeMeta{APIVersion: clusterv1.GroupVersion.String(), Kind: clusterv1.ClusterKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
	}
	Use(cluster, class, version)
	return cluster
}

// Use makes a Cluster ask for another class and version.
func Use(cluster *clusterv1.Cluster, class, version string) {
	cluster.Spec.Topology.ClassRef.Name = class
	cluster.Spec.Topology.Version = version
}

// Initialize says in the status of a Cluster that its control plane has answered.
func Initialize(cluster *clusterv1.Cluster) {
	done := true
	cluster.Status.Initialization.InfrastructureProvisioned = &done
	cluster.Status.Initialization.ControlPlaneInitialized = &done
}

// PlainCluster returns a Cluster without topology.
func PlainCluster(namespace, name string) *clusterv1.Cluster {
	cluster := Cluster(namespace, name, "", "")
	cluster.Spec.Topology = clusterv1.Topology{}
	// An empty spec is no Cluster at all.
	cluster.Spec.ClusterNetwork.ServiceDomain = "cluster.local"
	return cluster
}

// ClusterStackRelease returns a ClusterStackRelease.
func ClusterStackRelease(namespace, tag string) *v1alpha1.ClusterStackRelease {
	return &v1alpha1.ClusterStackRelease{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: v1alpha1.ClusterStackReleaseKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: tag},
	}
}
