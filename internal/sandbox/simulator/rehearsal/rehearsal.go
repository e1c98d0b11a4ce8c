// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rehearsal answers the simulator's question what goes wrong right now, from the Failures that there are, and
// keeps their status. It breaks nothing itself: whoever plays a part of a cluster asks, and behaves accordingly.
//
// Which machines a Failure hits is decided once and written to its status before anything happens to them, so that
// all who ask get the same answer, also after a restart.
package rehearsal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
)

// podInterval is the time between two counts of the pods that are hit: their coming and going is no event in the
// management cluster.
const podInterval = 2 * time.Second

// Fleet knows what runs of the workload clusters.
type Fleet interface {
	// Pods counts the pods of a cluster that something is true of.
	Pods(cluster types.NamespacedName, of func(*corev1.Pod) bool) int
	// SharesEtcd tells whether the machines of a cluster have no etcd of their own.
	SharesEtcd(cluster types.NamespacedName) bool
}

// Failures are those of all clusters.
type Failures struct {
	client client.Client
	fleet  Fleet
}

// New gives the failures that a client with a cache sees.
func New(c client.Client, fleet Fleet) *Failures { return &Failures{c, fleet} }

// Machine says what is wrong with a machine that should have been made when it was due.
func (r *Failures) Machine(ctx context.Context, machine *clusterv1.Machine, due time.Time) (failure.MachineEffects, error) {
	cluster := types.NamespacedName{Namespace: machine.Namespace, Name: machine.Spec.ClusterName}
	failures, err := r.of(ctx, cluster)
	if err != nil || len(failures) == 0 {
		return failure.MachineEffects{}, err
	}
	machines, err := r.machines(ctx, cluster)
	if err != nil {
		return failure.MachineEffects{}, err
	}
	now := time.Now()
	for i := range failures {
		if failures[i].InForce(now) {
			if err := r.hit(ctx, &failures[i], machines); err != nil {
				return failure.MachineEffects{}, err
			}
		}
	}
	return failure.ForMachine(failures, machine.Name, due, now), nil
}

// Cluster says what is wrong with a cluster besides its machines.
func (r *Failures) Cluster(ctx context.Context, cluster types.NamespacedName) (failure.ClusterEffects, error) {
	failures, err := r.of(ctx, cluster)
	return failure.ForCluster(failures, time.Now()), err
}

// of gives the failures of a cluster.
func (r *Failures) of(ctx context.Context, cluster types.NamespacedName) ([]failure.Failure, error) {
	var list failure.FailureList
	if err := r.client.List(ctx, &list, client.InNamespace(cluster.Namespace)); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(f failure.Failure) bool { return f.Spec.ClusterName != cluster.Name }), nil
}

func (r *Failures) machines(ctx context.Context, cluster types.NamespacedName) ([]failure.Machine, error) {
	var list clusterv1.MachineList
	err := r.client.List(ctx, &list, client.InNamespace(cluster.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: cluster.Name})
	shared := r.fleet.SharesEtcd(cluster)
	var machines []failure.Machine
	for i := range list.Items {
		m := &list.Items[i]
		machines = append(machines, failure.Machine{
			Name: m.Name, Labels: m.Labels, ControlPlane: util.IsControlPlaneMachine(m), Created: m.CreationTimestamp.Time,
			Provisioned: ptr.Deref(m.Status.Initialization.InfrastructureProvisioned, false),
			Joined:      m.Status.NodeRef.IsDefined(),
			Deleting:    m.DeletionTimestamp != nil,
			SharedEtcd:  shared,
		})
	}
	return machines, err
}

// hit writes down which machines a failure hits. Two who do it at once get a conflict, and look again.
func (r *Failures) hit(ctx context.Context, f *failure.Failure, machines []failure.Machine) error {
	hits := f.Hits(machines)
	if slices.Equal(hits, f.Status.Machines) {
		return nil
	}
	before := f.DeepCopy()
	f.Status.Machines = hits
	return r.client.Status().Patch(ctx, f, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// Setup adds the controller that keeps the status of Failures.
func Setup(mgr ctrl.Manager, fleet Fleet) error {
	r := &reporter{New(mgr.GetClient(), fleet)}
	fromCluster := func(ctx context.Context, namespace, name string) []reconcile.Request {
		failures, err := r.of(ctx, types.NamespacedName{Namespace: namespace, Name: name})
		if err != nil {
			mgr.GetLogger().Error(err, "list failures")
		}
		var requests []reconcile.Request
		for i := range failures {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&failures[i])})
		}
		return requests
	}
	unique := true // a process, such as that of a test, may hold several simulators
	return ctrl.NewControllerManagedBy(mgr).For(&failure.Failure{}).
		Watches(&clusterv1.Cluster{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return fromCluster(ctx, o.GetNamespace(), o.GetName())
		})).
		Watches(&clusterv1.Machine{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return fromCluster(ctx, o.GetNamespace(), o.(*clusterv1.Machine).Spec.ClusterName)
		})).
		// One that ends gives way to others.
		Watches(&failure.Failure{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return fromCluster(ctx, o.GetNamespace(), o.(*failure.Failure).Spec.ClusterName)
		})).
		WithOptions(controller.Options{SkipNameValidation: &unique}).
		Complete(r)
}

// reporter keeps the status of Failures.
type reporter struct{ *Failures }

// Reconcile brings the status of one Failure up to date.
func (r *reporter) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	f := &failure.Failure{}
	if err := r.client.Get(ctx, request.NamespacedName, f); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	now := time.Now()
	condition, err := r.active(ctx, f, now)
	if apierrors.IsConflict(err) {
		return reconcile.Result{}, nil // the event of the other's write follows
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	condition.Type, condition.ObservedGeneration = failure.Active, f.Generation
	before := f.DeepCopy()
	if meta.SetStatusCondition(&f.Status.Conditions, condition) {
		if err := r.client.Status().Patch(ctx, f, client.MergeFrom(before)); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
	}
	var again reconcile.Result
	if f.InForce(now) {
		if ends, ok := f.Ends(); ok {
			again.RequeueAfter = max(ends.Sub(now), time.Millisecond)
		}
		if f.Spec.Pods != nil && (again.RequeueAfter == 0 || again.RequeueAfter > podInterval) {
			again.RequeueAfter = podInterval
		}
	}
	return again, nil
}

// active says whether a failure hits anything, and what.
func (r *reporter) active(ctx context.Context, f *failure.Failure, now time.Time) (metav1.Condition, error) {
	condition := func(status metav1.ConditionStatus, reason, message string, args ...any) (metav1.Condition, error) {
		return metav1.Condition{Status: status, Reason: reason, Message: fmt.Sprintf(message, args...)}, nil
	}
	if err := f.Validate(); err != nil {
		return condition(metav1.ConditionFalse, failure.ReasonInvalid, "%v", err)
	}
	if !f.InForce(now) {
		return condition(metav1.ConditionFalse, failure.ReasonEnded, "ended after %s", f.Spec.Duration.Duration)
	}
	name := types.NamespacedName{Namespace: f.Namespace, Name: f.Spec.ClusterName}
	err := r.client.Get(ctx, name, &clusterv1.Cluster{})
	if apierrors.IsNotFound(err) {
		return condition(metav1.ConditionFalse, failure.ReasonNothingToHit, "there is no Cluster %s", name)
	}
	if err != nil {
		return metav1.Condition{}, err
	}
	switch {
	case f.OfPods():
		effects := failure.ForCluster([]failure.Failure{*f}, now)
		if count := r.fleet.Pods(name, func(pod *corev1.Pod) bool { return effects.Pod(pod) != nil }); count > 0 {
			return condition(metav1.ConditionTrue, failure.ReasonHits, "hits %d pods", count)
		}
		return condition(metav1.ConditionFalse, failure.ReasonNothingToHit, "no pod fits")
	case !f.OfMachines():
		failures, err := r.of(ctx, name)
		if err != nil {
			return metav1.Condition{}, err
		}
		if other := f.OverruledBy(failures, now); other != nil {
			return condition(metav1.ConditionFalse, failure.ReasonOverruled, "%s is older and decides", other)
		}
		return condition(metav1.ConditionTrue, failure.ReasonHits, "hits Cluster %s", name.Name)
	}
	machines, err := r.machines(ctx, name)
	if err != nil {
		return metav1.Condition{}, err
	}
	if err := r.hit(ctx, f, machines); err != nil {
		return metav1.Condition{}, err
	}
	var hits []string
	for _, m := range machines {
		if slices.Contains(f.Status.Machines, m.Name) {
			hits = append(hits, m.Name)
		}
	}
	if len(hits) == 0 {
		return condition(metav1.ConditionFalse, failure.ReasonNothingToHit, "no machine fits that is there")
	}
	slices.Sort(hits)
	return condition(metav1.ConditionTrue, failure.ReasonHits, "hits %s", strings.Join(hits, ", "))
}
