// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/remote"
	"sigs.k8s.io/cluster-api/util/flags"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusteraddon"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusterstack"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusterstackrelease"
	"github.com/clusterstacks/cluster-stack-operator/internal/renderworker"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/workload"
)

// Leader election, the metrics endpoint, and the check at start.
//
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=cso-system,resources=leases,verbs=create
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=cso-system,resources=leases,resourceNames=clusterstack.x-k8s.io,verbs=get;update
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

const (
	// leaseName is that of the existing operator, so that it and we never run at the same time.
	leaseName = "clusterstack.x-k8s.io"
	// name is under which we act: in events and in the list of clients of an API server.
	name = "cluster-stack-operator"
)

// Run runs the operator until ctx ends. An error at start says what is missing and how to get it.
func Run(ctx context.Context, c Config) error {
	cfg, err := restConfig(c)
	if err != nil {
		return err
	}
	return RunIn(ctx, cfg, c)
}

// RunIn is Run in the management cluster that cfg reaches, whatever the settings say of it.
func RunIn(ctx context.Context, cfg *rest.Config, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	settled, err := checkManagementCluster(ctx, cfg, c)
	if err != nil {
		return err
	}
	mgr, guard, err := newManager(cfg, c)
	if err != nil {
		return err
	}
	renders := renderworker.New(renderworker.Options{Workers: c.RenderWorkers, CPU: c.RenderCPULimit, Memory: c.RenderMemoryLimit.Value()})
	defer renders.Close()
	if err := renders.Check(ctx); err != nil {
		return err
	}
	st, fetched, err := c.openStore(mgr)
	if err != nil {
		return err
	}
	if err := mgr.Add(&keepDefinitions{cache: mgr.GetCache(), server: mgr.GetAPIReader()}); err != nil {
		return errors.Join(err, st.Close())
	}
	if !settled {
		if err := mgr.Add(manager.RunnableFunc(keepChecking(cfg, c))); err != nil {
			return errors.Join(err, st.Close())
		}
	}
	report := &standing{reader: mgr.GetCache(), renders: renders, store: st, expiry: map[string]func() time.Time{}}
	if err := errors.Join(setUp(ctx, mgr, cfg, guard, st, fetched, timed(renders.Render), report.expiry, c), ctx.Err()); err != nil {
		return errors.Join(err, st.Close())
	}
	// While it runs, and of several operators in one process, as tests have them, by the first.
	if metrics.Registry.Register(report) == nil {
		defer metrics.Registry.Unregister(report)
	}
	return errors.Join(mgr.Start(ctx), st.Close())
}

// Scheme returns the kinds that the operator works with.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	return scheme, errors.Join(
		clientgoscheme.AddToScheme(scheme),
		apiextensionsv1.AddToScheme(scheme),
		clusterv1.AddToScheme(scheme),
		runtimev1.AddToScheme(scheme),
		v1alpha1.AddToScheme(scheme),
	)
}

func restConfig(c Config) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the management cluster: %w", err)
	}
	cfg.QPS, cfg.Burst = c.KubeAPIQPS, c.KubeAPIBurst
	cfg.UserAgent = remote.DefaultClusterAPIUserAgent(name)
	return cfg, nil
}

// guard is around requests that only the leader may send; it is nil without leader election.
type guard func(http.RoundTripper) http.RoundTripper

// newManager returns a manager whose clients change nothing while this process is not the leader, and the guard
// for other clients.
func newManager(cfg *rest.Config, c Config) (ctrl.Manager, guard, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, nil, err
	}
	tlsOptions, metrics, err := flags.GetManagerOptions(c.Diagnostics)
	if err != nil {
		return nil, nil, err
	}
	var lock resourcelock.Interface
	var guarded guard
	if c.LeaderElect {
		lease, err := newLease(cfg, c)
		if err != nil {
			return nil, nil, fmt.Errorf("set up leader election: %w", err)
		}
		lock, guarded = lease, lease.Guard
		cfg = rest.CopyConfig(cfg)
		cfg.Wrap(lease.Guard)
	}
	metrics.TLSOpts = tlsOptions
	// The lease is given back only when all have ended. Another replica shall not wait longer for that; what was begun is
	// safe to leave at any instant.
	shutdown := 10 * time.Second
	var namespaces map[string]cache.Config
	if c.Namespace != "" {
		namespaces = map[string]cache.Config{c.Namespace: {}}
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                              scheme,
		LeaderElection:                      c.LeaderElect,
		LeaderElectionResourceLockInterface: lock,
		LeaderElectionReleaseOnCancel:       true,
		GracefulShutdownTimeout:             &shutdown,
		LeaseDuration:                       &c.LeaderElectLeaseDuration,
		RenewDeadline:                       &c.LeaderElectRenewDeadline,
		RetryPeriod:                         &c.LeaderElectRetryPeriod,
		Metrics:                             *metrics,
		HealthProbeBindAddress:              c.HealthAddress,
		PprofBindAddress:                    c.ProfilerAddress,
		Cache: cache.Options{
			DefaultNamespaces: namespaces,
			SyncPeriod:        &c.SyncPeriod,
			DefaultTransform:  cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				// Values for addons are in Secrets of people, whose metadata is watched; the many that Cluster API makes are
				// of types of its own.
				&corev1.Secret{}: {Field: fields.OneTermEqualSelector("type", string(corev1.SecretTypeOpaque))},
				// Of the classes in the management cluster only those that come from releases matter.
				clusterstackrelease.OwnedClasses(): {Label: labels.SelectorFromSet(labels.Set{v1alpha1.InstanceLabel: v1alpha1.InstanceOwned})},
			},
		},
		NewClient: newOwnWrites,
		Client: client.Options{Cache: &client.CacheOptions{
			// They are read one by one and live: to cache them means to hold all secrets of all namespaces.
			DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}},
		}},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("set up the manager: %w", err)
	}
	return mgr, guarded, nil
}

// setUp adds all that runs to the manager. Of the management cluster, cfg may change what every replica may. When the
// certificates of the servers expire it enters in expiry.
func setUp(ctx context.Context, mgr ctrl.Manager, cfg *rest.Config, guard guard, st *store.Store, fetched <-chan event.GenericEvent, render renderer, expiry map[string]func() time.Time, c Config) error {
	recorder := mgr.GetEventRecorder(name)
	// Secrets are read past the cache: to cache them means to hold all of all namespaces.
	opener, err := newReleases(mgr.GetClient(), mgr.GetAPIReader(), st, c)
	if err != nil {
		return err
	}
	st.Keep(opener.InUse)
	if err := mgr.Add(opener); err != nil {
		return err
	}
	applier, err := apply.New(mgr.GetConfig(), apply.Options{})
	if err != nil {
		return err
	}

	stacks := clusterstack.New(mgr.GetClient(), mgr.GetAPIReader(), opener, recorder, clusterstack.Options{ProviderGroups: c.ProviderGroups})
	if err := stacks.SetupWithManager(mgr, clusterstack.Setup{
		Controller:  controllerOptions(c.ClusterStackConcurrency),
		WatchFilter: c.WatchFilter,
		Offers:      source.Channel(opener.Changes(), handler.EnqueueRequestsFromMapFunc(stacks.All)),
	}); err != nil {
		return err
	}
	if err := clusterstackrelease.New(mgr.GetClient(), mgr.GetAPIReader(), opener, applier, recorder, clusterstackrelease.Options{
		Kinds:          c.ClassGroups,
		ProviderGroups: c.ProviderGroups,
		Render:         render,
	}).SetupWithManager(mgr, clusterstackrelease.Setup{
		Fetched:     fetched,
		Controller:  controllerOptions(c.ClusterStackReleaseConcurrency),
		WatchFilter: c.WatchFilter,
	}); err != nil {
		return err
	}

	// Kubeconfigs are read when a connection is made, which is rare; a cache would hold other Secrets, too.
	clusters := workload.New(mgr.GetClient(), mgr.GetAPIReader(), workload.Options{
		QPS: c.ClusterQPS, Burst: c.ClusterBurst, UserAgent: remote.DefaultClusterAPIUserAgent(name), WatchFilter: c.WatchFilter,
	})
	if err := clusters.SetupWithManager(mgr, controller.Options{MaxConcurrentReconciles: c.ClusterCacheConcurrency, NewQueue: newQueue}); err != nil {
		return err
	}
	addonOptions := clusteraddon.Options{Render: render, Guard: guard}
	if err := clusteraddon.New(mgr.GetClient(), mgr.GetAPIReader(), clusters, opener, recorder, addonOptions).SetupWithManager(mgr, clusteraddon.Setup{
		Controller:  controllerOptions(c.ClusterAddonConcurrency),
		WatchFilter: c.WatchFilter,
		Connected:   clusters.Changes(),
	}); err != nil {
		return err
	}

	caches, err := synced(ctx, mgr.GetCache())
	if err != nil {
		return err
	}
	return errors.Join(
		addServers(ctx, mgr, cfg, expiry, c),
		mgr.AddHealthzCheck("watchdog", watchdog(metrics.Registry, stuckAfter)),
		mgr.AddReadyzCheck("caches", caches),
	)
}

// controllerOptions are those of all controllers: what failed is tried again within a minute, because
// what cures it often cannot be watched.
func controllerOptions(concurrency int) controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: concurrency,
		NewQueue:                newQueue,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](250*time.Millisecond, time.Minute),
	}
}

// synced is true when the kinds that everything depends on were read once. Others are watched because a user
// has named them; whether that works says nothing about the operator.
func synced(ctx context.Context, c cache.Cache) (healthz.Checker, error) {
	var informers []cache.Informer
	for _, kind := range []client.Object{&clusterv1.Cluster{}, &v1alpha1.ClusterStack{}, &v1alpha1.ClusterStackRelease{}, &v1alpha1.ClusterAddon{}} {
		informer, err := c.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", kind, err)
		}
		informers = append(informers, informer)
	}
	return func(*http.Request) error {
		if slices.ContainsFunc(informers, func(i cache.Informer) bool { return !i.HasSynced() }) {
			return errors.New("the management cluster has not been read yet")
		}
		return nil
	}, nil
}
