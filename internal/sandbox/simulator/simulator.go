// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package simulator is what Cluster API's managers find below them in a sandbox: infrastructure and kubelets.
//
// Real are, for each workload cluster, etcd with its membership, kube-apiserver, kube-controller-manager and
// kube-scheduler, and the certificates. Simulated are machines (each an address on loopback), the load balancer's
// hardware, kubelets and containers. The simulation serves the kinds of any infrastructure provider through
// Cluster API's contract, for control planes of KubeadmControlPlane and machines that kubeadm joins.
//
// What cannot be had without containers: a network between pods. So webhooks and aggregated API servers inside
// a workload cluster are not reached, and metrics.k8s.io stays without an answer. Not simulated either:
// Machines of machine pools (their instances are), Ignition, and files and patches for the programs of the control plane.
// Of the arguments that a class gives to these programs, they get those that work without files and containers.
package simulator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/rehearsal"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// stopTimeout is how long the programs of all clusters together may take to end by themselves.
const stopTimeout = 5 * time.Second

// Network says which addresses the simulator may use.
type Network struct {
	// Prefix is the first half of an IPv4 address on loopback, such as 127.64. Addresses that begin with
	// <Prefix>.0 are left to others.
	Prefix string
}

// Options of a simulator.
type Options struct {
	// Config reaches the management cluster with the rights of an administrator. Cluster API's CRDs are there.
	Config *rest.Config
	// Binaries are the programs to run.
	Binaries binaries.Set
	// Dir keeps the state of all workload clusters, in <namespace>/<cluster>; logs of their programs are there.
	Dir string
	// Neighbours is a pattern for the Dirs of other sandboxes, from which clusters may be taken over; may be empty.
	Neighbours string
	Network    Network
	// Lite makes clusters lite that do not say otherwise themselves: see infra.ControlPlaneAnnotation.
	Lite bool
	Log  logr.Logger
	// Started is called once the simulator sees Clusters and Machines. It may be nil.
	Started func()
}

// Run simulates until ctx ends. When it returns, none of the processes that it started is left. What is in Dir
// stays, and a later Run with the same management cluster goes on from there.
func Run(ctx context.Context, o Options) error {
	prefix, err := netip.ParsePrefix(o.Network.Prefix + ".0.0/16")
	if err != nil {
		return fmt.Errorf("simulator: network %q: %w", o.Network.Prefix, err)
	}
	if !prefix.Addr().IsLoopback() {
		return fmt.Errorf("simulator: network %q is not on loopback", o.Network.Prefix)
	}
	fleet, err := workload.New(workload.Options{Programs: o.Binaries, Dir: o.Dir, Neighbours: o.Neighbours, Prefix: prefix, Log: o.Log})
	if err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	// However it goes on: the fleet holds locks from now on, which the next run needs.
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		fleet.Close(stop)
	}()
	mgr, err := newManager(o)
	if err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	if err := errors.Join(infra.Setup(mgr, fleet, infra.Options{Lite: o.Lite}), rehearsal.Setup(mgr, fleet)); err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	if o.Started != nil {
		if err := mgr.Add(announce(mgr.GetCache(), o.Started)); err != nil {
			return fmt.Errorf("simulator: %w", err)
		}
	}
	if err := mgr.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("simulator: %w", err)
	}
	return nil
}

// announce calls started when the caches that the controllers wait for are filled.
func announce(c cache.Cache, started func()) manager.RunnableFunc {
	return func(ctx context.Context) error {
		for _, kind := range []client.Object{&clusterv1.Cluster{}, &clusterv1.Machine{}, &clusterv1.MachinePool{}} {
			if _, err := c.GetInformer(ctx, kind); err != nil { // waits until it is filled
				return err
			}
		}
		started()
		return nil
	}
}

func newManager(o Options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clusterv1.AddToScheme, controlplanev1.AddToScheme, corev1.AddToScheme, failure.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return ctrl.NewManager(o.Config, ctrl.Options{
		Scheme:  scheme,
		Logger:  o.Log,
		Metrics: server.Options{BindAddress: "0"},
		Cache:   cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Client:  client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		// A sandbox is ended by a person who waits; a start that is under way is given up.
		GracefulShutdownTimeout: ptr.To(stopTimeout),
		Controller:              config.Controller{RecoverPanic: ptr.To(true)},
	})
}
