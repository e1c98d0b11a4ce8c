// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	crdKind       = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
	namespaceKind = schema.GroupKind{Kind: "Namespace"}
	claimKind     = schema.GroupKind{Kind: "PersistentVolumeClaim"}
	serviceKind   = schema.GroupKind{Kind: "Service"}
	secretKind    = schema.GroupKind{Kind: "Secret"}
	jobKind       = schema.GroupKind{Group: "batch", Kind: "Job"}
	podKind       = schema.GroupKind{Kind: "Pod"}
)

var webhookKinds = []schema.GroupKind{
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"},
}

// wave is the turn in which an object is applied. Objects of one wave do not
// wait for one another; pruning goes through the waves backwards.
type wave int

const (
	// foundations are what others cannot exist without.
	foundations wave = iota
	// accounts come before what is made for them: tokens, bindings, pods.
	accounts
	// configuration is what workloads read when they start.
	configuration
	// workloads are also all kinds that are not named here.
	workloads
	// interceptors can block other requests while what stands behind them is
	// not running, so they come last.
	interceptors

	waves
)

// turn lists the kinds of each wave but the workloads.
var turn = map[wave][]schema.GroupKind{
	foundations: {namespaceKind, crdKind},
	accounts: {
		{Kind: "ServiceAccount"},
		{Kind: "ResourceQuota"},
		{Kind: "LimitRange"},
		{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"},
		{Group: "rbac.authorization.k8s.io", Kind: "Role"},
		{Group: "scheduling.k8s.io", Kind: "PriorityClass"},
		{Group: "node.k8s.io", Kind: "RuntimeClass"},
		{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration"},
	},
	configuration: {
		{Kind: "ConfigMap"},
		secretKind,
		serviceKind,
		{Kind: "Endpoints"},
		{Kind: "PersistentVolume"},
		claimKind,
		{Group: "discovery.k8s.io", Kind: "EndpointSlice"},
		{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"},
		{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"},
		{Group: "storage.k8s.io", Kind: "StorageClass"},
		{Group: "storage.k8s.io", Kind: "VolumeAttributesClass"},
		{Group: "storage.k8s.io", Kind: "CSIDriver"},
		{Group: "networking.k8s.io", Kind: "IngressClass"},
		{Group: "networking.k8s.io", Kind: "NetworkPolicy"},
		{Group: "policy", Kind: "PodDisruptionBudget"},
		{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema"},
	},
	interceptors: append(slices.Clone(webhookKinds), []schema.GroupKind{
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"},
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"},
		{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicy"},
		{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicyBinding"},
		{Group: "apiregistration.k8s.io", Kind: "APIService"},
	}...),
}

func waveOf(gk schema.GroupKind) wave {
	for w, gks := range turn {
		if slices.Contains(gks, gk) {
			return w
		}
	}
	return workloads
}
