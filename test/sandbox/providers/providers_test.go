// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package providers proves that a sandbox serves the kinds of any infrastructure provider: of either contract of
// Cluster API, written in either version of its API, with machines and with pools of machines; for each minor of
// Kubernetes that a sandbox offers, with classes in another namespace.
package providers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	oldest = "v1.34.4"
	older  = "v1.35.4"
	newest = "v1.36.3"

	// patience is for one change of a cluster, many times what it takes: the machine may be busy.
	patience = 5 * time.Minute

	// classes is the namespace of all classes; each cluster is in one of its own.
	classes = "classes"
)

// openStackVariable is an environment variable that names the CRDs of the provider for OpenStack, as --crds takes
// them, to use in place of the excerpt in testdata: with it this proves what a release of the provider does.
const openStackVariable = "CLUSTER_STACK_TEST_OPENSTACK_CRDS"

// TestProviders runs the clusters of all providers side by side in one management cluster, which behaves like the
// oldest Kubernetes that a sandbox offers.
func TestProviders(t *testing.T) {
	if diff := slices.Compare(binaries.Minors(), []string{minor(newest), minor(older), minor(oldest)}); diff != 0 {
		t.Fatalf("a sandbox offers %q; change the versions of this test", binaries.Minors())
	}
	openstack := os.Getenv(openStackVariable)
	if openstack == "" {
		openstack = filepath.Join("testdata", "openstack-crds.yaml")
	}
	crds, err := filepath.Abs(openstack)
	if err != nil {
		t.Fatal(err)
	}
	instance := sandboxtest.Management(t, sandboxtest.WithKubernetes(minor(oldest)), sandboxtest.WithCRDs(crds, olderContract(t)))
	t.Cleanup(func() {
		if err := instance.Stop(); err != nil {
			t.Error(err)
		}
	})
	if got := emulated(t, instance.Config()); got != minor(oldest) {
		t.Errorf("the management cluster behaves like %s", got)
	}
	mgmt := clustertest.New(t, instance)
	mgmt.Namespace(t, classes)

	t.Run("OpenStack", func(t *testing.T) {
		t.Parallel()
		openStack(t, mgmt)
	})
	t.Run("OlderContract", func(t *testing.T) {
		t.Parallel()
		olderVersions(t, mgmt)
	})
	t.Run("Pools", func(t *testing.T) {
		t.Parallel()
		pools(t, mgmt)
	})
}

// openStack has a class as stacks for OpenStack have them: the nodes wait for a cloud controller manager.
func openStack(t *testing.T, mgmt *clustertest.Management) {
	cluster := types.NamespacedName{Namespace: "openstack", Name: "openstack"}
	workload := start(t, mgmt, cluster)
	nodes := awaitNodes(t, workload, 2, func(n corev1.Node) error {
		if !slices.ContainsFunc(n.Spec.Taints, isUninitialized) {
			return fmt.Errorf("node %s does not wait for a cloud controller manager: %v", n.Name, n.Spec.Taints)
		}
		return nil
	})
	for _, n := range nodes {
		initialize(t, workload, n.Name)
	}
	mgmt.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	if got := emulated(t, mgmt.Kubeconfig(t, patience, cluster)); got != minor(newest) {
		t.Errorf("the cluster behaves like %s", got)
	}

	infra := get(t, mgmt, "OpenStackCluster", cluster.Namespace)[0]
	if ready, _, _ := unstructured.NestedBool(infra.Object, "status", "ready"); !ready {
		t.Errorf("the OpenStackCluster is not ready: %v", infra.Object["status"])
	}
	ids := map[string]bool{}
	for _, m := range get(t, mgmt, "OpenStackMachine", cluster.Namespace) {
		id, _, _ := unstructured.NestedString(m.Object, "spec", "providerID")
		flavor, _, _ := unstructured.NestedString(m.Object, "spec", "flavor")
		ids[id] = true
		if ready, _, _ := unstructured.NestedBool(m.Object, "status", "ready"); !ready || flavor != "SCS-4V-8" {
			t.Errorf("OpenStackMachine %s: ready %t, flavor %s", m.GetName(), ready, flavor)
		}
	}
	for _, n := range nodes {
		if !ids[n.Spec.ProviderID] {
			t.Errorf("node %s has the provider ID %s, the machines have %v", n.Name, n.Spec.ProviderID, ids)
		}
	}
	mgmt.DeleteCluster(t, patience, cluster)
}

// olderVersions has class and cluster written in the version of Cluster API's own API before this one, and kinds of a
// provider that follows the contract of that version.
func olderVersions(t *testing.T, mgmt *clustertest.Management) {
	cluster := types.NamespacedName{Namespace: "older", Name: "older"}
	workload := start(t, mgmt, cluster)
	mgmt.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	if got := emulated(t, mgmt.Kubeconfig(t, patience, cluster)); got != minor(older) {
		t.Errorf("the cluster behaves like %s", got)
	}
	awaitNodes(t, workload, 3, func(n corev1.Node) error {
		if as := n.Labels["test.example.com/written-as"]; as != "v1beta1" {
			return fmt.Errorf("node %s has labels %v", n.Name, n.Labels)
		}
		return nil
	})
	for kind, count := range map[string]int{"DockerCluster": 1, "DockerMachine": 2, "DockerMachinePool": 1} {
		objects := get(t, mgmt, kind, cluster.Namespace)
		if len(objects) != count {
			t.Errorf("%d objects of kind %s, want %d", len(objects), kind, count)
		}
		for _, o := range objects {
			if ready, _, _ := unstructured.NestedBool(o.Object, "status", "ready"); !ready {
				t.Errorf("%s %s is not ready by the older contract: %v", kind, o.GetName(), o.Object["status"])
			}
		}
	}
	mgmt.DeleteCluster(t, patience, cluster)
}

// pools has workers in a machine pool, which grows, shrinks, and is upgraded.
func pools(t *testing.T, mgmt *clustertest.Management) {
	cluster := types.NamespacedName{Namespace: "pools", Name: "pools"}
	workload := start(t, mgmt, cluster)
	first := awaitPool(t, mgmt, workload, cluster, 2, oldest)
	mgmt.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	if got := emulated(t, mgmt.Kubeconfig(t, patience, cluster)); got != minor(oldest) {
		t.Errorf("the cluster behaves like %s", got)
	}

	change(t, mgmt, cluster, func(topology *clusterv1.Topology) { topology.Workers.MachinePools[0].Replicas = ptr.To[int32](3) })
	grown := awaitPool(t, mgmt, workload, cluster, 3, oldest)
	if len(common(first, grown)) != 2 {
		t.Errorf("from 2 to 3 instances %v became %v", first, grown)
	}
	change(t, mgmt, cluster, func(topology *clusterv1.Topology) { topology.Workers.MachinePools[0].Replicas = ptr.To[int32](1) })
	shrunk := awaitPool(t, mgmt, workload, cluster, 1, oldest)
	if len(common(grown, shrunk)) != 1 {
		t.Errorf("from 3 to 1 instance %v became %v", grown, shrunk)
	}

	change(t, mgmt, cluster, func(topology *clusterv1.Topology) { topology.Version = older })
	upgraded := awaitPool(t, mgmt, workload, cluster, 1, older)
	if len(common(shrunk, upgraded)) != 0 {
		t.Errorf("the upgrade kept instances: %v became %v", shrunk, upgraded)
	}
	mgmt.AwaitCluster(t, patience, cluster, func(c *clusterv1.Cluster) error {
		return errors.Join(clustertest.Holds(clusterv1.ClusterTopologyReconciledCondition)(c), clustertest.Holds(clusterv1.ClusterAvailableCondition)(c))
	})
	mgmt.DeleteCluster(t, patience, cluster)
}

// start creates a cluster with its class, and gives it a network.
func start(t *testing.T, mgmt *clustertest.Management, cluster types.NamespacedName) client.WithWatch {
	t.Helper()
	clustertest.Apply(t, mgmt, classes, filepath.Join("testdata", cluster.Name+"-class.yaml"))
	mgmt.Namespace(t, cluster.Namespace)
	clustertest.Apply(t, mgmt, cluster.Namespace, filepath.Join("testdata", cluster.Name+"-cluster.yaml"))
	workload := mgmt.Workload(t, patience, cluster)
	clustertest.InstallNetwork(t, workload)
	return workload
}

func change(t *testing.T, mgmt *clustertest.Management, key types.NamespacedName, edit func(*clusterv1.Topology)) {
	t.Helper()
	cluster := &clusterv1.Cluster{}
	if err := mgmt.Get(t.Context(), key, cluster); err != nil {
		t.Fatal(err)
	}
	before := cluster.DeepCopy()
	edit(&cluster.Spec.Topology)
	if err := mgmt.Patch(t.Context(), cluster, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// awaitPool waits until the pool of a cluster has so many instances of a version, and no others, by the Nodes and by
// what Cluster API says. It answers their names.
func awaitPool(t *testing.T, mgmt *clustertest.Management, workload client.WithWatch, cluster types.NamespacedName, count int, version string) []string {
	t.Helper()
	var names []string
	for _, n := range awaitNodes(t, workload, count+1, func(n corev1.Node) error {
		if n.Labels["test.example.com/role"] != "pooled" {
			return nil // the control plane
		}
		if v := n.Status.NodeInfo.KubeletVersion; v != version || len(n.Spec.Taints) > 0 {
			return fmt.Errorf("node %s is of version %s, with the taints %v", n.Name, v, n.Spec.Taints)
		}
		return nil
	}) {
		if n.Labels["test.example.com/role"] == "pooled" {
			names = append(names, n.Name)
		}
	}
	clustertest.Await(t, mgmt, patience, &clusterv1.MachinePoolList{}, func(list *clusterv1.MachinePoolList) error {
		if len(list.Items) != 1 {
			return fmt.Errorf("%d machine pools", len(list.Items))
		}
		pool := list.Items[0]
		var refs []string
		for _, ref := range pool.Status.NodeRefs {
			refs = append(refs, ref.Name)
		}
		if len(common(names, refs)) != count || len(refs) != count || len(pool.Spec.ProviderIDList) != count || ptr.Deref(pool.Status.ReadyReplicas, 0) != int32(count) {
			return fmt.Errorf("machine pool %s: instances %v, %d ready, nodes %v; the cluster has %v", pool.Name, pool.Spec.ProviderIDList, ptr.Deref(pool.Status.ReadyReplicas, 0), refs, names)
		}
		return nil
	}, client.InNamespace(cluster.Namespace))
	return names
}

func awaitNodes(t *testing.T, workload client.WithWatch, count int, wanted func(corev1.Node) error) []corev1.Node {
	t.Helper()
	return clustertest.Await(t, workload, patience, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
		if len(nodes.Items) != count {
			return fmt.Errorf("%d nodes, want %d", len(nodes.Items), count)
		}
		for _, n := range nodes.Items {
			if err := wanted(n); err != nil {
				return err
			}
		}
		return nil
	}).Items
}

func isUninitialized(taint corev1.Taint) bool {
	return taint.Key == "node.cloudprovider.kubernetes.io/uninitialized"
}

// initialize does for a Node what the cloud controller manager of the provider would do.
func initialize(t *testing.T, workload client.Client, name string) {
	t.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node := &corev1.Node{}
		if err := workload.Get(t.Context(), types.NamespacedName{Name: name}, node); err != nil {
			return err
		}
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, isUninitialized)
		return workload.Update(t.Context(), node)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// get lists the objects of a provider's kind, in its version v1beta1.
func get(t *testing.T, mgmt client.Client, kind, namespace string) []unstructured.Unstructured {
	t.Helper()
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta1", Kind: kind + "List"})
	if err := mgmt.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) == 0 {
		t.Fatalf("there is no %s in namespace %s", kind, namespace)
	}
	return list.Items
}

// emulated is the minor that an API server behaves like.
func emulated(t *testing.T, config *rest.Config) string {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	v, err := d.ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	return v.EmulationMajor + "." + v.EmulationMinor
}

// olderContract writes the Docker kinds, which follow both contracts, into a folder as a provider has it that knows the
// older one only.
func olderContract(t *testing.T) string {
	t.Helper()
	programs, err := binaries.Ensure(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	bases := os.DirFS(filepath.Join(programs.Manifests, "infrastructure-docker", "crd", "bases"))
	files, err := fs.Glob(bases, "*_docker*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no Docker kinds among the manifests", err)
	}
	dir := t.TempDir()
	for _, file := range files {
		raw, err := fs.ReadFile(bases, file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kustomization, err := yaml.Marshal(map[string]any{
		"resources": files,
		"labels":    []any{map[string]any{"pairs": map[string]string{"cluster.x-k8s.io/v1beta1": "v1beta1"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), kustomization, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// minor is that of a version such as v1.36.3.
func minor(version string) string {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	return parts[0] + "." + parts[1]
}

func common(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}
