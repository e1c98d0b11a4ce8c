// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/contract"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// poolReconciler keeps the instances of an InfraMachinePool. It makes no Machines for them: that is optional in the
// contract, and would need to know what goes into an InfraMachine of the provider.
//
// Which instances there are stands in the list of provider IDs of the object. The name of an instance tells what it
// was made of, so one that is out of date is known by its name.
type poolReconciler struct {
	*infrastructure
	fleet    *workload.Fleet
	machines *machineReconciler
}

// Reconcile brings the instances of one InfraMachinePool in line with it.
func (r *poolReconciler) Reconcile(ctx context.Context, k key) (reconcile.Result, error) {
	return reconcile.Result{}, settled(r.reconcile(ctx, k))
}

func (r *poolReconciler) reconcile(ctx context.Context, k key) error {
	object, version, err := r.get(ctx, k)
	if err != nil {
		return err
	}
	pool := &clusterv1.MachinePool{}
	if name := owner(object, "MachinePool"); name != "" {
		if err := r.client.Get(ctx, types.NamespacedName{Namespace: k.Namespace, Name: name}, pool); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	clusterKey := types.NamespacedName{
		Namespace: k.Namespace,
		Name:      cmp.Or(pool.Spec.ClusterName, object.GetLabels()[clusterv1.ClusterNameLabel]),
	}
	if clusterKey.Name == "" {
		return nil // Cluster API has not taken it up yet
	}
	cluster := &clusterv1.Cluster{}
	if err := r.client.Get(ctx, clusterKey, cluster); client.IgnoreNotFound(err) != nil {
		return err
	}
	paused := annotations.IsPaused(cluster, object)
	if object.GetDeletionTimestamp() != nil {
		if paused {
			return nil
		}
		return r.remove(ctx, object, cluster)
	}
	// The events of Cluster and MachinePool tell when these have come. Nodes join a control plane that is there.
	if !ptr.Deref(cluster.Status.Initialization.ControlPlaneInitialized, false) || pool.Spec.Template.Spec.Bootstrap.DataSecretName == nil {
		return nil
	}
	if paused {
		return r.resume(ctx, object, cluster, pool)
	}
	err = r.provision(ctx, object, cluster, pool)
	if settled(err) == nil && err != nil {
		return err
	}
	return r.report(ctx, object, version, err)
}

// resume starts instances again of a pool that nobody may change now, after a restart of the sandbox.
func (r *poolReconciler) resume(ctx context.Context, object *unstructured.Unstructured, cluster *clusterv1.Cluster, pool *clusterv1.MachinePool) error {
	c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.run(ctx, c, contract.ProviderIDList(object), cluster, pool)
}

func (r *poolReconciler) provision(ctx context.Context, object *unstructured.Unstructured, cluster *clusterv1.Cluster, pool *clusterv1.MachinePool) error {
	if err := r.hold(ctx, object); err != nil {
		return err
	}
	c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cluster %s has no load balancer: its infrastructure object was deleted, or is not this sandbox's", client.ObjectKeyFromObject(cluster))
	}
	if err != nil {
		return err
	}
	wanted, err := instances(pool, object)
	if err != nil {
		return err
	}
	for {
		now := contract.ProviderIDList(object)
		start, stop := nextInstances(names(now), wanted)
		for _, name := range start {
			now = append(now, providerID(object.GetNamespace(), name))
		}
		// Before anything is made: what stands in no list would never be removed.
		if err := r.list(ctx, object, now); err != nil {
			return err
		}
		if err := r.run(ctx, c, now, cluster, pool); err != nil {
			return err
		}
		if len(start) == 0 && len(stop) == 0 {
			return nil
		}
		if err := r.stop(ctx, c, stop); err != nil {
			return err
		}
		now = slices.DeleteFunc(now, func(id string) bool { return slices.Contains(stop, instanceName(id)) })
		if err := r.list(ctx, object, now); err != nil {
			return err
		}
	}
}

// list writes down which instances there are.
func (r *poolReconciler) list(ctx context.Context, object *unstructured.Unstructured, ids []string) error {
	if err := r.patch(ctx, object, func() error { return contract.SetProviderIDList(object, ids) }); err != nil {
		return err
	}
	if !slices.Equal(contract.ProviderIDList(object), ids) {
		return fmt.Errorf("kind %s has no field spec.providerIDList, which Cluster API's contract asks of machine pools: the instances would be known to nobody", object.GetKind())
	}
	return r.patchStatus(ctx, object, func() error { return contract.SetPoolProvisioned(object, len(ids)) })
}

// run brings all instances up that are not, side by side.
func (r *poolReconciler) run(ctx context.Context, c *workload.Cluster, ids []string, cluster *clusterv1.Cluster, pool *clusterv1.MachinePool) error {
	var all errgroup.Group
	for _, id := range ids {
		machine := &clusterv1.Machine{Spec: pool.Spec.Template.Spec}
		machine.Namespace, machine.Name = pool.Namespace, instanceName(id)
		all.Go(func() error { return r.machines.run(ctx, c, machine.Name, id, cluster, machine) })
	}
	return all.Wait()
}

func (r *poolReconciler) stop(ctx context.Context, c *workload.Cluster, names []string) error {
	for _, name := range names {
		if err := c.RemoveMachine(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *poolReconciler) remove(ctx context.Context, object *unstructured.Unstructured, cluster *clusterv1.Cluster) error {
	if !controllerutil.ContainsFinalizer(object, finalizer) {
		return nil
	}
	if cluster.Name != "" {
		c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
		switch {
		case errors.Is(err, fs.ErrNotExist): // the cluster went first, and these machines with it
		case err != nil:
			return err
		default:
			if err := r.stop(ctx, c, names(contract.ProviderIDList(object))); err != nil {
				return err
			}
		}
	}
	return r.release(ctx, object)
}

// instances names what a pool shall consist of. Instances that differ in version, bootstrap data or in what the
// provider's object says of them have other names.
func instances(pool *clusterv1.MachinePool, object *unstructured.Unstructured) ([]string, error) {
	spec, _, err := unstructured.NestedMap(object.Object, "spec") // a copy
	if err != nil {
		return nil, err
	}
	delete(spec, "providerIDList")
	delete(spec, "providerID")
	// Keys of maps are sorted. The data itself is left out: its token is renewed while instances stay as they are.
	raw, err := json.Marshal([]any{pool.Spec.Template.Spec.Version, pool.Spec.Template.Spec.Bootstrap.DataSecretName, spec})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	edition := hex.EncodeToString(sum[:])[:5]
	var result []string
	for n := range ptr.Deref(pool.Spec.Replicas, 1) {
		result = append(result, fmt.Sprintf("%s-%s-%d", object.GetName(), edition, n))
	}
	return result, nil
}

// nextInstances is one step from the instances that are there to those that are wanted; all that are there run.
// Missing ones are started first. Instances that take the place of others come one at a time, and the others go once
// they run, so that there are never less than wanted and at most one more.
func nextInstances(now, wanted []string) (start, stop []string) {
	missing, surplus := without(wanted, now), without(now, wanted)
	switch room := len(wanted) - len(now); {
	case len(missing) == 0:
		return nil, surplus
	case room > 0:
		return missing[:min(room, len(missing))], nil
	case room == 0:
		return missing[:1], nil
	default:
		return nil, surplus[:-room]
	}
}

func without(all, excluded []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(excluded, s) })
}

// providerID identifies a machine in the whole sandbox.
func providerID(namespace, name string) string { return "sandbox:///" + path.Join(namespace, name) }

// instanceName is the name in a provider ID.
func instanceName(id string) string { return path.Base(id) }

func names(ids []string) []string {
	var result []string
	for _, id := range ids {
		result = append(result, instanceName(id))
	}
	return result
}
