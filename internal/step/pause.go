// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package step

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// Pause reports that an object is paused, once, and leaves all else in its status as it was. The first Run after
// the pause takes that back. Of the parts it heeds Tell and Clock.
func Pause(ctx context.Context, c client.Client, obj Object, message string, parts ...Part) error {
	if paused := obj.GetConditions().Get(v1alpha1.PausedCondition); paused != nil && paused.Status == metav1.ConditionTrue && paused.Message == message {
		return nil
	}
	p := plan{clock: clock.RealClock{}}
	for _, part := range parts {
		part.join(&p)
	}
	stored := obj.DeepCopyObject().(Object)
	rest := slices.DeleteFunc(slices.Clone(obj.GetConditions()), func(c v1alpha1.Condition) bool { return c.Type == v1alpha1.PausedCondition })
	obj.SetConditions(append(rest, v1alpha1.Condition{
		Type: v1alpha1.PausedCondition, Status: metav1.ConditionTrue, Reason: v1alpha1.PausedReason, Message: message,
		ObservedGeneration: obj.GetGeneration(), LastTransitionTime: metav1.NewTime(p.clock.Now()).Rfc3339Copy(),
	}))
	if err := client.IgnoreNotFound(writeStatus(ctx, c, stored, obj)); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if p.recorder != nil {
		p.recorder.Eventf(obj, nil, corev1.EventTypeNormal, v1alpha1.PausedReason, v1alpha1.PausedCondition, "%s", message)
	}
	return nil
}
