// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack

import (
	"context"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// fieldManager is the name under which the operator owns fields.
const fieldManager = "cluster-stack-operator"

// template reads the template of the provider integration, which is in the namespace of the ClusterStack
// whatever the reference says, and has its changes wake us.
func (w *work) template(ctx context.Context) (*unstructured.Unstructured, error) {
	ref := w.stack.Spec.ProviderRef
	if !strings.HasSuffix(ref.Kind, templateSuffix) {
		return nil, &specError{fmt.Errorf("spec.providerRef: kind %s does not end in %s", ref.Kind, templateSuffix)}
	}
	if err := releases.CheckProvider(w.options.ProviderGroups, ref); err != nil {
		return nil, &specError{err}
	}
	template := &unstructured.Unstructured{}
	template.SetAPIVersion(ref.APIVersion)
	template.SetKind(ref.Kind)
	if err := w.watchTemplate(ctx, template); err != nil {
		return nil, fmt.Errorf("watch %s: %w", ref.Kind, err)
	}
	if err := w.client.Get(ctx, client.ObjectKey{Namespace: w.stack.Namespace, Name: ref.Name}, template); err != nil {
		return nil, fmt.Errorf("get %s %s: %w", ref.Kind, ref.Name, err)
	}
	return template, nil
}

// applyProviderRelease makes the provider's object for a release like its template, and returns a reference to it.
// An object that is as it should be is not written.
func (w *work) applyProviderRelease(ctx context.Context, template *unstructured.Unstructured, name release.Name) (*corev1.ObjectReference, error) {
	obj, err := providerRelease(w.stack, template, name)
	if err != nil {
		return nil, err
	}
	what := obj.GetKind() + " " + obj.GetName()
	if err := w.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner(fieldManager), client.ForceOwnership); err != nil {
		return nil, fmt.Errorf("apply %s: %w", what, err)
	}
	return &corev1.ObjectReference{
		APIVersion: obj.GetAPIVersion(),
		Kind:       obj.GetKind(),
		Namespace:  obj.GetNamespace(),
		Name:       obj.GetName(),
		UID:        obj.GetUID(),
	}, nil
}

const templateSuffix = "Template"

// providerRelease returns the provider's object for a release: what the template says, named after the
// release, with the labels and annotations of the ClusterStack.
func providerRelease(stack *v1alpha1.ClusterStack, template *unstructured.Unstructured, name release.Name) (*unstructured.Unstructured, error) {
	spec, found, err := unstructured.NestedMap(template.Object, "spec", "template", "spec")
	if err != nil || !found {
		return nil, &specError{fmt.Errorf("%s %s has no spec.template.spec", template.GetKind(), template.GetName())}
	}
	labels, _, err := unstructured.NestedStringMap(template.Object, "spec", "template", "metadata", "labels")
	if err != nil {
		return nil, &specError{fmt.Errorf("%s %s: %w", template.GetKind(), template.GetName(), err)}
	}
	annotations, _, err := unstructured.NestedStringMap(template.Object, "spec", "template", "metadata", "annotations")
	if err != nil {
		return nil, &specError{fmt.Errorf("%s %s: %w", template.GetKind(), template.GetName(), err)}
	}
	obj := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	obj.SetAPIVersion(template.GetAPIVersion())
	obj.SetKind(strings.TrimSuffix(template.GetKind(), templateSuffix))
	obj.SetNamespace(stack.Namespace)
	obj.SetName(name.String())
	obj.SetLabels(merge(labels, stack.Labels))
	obj.SetAnnotations(merge(annotations, stack.Annotations))
	return obj, nil
}

// merge returns the entries of both maps, those of b winning, without what kubectl notes down about the
// object that it was applied to.
func merge(a, b map[string]string) map[string]string {
	if len(a)+len(b) == 0 {
		return nil
	}
	merged := make(map[string]string, len(a)+len(b))
	maps.Copy(merged, a)
	maps.Copy(merged, b)
	delete(merged, corev1.LastAppliedConfigAnnotation)
	return merged
}
