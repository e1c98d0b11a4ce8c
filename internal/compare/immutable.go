// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Recreate is the annotation that allows the operator to delete an object and make it anew, and RecreateAllowed its value.
const (
	Recreate        = "clusterstack.x-k8s.io/recreate"
	RecreateAllowed = "allowed"
)

// fixed are fields of Kubernetes' own kinds that can only be set when an object is made. The operator asks the API server
// and needs no list; without a cluster this is what can be foretold. Custom resources may have such rules, too.
var fixed = map[schema.GroupKind]*regexp.Regexp{
	{Group: "apps", Kind: "Deployment"}:                               regexp.MustCompile(`^spec\.selector\b`),
	{Group: "apps", Kind: "ReplicaSet"}:                               regexp.MustCompile(`^spec\.selector\b`),
	{Group: "apps", Kind: "DaemonSet"}:                                regexp.MustCompile(`^spec\.selector\b`),
	{Group: "apps", Kind: "StatefulSet"}:                              regexp.MustCompile(`^spec\.(selector|serviceName|volumeClaimTemplates|podManagementPolicy)\b`),
	{Group: "batch", Kind: "Job"}:                                     regexp.MustCompile(`^spec\.(selector|template|completionMode|manualSelector|podFailurePolicy|backoffLimitPerIndex|managedBy)\b`),
	{Kind: "Service"}:                                                 regexp.MustCompile(`^spec\.(clusterIP|clusterIPs)\b`),
	{Kind: "PersistentVolumeClaim"}:                                   regexp.MustCompile(`^spec\.(accessModes|selector|storageClassName|volumeMode|volumeName|dataSource|dataSourceRef)\b`),
	{Kind: "Secret"}:                                                  regexp.MustCompile(`^type$`),
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:         regexp.MustCompile(`^roleRef\b`),
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:  regexp.MustCompile(`^roleRef\b`),
	{Group: "storage.k8s.io", Kind: "StorageClass"}:                   regexp.MustCompile(`^(provisioner|parameters|reclaimPolicy|volumeBindingMode)\b`),
	{Group: "storage.k8s.io", Kind: "CSIDriver"}:                      regexp.MustCompile(`^spec\.(attachRequired|volumeLifecycleModes)\b`),
	{Group: "node.k8s.io", Kind: "RuntimeClass"}:                      regexp.MustCompile(`^handler$`),
	{Group: "networking.k8s.io", Kind: "IngressClass"}:                regexp.MustCompile(`^spec\.controller$`),
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:               regexp.MustCompile(`^(value|preemptionPolicy)$`),
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: regexp.MustCompile(`^spec\.(group|scope|names\.(plural|kind))$`),
}

// content is what a ConfigMap or a Secret that is immutable keeps.
var content = regexp.MustCompile(`^(data|binaryData|stringData|immutable)\b`)

var definitionKind = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}

// definition notes versions of a kind that are no longer there.
func (c *Comparison) definition(old, next *unstructured.Unstructured) {
	of := func(definition *unstructured.Unstructured) map[string]map[string]any {
		list, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
		versions := map[string]map[string]any{}
		for _, item := range list {
			if v, is := item.(map[string]any); is {
				versions[fmt.Sprint(v["name"])] = v
			}
		}
		return versions
	}
	before, after := of(old), of(next)
	for _, name := range keysOfSets(before) {
		v, stays := after[name]
		switch {
		case !stays:
			c.problem(describe(next, false, Changed), "version %s is gone: the API server refuses that as long as status.storedVersions of the definition has it, and whoever uses it fails", name)
		case before[name]["served"] == true && v["served"] != true:
			c.problem(describe(next, false, Changed), "version %s is not served any more: whoever uses it fails", name)
		}
	}
}

// precious are kinds that the operator never makes anew: what they hold would go with them.
var precious = []string{"Namespace", "CustomResourceDefinition", "PersistentVolumeClaim", "PersistentVolume", "Node"}

// unchangeable notes changes that the API server will refuse, and what the operator makes of it.
func (c *Comparison) unchangeable(old Part, index map[id]*unstructured.Unstructured) {
	for _, obj := range old.Objects {
		next := index[idOf(obj, false)]
		if next != nil && obj.GroupVersionKind().GroupKind() == definitionKind {
			c.definition(obj, next)
		}
		form := fixed[obj.GroupVersionKind().GroupKind()]
		if next == nil {
			continue
		}
		var paths []string
		for _, f := range differences(obj.Object, next.Object) {
			frozen, _, _ := unstructured.NestedBool(obj.Object, "immutable")
			if form != nil && form.MatchString(f.Path) || frozen && content.MatchString(f.Path) {
				paths = append(paths, f.Path)
			}
		}
		if len(paths) == 0 {
			continue
		}
		c.problem(describe(next, false, Changed), "%s cannot be changed: %s", strings.Join(paths, ", "), fateOfChange(obj, next))
	}
}

func fateOfChange(old, next *unstructured.Unstructured) string {
	kind := next.GetKind()
	allowed := old.GetAnnotations()[Recreate] == RecreateAllowed || next.GetAnnotations()[Recreate] == RecreateAllowed
	switch {
	case slices.Contains(precious, kind):
		return "the operator reports that (reason ImmutableFieldChanged) and never makes the object anew; leave the field as it was"
	case kind == "Job" || kind == "Pod":
		return "the operator replaces the object once it has ended"
	case allowed:
		return "the operator deletes the object and makes it anew, as its annotation allows"
	}
	return "the operator reports that (reason ImmutableFieldChanged); leave the field as it was, or annotate the object with " +
		Recreate + "=" + RecreateAllowed + " to have it deleted and made anew"
}
