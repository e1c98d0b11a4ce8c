// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package infra is the infrastructure provider of a sandbox. It answers for the kinds of all providers: which
// object is an InfraCluster, InfraMachine or InfraMachinePool it learns from what refers to it in Cluster API, and
// the fields to write it knows from Cluster API's contract.
//
// The controllers wait for events only. Nothing is remembered here: what a machine is comes from the objects, and
// whether it runs is known to the fleet.
package infra

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/contract"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/rehearsal"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// finalizer keeps an object until what it stands for is gone.
const finalizer = "sandbox.clusterstack.x-k8s.io/infrastructure"

// Machines start in parallel; each start occupies a worker for some seconds.
const (
	clusterWorkers = 4
	// After a restart machines of all clusters start at once, and some wait for others.
	machineWorkers = 64
)

// Times between tries of what failed.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// key names an infrastructure object of any kind.
type key struct {
	schema.GroupKind
	types.NamespacedName
}

func (k key) String() string { return k.Kind + " " + k.NamespacedName.String() }

// Options of the provider.
type Options struct {
	// Lite makes clusters lite that do not say otherwise by ControlPlaneAnnotation.
	Lite bool
}

// Setup adds the controllers to a manager.
func Setup(mgr manager.Manager, fleet *workload.Fleet, o Options) error {
	failures := rehearsal.New(mgr.GetClient(), fleet)
	clusters := &clusterReconciler{fleet: fleet, failures: failures, live: mgr.GetAPIReader()}
	machines := &machineReconciler{fleet: fleet, failures: failures, secrets: mgr.GetAPIReader()}

	var err error
	if clusters.infrastructure, err = newController(mgr, "infracluster", o, clusters, clusterWorkers); err != nil {
		return err
	}
	if machines.infrastructure, err = newController(mgr, "inframachine", o, machines, machineWorkers); err != nil {
		return err
	}
	machines.deleting = machines.starts.giveUp
	if err := setupPools(mgr, o, &poolReconciler{fleet: fleet, machines: machines}); err != nil {
		return err
	}
	err = clusters.watch(source.TypedKind(mgr.GetCache(), &clusterv1.Cluster{},
		handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, c *clusterv1.Cluster) []key { return clusterKeys(c) })))
	if err != nil {
		return err
	}
	if err := clusters.watch(known(fleet)); err != nil {
		return err
	}
	err = machines.watch(source.TypedKind(mgr.GetCache(), &clusterv1.Machine{},
		handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, m *clusterv1.Machine) []key { return machineKeys(m) })))
	if err != nil {
		return err
	}
	// Only the control plane knows whether it wants an external etcd.
	err = clusters.watch(source.TypedKind(mgr.GetCache(), &controlplanev1.KubeadmControlPlane{},
		handler.TypedEnqueueRequestsFromMapFunc(func(ctx context.Context, k *controlplanev1.KubeadmControlPlane) []key {
			if !k.Spec.KubeadmConfigSpec.ClusterConfiguration.Etcd.External.IsDefined() {
				return nil
			}
			c := &clusterv1.Cluster{}
			if err := mgr.GetClient().Get(ctx, types.NamespacedName{Namespace: k.Namespace, Name: k.Labels[clusterv1.ClusterNameLabel]}, c); err != nil {
				return nil // it is not there yet, and leads here itself
			}
			return clusterKeys(c)
		})))
	if err != nil {
		return err
	}
	// Machines wait for their cluster.
	machinesOf := func(ctx context.Context, cluster types.NamespacedName) []key {
		var list clusterv1.MachineList
		if err := mgr.GetClient().List(ctx, &list, client.InNamespace(cluster.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: cluster.Name}); err != nil {
			mgr.GetLogger().Error(err, "list machines", "cluster", cluster)
		}
		var keys []key
		for i := range list.Items {
			keys = append(keys, machineKeys(&list.Items[i])...)
		}
		return keys
	}
	err = machines.watch(source.TypedKind(mgr.GetCache(), &clusterv1.Cluster{},
		handler.TypedEnqueueRequestsFromMapFunc(func(ctx context.Context, c *clusterv1.Cluster) []key {
			return machinesOf(ctx, client.ObjectKeyFromObject(c))
		})))
	if err != nil {
		return err
	}
	// What goes wrong with a cluster and its machines.
	err = machines.watch(source.TypedKind(mgr.GetCache(), &failure.Failure{},
		handler.TypedEnqueueRequestsFromMapFunc(func(ctx context.Context, f *failure.Failure) []key {
			return machinesOf(ctx, types.NamespacedName{Namespace: f.Namespace, Name: f.Spec.ClusterName})
		})))
	if err != nil {
		return err
	}
	return clusters.watch(source.TypedKind(mgr.GetCache(), &failure.Failure{},
		handler.TypedEnqueueRequestsFromMapFunc(func(ctx context.Context, f *failure.Failure) []key {
			cluster := &clusterv1.Cluster{}
			if err := mgr.GetClient().Get(ctx, types.NamespacedName{Namespace: f.Namespace, Name: f.Spec.ClusterName}, cluster); err != nil {
				return nil // its coming is an event
			}
			return clusterKeys(cluster)
		})))
}

func setupPools(mgr manager.Manager, o Options, pools *poolReconciler) error {
	var err error
	if pools.infrastructure, err = newController(mgr, "inframachinepool", o, pools, clusterWorkers); err != nil {
		return err
	}
	err = pools.watch(source.TypedKind(mgr.GetCache(), &clusterv1.MachinePool{},
		handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, p *clusterv1.MachinePool) []key { return poolKeys(p) })))
	if err != nil {
		return err
	}
	// Pools wait for their cluster.
	return pools.watch(source.TypedKind(mgr.GetCache(), &clusterv1.Cluster{},
		handler.TypedEnqueueRequestsFromMapFunc(func(ctx context.Context, c *clusterv1.Cluster) []key {
			var list clusterv1.MachinePoolList
			if err := mgr.GetClient().List(ctx, &list, client.InNamespace(c.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: c.Name}); err != nil {
				mgr.GetLogger().Error(err, "list machine pools", "cluster", client.ObjectKeyFromObject(c))
			}
			var keys []key
			for i := range list.Items {
				keys = append(keys, poolKeys(&list.Items[i])...)
			}
			return keys
		})))
}

func clusterKeys(c *clusterv1.Cluster) []key { return keys(c.Namespace, c.Spec.InfrastructureRef) }

func machineKeys(m *clusterv1.Machine) []key { return keys(m.Namespace, m.Spec.InfrastructureRef) }

func poolKeys(p *clusterv1.MachinePool) []key {
	return keys(p.Namespace, p.Spec.Template.Spec.InfrastructureRef)
}

func keys(namespace string, ref clusterv1.ContractVersionedObjectReference) []key {
	if !ref.IsDefined() {
		return nil
	}
	return []key{{
		schema.GroupKind{Group: ref.APIGroup, Kind: ref.Kind},
		types.NamespacedName{Namespace: namespace, Name: ref.Name},
	}}
}

// infrastructure reads and writes objects of kinds that are known by name only, and begins to watch each kind
// when the first object of it is asked for.
type infrastructure struct {
	Options
	client     client.Client
	cache      cache.Cache
	controller controller.TypedController[key]
	// deleting is told about objects that are being deleted, ahead of any reconciliation. It may be nil.
	deleting func(key)

	mu      sync.Mutex
	watched map[schema.GroupVersionKind]bool
}

func newController(mgr manager.Manager, name string, o Options, r reconcile.TypedReconciler[key], workers int) (*infrastructure, error) {
	unique := true // a process, such as that of a test, may hold several simulators
	c, err := controller.NewTyped(name, mgr, controller.TypedOptions[key]{
		Reconciler:              r,
		MaxConcurrentReconciles: workers,
		SkipNameValidation:      &unique,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[key](firstRetry, lastRetry),
	})
	if err != nil {
		return nil, err
	}
	return &infrastructure{Options: o, client: mgr.GetClient(), cache: mgr.GetCache(), controller: c, watched: map[schema.GroupVersionKind]bool{}}, nil
}

func (i *infrastructure) watch(src source.TypedSource[key]) error { return i.controller.Watch(src) }

// get reads an object and tells which contract its kind follows.
func (i *infrastructure) get(ctx context.Context, k key) (*unstructured.Unstructured, contract.Version, error) {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := i.client.Get(ctx, types.NamespacedName{Name: contract.CRDName(k.GroupKind)}, crd); err != nil {
		if apierrors.IsNotFound(err) {
			// Not wrapped: it is the kind that is missing, not the object.
			return nil, "", fmt.Errorf("%s: its CustomResourceDefinition %s is not installed; a sandbox takes those of further providers by `csctl sandbox up --crds`", k, contract.CRDName(k.GroupKind))
		}
		return nil, "", err
	}
	kind, err := contract.Resolve(k.GroupKind, crd.Labels)
	if err != nil {
		return nil, "", err
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind.GroupVersionKind)
	if err := i.watchKind(kind.GroupVersionKind); err != nil {
		return nil, "", err
	}
	err = i.client.Get(ctx, k.NamespacedName, object)
	return object, kind.Contract, err
}

func (i *infrastructure) watchKind(gvk schema.GroupVersionKind) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.watched[gvk] {
		return nil
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(gvk)
	err := i.watch(source.TypedKind(i.cache, object, handler.TypedEnqueueRequestsFromMapFunc(
		func(_ context.Context, u *unstructured.Unstructured) []key {
			k := key{gvk.GroupKind(), client.ObjectKeyFromObject(u)}
			if i.deleting != nil && u.GetDeletionTimestamp() != nil {
				i.deleting(k)
			}
			return []key{k}
		}), isNews))
	if err != nil {
		return err
	}
	i.watched[gvk] = true
	return nil
}

// isNews leaves out changes of conditions: they are reports, and our own would wake us after each try that failed.
var isNews = predicate.TypedFuncs[*unstructured.Unstructured]{
	UpdateFunc: func(e event.TypedUpdateEvent[*unstructured.Unstructured]) bool {
		return !equality.Semantic.DeepEqual(withoutReports(e.ObjectOld), withoutReports(e.ObjectNew))
	},
}

func withoutReports(object *unstructured.Unstructured) map[string]any {
	object = object.DeepCopy()
	object.SetResourceVersion("")
	object.SetManagedFields(nil)
	unstructured.RemoveNestedField(object.Object, "status", "conditions")
	return object.Object
}

// patch writes what change does to an object, if anything. With a lock it fails when the object is not the one
// that was read.
func (i *infrastructure) patch(ctx context.Context, object *unstructured.Unstructured, change func() error) error {
	before := object.DeepCopy()
	if err := change(); err != nil {
		return err
	}
	// Finalizers are a list, which a merge patch replaces as a whole: it has to be the list that was read.
	return i.write(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), before, i.client.Patch)
}

// patchStatus is patch for the status.
func (i *infrastructure) patchStatus(ctx context.Context, object *unstructured.Unstructured, change func() error) error {
	before := object.DeepCopy()
	if err := change(); err != nil {
		return err
	}
	return i.write(ctx, object, client.MergeFrom(before), before, func(ctx context.Context, o client.Object, p client.Patch, _ ...client.PatchOption) error {
		return i.client.Status().Patch(ctx, o, p)
	})
}

type patcher func(context.Context, client.Object, client.Patch, ...client.PatchOption) error

func (i *infrastructure) write(ctx context.Context, object *unstructured.Unstructured, patch client.Patch, before *unstructured.Unstructured, do patcher) error {
	changes, err := client.MergeFrom(before).Data(object)
	if err != nil || string(changes) == "{}" {
		return err
	}
	return do(ctx, object, patch)
}

// Reasons of the condition Ready.
const (
	reasonRunning = "Running"
	reasonFailed  = "Failed"
)

// report tells in the condition Ready what came of an attempt, and returns its error.
func (i *infrastructure) report(ctx context.Context, object *unstructured.Unstructured, version contract.Version, result error) error {
	status, reason, message := metav1.ConditionTrue, reasonRunning, ""
	setback, isSetback := errors.AsType[*setbackError](result)
	if result != nil {
		status, reason, message = metav1.ConditionFalse, reasonFailed, process.Brief(result)
	}
	if isSetback {
		reason = setback.reason
	}
	err := i.patchStatus(ctx, object, func() error {
		if err := contract.SetFailure(object, version, setback.terminal(), reason, message); err != nil {
			return err
		}
		return contract.SetReady(object, version, status, reason, message)
	})
	if apierrors.IsInvalid(err) {
		err = nil // the kind has conditions of another shape, so it has to do without
	}
	if result != nil && !isSetback {
		return result // what else went wrong is found again when this is mended
	}
	return err
}

// hold keeps an object until release.
func (i *infrastructure) hold(ctx context.Context, object *unstructured.Unstructured) error {
	return i.patch(ctx, object, func() error {
		controllerutil.AddFinalizer(object, finalizer)
		return nil
	})
}

// release lets an object go whose deletion was asked for.
func (i *infrastructure) release(ctx context.Context, object *unstructured.Unstructured) error {
	err := i.patch(ctx, object, func() error {
		controllerutil.RemoveFinalizer(object, finalizer)
		return nil
	})
	return client.IgnoreNotFound(err)
}

// settled drops errors that the next event settles: somebody else wrote in between, or the object has just gone.
func settled(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// workloadError is an error of a workload cluster. It hides its cause: that something is missing or was changed there
// is no news about the object of the management cluster, and has to be tried again.
type workloadError struct{ error }

// owner gives the name of the owner of a kind of Cluster API, empty when there is none yet.
func owner(object *unstructured.Unstructured, kind string) string {
	for _, ref := range object.GetOwnerReferences() {
		// Any version: Cluster API moves on.
		if ref.Kind == kind && strings.HasPrefix(ref.APIVersion, clusterv1.GroupVersion.Group+"/") {
			return ref.Name
		}
	}
	return ""
}
