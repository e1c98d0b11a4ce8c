// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sidebyside has two sandboxes on one machine, as a user starts them.
package sidebyside

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestMain lets the test binary be csctl for `sandbox up`, which starts its own executable once more.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sandbox" {
		os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// patience is how long anything may take, on a machine that is busy with other tests.
const patience = 5 * time.Minute

// sandbox is one of the two, with a cluster in it that is called the same in both.
type sandbox struct {
	name         string
	mgmt, inside client.WithWatch
	endpoint     string // of the cluster, host:port
}

var cluster = types.NamespacedName{Namespace: "default", Name: "one"}

// TestTwoSandboxes: neither sees, reaches or ends anything of the other, although their clusters have one name.
func TestTwoSandboxes(t *testing.T) {
	home, err := os.MkdirTemp("", "sandboxes-")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", home)
	names := []string{"left", "right"}
	t.Cleanup(func() {
		for _, name := range names {
			_, _ = csctl("sandbox", "down", "--name", name) // only what a failure has left
		}
		if err := os.Remove(home); err != nil {
			t.Errorf("files are left: %v", err)
			_ = os.RemoveAll(home)
		}
	})
	var both sync.WaitGroup
	for _, name := range names {
		both.Go(func() {
			if _, err := csctl("sandbox", "up", "--name", name, "--lite", "--operator", "none"); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if t.Failed() {
		return
	}
	var sandboxes []*sandbox
	for _, name := range names {
		s := &sandbox{name: name, mgmt: connect(t, "--name", name)}
		clustertest.CreateClass(t, s.mgmt, cluster.Namespace)
		if err := s.mgmt.Create(t.Context(), clustertest.NewCluster(cluster, "v1.36.3", 1, 0)); err != nil {
			t.Fatal(err)
		}
		sandboxes = append(sandboxes, s)
	}
	for _, s := range sandboxes {
		available(t, s)
		s.inside = connect(t, "--name", s.name, "--cluster", cluster.String())
		mark := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mark"}, Data: map[string]string{"sandbox": s.name}}
		if err := s.inside.Create(t.Context(), mark); err != nil {
			t.Fatal(err)
		}
	}
	left, right := sandboxes[0], sandboxes[1]
	for _, s := range sandboxes {
		marked(t, s)
	}
	if a, b := block(left.endpoint), block(right.endpoint); a == b {
		t.Errorf("both clusters have addresses of %s", a)
	}

	if _, err := csctl("sandbox", "down", "--name", left.name); err != nil {
		t.Fatal(err)
	}
	if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", left.endpoint); err == nil {
		_ = conn.Close()
		t.Error("the cluster of the sandbox that was ended still answers")
	}
	gone := filepath.Join(home, "cluster-stack", "sandbox", left.name)
	if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", gone, err)
	}
	available(t, right)
	marked(t, right)
	if out, err := csctl("sandbox", "status", "--name", right.name); err != nil || !strings.Contains(out, "Ready") {
		t.Errorf("the other sandbox: %v\n%s", err, out)
	}
	if _, err := csctl("sandbox", "down", "--name", right.name); err != nil {
		t.Error(err)
	}
	for _, p := range processesOf(t, home) {
		t.Errorf("%s is left, pid %d", p.Program, p.PID)
	}
}

// available waits until the cluster is, and learns where.
func available(t *testing.T, s *sandbox) {
	t.Helper()
	mgmt := &clustertest.Management{WithWatch: s.mgmt}
	mgmt.AwaitCluster(t, patience, cluster, func(c *clusterv1.Cluster) error {
		s.endpoint = net.JoinHostPort(c.Spec.ControlPlaneEndpoint.Host, fmt.Sprint(c.Spec.ControlPlaneEndpoint.Port))
		return clustertest.Holds(clusterv1.ClusterAvailableCondition)(c)
	})
}

// marked looks whether the cluster that a sandbox's kubeconfig leads to is its own.
func marked(t *testing.T, s *sandbox) {
	t.Helper()
	var mark corev1.ConfigMap
	if err := s.inside.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "mark"}, &mark); err != nil {
		t.Error(err)
	} else if mark.Data["sandbox"] != s.name {
		t.Errorf("the kubeconfig of sandbox %s leads to a cluster of sandbox %s", s.name, mark.Data["sandbox"])
	}
}

// block is the half of an address that says which sandbox it belongs to.
func block(endpoint string) string {
	return strings.Join(strings.Split(endpoint, ".")[:2], ".")
}

// connect gives a client of what csctl sandbox kubeconfig gives.
func connect(t *testing.T, args ...string) client.WithWatch {
	t.Helper()
	kubeconfig, err := csctl(append([]string{"sandbox", "kubeconfig"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(kubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	return clustertest.Connect(t, config)
}

// csctl runs a command and gives what it prints.
func csctl(args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	if code := cli.Run(args, strings.NewReader(""), &stdout, &stderr); code != 0 {
		return "", fmt.Errorf("csctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// processesOf lists what works below a folder.
func processesOf(t *testing.T, dir string) []process.Running {
	t.Helper()
	pids, err := process.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []process.Running
	for _, pid := range pids {
		if p, err := process.Look(pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}
