// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package move

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
	"github.com/clusterstacks/cluster-stack-operator/test/story"
)

// root is the repository, seen from this package.
const root = "../../.."

// TestMoveWithOperator: the operator in the other management cluster finds what this one has applied, and applies none
// of it again.
func TestMoveWithOperator(t *testing.T) {
	operator := filepath.Join(t.TempDir(), "cluster-stack-operator")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", operator, "./cmd/cluster-stack-operator")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	releases := t.TempDir()
	var out bytes.Buffer
	if code := cli.Run([]string{
		"create", filepath.Join(root, "stacks/docker/starter/1-35"), "--output", releases, "--mode", "custom",
		"--cluster-stack-version", "v1", "--cluster-addon-version", "v1", "--node-image-version", "v1",
	}, strings.NewReader(""), &out, &out); code != 0 {
		t.Fatalf("csctl create: exit code %d\n%s", code, &out)
	}

	from := sandboxtest.NewManagement(t, sandboxtest.WithOperator(operator, releases))
	demo := types.NamespacedName{Namespace: "quickstart", Name: "demo"}
	goal := story.Goal{Class: "docker-starter-1-35-v1", Version: "v1.35.4", Nodes: 3}
	before, err := story.New(from.Config(), story.NewReport(t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	manifests := os.DirFS(filepath.Join(root, "docs/tutorial/quickstart"))
	for _, do := range []func() error{
		func() error { return before.Apply(t.Context(), manifests, "clusterstack-1-35.yaml") },
		func() error { return before.Released(t.Context(), demo.Namespace, goal.Class, goal.Class) },
		func() error { return before.Apply(t.Context(), manifests, "cluster.yaml") },
		func() error { return before.Reached(t.Context(), demo, goal, 2*patience) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	secrets := ledger(t, before.Client, demo)

	to := sandboxtest.NewManagement(t, sandboxtest.WithOperator(operator, releases))
	clusterctl(t, "move", "--namespace="+demo.Namespace, "--kubeconfig="+from.Kubeconfig(), "--to-kubeconfig="+to.Kubeconfig())
	after, err := story.New(to.Config(), story.NewReport(t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	if err := after.Reached(t.Context(), demo, goal, 2*patience); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(secrets, ledger(t, after.Client, demo)); diff != "" {
		t.Errorf("the Secrets of the ClusterAddon: %s", diff)
	}
	target := clustertest.New(t, to)
	for _, line := range applied(t, target, demo) {
		t.Errorf("applied again: %s", line)
	}
	target.DeleteCluster(t, patience, demo)
}

// ledger names the Secrets that a ClusterAddon owns: what it has applied, and what was generated for it.
func ledger(t *testing.T, c client.Client, cluster types.NamespacedName) []string {
	t.Helper()
	addon := &v1alpha1.ClusterAddon{}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: cluster.Namespace, Name: "cluster-addon-" + cluster.Name}, addon); err != nil {
		t.Fatal(err)
	}
	list := &corev1.SecretList{}
	if err := c.List(t.Context(), list, client.InNamespace(cluster.Namespace)); err != nil {
		t.Fatal(err)
	}
	list.Items = slices.DeleteFunc(list.Items, func(s corev1.Secret) bool {
		return !slices.ContainsFunc(s.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == addon.UID })
	})
	if len(list.Items) == 0 {
		t.Fatalf("ClusterAddon %s owns no Secret", addon.Name)
	}
	return clustertest.Names(t, list)
}

// applied lists the requests by server-side apply that the API server of a cluster has counted. It was started when the
// cluster was taken over.
func applied(t *testing.T, mgmt *clustertest.Management, cluster types.NamespacedName) []string {
	t.Helper()
	c, err := kubernetes.NewForConfig(mgmt.Kubeconfig(t, patience, cluster))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.Discovery().RESTClient().Get().AbsPath("/metrics").Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	counts := 0
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "apiserver_request_total{") {
			counts++
			if strings.Contains(line, `verb="APPLY"`) {
				found = append(found, line)
			}
		}
	}
	if counts == 0 {
		t.Fatal("the API server counts no requests")
	}
	return found
}
