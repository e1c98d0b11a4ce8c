// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// prefix is a network that no sandbox uses.
var prefix = netip.MustParsePrefix("127.63.0.0/16")

func fleet(t *testing.T, dir string) *Fleet {
	t.Helper()
	f, err := New(Options{Dir: dir, Prefix: prefix, Log: testr.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(context.WithoutCancel(t.Context())) })
	return f
}

func spec(name string) Spec {
	return Spec{NamespacedName: types.NamespacedName{Namespace: "n", Name: name}}
}

func ensure(t *testing.T, f *Fleet, name string) *Cluster {
	t.Helper()
	c, err := f.Ensure(t.Context(), spec(name), Owner{UID: types.UID(name)}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAddressesOfClusters(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir)
	one, two := ensure(t, f, "one"), ensure(t, f, "two")
	if one.Endpoint().Addr() != netip.MustParseAddr("127.63.1.1") || two.Endpoint().Addr() != netip.MustParseAddr("127.63.2.1") {
		t.Errorf("endpoints %s and %s", one.Endpoint(), two.Endpoint())
	}
	if again := ensure(t, f, "one"); again != one {
		t.Error("the same cluster was made twice")
	}
	if err := f.Remove(t.Context(), one.NamespacedName); err != nil {
		t.Fatal(err)
	}
	if three := ensure(t, f, "three"); three.Endpoint().Addr() != one.Endpoint().Addr() {
		t.Errorf("endpoint %s, want the one that was freed", three.Endpoint())
	}

	f.Close(t.Context())
	after := fleet(t, dir)
	if four := ensure(t, after, "four"); four.Endpoint().Addr() != netip.MustParseAddr("127.63.3.1") {
		t.Errorf("after a restart a new cluster is at %s, which was taken", four.Endpoint())
	}
	if again := ensure(t, after, "two"); again.Endpoint() != two.Endpoint() {
		t.Errorf("after a restart cluster two is at %s, not at %s", again.Endpoint(), two.Endpoint())
	}
}

func TestAddressesOfMachines(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir)
	c := ensure(t, f, "one")
	allocate := func(c *Cluster, name string) string {
		t.Helper()
		ip, err := c.Allocate(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return ip.String()
	}
	got := []string{allocate(c, "a"), allocate(c, "b"), allocate(c, "a")}
	if want := []string{"127.63.1.2", "127.63.1.3", "127.63.1.2"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := c.RemoveMachine(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "n", "one", "machines", "a")); !os.IsNotExist(err) {
		t.Errorf("the folder of a machine that was removed: %v", err)
	}
	f.Close(t.Context())
	c = ensure(t, fleet(t, dir), "one")
	if b, d := allocate(c, "b"), allocate(c, "d"); b != "127.63.1.3" || d != "127.63.1.2" {
		t.Errorf("after a restart b is at %s and a new machine at %s", b, d)
	}
}

func TestRemoveLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir)
	c := ensure(t, f, "one")
	if _, err := c.Allocate(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(t.Context(), c.NamespacedName); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", c.Endpoint().String()); err == nil {
		_ = conn.Close()
		t.Error("the endpoint still answers")
	}
}

// TestRemovedClusterStartsNothing: what starts after a cluster was removed would be ended by nobody.
func TestRemovedClusterStartsNothing(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir)
	c := ensure(t, f, "one")
	if err := f.Remove(t.Context(), c.NamespacedName); err != nil {
		t.Fatal(err)
	}
	m := Machine{Name: "m", Version: "v1.36.3", Data: bootstrap.Data{ControlPlane: true, Init: true}}
	m.Authorities = func(context.Context) (controlplane.Authorities, error) {
		t.Error("the machine begins to start")
		return controlplane.Authorities{}, errors.New("too late")
	}
	for name, late := range map[string]func() error{
		"Run": func() error { return c.Run(t.Context(), m) },
		"Allocate": func() error {
			_, err := c.Allocate(t.Context(), "m")
			return err
		},
	} {
		if err := late(); !errors.Is(err, errClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestClosedFleetOpensNothing: what a controller asks for that did not notice the end would be ended by nobody.
func TestClosedFleetOpensNothing(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir)
	c := ensure(t, f, "one")
	f.Close(t.Context())
	for name, late := range map[string]func() error{
		"Open": func() error {
			_, err := f.Open(t.Context(), spec("one"))
			return err
		},
		"Ensure": func() error {
			_, err := f.Ensure(t.Context(), spec("two"), Owner{UID: "two"}, netip.AddrPort{})
			return err
		},
		"TakeOver": func() error {
			_, err := f.Ensure(t.Context(), spec("two"), Owner{UID: "two"}, c.Endpoint())
			return err
		},
		"SharedEtcd": func() error {
			_, err := f.SharedEtcd(t.Context())
			return err
		},
	} {
		if err := late(); !errors.Is(err, errClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again := ensure(t, fleet(t, dir), "one"); again.Endpoint() != c.Endpoint() {
		t.Errorf("the next fleet has the cluster at %s", again.Endpoint())
	}
}

// TestStartIsGivenUp: a machine that is to go, or whose cluster goes, does not hold that up until it runs.
func TestStartIsGivenUp(t *testing.T) {
	for name, tc := range map[string]struct {
		giveUp func(*testing.T, *Fleet, *Cluster, context.CancelCauseFunc)
		want   error
	}{
		"MachineDeleted": {func(_ *testing.T, _ *Fleet, _ *Cluster, cancel context.CancelCauseFunc) {
			cancel(controlplane.ErrDeleted)
		}, controlplane.ErrDeleted},
		"ClusterRemoved": {func(t *testing.T, f *Fleet, c *Cluster, _ context.CancelCauseFunc) {
			if err := f.Remove(t.Context(), c.NamespacedName); err != nil {
				t.Error(err)
			}
		}, errClosed},
		"SandboxStopped": {func(t *testing.T, f *Fleet, _ *Cluster, _ context.CancelCauseFunc) { f.Close(t.Context()) }, errClosed},
	} {
		t.Run(name, func(t *testing.T) {
			f := fleet(t, t.TempDir())
			c := ensure(t, f, "one")
			c.joining <- struct{}{} // another machine joins, and takes its time
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			m := Machine{Name: "m", Version: "v1.36.3", Data: bootstrap.Data{ControlPlane: true}}
			starts := make(chan struct{})
			m.Authorities = func(context.Context) (controlplane.Authorities, error) {
				close(starts)
				return controlplane.Authorities{}, nil
			}
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx, m) }()
			<-starts
			tc.giveUp(t, f, c, cancel)
			if err := <-ended; !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir)
	spec := Spec{NamespacedName: types.NamespacedName{Namespace: "n", Name: "one"}}
	if _, err := f.Open(t.Context(), spec); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cluster that nobody made: %v", err)
	}
	c := ensure(t, f, "one")
	if got, err := f.Open(t.Context(), spec); err != nil || got != c {
		t.Errorf("got %v, %v", got, err)
	}
	f.Close(t.Context())
	if got, err := fleet(t, dir).Open(t.Context(), spec); err != nil || got.Endpoint() != c.Endpoint() {
		t.Errorf("after a restart: %v", err)
	}
}

// TestControlPlaneThatBeginsAnew: a machine that initializes a control plane whose data is gone has to create what
// kubeadm creates, as if it were the first.
func TestControlPlaneThatBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	c := ensure(t, fleet(t, dir), "one")
	for _, name := range []string{"a", "b", "worker"} {
		if _, err := c.Allocate(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if name == "worker" {
			continue
		}
		if err := os.MkdirAll(filepath.Join(c.machineDir(name), "etcd", "member", "wal"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.state.Initialized = true
	for _, step := range []struct {
		remove      string
		initialized bool
	}{{"a", true}, {"b", false}} {
		if err := c.RemoveMachine(t.Context(), step.remove); err != nil {
			t.Fatal(err)
		}
		if c.state.Initialized != step.initialized {
			t.Errorf("after %s is gone: initialized %t", step.remove, c.state.Initialized)
		}
	}
	var stored clusterState
	if err := statefile.Read(filepath.Join(dir, "n", "one", clusterFile), &stored); err != nil || stored.Initialized {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

func TestPortThatIsTakenOnAllAddresses(t *testing.T) {
	everywhere, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = everywhere.Close() })
	taken := uint16(everywhere.Addr().(*net.TCPAddr).Port)
	ip := netip.MustParseAddr("127.63.200.2")
	got, err := freePort(t.Context(), ip, taken)
	if err != nil || got == taken || got == 0 {
		t.Errorf("got %d, %v; want another port than %d", got, err, taken)
	}
	if err := everywhere.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := freePort(t.Context(), ip, taken); err != nil || got != taken {
		t.Errorf("got %d, %v; want %d, which is free now", got, err, taken)
	}
}

func TestTaints(t *testing.T) {
	uninitialized := corev1.Taint{Key: "node.cluster.x-k8s.io/uninitialized", Effect: corev1.TaintEffectNoSchedule}
	cloud := corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}
	own := corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoExecute}
	cases := map[string]struct {
		why  string
		give bootstrap.Data
		want []corev1.Taint
	}{
		"Worker":             {"Cluster API removes it once it has set labels.", bootstrap.Data{}, []corev1.Taint{uninitialized}},
		"WorkerThatHasIt":    {"", bootstrap.Data{Node: bootstrap.Node{Taints: []corev1.Taint{uninitialized, own}}}, []corev1.Taint{uninitialized, own}},
		"ControlPlane":       {"", bootstrap.Data{ControlPlane: true, Node: bootstrap.Node{Taints: []corev1.Taint{own}}}, []corev1.Taint{own}},
		"CloudProvider":      {"It stays until a cloud controller manager removes it.", bootstrap.Data{Node: bootstrap.Node{ExternalCloudProvider: true}}, []corev1.Taint{uninitialized, cloud}},
		"ControlPlaneClouds": {"", bootstrap.Data{ControlPlane: true, Node: bootstrap.Node{ExternalCloudProvider: true}}, []corev1.Taint{cloud}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, taints(Machine{Data: c.give})); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", c.why, diff)
			}
		})
	}
}

func TestCompareMinors(t *testing.T) {
	minors := []string{"1.36", "1.9", "1.35"}
	slices.SortFunc(minors, compareMinors)
	if want := []string{"1.9", "1.35", "1.36"}; !slices.Equal(minors, want) {
		t.Errorf("got %v, want %v", minors, want)
	}
}
