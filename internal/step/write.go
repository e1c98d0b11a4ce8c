// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package step

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// Patch changes metadata or spec of obj by one merge patch and leaves its status in memory alone,
// so that a step can call it after it has filled in a part of the status. Nothing is sent when change
// changes nothing. The patch is refused when obj was written by somebody else since it was read.
func Patch(ctx context.Context, c client.Client, obj client.Object, change func()) error {
	before := obj.DeepCopyObject().(client.Object)
	change()
	// Mostly there is nothing to send. The lock alone would make the patch differ.
	if equality.Semantic.DeepEqual(before, obj) {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	sent := obj.DeepCopyObject().(client.Object)
	if err := c.Patch(ctx, sent, patch); err != nil {
		return err
	}
	obj.SetResourceVersion(sent.GetResourceVersion())
	obj.SetGeneration(sent.GetGeneration())
	obj.SetManagedFields(sent.GetManagedFields())
	return nil
}

// writeStatus sends what differs between the status that is stored and that of obj, as one merge patch
// which the API server refuses if somebody else has written the object since. It sends nothing if nothing differs.
func writeStatus(ctx context.Context, c client.Client, stored, obj client.Object) error {
	before, err := statusOf(stored)
	if err != nil {
		return err
	}
	after, err := statusOf(obj)
	if err != nil {
		return err
	}
	if data, err := client.MergeFrom(before).Data(after); err != nil || string(data) == "{}" {
		return err
	}
	after.SetResourceVersion(obj.GetResourceVersion())
	data, err := client.MergeFrom(before).Data(after)
	if err != nil {
		return err
	}
	return c.Status().Patch(ctx, obj, client.RawPatch(types.MergePatchType, data))
}

// statusOf returns an object that has nothing but the status of obj.
func statusOf(obj client.Object) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{}}
	if status, ok := content["status"]; ok {
		u.Object["status"] = status
	}
	return u, nil
}

// report logs the transitions of a run and records them as events.
func report(ctx context.Context, p plan, obj Object, changed v1alpha1.Conditions, results []result) {
	failed := map[string]bool{}
	reached := map[string]bool{v1alpha1.ReadyCondition: true}
	for _, r := range results {
		reached[r.condition], failed[r.condition] = r.reached, r.err != nil
	}
	// All conditions of the line are met then, and to say so of each would tell one thing many times.
	readied := slices.ContainsFunc(changed, func(c v1alpha1.Condition) bool {
		return c.Type == v1alpha1.ReadyCondition && c.Status == metav1.ConditionTrue
	})
	log := ctrl.LoggerFrom(ctx)
	told := map[[3]string]bool{}
	for _, c := range changed {
		log.V(2).Info("Condition changed", "condition", c.Type, "status", c.Status, "reason", c.Reason, "message", c.Message)
		// Ready only repeats why a step is not done, so its way down is told by that step.
		if p.recorder == nil || !reached[c.Type] || (c.Type == v1alpha1.ReadyCondition && c.Status != metav1.ConditionTrue) {
			continue
		}
		if readied && c.Type != v1alpha1.ReadyCondition && c.Status == metav1.ConditionTrue {
			continue
		}
		kind, reason := corev1.EventTypeNormal, c.Reason
		if failed[c.Type] {
			kind = corev1.EventTypeWarning
		} else if c.Status == metav1.ConditionTrue {
			reason = c.Type // "Done" alone would not say what is
		}
		// A condition beside the line may say the same as the one of the line that it belongs to.
		fact := [3]string{kind, reason, c.Message}
		if told[fact] {
			continue
		}
		told[fact] = true
		p.recorder.Eventf(obj, nil, kind, reason, c.Type, "%s", c.Message)
		for _, other := range p.also {
			p.recorder.Eventf(other, obj, kind, reason, c.Type, "%s", c.Message)
		}
	}
}
