// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controlplanes proves what a sandbox does with control planes of several machines: they grow and shrink,
// are upgraded while their endpoint answers, and lose machines that fail.
package controlplanes

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/transport"
	"k8s.io/utils/ptr"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// scenarios is how many tests run at once: they wait for Cluster API more than they compute, so more than there are
// cores.
const scenarios = "3"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", scenarios); err != nil {
		panic(err)
	}
	sandboxtest.Main(m)
}

const (
	older = "v1.35.4"
	newer = "v1.36.3"

	// patience is for one change of one machine, many times what it takes: the machine may be busy.
	patience = 5 * time.Minute
)

// subject is the cluster of one test.
type subject struct {
	types.NamespacedName
	mgmt     *clustertest.Management
	workload client.WithWatch
}

// create makes a cluster in a namespace of its own, with a network, and waits until all its machines are there.
func create(t *testing.T, name string, controlPlanes, workers int32, version string, edits ...func(*clusterv1.Topology)) *subject {
	t.Helper()
	mgmt := clustertest.New(t, sandboxtest.Management(t))
	mgmt.Namespace(t, name)
	clustertest.CreateClass(t, mgmt, name)
	s := &subject{NamespacedName: types.NamespacedName{Namespace: name, Name: name}, mgmt: mgmt}
	cluster := clustertest.NewCluster(s.NamespacedName, version, controlPlanes, workers)
	for _, edit := range edits {
		edit(&cluster.Spec.Topology)
	}
	begin := time.Now()
	if err := mgmt.Create(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	s.workload = mgmt.Workload(t, patience, s.NamespacedName)
	clustertest.InstallNetwork(t, s.workload)
	s.await(t, controlPlanes, version)
	t.Logf("%d control plane machines and %d workers: available after %s", controlPlanes, workers, took(begin))
	return s
}

// delete ends the cluster; nothing may be left of it.
func (s *subject) delete(t *testing.T) {
	t.Helper()
	begin := time.Now()
	s.mgmt.DeleteCluster(t, patience, s.NamespacedName)
	t.Logf("deleted in %s", took(begin))
}

// change edits the topology of the cluster.
func (s *subject) change(t *testing.T, edit func(*clusterv1.Topology)) {
	t.Helper()
	cluster := &clusterv1.Cluster{}
	if err := s.mgmt.Get(t.Context(), s.NamespacedName, cluster); err != nil {
		t.Fatal(err)
	}
	before := cluster.DeepCopy()
	edit(&cluster.Spec.Topology)
	if err := s.mgmt.Patch(t.Context(), cluster, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// scale changes the size of the control plane, waits until it has come about, and looks at all that there is.
func (s *subject) scale(t *testing.T, to int32, version string) {
	t.Helper()
	begin := time.Now()
	s.change(t, func(topology *clusterv1.Topology) { topology.ControlPlane.Replicas = &to })
	s.await(t, to, version)
	t.Logf("scaled to %d in %s", to, took(begin))
	s.verify(t, version)
}

// await waits until control plane and workers are what the Cluster asks for, by what Cluster API says.
func (s *subject) await(t *testing.T, controlPlanes int32, version string) {
	t.Helper()
	clustertest.Await(t, s.mgmt, patience, &controlplanev1.KubeadmControlPlaneList{}, func(list *controlplanev1.KubeadmControlPlaneList) error {
		if len(list.Items) != 1 {
			return fmt.Errorf("%d control planes", len(list.Items))
		}
		kcp := &list.Items[0]
		if kcp.Spec.Version != version || ptr.Deref(kcp.Spec.Replicas, 0) != controlPlanes {
			return fmt.Errorf("the control plane asks for %d machines of %s", ptr.Deref(kcp.Spec.Replicas, 0), kcp.Spec.Version)
		}
		for _, n := range []*int32{kcp.Status.Replicas, kcp.Status.ReadyReplicas, kcp.Status.UpToDateReplicas, kcp.Status.AvailableReplicas} {
			if ptr.Deref(n, 0) != controlPlanes {
				return fmt.Errorf("of %d control plane machines there are %d, ready %d, up to date %d, available %d", controlPlanes,
					ptr.Deref(kcp.Status.Replicas, 0), ptr.Deref(kcp.Status.ReadyReplicas, 0), ptr.Deref(kcp.Status.UpToDateReplicas, 0), ptr.Deref(kcp.Status.AvailableReplicas, 0))
			}
		}
		return hold(kcp, controlplanev1.KubeadmControlPlaneAvailableCondition, controlplanev1.KubeadmControlPlaneEtcdClusterHealthyCondition,
			controlplanev1.KubeadmControlPlaneControlPlaneComponentsHealthyCondition)
	}, client.InNamespace(s.Namespace))
	s.mgmt.AwaitCluster(t, patience, s.NamespacedName, func(c *clusterv1.Cluster) error {
		if c.Spec.Topology.Version != version || c.Status.ObservedGeneration != c.Generation {
			return fmt.Errorf("Cluster %s asks for %s, and is at generation %d of %d", c.Name, c.Spec.Topology.Version, c.Status.ObservedGeneration, c.Generation)
		}
		return errors.Join(clustertest.Holds(clusterv1.ClusterTopologyReconciledCondition)(c), clustertest.Holds(clusterv1.ClusterAvailableCondition)(c))
	})
	s.machines(t, func(machines []clusterv1.Machine) error {
		for i := range machines {
			if machines[i].Spec.Version != version {
				return fmt.Errorf("machine %s is still at %s", machines[i].Name, machines[i].Spec.Version)
			}
			if err := hold(&machines[i], clusterv1.MachineAvailableCondition, clusterv1.MachineUpToDateCondition); err != nil {
				return err
			}
		}
		return nil
	})
}

// machines waits until the machines of the cluster are as wanted.
func (s *subject) machines(t *testing.T, wanted func([]clusterv1.Machine) error) []clusterv1.Machine {
	t.Helper()
	return clustertest.Await(t, s.mgmt, patience, &clusterv1.MachineList{}, func(l *clusterv1.MachineList) error { return wanted(l.Items) },
		client.InNamespace(s.Namespace)).Items
}

func (s *subject) controlPlaneMachines(t *testing.T) []string {
	t.Helper()
	return sorted(clustertest.Names(t, s.list(t, &clusterv1.MachineList{}, client.InNamespace(s.Namespace), client.HasLabels{clusterv1.MachineControlPlaneLabel})))
}

func (s *subject) workers(t *testing.T) []string {
	t.Helper()
	return sorted(clustertest.Names(t, s.list(t, &clusterv1.MachineList{}, client.InNamespace(s.Namespace), client.HasLabels{clusterv1.MachineDeploymentNameLabel})))
}

func (s *subject) list(t *testing.T, into client.ObjectList, opts ...client.ListOption) client.ObjectList {
	t.Helper()
	if err := s.mgmt.List(t.Context(), into, opts...); err != nil {
		t.Fatal(err)
	}
	return into
}

// verify looks at what there really is, of the machines that Cluster API says there are: members of etcd, Nodes with
// signs of life, and processes. Nothing more may be left of machines that are gone.
func (s *subject) verify(t *testing.T, version string) {
	t.Helper()
	controlPlane, workers := s.controlPlaneMachines(t), s.workers(t)
	if diff := cmp.Diff(controlPlane, s.etcdMembers(t, controlPlane)); diff != "" {
		t.Errorf("members of etcd (+) are not the machines (-):\n%s", diff)
	}
	all := sorted(slices.Concat(controlPlane, workers))
	nodes := clustertest.Await(t, s.workload, patience, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
		if diff := cmp.Diff(all, sorted(clustertest.Names(t, nodes))); diff != "" {
			return fmt.Errorf("Nodes (+) are not the machines (-):\n%s", diff)
		}
		return nil
	})
	for i := range nodes.Items {
		if got := nodes.Items[i].Status.NodeInfo.KubeletVersion; got != version {
			t.Errorf("node %s runs %s, want %s", nodes.Items[i].Name, got, version)
		}
	}
	clustertest.Await(t, s.workload, patience, &coordinationv1.LeaseList{}, func(leases *coordinationv1.LeaseList) error {
		if diff := cmp.Diff(all, sorted(clustertest.Names(t, leases))); diff != "" {
			return fmt.Errorf("leases (+) are not those of the machines (-):\n%s", diff)
		}
		for _, l := range leases.Items {
			if age := time.Since(l.Spec.RenewTime.Time); age > time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second {
				return fmt.Errorf("the last sign of life of %s is %s old", l.Name, age.Round(time.Second))
			}
		}
		return nil
	}, client.InNamespace(corev1.NamespaceNodeLease))

	wanted := []string{"kube-controller-manager", "kube-scheduler"}
	for _, machine := range controlPlane {
		wanted = append(wanted, "etcd on "+machine, "kube-apiserver on "+machine)
	}
	var running []string
	for _, p := range s.mgmt.Programs(t, s.NamespacedName) {
		if p.Machine != "" {
			p.Name += " on " + p.Machine
		}
		running = append(running, p.Name)
	}
	if diff := cmp.Diff(sorted(wanted), sorted(running)); diff != "" {
		t.Errorf("processes (+) are not those of the machines (-):\n%s", diff)
	}
}

// etcdMembers asks the real etcd of the given machines.
func (s *subject) etcdMembers(t *testing.T, machines []string) []string {
	t.Helper()
	var endpoints []string
	for _, p := range s.mgmt.Programs(t, s.NamespacedName) {
		if p.Name != "etcd" {
			continue
		}
		for _, arg := range p.Args {
			if url, ok := strings.CutPrefix(arg, "--advertise-client-urls="); ok {
				endpoints = append(endpoints, url)
			}
		}
	}
	if len(endpoints) == 0 || len(machines) == 0 {
		t.Fatalf("no etcd runs, and there are %d machines", len(machines))
	}
	pki := filepath.Join(s.mgmt.ClusterDir(s.NamespacedName), "machines", machines[0], "pki")
	tls, err := transport.TLSConfigFor(&transport.Config{TLS: transport.TLSConfig{
		CAFile: filepath.Join(pki, "etcd-ca.crt"), CertFile: filepath.Join(pki, "apiserver-etcd-client.crt"), KeyFile: filepath.Join(pki, "apiserver-etcd-client.key"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	etcd, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: endpoints, TLS: tls, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	list, err := etcd.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list.Members {
		if m.IsLearner {
			t.Errorf("etcd member %s does not vote", m.Name)
		}
		names = append(names, m.Name)
	}
	return sorted(names)
}

// hold says which of the conditions of an object is not True.
func hold(object interface {
	conditions.Getter
	client.Object
}, types ...string) error {
	for _, kind := range types {
		if !conditions.IsTrue(object, kind) {
			return fmt.Errorf("%s has not %s: %s", object.GetName(), kind, conditions.GetMessage(object, kind))
		}
	}
	return nil
}

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}

func took(begin time.Time) time.Duration { return time.Since(begin).Round(time.Second) }
