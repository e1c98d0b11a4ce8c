// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/balancer"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/contract"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/rehearsal"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// clusterReconciler gives an InfraCluster its endpoint.
type clusterReconciler struct {
	*infrastructure
	fleet    *workload.Fleet
	failures *rehearsal.Failures
	// live reads past the cache.
	live client.Reader
}

// Reconcile brings what one InfraCluster stands for in line with it.
func (r *clusterReconciler) Reconcile(ctx context.Context, k key) (reconcile.Result, error) {
	return lookAgain(r.reconcile(ctx, k))
}

// reconcile gives the time when the cluster has to be looked at again though nothing happens; zero means never.
func (r *clusterReconciler) reconcile(ctx context.Context, k key) (change time.Time, err error) {
	object, version, err := r.get(ctx, k)
	if apierrors.IsNotFound(err) {
		return change, r.letGo(ctx, k, object)
	}
	if err != nil {
		return change, err
	}
	name := cmp.Or(owner(object, "Cluster"), object.GetLabels()[clusterv1.ClusterNameLabel])
	if name == "" {
		return change, nil // Cluster API has not taken it up yet
	}
	clusterKey := types.NamespacedName{Namespace: object.GetNamespace(), Name: name}
	cluster := &clusterv1.Cluster{}
	if err := r.client.Get(ctx, clusterKey, cluster); client.IgnoreNotFound(err) != nil {
		return change, err
	}
	if annotations.IsExternallyManaged(object) {
		return change, nil
	}
	wrong, err := r.failures.Cluster(ctx, clusterKey)
	if err != nil {
		return change, err
	}
	change = wrong.Change
	if annotations.IsPaused(cluster, object) {
		return change, r.resume(ctx, cluster, wrong)
	}
	if object.GetDeletionTimestamp() != nil {
		return time.Time{}, r.remove(ctx, object, clusterKey)
	}
	switch {
	case cluster.Name == "":
		return change, nil
	case cluster.DeletionTimestamp != nil:
		// Nothing new is made. But what is there works until it goes, or fails as it is told to.
		return change, r.resume(ctx, cluster, wrong)
	}
	err = r.provision(ctx, object, version, cluster, wrong)
	if settled(err) == nil && err != nil {
		return change, err
	}
	return change, r.report(ctx, object, version, err)
}

// resume has the load balancer of a cluster listen that is not to change any more, or not now, if it has one.
func (r *clusterReconciler) resume(ctx context.Context, cluster *clusterv1.Cluster, wrong failure.ClusterEffects) error {
	c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	disturb(ctx, c, wrong)
	return nil
}

// disturb makes go wrong in a cluster what is to.
func disturb(ctx context.Context, c *workload.Cluster, wrong failure.ClusterEffects) {
	c.DisturbBalancer(ctx, balancer.Fault(wrong.LoadBalancer))
	c.DisturbPods(podFaults(wrong))
}

func (r *clusterReconciler) provision(ctx context.Context, object *unstructured.Unstructured, version contract.Version, cluster *clusterv1.Cluster, wrong failure.ClusterEffects) error {
	if wrong.Error != nil && !contract.IsProvisioned(object, version) {
		return providerError(wrong.Error)
	}
	// Before anything is made: an object that is deleted right now would leave it behind, for the next cluster of
	// this name to find.
	if err := r.hold(ctx, object); err != nil {
		return err
	}
	if _, err := isLite(cluster); err != nil {
		return err
	}
	named, err := namedEndpoint(object)
	if err != nil {
		return err
	}
	c, err := r.fleet.Ensure(ctx, r.clusterSpec(cluster), ownerOf(object), named)
	if err != nil {
		return err
	}
	if err := r.lendEtcd(ctx, object, cluster); err != nil {
		return err
	}
	err = r.patch(ctx, object, func() error {
		return contract.SetEndpoint(object, contract.Endpoint{Host: c.Endpoint().Addr().String(), Port: int32(c.Endpoint().Port())})
	})
	if err != nil {
		return err
	}
	disturb(ctx, c, wrong)
	err = r.patchStatus(ctx, object, func() error { return contract.SetProvisioned(object, version) })
	if err != nil {
		return err
	}
	if err := c.Adjust(ctx); err != nil {
		return workloadError{err}
	}
	if wrong.Error != nil {
		return providerError(wrong.Error)
	}
	return nil
}

func (r *clusterReconciler) remove(ctx context.Context, object *unstructured.Unstructured, cluster types.NamespacedName) error {
	if !controllerutil.ContainsFinalizer(object, finalizer) {
		return nil
	}
	if err := r.fleet.Remove(ctx, cluster); err != nil {
		return err
	}
	return r.release(ctx, object)
}

// ControlPlaneAnnotation of a Cluster says which programs its control plane has, with one of the two values below.
// It can be changed at any time.
const (
	ControlPlaneAnnotation = "sandbox.clusterstack.x-k8s.io/control-plane"
	// ControlPlaneLite is etcd and kube-apiserver only. Nothing acts on what is in the cluster: no pod comes to be.
	// Nodes are Ready without a CNI.
	ControlPlaneLite = "lite"
	// ControlPlaneFull has kube-controller-manager and kube-scheduler as well.
	ControlPlaneFull = "full"
)

// isLite reads the annotation; nil when there is none.
func isLite(cluster *clusterv1.Cluster) (*bool, error) {
	switch value, set := cluster.Annotations[ControlPlaneAnnotation]; {
	case !set:
		return nil, nil
	case value == ControlPlaneLite, value == ControlPlaneFull:
		return ptr.To(value == ControlPlaneLite), nil
	default:
		return nil, fmt.Errorf("annotation %s of Cluster %s is %q: set it to %s or %s, or remove it", ControlPlaneAnnotation, client.ObjectKeyFromObject(cluster), value, ControlPlaneLite, ControlPlaneFull)
	}
}

// clusterSpec takes over what matters of a Cluster.
func (i *infrastructure) clusterSpec(cluster *clusterv1.Cluster) workload.Spec {
	network := cluster.Spec.ClusterNetwork
	lite, _ := isLite(cluster) // an annotation that is wrong keeps nobody from deleting the cluster
	return workload.Spec{
		NamespacedName: client.ObjectKeyFromObject(cluster),
		Lite:           ptr.Deref(lite, i.Lite),
		PodSubnet:      strings.Join(network.Pods.CIDRBlocks, ","),
		ServiceSubnet:  cmp.Or(strings.Join(network.Services.CIDRBlocks, ","), bootstrap.DefaultServiceSubnet),
		DNSDomain:      cmp.Or(network.ServiceDomain, bootstrap.DefaultDNSDomain),
	}
}
