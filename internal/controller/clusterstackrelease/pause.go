// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cluster-api/util/annotations"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstacks,verbs=get;list;watch

// paused says why a release is to be left as it is, and nothing if it is not: it is paused itself, its ClusterClass is,
// or all ClusterStacks are that ask for it.
func (r *Reconciler) paused(ctx context.Context, obj *v1alpha1.ClusterStackRelease) (string, error) {
	if annotations.HasPaused(obj) {
		return "the ClusterStackRelease is paused", nil
	}
	// clusterctl pauses classes while it moves them. What it has made here already must not be taken for somebody
	// else's, only because the inventory that names it is not here yet.
	if name, err := release.ParseName(obj.Name); err == nil {
		class := OwnedClasses()
		err := r.client.Get(ctx, client.ObjectKey{Namespace: obj.Namespace, Name: name.ClassName()}, class)
		if client.IgnoreNotFound(err) != nil {
			return "", fmt.Errorf("get ClusterClass %s: %w", name.ClassName(), err)
		}
		if err == nil && annotations.HasPaused(class) {
			return fmt.Sprintf("the ClusterClass %s is paused", class.GetName()), nil
		}
	}
	reason := ""
	for _, ref := range obj.OwnerReferences {
		if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != v1alpha1.GroupVersion.Group || ref.Kind != v1alpha1.ClusterStackKind {
			continue
		}
		stack := &v1alpha1.ClusterStack{}
		err := r.client.Get(ctx, client.ObjectKey{Namespace: obj.Namespace, Name: ref.Name}, stack)
		switch {
		case apierrors.IsNotFound(err):
			continue // its releases are collected
		case err != nil:
			return "", fmt.Errorf("get ClusterStack %s: %w", ref.Name, err)
		case !isPaused(stack):
			return "", nil
		}
		reason = fmt.Sprintf("the ClusterStack %s is paused", ref.Name)
	}
	return reason, nil
}

func isPaused(stack *v1alpha1.ClusterStack) bool {
	return stack.Spec.Paused || annotations.HasPaused(stack)
}

// stackChanged lets pass what matters about a ClusterStack to its releases: that it is paused or is not any
// longer, and where they come from and who has to have signed them.
func stackChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*v1alpha1.ClusterStack)
			after, ok2 := e.ObjectNew.(*v1alpha1.ClusterStack)
			return ok1 && ok2 && (isPaused(before) != isPaused(after) ||
				!equality.Semantic.DeepEqual(before.Spec.Source, after.Spec.Source) ||
				!equality.Semantic.DeepEqual(before.Spec.Verify, after.Spec.Verify))
		},
	}
}

// ofStack maps a ClusterStack to the releases that it asks for.
func (r *Reconciler) ofStack(ctx context.Context, stack client.Object) []reconcile.Request {
	list := &v1alpha1.ClusterStackReleaseList{}
	if err := r.client.List(ctx, list, client.InNamespace(stack.GetNamespace())); err != nil {
		// A cache that cannot list is not there; its watch would not have called us.
		ctrl.LoggerFrom(ctx).Error(err, "Listing ClusterStackReleases failed")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		for _, ref := range list.Items[i].OwnerReferences {
			if ref.Kind == v1alpha1.ClusterStackKind && ref.Name == stack.GetName() {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
			}
		}
	}
	return requests
}

// ofTrustedRoot maps a ConfigMap to the releases of the ClusterStacks whose trusted root it has.
func (r *Reconciler) ofTrustedRoot(ctx context.Context, obj client.Object) []reconcile.Request {
	list := &v1alpha1.ClusterStackList{}
	if err := r.client.List(ctx, list, client.InNamespace(obj.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Listing ClusterStacks failed")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if v := list.Items[i].Spec.Verify; v != nil && v.TrustedRootRef != nil && v.TrustedRootRef.Name == obj.GetName() {
			requests = append(requests, r.ofStack(ctx, &list.Items[i])...)
		}
	}
	return requests
}
