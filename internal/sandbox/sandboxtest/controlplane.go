// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
)

// The programs of a ControlPlane.
const (
	Etcd          = "etcd"
	KubeAPIServer = "kube-apiserver"
)

// ControlPlane is an etcd and a kube-apiserver of one test, which may do anything to them. What ends is started again
// at once, with all that it has kept.
type ControlPlane struct {
	started Started
	config  *rest.Config
}

// NewControlPlane starts a control plane that ends with the test.
func NewControlPlane(t testing.TB) *ControlPlane {
	t.Helper()
	started, err := start(StartArgs{APIServerOnly: true, OwnEtcd: true})
	if err != nil {
		t.Fatalf("start a control plane: %v", err)
	}
	t.Cleanup(func() {
		if err := stop(started.ID); err != nil {
			t.Errorf("stop a control plane: %v", err)
		}
	})
	return &ControlPlane{started: started, config: loadConfig(t, started)}
}

// Config is how to reach the API server, as an administrator.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Kubeconfig is the path of a kubeconfig file that says the same.
func (c *ControlPlane) Kubeconfig() string { return c.started.Kubeconfig }

// Signal sends a signal to the process of a program, and returns its number.
func (c *ControlPlane) Signal(t testing.TB, program string, signal syscall.Signal) (pid int) {
	t.Helper()
	running := c.program(t, program)
	if running.PID == 0 {
		t.Fatalf("%s does not run", program)
	}
	if err := syscall.Kill(running.PID, signal); err != nil {
		t.Fatalf("send %s the signal %v: %v", program, signal, err)
	}
	return running.PID
}

// Kill kills a program with SIGKILL, and returns when another process has taken its place and is ready.
func (c *ControlPlane) Kill(t testing.TB, program string) {
	t.Helper()
	killed := c.Signal(t, program, syscall.SIGKILL)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for {
		if now := c.program(t, program); now.PID != killed && now.State == sandbox.StateReady {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s does not come back after it was killed", program)
		}
	}
}

// Etcd is a client of the etcd.
func (c *ControlPlane) Etcd(t testing.TB) *clientv3.Client {
	t.Helper()
	file := func(name string) string { return filepath.Join(c.started.Dir, "certs", name) }
	certificate, err := tls.LoadX509KeyPair(file("etcd-client.crt"), file("etcd-client.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + c.program(t, Etcd).Address}, Logger: zap.NewNop(),
		TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func (c *ControlPlane) program(t testing.TB, name string) sandbox.Component {
	t.Helper()
	all, err := programsOf(c.started.ID)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(p sandbox.Component) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("a control plane has no %s", name)
	}
	return all[i]
}

func programsOf(id int) ([]sandbox.Component, error) {
	client, err := reaper()
	if err != nil {
		return nil, err
	}
	var all []sandbox.Component
	if err := client.Call("Reaper.Programs", id, &all); err != nil {
		return nil, fmt.Errorf("ask for the programs of sandbox %d: %w", id, err)
	}
	return all, nil
}
