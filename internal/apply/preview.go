// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Preview returns what [Applier.Apply] would send for a set, in the order in which it would begin with it: of two
// objects with the same ID the last one, each in its own namespace. Hooks come in the order in which they run. No
// cluster is asked, so the kinds of Kubernetes and those defined in the set are known, and every other object has a
// namespace if it names one or if others says so.
func Preview(set Set, others func(schema.GroupKind) (namespaced bool)) (objects []*unstructured.Unstructured, hooks []Hook, err error) {
	all := slices.Clone(set.Objects)
	for _, h := range set.Hooks {
		all = append(all, h.Object)
	}
	known := standardKinds(all, others)
	items, err := locateIn(known, set.Objects, definedKinds(all), set.Namespace)
	if err != nil {
		return nil, nil, err
	}
	slices.SortStableFunc(items, func(a, b *item) int { return int(a.wave) - int(b.wave) })
	for _, it := range items {
		if err := it.prepare(); err != nil {
			return nil, nil, err
		}
		objects = append(objects, it.object)
	}
	for _, h := range set.Hooks {
		items, err := locateIn(known, []*unstructured.Unstructured{h.Object}, definedKinds(all), set.Namespace)
		if err != nil {
			return nil, nil, err
		}
		if err := items[0].prepare(); err != nil {
			return nil, nil, err
		}
		h.Object = items[0].object
		hooks = append(hooks, h)
	}
	return objects, hooks, nil
}

// standardKinds has the kinds of the objects, as far as they are known without asking a cluster.
func standardKinds(objects []*unstructured.Unstructured, others func(schema.GroupKind) bool) *kinds {
	k := &kinds{served: map[schema.GroupKind][]resource{}}
	for _, obj := range objects {
		gvk := obj.GroupVersionKind()
		gk := gvk.GroupKind()
		var namespaced bool
		switch {
		case slices.Contains(standardGroups, gk.Group):
			namespaced = !slices.Contains(clusterWide[gk.Group], gk.Kind)
		case others != nil && others(gk):
			namespaced = true
		default:
			continue
		}
		k.served[gk] = append(k.served[gk], resource{
			GroupVersionResource: gvk.GroupVersion().WithResource(strings.ToLower(gk.Kind)), namespaced: namespaced,
		})
	}
	return k
}

// standardGroups are the API groups that each Kubernetes serves, or has served.
var standardGroups = []string{
	"", "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "apps", "autoscaling", "batch",
	"certificates.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io", "extensions", "flowcontrol.apiserver.k8s.io",
	"networking.k8s.io", "node.k8s.io", "policy", "rbac.authorization.k8s.io", "resource.k8s.io", "scheduling.k8s.io", "storage.k8s.io",
}

// clusterWide are the kinds of those groups whose objects have no namespace.
var clusterWide = map[string][]string{
	"": {"Namespace", "Node", "PersistentVolume", "ComponentStatus"},
	"admissionregistration.k8s.io": {
		"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingWebhookConfiguration",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
	},
	"apiextensions.k8s.io":         {"CustomResourceDefinition"},
	"apiregistration.k8s.io":       {"APIService"},
	"certificates.k8s.io":          {"CertificateSigningRequest", "ClusterTrustBundle"},
	"flowcontrol.apiserver.k8s.io": {"FlowSchema", "PriorityLevelConfiguration"},
	"networking.k8s.io":            {"IPAddress", "IngressClass", "ServiceCIDR"},
	"node.k8s.io":                  {"RuntimeClass"},
	"policy":                       {"PodSecurityPolicy"},
	"rbac.authorization.k8s.io":    {"ClusterRole", "ClusterRoleBinding"},
	"resource.k8s.io":              {"DeviceClass", "DeviceTaintRule", "ResourceSlice"},
	"scheduling.k8s.io":            {"PriorityClass"},
	"storage.k8s.io":               {"CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"},
}
