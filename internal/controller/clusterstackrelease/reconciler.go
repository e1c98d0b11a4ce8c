// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clusterstackrelease brings releases of cluster stacks into the management cluster.
//
// It opens the release that a ClusterStackRelease is named after, waits for the provider integration,
// and keeps the objects of the cluster class applied. When a ClusterStackRelease is deleted, it takes
// them out again, once no Cluster uses them. Which releases there are is decided elsewhere.
package clusterstackrelease

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/external"
	"sigs.k8s.io/cluster-api/util/predicates"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	ctrlsource "sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases/status,verbs=patch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases/finalizers,verbs=update
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddons,verbs=get;list;watch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch
// +kubebuilder:rbac:groups=infrastructure.clusterstack.x-k8s.io,resources=*,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;create;update;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
//
// What cluster classes may consist of by default; see Kinds().
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusterclasses,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=addons.cluster.x-k8s.io;bootstrap.cluster.x-k8s.io;controlplane.cluster.x-k8s.io;infrastructure.cluster.x-k8s.io;ipam.cluster.x-k8s.io;openstack.k-orc.cloud,resources=*,verbs=get;list;create;patch;delete

// Releases opens releases. It is implemented by releases.Releases.
type Releases interface {
	// Origin says where a release comes from.
	Origin(ctx context.Context, namespace string, name release.Name) (releases.Origin, *v1alpha1.ClusterStackRelease, error)
	// OpenFrom opens a release. What the pin leaves open may be anything.
	OpenFrom(ctx context.Context, origin releases.Origin, name release.Name, pin store.Pin) (releases.Opened, error)
	// Offered returns the digest of what the source has now under the name, or nothing when it cannot tell. It comes to an
	// end, whatever the source does.
	Offered(ctx context.Context, origin releases.Origin, name release.Name) (string, error)
}

// Options are settings whose zero value works.
type Options struct {
	// Poll is how often a source is asked again for a release that it does not have in a usable form.
	// It is as often as the source is polled by default.
	Poll time.Duration
	// Recheck is how often the objects of a release that is ready are compared with what was applied,
	// ten minutes by default, give or take a tenth.
	Recheck time.Duration
	// Kinds are the kinds of which a cluster class may have objects, as in Kinds(), which is the default.
	Kinds []string
	// ProviderGroups are the API groups that spec.providerRef may name, releases.ProviderGroups() by default.
	ProviderGroups []string
	// Render renders a cluster class, by default in this process, where nothing can stop a chart.
	Render func(ctx context.Context, in render.Input) (*render.Result, error)
}

// Reconciler brings ClusterStackReleases in line with the releases that they are named after.
type Reconciler struct {
	client client.Client
	// live reads past the cache, for what must not be decided on old news.
	live     client.Reader
	releases Releases
	applier  *apply.Applier
	recorder events.EventRecorder
	options  Options
	// compared has when sources were asked last whether they still have what is in use, by object.
	compared sync.Map
	// asking has the comparisons that are going on.
	asking sync.Map
	// watchFilter is set with the manager.
	watchFilter string
	// watchProvider wakes us when objects of that kind change. It does nothing without a manager.
	watchProvider func(ctx context.Context, obj *unstructured.Unstructured) error
}

// New returns a Reconciler. The applier works on the management cluster and knows what may be applied there.
func New(c client.Client, live client.Reader, opener Releases, applier *apply.Applier, recorder events.EventRecorder, o Options) *Reconciler {
	if o.Recheck == 0 {
		o.Recheck = 10 * time.Minute
	}
	if o.Render == nil {
		o.Render = func(_ context.Context, in render.Input) (*render.Result, error) { return in.Render() }
	}
	if o.Kinds == nil {
		o.Kinds = Kinds()
	}
	if o.ProviderGroups == nil {
		o.ProviderGroups = releases.ProviderGroups()
	}
	return &Reconciler{
		client: c, live: live, releases: opener, applier: applier, recorder: recorder, options: o,
		watchProvider: func(context.Context, *unstructured.Unstructured) error { return nil },
	}
}

// Setup is what the manager needs to know about this controller.
type Setup struct {
	// Controller has the concurrency and the like.
	Controller controller.Options
	// WatchFilter is the value of the label cluster.x-k8s.io/watch-filter of objects to look at, empty for all.
	WatchFilter string
	// Fetched carries the name of a release, in an object of no particular kind, whose fetch is over.
	Fetched <-chan event.GenericEvent
}

// SetupWithManager makes the manager run this controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, s Setup) error {
	r.watchFilter = s.WatchFilter
	log := mgr.GetLogger().WithValues("controller", "clusterstackrelease")
	b := ctrl.NewControllerManagedBy(mgr)
	if s.Fetched != nil {
		b = b.WatchesRawSource(ctrlsource.Channel(s.Fetched, handler.EnqueueRequestsFromMapFunc(r.ofFetched)))
	}
	c, err := b.
		Named("clusterstackrelease").
		For(&v1alpha1.ClusterStackRelease{}, builder.WithPredicates(
			predicates.ResourceHasFilterLabel(mgr.GetScheme(), log, s.WatchFilter),
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, predicate.LabelChangedPredicate{}),
		)).
		Watches(&v1alpha1.ClusterStack{}, handler.EnqueueRequestsFromMapFunc(r.ofStack), builder.WithPredicates(stackChanged())).
		WatchesMetadata(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(r.ofTrustedRoot)).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(r.ofCluster), builder.WithPredicates(releases.ClassChanged())).
		Watches(&v1alpha1.ClusterAddon{}, handler.EnqueueRequestsFromMapFunc(r.ofAddon), builder.WithPredicates(releases.AppliedChanged())).
		WatchesMetadata(OwnedClasses(), handler.EnqueueRequestsFromMapFunc(ofClass), builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, predicate.LabelChangedPredicate{}),
		)).
		WithOptions(s.Controller).
		Build(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("controller for ClusterStackReleases: %w", err)
	}
	tracker := &external.ObjectTracker{Controller: c, Cache: mgr.GetCache(), Scheme: mgr.GetScheme(), PredicateLogger: &log}
	r.watchProvider = func(ctx context.Context, obj *unstructured.Unstructured) error {
		return tracker.Watch(ctrl.LoggerFrom(ctx), obj, handler.EnqueueRequestsFromMapFunc(ofProvider))
	}
	return nil
}

// OwnedClasses is the object by which ClusterClasses are watched, as metadata only. The cache of the
// manager may restrict it to those with the label v1alpha1.InstanceLabel.
func OwnedClasses() *metav1.PartialObjectMetadata {
	class := &metav1.PartialObjectMetadata{}
	class.SetGroupVersionKind(clusterv1.GroupVersion.WithKind("ClusterClass"))
	return class
}

// Reconcile keeps the cluster class of a release applied, or takes it out when the release is deleted.
func (r *Reconciler) Reconcile(ctx context.Context, obj *v1alpha1.ClusterStackRelease) (ctrl.Result, error) {
	if releases.MovedAway(obj) || !releases.InShard(obj, r.watchFilter) {
		return ctrl.Result{}, nil
	}
	if why, err := r.paused(ctx, obj); err != nil {
		return ctrl.Result{}, err
	} else if why != "" {
		return ctrl.Result{}, step.Pause(ctx, r.client, obj, why, step.Tell(r.recorder))
	}
	w := &work{
		Reconciler: r,
		obj:        obj,
		// Several releases may have the same object, such as a node image. Each is a manager of its own, so that
		// the API server knows of all, and the object stays as long as one of them does.
		applier: r.applier.As(apply.FieldManager + "/" + obj.Name),
	}
	begin := step.Begin(func() {
		obj.Status.ObservedGeneration = obj.Generation
		w.wasReady = obj.Status.Ready
		w.reported = releases.Pinned{Source: obj.Status.Source, Digest: obj.Status.Digest}
		obj.Status.Ready = false // said again by the last step when it is true
	})
	if !obj.DeletionTimestamp.IsZero() {
		return step.Run(ctx, r.client, obj,
			begin, step.Tell(r.recorder),
			step.On(v1alpha1.LeftoversPrunedCondition, w.remove),
		)
	}
	if err := step.Patch(ctx, r.client, obj, func() { controllerutil.AddFinalizer(obj, v1alpha1.ClusterStackReleaseFinalizer) }); err != nil {
		return ctrl.Result{}, fmt.Errorf("add finalizer: %w", err)
	}
	return step.Run(ctx, r.client, obj,
		begin, step.Tell(r.recorder),
		step.On(v1alpha1.ClusterStackReleaseDownloadedCondition, w.open),
		step.Beside(v1alpha1.SourceUnchangedCondition, w.compareSource),
		step.On(v1alpha1.ProviderClusterStackReleaseReadyCondition, w.awaitProvider),
		step.On(v1alpha1.HelmChartAppliedCondition, w.apply),
		step.On(v1alpha1.LeftoversPrunedCondition, w.prune),
	)
}

func request(namespace string, name release.Name) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name.String()}}}
}

// ofCluster maps a Cluster to the release that it uses, if that is to go: no other waits for Clusters.
func (r *Reconciler) ofCluster(ctx context.Context, obj client.Object) []reconcile.Request {
	cluster, ok := obj.(*clusterv1.Cluster)
	if !ok {
		return nil
	}
	key, ok := releases.UsedBy(cluster)
	if !ok {
		return nil
	}
	rel := &v1alpha1.ClusterStackRelease{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name.String()}, rel); err != nil || rel.DeletionTimestamp.IsZero() {
		// If only the cache does not know yet that it is to go, that wakes us.
		return nil
	}
	return request(key.Namespace, key.Name)
}

// ofAddon maps a ClusterAddon to the releases whose addons were applied last, if they are to go. They may be in
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
	return r.named(ctx, name, func(rel *v1alpha1.ClusterStackRelease) bool { return !rel.DeletionTimestamp.IsZero() })
}

// ofFetched maps the name of a release to the ClusterStackReleases of that name.
func (r *Reconciler) ofFetched(ctx context.Context, obj client.Object) []reconcile.Request {
	name, err := release.ParseName(obj.GetName())
	if err != nil {
		return nil
	}
	return r.named(ctx, name, func(*v1alpha1.ClusterStackRelease) bool { return true })
}

// named returns the ClusterStackReleases of a name, in whatever namespace, that are wanted.
func (r *Reconciler) named(ctx context.Context, name release.Name, wanted func(*v1alpha1.ClusterStackRelease) bool) []reconcile.Request {
	list := &v1alpha1.ClusterStackReleaseList{}
	if err := r.client.List(ctx, list); err != nil {
		// A cache that cannot list is not there; its watch would not have called us.
		ctrl.LoggerFrom(ctx).Error(err, "Listing ClusterStackReleases failed")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if list.Items[i].Name == name.String() && wanted(&list.Items[i]) {
			requests = append(requests, request(list.Items[i].Namespace, name)...)
		}
	}
	return requests
}

// ofClass maps a ClusterClass to the release that it is named after.
func ofClass(_ context.Context, obj client.Object) []reconcile.Request {
	name, err := release.ParseClassName(obj.GetName())
	if err != nil {
		return nil // a foreign class
	}
	return request(obj.GetNamespace(), name)
}

// ofProvider maps an object of a provider integration to the release that it is named after.
func ofProvider(_ context.Context, obj client.Object) []reconcile.Request {
	name, err := release.ParseName(obj.GetName())
	if err != nil {
		return nil // not made by us
	}
	return request(obj.GetNamespace(), name)
}
