// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clusterstack keeps the releases that a ClusterStack asks for.
//
// It decides which ClusterStackReleases there shall be, makes and deletes them, makes the object of
// the provider integration for each, and sums up how far they got. Fetching a release and applying its
// cluster class is up to the controller of the ClusterStackRelease.
package clusterstack

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/external"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/predicates"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstacks,verbs=get;list;watch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstacks/status,verbs=patch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddons,verbs=get;list;watch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch
// +kubebuilder:rbac:groups=infrastructure.clusterstack.x-k8s.io,resources=*,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Lister knows what sources of releases offer.
type Lister interface {
	Listing(ctx context.Context, stack *v1alpha1.ClusterStack) releases.Listing
}

// Reconciler brings ClusterStacks in line with their spec and with what the source offers.
type Reconciler struct {
	client client.Client
	// live reads past the cache, for what must not be decided on old news.
	live     client.Reader
	lister   Lister
	recorder events.EventRecorder
	options  Options
	// watchFilter is set with the manager.
	watchFilter string
	// watchTemplate wakes us when templates of that kind change. It does nothing without a manager.
	watchTemplate func(ctx context.Context, template *unstructured.Unstructured) error
}

// Options are settings whose zero value works.
type Options struct {
	// ProviderGroups are the API groups that spec.providerRef may name, releases.ProviderGroups() by default.
	ProviderGroups []string
}

// New returns a Reconciler. It reads through c, and through live where an answer of the cache would
// not do.
func New(c client.Client, live client.Reader, lister Lister, recorder events.EventRecorder, o Options) *Reconciler {
	if o.ProviderGroups == nil {
		o.ProviderGroups = releases.ProviderGroups()
	}
	return &Reconciler{
		client: c, live: live, lister: lister, recorder: recorder, options: o,
		watchTemplate: func(context.Context, *unstructured.Unstructured) error { return nil },
	}
}

// Setup is what the manager needs to know about this controller.
type Setup struct {
	// Controller has the concurrency and the like.
	Controller controller.Options
	// WatchFilter is the value of the label cluster.x-k8s.io/watch-filter of objects to look at, empty for all.
	WatchFilter string
	// Offers wakes all ClusterStacks, when what the source offers has changed.
	Offers source.Source
}

// SetupWithManager makes the manager run this controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, s Setup) error {
	r.watchFilter = s.WatchFilter
	log := mgr.GetLogger().WithValues("controller", "clusterstack")
	b := ctrl.NewControllerManagedBy(mgr).
		Named("clusterstack").
		For(&v1alpha1.ClusterStack{}, builder.WithPredicates(
			predicates.ResourceHasFilterLabel(mgr.GetScheme(), log, s.WatchFilter),
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, predicate.LabelChangedPredicate{}),
		)).
		Watches(&v1alpha1.ClusterStackRelease{}, handler.EnqueueRequestsFromMapFunc(owners), builder.WithPredicates(releases.Stays())).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(r.ofCluster), builder.WithPredicates(releases.Stays(), releases.ClassChanged())).
		Watches(&v1alpha1.ClusterAddon{}, handler.EnqueueRequestsFromMapFunc(r.ofAddon), builder.WithPredicates(releases.Stays(), releases.AppliedChanged())).
		WithOptions(s.Controller)
	if s.Offers != nil {
		b = b.WatchesRawSource(s.Offers)
	}
	c, err := b.Build(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("controller for ClusterStacks: %w", err)
	}
	tracker := &external.ObjectTracker{Controller: c, Cache: mgr.GetCache(), Scheme: mgr.GetScheme(), PredicateLogger: &log}
	r.watchTemplate = func(ctx context.Context, template *unstructured.Unstructured) error {
		return tracker.Watch(ctrl.LoggerFrom(ctx), template, handler.EnqueueRequestsFromMapFunc(r.ofTemplate))
	}
	return nil
}

// Reconcile makes the releases that a ClusterStack asks for and deletes those that nobody needs.
func (r *Reconciler) Reconcile(ctx context.Context, stack *v1alpha1.ClusterStack) (ctrl.Result, error) {
	if !stack.DeletionTimestamp.IsZero() || releases.MovedAway(stack) || !releases.InShard(stack, r.watchFilter) {
		return ctrl.Result{}, nil // what it owns is collected with it
	}
	if stack.Spec.Paused || annotations.HasPaused(stack) {
		return ctrl.Result{}, step.Pause(ctx, r.client, stack, "the ClusterStack is paused", step.Tell(r.recorder))
	}
	w := &work{Reconciler: r, stack: stack}
	if stack.Spec.AutoSubscribe {
		w.listing = r.lister.Listing(ctx, stack)
	}
	if stack.Spec.AutoSubscribe && len(stack.Status.Conditions) > 0 && !w.listing.Asked {
		// We have just been started. The answer of the source wakes us; until then there is nothing to say that
		// would not be taken back at once.
		return ctrl.Result{}, nil
	}
	if err := w.observe(ctx); err != nil {
		return ctrl.Result{}, err
	}
	parts := []step.Part{step.Begin(w.summarize), step.Tell(r.recorder)}
	if stack.Spec.AutoSubscribe {
		parts = append(parts, step.Beside(v1alpha1.AssetsClientAPIAvailableCondition, w.reach), step.Beside(v1alpha1.ReleasesSyncedCondition, w.list))
	}
	if !stack.Spec.NoProvider {
		parts = append(parts, step.On(v1alpha1.ProviderClusterStackReleasesSyncedCondition, w.provide))
	}
	return step.Run(ctx, r.client, stack, append(parts,
		step.On(v1alpha1.ClusterStackReleasesSyncedCondition, w.sync),
		step.On(v1alpha1.ClusterStackReleaseAvailableCondition, w.available),
	)...)
}

// owners maps a ClusterStackRelease to the ClusterStacks that ask for it.
func owners(_ context.Context, obj client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, ref := range obj.GetOwnerReferences() {
		if isClusterStack(ref) {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: ref.Name}})
		}
	}
	return requests
}

// ofCluster maps a Cluster to the ClusterStacks of the release that it uses.
func (r *Reconciler) ofCluster(ctx context.Context, obj client.Object) []reconcile.Request {
	cluster, ok := obj.(*clusterv1.Cluster)
	if !ok {
		return nil
	}
	key, ok := releases.UsedBy(cluster)
	if !ok {
		return nil
	}
	return r.ofStack(ctx, key.Namespace, key.Name)
}

// ofAddon maps a ClusterAddon to the ClusterStacks of the release that was applied last. They may be in
// whatever namespace the class is.
func (r *Reconciler) ofAddon(ctx context.Context, obj client.Object) []reconcile.Request {
	addon, ok := obj.(*v1alpha1.ClusterAddon)
	if !ok {
		return nil
	}
	name, err := release.ParseClassName(addon.Spec.ClusterStack)
	if err != nil {
		return nil // nothing applied yet
	}
	return r.ofStack(ctx, "", name)
}

func (r *Reconciler) ofStack(ctx context.Context, namespace string, name release.Name) []reconcile.Request {
	return r.requests(ctx, namespace, func(stack *v1alpha1.ClusterStack) bool { return prefix(stack) == name.Prefix() })
}

// ofTemplate maps a template of a provider integration to the ClusterStacks that refer to it.
func (r *Reconciler) ofTemplate(ctx context.Context, obj client.Object) []reconcile.Request {
	return r.requests(ctx, obj.GetNamespace(), func(stack *v1alpha1.ClusterStack) bool {
		ref := stack.Spec.ProviderRef
		return ref != nil && ref.Name == obj.GetName() && ref.GroupVersionKind().GroupKind() == obj.GetObjectKind().GroupVersionKind().GroupKind()
	})
}

// All maps anything to all ClusterStacks.
func (r *Reconciler) All(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.requests(ctx, "", func(*v1alpha1.ClusterStack) bool { return true })
}

func (r *Reconciler) requests(ctx context.Context, namespace string, want func(*v1alpha1.ClusterStack) bool) []reconcile.Request {
	stacks := &v1alpha1.ClusterStackList{}
	if err := r.client.List(ctx, stacks, client.InNamespace(namespace)); err != nil {
		// A cache that cannot list is not there; its watch would not have called us.
		ctrl.LoggerFrom(ctx).Error(err, "Listing ClusterStacks failed")
		return nil
	}
	var requests []reconcile.Request
	for i := range stacks.Items {
		if want(&stacks.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&stacks.Items[i])})
		}
	}
	return requests
}
