// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// once records the events of one pass. That the cluster has the addons of a release tells all that Ready would tell
// in the same pass.
type once struct {
	events.EventRecorder
	finished bool
}

func (o *once) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	if o.finished && reason == v1alpha1.ReadyCondition {
		return
	}
	o.finished = o.finished || reason == v1alpha1.RolloutFinishedReason
	o.EventRecorder.Eventf(regarding, related, kind, reason, action, note, args...)
}

// othersChanges lets pass what others change about a ClusterAddon. What we write ourselves we know.
func othersChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		if e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero() {
			return true
		}
		before, after := maps.Clone(e.ObjectOld.GetAnnotations()), maps.Clone(e.ObjectNew.GetAnnotations())
		recordBefore, recordAfter := before[v1alpha1.RolloutAnnotation], after[v1alpha1.RolloutAnnotation]
		// The write that ends a rollout takes what was asked for away, and says in the spec what is applied.
		ours := wroteRecord(e.ObjectOld, e.ObjectNew)
		if ours && after[v1alpha1.LifecyclePointAnnotation] == "" {
			delete(before, v1alpha1.LifecyclePointAnnotation)
		}
		for _, annotations := range []map[string]string{before, after} {
			delete(annotations, v1alpha1.ClusterAddonStageAnnotation)
			delete(annotations, v1alpha1.RolloutAnnotation)
		}
		return !maps.Equal(before, after) ||
			!ours && (recordBefore != recordAfter || e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration()) ||
			!equality.Semantic.DeepEqual(e.ObjectOld.GetFinalizers(), e.ObjectNew.GetFinalizers())
	}}
}

// wroteRecord tells whether a change of the record is one that we make, and all of the spec that has changed says what the
// record says. Somebody who restores a backup over a ClusterAddon changes both as well. In doubt it is not ours: one more
// pass costs little.
func wroteRecord(before, after client.Object) bool {
	textBefore, textAfter := before.GetAnnotations()[v1alpha1.RolloutAnnotation], after.GetAnnotations()[v1alpha1.RolloutAnnotation]
	was, err := rollout.ParseRecord(textBefore)
	is, errAfter := rollout.ParseRecord(textAfter)
	if textAfter == "" || textAfter == textBefore || err != nil || errAfter != nil {
		return false
	}
	finished := is.Rollout != nil && is.Rollout.Finished
	if finished && textBefore != "" && (was.Rollout == nil || was.Rollout.Passage != is.Rollout.Passage) {
		return false // a rollout is written down before it ends, but for the very first
	}
	if before.GetGeneration() == after.GetGeneration() {
		return true
	}
	addon, ok := after.(*v1alpha1.ClusterAddon)
	return ok && finished && is.Applied != nil && addon.Spec.ClusterStack == is.Applied.Class && addon.Spec.Hook == ""
}

// clusterChanges lets pass what about a Cluster matters for its addons: what its user wants, whether it can be
// reached, and what a values template may look at. Its status changes all the time while it comes up.
func clusterChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*clusterv1.Cluster)
		after, ok2 := e.ObjectNew.(*clusterv1.Cluster)
		return !ok1 || !ok2 ||
			before.Generation != after.Generation ||
			before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
			initialized(before) != initialized(after) ||
			!sameMachines(before, after) ||
			!maps.Equal(before.Labels, after.Labels) ||
			!maps.Equal(before.Annotations, after.Annotations)
	}}
}

func sameMachines(a, b *clusterv1.Cluster) bool {
	same := func(a, b rollout.Machines) bool {
		return slices.Equal(a.Versions, b.Versions) && slices.Equal(a.Plan, b.Plan)
	}
	controlPlaneA, workersA, noneA := machines(a)
	controlPlaneB, workersB, noneB := machines(b)
	return same(controlPlaneA, controlPlaneB) && same(workersA, workersB) && noneA == noneB
}

// releaseChanges lets pass what about a ClusterStackRelease matters for those who use it: whether it is there,
// which content it stands for, and whether it can be used.
func releaseChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*v1alpha1.ClusterStackRelease)
		after, ok2 := e.ObjectNew.(*v1alpha1.ClusterStackRelease)
		return !ok1 || !ok2 || before.Status.Digest != after.Status.Digest || before.Status.Ready != after.Status.Ready
	}}
}

// clustersOf returns the Clusters of all namespaces that use the release of a ClusterStackRelease. They are the
// cache's: nobody may change them.
func clustersOf(ctx context.Context, reader client.Reader, obj client.Object) []*clusterv1.Cluster {
	list := &clusterv1.ClusterList{}
	if err := reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		// A cache that cannot list is not there; its watch would not have called us.
		ctrl.LoggerFrom(ctx).Error(err, "Listing Clusters failed")
		return nil
	}
	var users []*clusterv1.Cluster
	for i := range list.Items {
		key, ours := releases.UsedBy(&list.Items[i])
		if ours && key.Namespace == obj.GetNamespace() && key.Name.String() == obj.GetName() {
			users = append(users, &list.Items[i])
		}
	}
	return users
}
