// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package move proves that `clusterctl move` takes a cluster from one sandbox to another: the objects, which clusterctl
// moves, and what they stand for, which the simulators hand over.
package move

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestMain lets the test binary be csctl for `sandbox up`, which starts its own executable once more.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sandbox" {
		os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	sandboxtest.Main(m)
}

const (
	version = "v1.36.3"
	// patience is for one thing to happen, many times what it takes: the machine may be busy.
	patience = 5 * time.Minute
)

var cluster = types.NamespacedName{Namespace: "team", Name: "moved"}

func TestMove(t *testing.T) {
	from := sandboxtest.Management(t)
	source := clustertest.New(t, from)
	source.Namespace(t, cluster.Namespace)
	clustertest.CreateClass(t, source, cluster.Namespace)
	if err := source.Create(t.Context(), clustertest.NewCluster(cluster, version, 1, 1)); err != nil {
		t.Fatal(err)
	}
	to := sandboxtest.NewManagement(t) // while the cluster comes up
	target := clustertest.New(t, to)

	workload := source.Workload(t, patience, cluster)
	clustertest.InstallNetwork(t, workload)
	data := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kept"},
		Data:       map[string]string{"written": "before the move"},
	}
	if err := workload.Create(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	source.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	addon := createStack(t, source)
	ca := authority(t, source)

	start := time.Now()
	clusterctl(t, "move", "--namespace="+cluster.Namespace, "--kubeconfig="+from.Kubeconfig(), "--to-kubeconfig="+to.Kubeconfig())
	t.Logf("clusterctl move took %s", time.Since(start).Round(time.Second))
	target.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	t.Logf("available again %s after the move began", time.Since(start).Round(time.Second))

	t.Run("SourceHasNothing", func(t *testing.T) { wantNothing(t, source, from.Dir()) })
	t.Run("SameCluster", func(t *testing.T) {
		if diff := cmp.Diff(ca, authority(t, target)); diff != "" {
			t.Errorf("another certificate authority: %s", diff)
		}
		// Both with what users had before, and with what they are given now.
		for name, c := range map[string]client.Client{"before": workload, "now": target.Workload(t, patience, cluster)} {
			got := &corev1.ConfigMap{}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(data), got); err != nil || got.UID != data.UID {
				t.Errorf("by the kubeconfig of %s: %s, %v; want the object of before the move", name, got.UID, err)
			}
		}
	})
	t.Run("Stack", func(t *testing.T) { wantStack(t, target, addon) })
	t.Run("Describe", func(t *testing.T) {
		out := clusterctl(t, "describe", "cluster", cluster.Name, "--namespace="+cluster.Namespace, "--kubeconfig="+to.Kubeconfig())
		for _, want := range []string{"Cluster " + cluster.String(), "DevCluster " + cluster.Namespace, "MachineDeployment " + cluster.Namespace} {
			if !strings.Contains(out, want) {
				t.Errorf("lacks %s:\n%s", want, out)
			}
		}
	})
	t.Run("Grows", func(t *testing.T) {
		c := &clusterv1.Cluster{}
		if err := target.Get(t.Context(), cluster, c); err != nil {
			t.Fatal(err)
		}
		before := c.DeepCopy()
		c.Spec.Topology.Workers.MachineDeployments[0].Replicas = ptr.To[int32](2)
		if err := target.Patch(t.Context(), c, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		clustertest.Await(t, workload, patience, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
			if n := len(nodes.Items); n != 3 {
				return fmt.Errorf("%d nodes: %v", n, clustertest.Names(t, nodes))
			}
			return nil
		})
		target.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	})
	target.DeleteCluster(t, patience, cluster)
}

// clusterctl runs the real program and returns what it prints.
func clusterctl(t *testing.T, args ...string) string {
	t.Helper()
	path, err := binaries.Clusterctl(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "CLUSTERCTL_DISABLE_VERSIONCHECK=true", "XDG_CONFIG_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("clusterctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// authority is the certificate authority of the cluster.
func authority(t *testing.T, mgmt *clustertest.Management) string {
	t.Helper()
	s := &corev1.Secret{}
	key := types.NamespacedName{Namespace: cluster.Namespace, Name: secret.Name(cluster.Name, secret.ClusterCA)}
	if err := mgmt.Get(t.Context(), key, s); err != nil {
		t.Fatal(err)
	}
	return string(s.Data[corev1.TLSCertKey])
}

// wantNothing looks for objects, programs and files of the cluster where it was.
func wantNothing(t *testing.T, source *clustertest.Management, dir string) {
	for _, kind := range []schema.GroupVersionKind{
		clusterv1.GroupVersion.WithKind("Cluster"), clusterv1.GroupVersion.WithKind("ClusterClass"), clusterv1.GroupVersion.WithKind("Machine"),
		{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmControlPlane"},
		{Group: "bootstrap.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmConfig"},
		{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevCluster"},
		{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevMachine"},
		stackGroup.WithKind("ClusterStack"), stackGroup.WithKind("ClusterStackRelease"), stackGroup.WithKind("ClusterAddon"),
		corev1.SchemeGroupVersion.WithKind("Secret"),
	} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := source.List(t.Context(), list, client.InNamespace(cluster.Namespace)); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
		if left := clustertest.Names(t, list); len(left) > 0 {
			t.Errorf("%s left: %v", kind.Kind, left)
		}
	}
	for _, p := range source.Programs(t, cluster) {
		t.Errorf("%s still runs (pid %d)", p.Name, p.Pid)
	}
	left, err := filepath.Glob(filepath.Join(dir, "machines", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

var stackGroup = schema.GroupVersion{Group: "clusterstack.x-k8s.io", Version: "v1alpha1"}

// createStack creates what the operator has beside a cluster, without the operator: a ClusterStack with a release, and
// a ClusterAddon with a Secret. Each is owned by the one before, the ClusterAddon by the Cluster.
func createStack(t *testing.T, c client.Client) *unstructured.Unstructured {
	t.Helper()
	owner := &clusterv1.Cluster{}
	if err := c.Get(t.Context(), cluster, owner); err != nil {
		t.Fatal(err)
	}
	create := func(kind, name string, spec map[string]any, owner client.Object, ownerKind schema.GroupVersionKind) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		o.SetGroupVersionKind(stackGroup.WithKind(kind))
		o.SetNamespace(cluster.Namespace)
		o.SetName(name)
		if owner != nil {
			o.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(owner, ownerKind)})
		}
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	stack := create("ClusterStack", "docker-plain", map[string]any{
		"provider": "docker", "name": "plain", "kubernetesVersion": "1.36", "noProvider": true, "autoSubscribe": false,
	}, nil, schema.GroupVersionKind{})
	create("ClusterStackRelease", "docker-plain-1-36-v1", map[string]any{}, stack, stack.GroupVersionKind())
	addon := create("ClusterAddon", "cluster-addon-"+cluster.Name, map[string]any{
		"clusterRef":   map[string]any{"apiVersion": clusterv1.GroupVersion.String(), "kind": "Cluster", "name": cluster.Name, "namespace": cluster.Namespace},
		"clusterStack": "docker-plain-1-36-v1", "version": "v1",
	}, owner, clusterv1.GroupVersion.WithKind("Cluster"))
	err := c.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cluster.Namespace, Name: addon.GetName(),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(addon, addon.GroupVersionKind())},
		},
		Type: "clusterstack.x-k8s.io/inventory",
		Data: map[string][]byte{"inventory": []byte("what was applied")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return addon
}

// wantStack finds what createStack made, with owners that are there.
func wantStack(t *testing.T, c client.Client, addon *unstructured.Unstructured) {
	owner := &clusterv1.Cluster{}
	if err := c.Get(t.Context(), cluster, owner); err != nil {
		t.Fatal(err)
	}
	get := func(kind schema.GroupVersionKind, name string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(kind)
		if err := c.Get(t.Context(), types.NamespacedName{Namespace: cluster.Namespace, Name: name}, o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	wantOwner := func(o client.Object, owner client.Object) {
		if ref := metav1.GetControllerOf(o); ref == nil || ref.UID != owner.GetUID() {
			t.Errorf("%s is owned by %v, not by %s", o.GetName(), ref, owner.GetName())
		}
	}
	stack := get(stackGroup.WithKind("ClusterStack"), "docker-plain")
	wantOwner(get(stackGroup.WithKind("ClusterStackRelease"), "docker-plain-1-36-v1"), stack)
	moved := get(stackGroup.WithKind("ClusterAddon"), addon.GetName())
	wantOwner(moved, owner)
	if diff := cmp.Diff(addon.Object["spec"], moved.Object["spec"]); diff != "" {
		t.Error(diff)
	}
	inventory := &corev1.Secret{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(addon), inventory); err != nil {
		t.Fatal(err)
	}
	wantOwner(inventory, moved)
	if got := string(inventory.Data["inventory"]); got != "what was applied" {
		t.Errorf("the inventory is %q", got)
	}
}
