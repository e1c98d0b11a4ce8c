// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"errors"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
)

// resources says for each object of the cluster class whether it is in place, in the order of their IDs.
func resources(wanted []apply.ID, objects []*unstructured.Unstructured, report apply.Report, err error) []v1alpha1.Resource {
	// The inventory names objects without version; the version shown is the one in the chart.
	versions := map[schema.GroupKind]string{}
	for _, obj := range objects {
		gvk := obj.GroupVersionKind()
		versions[gvk.GroupKind()] = gvk.Version
	}
	inPlace := slices.Concat(report.Applied, report.Unchanged)
	problems := map[apply.ID]string{}
	var incomplete *apply.IncompleteError
	if errors.As(err, &incomplete) {
		for _, c := range incomplete.Conflicts {
			problems[c.ID] = "fields belong to " + c.Manager
		}
		for _, f := range incomplete.Failed {
			problems[f.ID] = f.Err.Error()
		}
	}
	list := make([]v1alpha1.Resource, 0, len(wanted))
	for _, id := range wanted {
		resource := v1alpha1.Resource{
			Group: id.Group, Version: versions[id.GroupKind()], Kind: id.Kind, Namespace: id.Namespace, Name: id.Name,
			Status: v1alpha1.ResourceStatusNotSynced, Error: problems[id],
		}
		if slices.Contains(inPlace, id) {
			resource.Status = v1alpha1.ResourceStatusSynced
		}
		list = append(list, resource)
	}
	return list
}
