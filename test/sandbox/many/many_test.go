// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package many has several workload clusters at once in one sandbox: lite ones, some of which share an etcd, and
// tells what they take.
package many

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	// patience is how long anything may take, on a machine that is busy with other tests.
	patience = 5 * time.Minute

	before = "v1.35.4"
	after  = "v1.36.3"
)

// sandbox gives the management cluster of the package, and a namespace in it with the class.
func sandbox(t testing.TB, namespace string) *clustertest.Management {
	t.Helper()
	mgmt := clustertest.New(t, sandboxtest.Management(t, sandboxtest.WithLite()))
	mgmt.Namespace(t, namespace)
	clustertest.CreateClass(t, mgmt, namespace)
	return mgmt
}

// TestLite walks through the life of a lite cluster, until it becomes a full one.
func TestLite(t *testing.T) {
	t.Parallel()
	mgmt := sandbox(t, "lite")
	key := types.NamespacedName{Namespace: "lite", Name: "one"}
	create(t, mgmt, clustertest.NewCluster(key, before, 1, 1))
	workload := mgmt.Workload(t, patience, key)
	mgmt.AwaitCluster(t, patience, key, clustertest.Holds(clusterv1.ClusterAvailableCondition))

	if got, want := programs(t, mgmt, key), []string{"etcd", "kube-apiserver"}; !slices.Equal(got, want) {
		t.Errorf("a lite cluster runs %v, want %v", got, want)
	}
	within(t, mgmt, key, mostLite)
	var dns appsv1.Deployment
	get(t, workload, types.NamespacedName{Namespace: "kube-system", Name: "coredns"}, &dns)
	if dns.Status.ObservedGeneration != 0 {
		t.Errorf("somebody looks after Deployments: %+v", dns.Status)
	}
	for _, node := range nodes(t, workload) {
		if !ready(node) {
			t.Errorf("node %s is not Ready", node.Name)
		}
	}

	upgrade(t, mgmt, key)
	mgmt.AwaitCluster(t, patience, key, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	var leases []string
	for _, node := range nodes(t, workload) {
		leases = append(leases, node.Name)
		if node.Status.NodeInfo.KubeletVersion != after {
			t.Errorf("node %s has version %s", node.Name, node.Status.NodeInfo.KubeletVersion)
		}
	}
	var kept coordinationv1.LeaseList
	if err := workload.List(t.Context(), &kept, client.InNamespace(corev1.NamespaceNodeLease)); err != nil {
		t.Fatal(err)
	}
	if got := clustertest.Names(t, &kept); !slices.Equal(got, leases) {
		t.Errorf("leases of %v, nodes %v: nobody else removes what machines leave", got, leases)
	}

	// A full cluster wants a network, and runs pods.
	patch(t, mgmt, key, `{"metadata":{"annotations":{"`+infra.ControlPlaneAnnotation+`":"`+infra.ControlPlaneFull+`"}}}`)
	clustertest.Await(t, workload, patience, &corev1.NodeList{}, func(l *corev1.NodeList) error {
		for _, node := range l.Items {
			if ready(node) {
				return fmt.Errorf("node %s is Ready without a network", node.Name)
			}
		}
		return nil
	})
	clustertest.InstallNetwork(t, workload)
	clustertest.Await(t, workload, patience, &appsv1.DeploymentList{}, func(l *appsv1.DeploymentList) error {
		if len(l.Items) != 1 || l.Items[0].Status.ReadyReplicas == 0 {
			return errors.New("CoreDNS does not run")
		}
		return nil
	})
	if got, want := programs(t, mgmt, key), []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}; !slices.Equal(got, want) {
		t.Errorf("the cluster, full now, runs %v, want %v", got, want)
	}
	within(t, mgmt, key, mostFull)
	patch(t, mgmt, key, `{"metadata":{"annotations":{"`+infra.ControlPlaneAnnotation+`":"no"}}}`)
	mgmt.AwaitCluster(t, patience, key, func(c *clusterv1.Cluster) error {
		got := conditions.GetMessage(c, clusterv1.ClusterInfrastructureReadyCondition)
		if !strings.Contains(got, `is "no": set it to lite or full`) {
			return fmt.Errorf("the mistake is not told: %q", got)
		}
		return nil
	})
	mgmt.DeleteCluster(t, patience, key)
}

// TestSharedEtcd has two clusters in the etcd of the sandbox.
func TestSharedEtcd(t *testing.T) {
	t.Parallel()
	mgmt := sandbox(t, "shared")
	clustertest.Apply(t, mgmt, "shared", "testdata/external-etcd.yaml")
	one, two := types.NamespacedName{Namespace: "shared", Name: "one"}, types.NamespacedName{Namespace: "shared", Name: "two"}
	for _, key := range []types.NamespacedName{one, two} {
		cluster := clustertest.NewCluster(key, before, 1, 0)
		cluster.Spec.Topology.ClassRef.Name = "external-etcd"
		create(t, mgmt, cluster)
	}
	for _, key := range []types.NamespacedName{one, two} {
		workload := mgmt.Workload(t, patience, key)
		mgmt.AwaitCluster(t, patience, key, clustertest.Holds(clusterv1.ClusterAvailableCondition))
		if got, want := programs(t, mgmt, key), []string{"kube-apiserver"}; !slices.Equal(got, want) {
			t.Errorf("%s runs %v, want %v", key, got, want)
		}
		if n := nodes(t, workload); len(n) != 1 || !strings.HasPrefix(n[0].Name, key.Name) {
			t.Errorf("%s has the nodes %v", key, n)
		}
	}
	etcd := etcdOf(t, mgmt, one)
	if keys(t, etcd, "/shared/one/") == 0 || keys(t, etcd, "/shared/two/") == 0 {
		t.Error("the clusters are not where they should be")
	}

	// With an external etcd the number of machines may be even.
	patch(t, mgmt, two, `{"spec":{"topology":{"controlPlane":{"replicas":2}}}}`)
	upgrade(t, mgmt, one)
	mgmt.AwaitCluster(t, patience, one, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	mgmt.AwaitCluster(t, patience, two, func(c *clusterv1.Cluster) error {
		if got := ptr.Deref(c.Status.ControlPlane.AvailableReplicas, 0); got != 2 {
			return fmt.Errorf("%d machines of the control plane are available", got)
		}
		return nil
	})
	if got, want := programs(t, mgmt, two), []string{"kube-apiserver", "kube-apiserver"}; !slices.Equal(got, want) {
		t.Errorf("with two machines it runs %v, want %v", got, want)
	}
	mgmt.DeleteCluster(t, patience, one)
	if n := keys(t, etcd, "/shared/one/"); n > 0 {
		t.Errorf("%d keys are left of the cluster that was deleted", n)
	}
	if n := keys(t, etcd, "/shared/two/"); n == 0 {
		t.Error("the other cluster lost everything")
	}
	mgmt.DeleteCluster(t, patience, two)
}

// upgrade sets the version of a Cluster and waits until all machines have it.
func upgrade(t *testing.T, mgmt *clustertest.Management, key types.NamespacedName) {
	t.Helper()
	patch(t, mgmt, key, `{"spec":{"topology":{"version":"`+after+`"}}}`)
	clustertest.Await(t, mgmt, patience, &clusterv1.MachineList{}, func(machines *clusterv1.MachineList) error {
		for _, m := range machines.Items {
			if m.Spec.Version != after || !conditions.IsTrue(&m, clusterv1.MachineAvailableCondition) {
				return fmt.Errorf("machine %s: %s, %s", m.Name, m.Spec.Version, m.Status.Phase)
			}
		}
		return nil
	}, client.InNamespace(key.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: key.Name})
}

// etcdOf speaks with the etcd of a cluster as its API servers do.
func etcdOf(t *testing.T, mgmt *clustertest.Management, key types.NamespacedName) *clientv3.Client {
	t.Helper()
	var ca, pair corev1.Secret
	get(t, mgmt, types.NamespacedName{Namespace: key.Namespace, Name: secret.Name(key.Name, secret.EtcdCA)}, &ca)
	get(t, mgmt, types.NamespacedName{Namespace: key.Namespace, Name: secret.Name(key.Name, secret.APIServerEtcdClient)}, &pair)
	certificate, err := tls.X509KeyPair(pair.Data[corev1.TLSCertKey], pair.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Data[corev1.TLSCertKey])
	var endpoint string
	for _, p := range mgmt.Programs(t, key) {
		for _, arg := range p.Args {
			if url, ok := strings.CutPrefix(arg, "--etcd-servers="); ok {
				endpoint = url
			}
		}
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(),
		TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func keys(t *testing.T, etcd *clientv3.Client, prefix string) int64 {
	t.Helper()
	answer, err := etcd.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return answer.Count
}

// programs are the names of what runs for a cluster.
func programs(t *testing.T, mgmt *clustertest.Management, key types.NamespacedName) []string {
	t.Helper()
	var names []string
	for _, p := range mgmt.Programs(t, key) {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

func nodes(t *testing.T, workload client.Client) []corev1.Node {
	t.Helper()
	var l corev1.NodeList
	if err := workload.List(t.Context(), &l); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

func ready(node corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func create(t testing.TB, c client.Client, object client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), object); err != nil {
		t.Fatalf("create %s: %v", object.GetName(), err)
	}
}

func get(t testing.TB, c client.Client, key types.NamespacedName, into client.Object) {
	t.Helper()
	if err := c.Get(t.Context(), key, into); err != nil {
		t.Fatal(err)
	}
}

func patch(t testing.TB, mgmt client.Client, key types.NamespacedName, merge string) {
	t.Helper()
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if err := mgmt.Patch(t.Context(), cluster, client.RawPatch(types.MergePatchType, []byte(merge))); err != nil {
		t.Fatal(err)
	}
}
