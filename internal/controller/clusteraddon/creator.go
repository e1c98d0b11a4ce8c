// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/predicates"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
)

// creator makes a ClusterAddon for each Cluster that uses a cluster stack, and for no other.
type creator struct {
	client      client.Client
	live        client.Reader
	watchFilter string
}

func (c *creator) setup(mgr ctrl.Manager, s Setup) error {
	log := mgr.GetLogger().WithValues("controller", "clusteraddon-creator")
	err := ctrl.NewControllerManagedBy(mgr).
		Named("clusteraddon-creator").
		For(&clusterv1.Cluster{}, builder.WithPredicates(
			predicates.ResourceHasFilterLabel(mgr.GetScheme(), log, s.WatchFilter),
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}),
		)).
		// A release that arrives after the Cluster adopts it.
		Watches(&v1alpha1.ClusterStackRelease{}, handler.EnqueueRequestsFromMapFunc(c.clustersOfRelease), builder.WithPredicates(onlyNew())).
		Watches(&v1alpha1.ClusterAddon{}, handler.EnqueueRequestsFromMapFunc(clusterOfAddon), builder.WithPredicates(onlyGone())).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, NewQueue: s.Controller.NewQueue}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), c))
	if err != nil {
		return fmt.Errorf("controller that makes ClusterAddons: %w", err)
	}
	return nil
}

// Reconcile makes the ClusterAddon of a Cluster if there is none and shall be one.
func (c *creator) Reconcile(ctx context.Context, cluster *clusterv1.Cluster) (ctrl.Result, error) {
	key, ours := releases.UsedBy(cluster)
	// Events of releases wake us for the Clusters of all shards.
	if !ours || !releases.InShard(cluster, c.watchFilter) || !cluster.DeletionTimestamp.IsZero() || annotations.IsPaused(cluster, cluster) {
		return ctrl.Result{}, nil
	}
	// The form of its name makes no class ours: somebody has to have asked for the release.
	rel := &v1alpha1.ClusterStackRelease{}
	err := c.client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name.String()}, rel)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("get ClusterStackRelease %s/%s: %w", key.Namespace, key.Name, err)
	}
	addon := &v1alpha1.ClusterAddon{}
	err = c.client.Get(ctx, client.ObjectKey{Namespace: cluster.Namespace, Name: v1alpha1.ClusterAddonName(cluster.Name)}, addon)
	if err == nil || !apierrors.IsNotFound(err) {
		return ctrl.Result{}, err
	}
	addon = clusterAddon(cluster)
	err = c.client.Create(ctx, addon)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return ctrl.Result{}, nil // the Cluster is about to be deleted, too
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return ctrl.Result{}, fmt.Errorf("create ClusterAddon %s: %w", addon.Name, err)
	}
	return ctrl.Result{}, nil
}

// ownerReference says that something goes with a Cluster.
func ownerReference(cluster *clusterv1.Cluster) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: clusterv1.GroupVersion.String(), Kind: clusterv1.ClusterKind, Name: cluster.Name, UID: cluster.UID,
	}
}

// clusterAddon returns the ClusterAddon of a Cluster as it is made.
func clusterAddon(cluster *clusterv1.Cluster) *v1alpha1.ClusterAddon {
	apiVersion := clusterv1.GroupVersion.String()
	addon := &v1alpha1.ClusterAddon{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       cluster.Namespace,
			Name:            v1alpha1.ClusterAddonName(cluster.Name),
			Finalizers:      []string{v1alpha1.ClusterAddonFinalizer},
			OwnerReferences: []metav1.OwnerReference{ownerReference(cluster)},
		},
		Spec: v1alpha1.ClusterAddonSpec{ClusterRef: &corev1.ObjectReference{
			APIVersion: apiVersion, Kind: clusterv1.ClusterKind, Namespace: cluster.Namespace, Name: cluster.Name, UID: cluster.UID,
		}},
	}
	// Whoever shards by this label wants a Cluster and its addons in one hand.
	if shard, is := cluster.Labels[clusterv1.WatchLabel]; is {
		addon.Labels = map[string]string{clusterv1.WatchLabel: shard}
	}
	return addon
}

func (c *creator) clustersOfRelease(ctx context.Context, obj client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, cluster := range clustersOf(ctx, c.client, obj) {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(cluster)})
	}
	return requests
}

func clusterOfAddon(_ context.Context, obj client.Object) []reconcile.Request {
	addon, ok := obj.(*v1alpha1.ClusterAddon)
	if !ok {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: addon.Namespace, Name: clusterName(addon)}}}
}

func onlyNew() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(event.UpdateEvent) bool { return false },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
}

func onlyGone() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	}
}
