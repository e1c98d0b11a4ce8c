// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/contract"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/rehearsal"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// starts are the starts of machines that are under way. A machine that is to go does not wait until it runs.
type starts struct {
	mu     sync.Mutex
	cancel map[key]context.CancelCauseFunc
}

// begin gives the context of a start; it is over with done.
func (s *starts) begin(ctx context.Context, k key) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel == nil {
		s.cancel = map[key]context.CancelCauseFunc{}
	}
	s.cancel[k] = cancel
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.cancel, k)
		cancel(nil)
	}
}

// giveUp cancels the start of a machine, if one is under way.
func (s *starts) giveUp(k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel, ok := s.cancel[k]; ok {
		cancel(controlplane.ErrDeleted)
	}
}

// machineReconciler turns an InfraMachine into a machine that runs.
type machineReconciler struct {
	*infrastructure
	fleet    *workload.Fleet
	failures *rehearsal.Failures
	// secrets are read without a cache: rarely, and there is no need to keep all keys of all clusters.
	secrets client.Reader
	starts  starts
}

// Reconcile brings what one InfraMachine stands for in line with it.
func (r *machineReconciler) Reconcile(ctx context.Context, k key) (reconcile.Result, error) {
	return lookAgain(r.reconcile(ctx, k))
}

// reconcile gives the time when the machine has to be looked at again though nothing happens; zero means never.
func (r *machineReconciler) reconcile(ctx context.Context, k key) (change time.Time, err error) {
	// Before the object is read: a deletion is either seen in it, or cancels the start.
	start, done := r.starts.begin(ctx, k)
	defer done()
	object, version, err := r.get(ctx, k)
	if err != nil {
		return change, err
	}
	machine := &clusterv1.Machine{}
	if name := owner(object, "Machine"); name != "" {
		if err := r.client.Get(ctx, types.NamespacedName{Namespace: k.Namespace, Name: name}, machine); client.IgnoreNotFound(err) != nil {
			return change, err
		}
	}
	clusterKey := types.NamespacedName{
		Namespace: k.Namespace,
		Name:      cmp.Or(machine.Spec.ClusterName, object.GetLabels()[clusterv1.ClusterNameLabel]),
	}
	if clusterKey.Name == "" {
		return change, nil // Cluster API has not taken it up yet
	}
	cluster := &clusterv1.Cluster{}
	if err := r.client.Get(ctx, clusterKey, cluster); client.IgnoreNotFound(err) != nil {
		return change, err
	}
	paused := annotations.IsPaused(cluster, object)
	if object.GetDeletionTimestamp() != nil {
		if paused {
			return change, nil
		}
		return change, r.remove(ctx, object, cluster)
	}
	if machine.DeletionTimestamp != nil {
		// Cluster API takes etcd off a control plane machine before it deletes its InfraMachine.
		if err := r.drain(ctx, object.GetName(), cluster); err != nil {
			return change, err
		}
	}
	// The events of Cluster and Machine tell when these have come.
	if !ptr.Deref(cluster.Status.Initialization.InfrastructureProvisioned, false) || machine.Spec.Bootstrap.DataSecretName == nil {
		return change, nil
	}
	wrong, err := r.failures.Machine(ctx, machine, due(machine, object))
	if err != nil {
		return change, err
	}
	change = wrong.Change
	if paused {
		return change, r.resume(start, object, cluster, machine, wrong)
	}
	err = r.provision(start, object, version, cluster, machine, wrong)
	switch {
	case errors.Is(context.Cause(start), controlplane.ErrDeleted):
		return change, nil // the event of the deletion follows
	case settled(err) == nil && err != nil:
		return change, err
	}
	return change, r.report(ctx, object, version, err)
}

// resume starts a machine again that nobody may change now, if it was there before the sandbox was restarted.
func (r *machineReconciler) resume(ctx context.Context, object *unstructured.Unstructured, cluster *clusterv1.Cluster, machine *clusterv1.Machine, wrong failure.MachineEffects) error {
	c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !c.Has(object.GetName()) {
		return err
	}
	return r.live(ctx, c, object.GetName(), contract.ProviderID(object), cluster, machine, wrong)
}

func (r *machineReconciler) provision(ctx context.Context, object *unstructured.Unstructured, version contract.Version, cluster *clusterv1.Cluster, machine *clusterv1.Machine, wrong failure.MachineEffects) error {
	name := object.GetName()
	if !contract.IsProvisioned(object, version) {
		switch {
		case wrong.Missing != nil:
			return missing(wrong.Missing)
		case wrong.Error != nil:
			return providerError(wrong.Error)
		}
	}
	id := cmp.Or(contract.ProviderID(object), providerID(object.GetNamespace(), name))
	// Before anything is made, or an object that is deleted right now would leave it behind.
	err := r.patch(ctx, object, func() error {
		controllerutil.AddFinalizer(object, finalizer)
		return contract.SetProviderID(object, id)
	})
	if err != nil {
		return err
	}
	c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cluster %s has no load balancer: its infrastructure object was deleted, or is not this sandbox's", client.ObjectKeyFromObject(cluster))
	}
	if err != nil {
		return err
	}
	ip, err := c.Allocate(ctx, name)
	if err != nil {
		return err
	}
	// As with a cloud, the machine is there before its control plane or kubelet is.
	err = r.patchStatus(ctx, object, func() error {
		if err := contract.SetAddresses(object, name, ip.String()); err != nil {
			return err
		}
		return contract.SetProvisioned(object, version)
	})
	if err != nil {
		return err
	}
	err = r.live(ctx, c, name, id, cluster, machine, wrong)
	if err == nil && wrong.Error != nil {
		return providerError(wrong.Error)
	}
	return err
}

// live has a machine that is there do what it does, with all that is wrong with it.
func (r *machineReconciler) live(ctx context.Context, c *workload.Cluster, name, id string, cluster *clusterv1.Cluster, machine *clusterv1.Machine, wrong failure.MachineEffects) error {
	switch {
	case wrong.Dead != nil:
		return c.Halt(ctx, name)
	case wrong.NodeMissing != nil && !machine.Status.NodeRef.IsDefined() && !c.IsUp(name):
		return nil
	}
	if err := r.run(ctx, c, name, id, cluster, machine); err != nil {
		return err
	}
	c.Disturb(name, controlplane.Disturbance(wrong.Etcd), controlplane.Disturbance(wrong.APIServer))
	return nil
}

// run brings a machine up, if it is not.
func (r *machineReconciler) run(ctx context.Context, c *workload.Cluster, name, id string, cluster *clusterv1.Cluster, machine *clusterv1.Machine) error {
	if c.IsUp(name) {
		return nil
	}
	data, err := r.bootstrapData(ctx, machine)
	if err != nil {
		return err
	}
	err = c.Run(ctx, workload.Machine{
		Name: name, ProviderID: id, Version: machine.Spec.Version, Data: data,
		Authorities: func(ctx context.Context) (controlplane.Authorities, error) {
			return r.authorities(ctx, client.ObjectKeyFromObject(cluster))
		},
	})
	if err != nil {
		return workloadError{err}
	}
	return nil
}

// drain tells a machine that runs that it is about to go.
func (r *machineReconciler) drain(ctx context.Context, name string, cluster *clusterv1.Cluster) error {
	c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Drain(name)
	return nil
}

func (r *machineReconciler) remove(ctx context.Context, object *unstructured.Unstructured, cluster *clusterv1.Cluster) error {
	if !controllerutil.ContainsFinalizer(object, finalizer) {
		return nil
	}
	if cluster.Name != "" {
		c, err := r.fleet.Open(ctx, r.clusterSpec(cluster))
		switch {
		case errors.Is(err, fs.ErrNotExist): // the cluster went first, and this machine with it
		case err != nil:
			return err
		default:
			if err := c.RemoveMachine(ctx, object.GetName()); err != nil {
				return err
			}
		}
	}
	return r.release(ctx, object)
}

func (r *machineReconciler) bootstrapData(ctx context.Context, machine *clusterv1.Machine) (bootstrap.Data, error) {
	s, err := r.secret(ctx, types.NamespacedName{Namespace: machine.Namespace, Name: *machine.Spec.Bootstrap.DataSecretName})
	if err != nil {
		return bootstrap.Data{}, fmt.Errorf("bootstrap data of machine %s: %w", machine.Name, err)
	}
	data, err := bootstrap.Parse(s.Data["value"])
	if err != nil {
		// Bootstrap data never changes.
		return data, reconcile.TerminalError(fmt.Errorf("machine %s: %w", machine.Name, err))
	}
	return data, nil
}

// secret reads a Secret that has to be there.
func (r *machineReconciler) secret(ctx context.Context, name types.NamespacedName) (*corev1.Secret, error) {
	s := &corev1.Secret{}
	err := r.secrets.Get(ctx, name, s)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("secret %s is not there", name) // its coming is no event here, so it has to be tried again
	}
	return s, err
}

// authorities reads what the control plane provider made for a cluster.
func (r *machineReconciler) authorities(ctx context.Context, cluster types.NamespacedName) (controlplane.Authorities, error) {
	read := func(purpose secret.Purpose) (cert, privateKey []byte, err error) {
		s, err := r.secret(ctx, types.NamespacedName{Namespace: cluster.Namespace, Name: secret.Name(cluster.Name, purpose)})
		if err != nil {
			return nil, nil, fmt.Errorf("certificate authorities of cluster %s: %w", cluster, err)
		}
		return s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey], nil
	}
	var result controlplane.Authorities
	for purpose, ca := range map[secret.Purpose]**pki.CA{
		secret.ClusterCA: &result.Cluster, secret.EtcdCA: &result.Etcd, secret.FrontProxyCA: &result.FrontProxy,
	} {
		cert, privateKey, err := read(purpose)
		if err != nil {
			return result, err
		}
		if purpose == secret.EtcdCA && len(privateKey) == 0 {
			continue // that of an external etcd, which issues nothing here
		}
		if *ca, err = pki.LoadCA(cert, privateKey); err != nil {
			return result, fmt.Errorf("secret %s/%s: %w", cluster.Namespace, secret.Name(cluster.Name, purpose), err)
		}
	}
	var err error
	result.ServiceAccount.PublicPEM, result.ServiceAccount.PrivatePEM, err = read(secret.ServiceAccount)
	return result, err
}
