// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clusteraddon keeps the addons of workload clusters in step with the release that each Cluster uses.
//
// It makes a ClusterAddon for every Cluster that uses a cluster stack, asks package rollout what comes next
// for it, and does that: opens releases, renders, applies, evaluates the conditions of stages, prunes. What it
// has to remember stands in an annotation of the ClusterAddon and in Secrets beside it, never in memory or
// status: a restart, another replica or another management cluster takes up where this one left off.
//
// Memory that gets lost costs nothing in the cluster. Without the record the rollout is done anew, and what the
// inventory knows to be in place is not sent again. Without the inventory it is rebuilt from the release that
// the record names, and that rollout prunes nothing. Without both nobody can prove whose the objects are: they are
// entered as shared, so they are kept up to date where no other manager objects, and never deleted.
package clusteraddon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
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
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
	"github.com/clusterstacks/cluster-stack-operator/internal/workload"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddons,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddons/status,verbs=patch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddonsettings,verbs=get;list;watch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases,verbs=get;list;watch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch
// +kubebuilder:rbac:groups=controlplane.cluster.x-k8s.io;infrastructure.cluster.x-k8s.io,resources=*,verbs=get
// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;create;update;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Releases opens releases. It is implemented by releases.Releases.
type Releases interface {
	// Open opens the release of the ClusterStackRelease in that namespace, with the digest fixed in it.
	Open(ctx context.Context, namespace string, name release.Name) (*release.Release, string, error)
	// OpenPinned opens a release with the given digest.
	OpenPinned(ctx context.Context, namespace string, name release.Name, digest string) (*release.Release, string, error)
}

// Clusters are the connections to workload clusters. It is implemented by [workload.Clusters], which has the promises.
type Clusters interface {
	Config(cluster *clusterv1.Cluster) (*rest.Config, error)
	Tried(cluster *clusterv1.Cluster) bool
	Watch(cluster *clusterv1.Cluster, purpose, manager string, kinds map[schema.GroupVersionKind]string, changed workload.Changed) error
}

// Options are settings whose zero value works.
type Options struct {
	// Render renders an addon, by default in this process, where nothing can stop a chart.
	Render func(ctx context.Context, in render.Input) (*render.Result, error)
	// Recheck is how often the addons of a cluster at rest are compared with what was applied, ten minutes by
	// default, give or take a fifth.
	Recheck time.Duration
	// GatePoll is how often a condition is evaluated again when no watch tells that something has changed, ten
	// seconds by default, give or take a fifth.
	GatePoll time.Duration
	// HookPatience is how long a pass waits for a Job of a chart that runs before or after its objects, three
	// seconds by default. Then others have their turn, and the Job is watched.
	HookPatience time.Duration
	// Concurrency is how many objects are sent to one cluster at a time, 8 by default.
	Concurrency int
	// Guard, if set, is around each request that applies or deletes something in a workload cluster.
	Guard func(http.RoundTripper) http.RoundTripper
	// Clock dates transitions and rechecks.
	Clock clock.PassiveClock
}

// Reconciler brings ClusterAddons in line with the releases that their Clusters use.
type Reconciler struct {
	client client.Client
	// live reads past the cache.
	live     client.Reader
	clusters Clusters
	releases Releases
	recorder events.EventRecorder
	options  Options

	connections connections
	turns       *turns
	// watchFilter is that of Setup.
	watchFilter string
	waiting     waiting
}

// New returns a Reconciler. live must not be a cache.
func New(c client.Client, live client.Reader, clusters Clusters, releases Releases, recorder events.EventRecorder, o Options) *Reconciler {
	if o.Render == nil {
		o.Render = func(_ context.Context, in render.Input) (*render.Result, error) { return in.Render() }
	}
	if o.Recheck == 0 {
		o.Recheck = 10 * time.Minute
	}
	if o.GatePoll == 0 {
		o.GatePoll = 10 * time.Second
	}
	if o.HookPatience == 0 {
		o.HookPatience = 3 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Reconciler{
		client: c, live: live, clusters: clusters, releases: releases, recorder: recorder, options: o,
		connections: connections{applier: apply.Options{Concurrency: o.Concurrency, Patience: o.HookPatience, Catalog: &apply.Catalog{}}, guard: o.Guard, now: o.Clock.Now},
	}
}

// Setup is what the manager needs to know about this controller.
type Setup struct {
	// Controller has the concurrency and the like.
	Controller controller.Options
	// WatchFilter is the value of the label cluster.x-k8s.io/watch-filter of objects to look at, empty for all.
	WatchFilter string
	// Connected tells of Clusters that are connected, no longer connected, or in which something has changed that is
	// watched: what [workload.Clusters.Changes] returns.
	Connected <-chan event.GenericEvent
}

// SetupWithManager makes the manager run this controller, and the one that makes ClusterAddons.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, s Setup) error {
	log := mgr.GetLogger().WithValues("controller", "clusteraddon")
	filter := predicates.ResourceHasFilterLabel(mgr.GetScheme(), log, s.WatchFilter)
	// Those that wait for an answer give their turn to others, which someone has to take.
	atATime := max(1, s.Controller.MaxConcurrentReconciles)
	r.turns, s.Controller.MaxConcurrentReconciles = newTurns(atATime), workersFor(atATime)
	b := ctrl.NewControllerManagedBy(mgr).
		Named("clusteraddon").
		For(&v1alpha1.ClusterAddon{}, builder.WithPredicates(filter, othersChanges())).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(OfCluster), builder.WithPredicates(filter, clusterChanges())).
		WatchesMetadata(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(r.addonsOfValues(v1alpha1.ValuesFromConfigMap))).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.addonsOfValues(v1alpha1.ValuesFromSecret))).
		Watches(&v1alpha1.ClusterStackRelease{}, handler.EnqueueRequestsFromMapFunc(r.addonsOfRelease), builder.WithPredicates(releaseChanges())).
		// They are named like their Cluster.
		Watches(&v1alpha1.ClusterAddonSettings{}, handler.EnqueueRequestsFromMapFunc(OfCluster), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(s.Controller)
	if s.Connected != nil {
		b = b.WatchesRawSource(source.Channel(s.Connected, handler.EnqueueRequestsFromMapFunc(OfCluster)))
	}
	if err := b.Complete(reconcile.AsReconciler(mgr.GetClient(), r)); err != nil {
		return fmt.Errorf("controller for ClusterAddons: %w", err)
	}
	r.watchFilter = s.WatchFilter
	return (&creator{client: r.client, live: r.live, watchFilter: s.WatchFilter}).setup(mgr, s)
}

// OfCluster maps a Cluster to its ClusterAddon, which need not exist.
func OfCluster(_ context.Context, cluster client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{
		Namespace: cluster.GetNamespace(), Name: v1alpha1.ClusterAddonName(cluster.GetName()),
	}}}
}

// addonsOfRelease maps a ClusterStackRelease to the ClusterAddons of the Clusters that use it.
func (r *Reconciler) addonsOfRelease(ctx context.Context, obj client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, cluster := range clustersOf(ctx, r.client, obj) {
		requests = append(requests, OfCluster(ctx, cluster)...)
	}
	return requests
}

// Reconcile brings one ClusterAddon in line with the release that its Cluster uses.
func (r *Reconciler) Reconcile(ctx context.Context, addon *v1alpha1.ClusterAddon) (ctrl.Result, error) {
	ctx = ctrl.LoggerInto(ctx, ctrl.LoggerFrom(ctx).WithValues("Cluster", klog.KRef(addon.Namespace, clusterName(addon))))
	w := &work{Reconciler: r, addon: addon, recorder: &once{EventRecorder: r.recorder}, progress: map[string]rollout.Progress{}, rendered: map[rendering]*render.Result{}, unrendered: map[rendering]error{}}
	if err := w.load(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if w.cluster != nil && !releases.InShard(w.cluster, r.watchFilter) {
		return ctrl.Result{}, nil // woken by a release that Clusters of several shards use
	}
	parts := []step.Part{step.Clock(r.options.Clock)}
	if w.cluster != nil {
		parts = append(parts, step.Tell(w.recorder, w.cluster))
	}

	switch rollout.Next(w.situation()).(type) {
	case rollout.LetGo:
		return ctrl.Result{}, w.letGo(ctx)
	case rollout.Stand:
		w.unwatch(ctx)
		return ctrl.Result{}, step.Pause(ctx, r.client, addon, "the Cluster or its ClusterAddon is paused", parts...)
	case rollout.Leave:
		return step.Run(ctx, r.client, addon, append(parts, step.On(v1alpha1.ClusterReadyCondition, w.leave))...)
	}
	err := step.Patch(ctx, r.client, addon, func() {
		if addon.DeletionTimestamp.IsZero() {
			controllerutil.AddFinalizer(addon, v1alpha1.ClusterAddonFinalizer)
		}
		// A backup may have brought it back without its owner, and it shall go with its Cluster.
		if !slices.ContainsFunc(addon.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == w.cluster.UID }) {
			addon.OwnerReferences = append(addon.OwnerReferences, ownerReference(w.cluster))
		}
	})
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("add finalizer and owner: %w", err)
	}
	if w.untried() {
		// As after each start of the operator. What is said of the cluster stays until that is known; whoever tries
		// to connect tells us, if it succeeds.
		return ctrl.Result{RequeueAfter: spread(r.options.GatePoll)}, nil
	}
	if w.turn, err = r.turns.take(ctx, addon.Namespace); errors.Is(err, errQueue) {
		// A worker that waited here would be missed by clusters of other namespaces.
		return ctrl.Result{RequeueAfter: notYet()}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	defer w.turn.end()
	return step.Run(ctx, r.client, addon, append(parts,
		step.Begin(func() { addon.Status.ObservedGeneration = addon.Generation }),
		step.On(v1alpha1.ClusterReadyCondition, w.reachCluster),
		step.On(v1alpha1.ClusterStackReleaseDownloadedCondition, w.openRelease),
		// The stages run here: whether a condition of theirs is waited for is known then, and the next step
		// reports what came of them.
		step.Beside(v1alpha1.EvaluatedCELCondition, w.evaluate),
		step.On(v1alpha1.HelmChartAppliedCondition, w.advance),
		step.On(v1alpha1.LeftoversPrunedCondition, w.prune),
		step.Beside(v1alpha1.InSyncCondition, w.reportDrift),
	)...)
}

// load gathers what the management cluster knows.
func (w *work) load(ctx context.Context) error {
	key := client.ObjectKey{Namespace: w.addon.Namespace, Name: clusterName(w.addon)}
	cluster := &clusterv1.Cluster{}
	err := w.client.Get(ctx, key, cluster)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("get Cluster %s: %w", key, err)
	}
	if err != nil {
		// To let the addons of a cluster go is final, and a cache may be behind.
		if err := w.live.Get(ctx, key, cluster); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("get Cluster %s: %w", key, err)
		} else if err != nil {
			cluster = nil
		}
	}
	if cluster != nil && !belongs(w.addon, cluster) {
		// Another Cluster has taken the name of one that is gone. What is remembered, keys above all, is not for
		// it: this ClusterAddon goes with the Cluster it was made for. Again, only the live one counts.
		if err := w.live.Get(ctx, key, cluster); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("get Cluster %s: %w", key, err)
		} else if err != nil || !belongs(w.addon, cluster) {
			cluster = nil
		}
	}
	w.cluster = cluster
	settings := &v1alpha1.ClusterAddonSettings{}
	if err := w.client.Get(ctx, key, settings); err == nil {
		w.settings = settings
	} else if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("get ClusterAddonSettings %s: %w", key, err)
	}
	w.paused = cluster != nil && annotations.IsPaused(cluster, w.addon) || annotations.HasPaused(w.addon)
	if w.record, err = rollout.ParseRecord(w.addon.Annotations[v1alpha1.RolloutAnnotation]); err != nil {
		// Somebody has edited it. Without a record all is done anew, which is safe; to insist on it is not.
		ctrl.LoggerFrom(ctx).Error(err, "The record of the rollout cannot be read, starting without one")
		w.record = rollout.Record{}
	}
	if w.asked, err = rollout.ParseAsk(w.addon.Annotations[v1alpha1.LifecyclePointAnnotation]); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "The annotation cannot be read and is ignored", "annotation", v1alpha1.LifecyclePointAnnotation)
		w.asked = nil
	}
	return nil
}

// belongs tells whether a ClusterAddon was made for this very Cluster. Its owner reference says so, which is kept
// up to date when both are moved to another management cluster; one without any belongs to whom it names.
func belongs(addon *v1alpha1.ClusterAddon, cluster *clusterv1.Cluster) bool {
	owned := false
	for _, owner := range addon.OwnerReferences {
		if owner.UID == cluster.UID {
			return true
		}
		owned = owned || owner.Kind == clusterv1.ClusterKind && owner.Name == cluster.Name
	}
	return !owned
}

// clusterName returns the name of the Cluster that a ClusterAddon is for, always one in its own namespace.
func clusterName(addon *v1alpha1.ClusterAddon) string {
	if addon.Spec.ClusterRef == nil {
		return ""
	}
	return addon.Spec.ClusterRef.Name
}

// waiting remembers which objects of which cluster a gate waits for, so that events about others wake nobody.
// Nothing depends on it: gates are polled too.
type waiting struct {
	mu      sync.Mutex
	objects map[client.ObjectKey]map[string]bool
}

func (w *waiting) set(cluster client.ObjectKey, objects map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(objects) == 0 {
		delete(w.objects, cluster)
		return
	}
	if w.objects == nil {
		w.objects = map[client.ObjectKey]map[string]bool{}
	}
	w.objects[cluster] = objects
}

func (w *waiting) has(cluster client.ObjectKey, object string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.objects[cluster][object]
}
