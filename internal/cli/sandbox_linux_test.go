// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/kubeconfig"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// TestMain lets the test binary be csctl for `sandbox up`, which starts its own executable once more.
func TestMain(m *testing.M) {
	if slices.Equal(os.Args[1:], serveCommand) {
		os.Exit(Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// csctl runs a command that is to succeed and returns what it printed.
func csctl(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := Run(args, strings.NewReader(""), &stdout, &stderr); code != 0 {
		t.Fatalf("csctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, &stdout, &stderr)
	}
	return stdout.String()
}

// fails runs a command that is to fail with a message that holds the given text.
func fails(t *testing.T, want string, args ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := Run(args, strings.NewReader(""), &stdout, &stderr)
	if code != 1 || !strings.HasPrefix(stderr.String(), "Error: ") || strings.Count(stderr.String(), "Error: ") != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("csctl %s: exit code %d, want %q once\n%s", strings.Join(args, " "), code, want, &stderr)
	}
}

// ownState gives the test sandboxes of its own and checks at its end that nothing is left of them.
func ownState(t *testing.T) {
	t.Helper()
	// Not t.TempDir: the test itself is to find out what is left.
	home, err := os.MkdirTemp("", "csctl-sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", home)
	t.Cleanup(func() {
		if t.Failed() {
			_, _ = daemon.Down(t.Context(), "default")
		}
		if err := os.Remove(home); err != nil {
			t.Errorf("files are left: %v", err)
			_ = os.RemoveAll(home)
		}
		for _, pid := range mentioning(t, home) {
			t.Errorf("process %s is left", pid)
		}
	})
}

// mentioning lists the processes that have a text in their command line or environment.
func mentioning(t *testing.T, text string) []string {
	t.Helper()
	var pids []string
	for _, file := range []string{"cmdline", "environ"} {
		found, err := filepath.Glob("/proc/[0-9]*/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			pid := filepath.Base(filepath.Dir(f))
			raw, err := os.ReadFile(f)
			if err == nil && bytes.Contains(raw, []byte(text)) && pid != fmt.Sprint(os.Getpid()) && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func status(t *testing.T) sandboxStatus {
	t.Helper()
	var s sandboxStatus
	if err := json.Unmarshal([]byte(csctl(t, "sandbox", "status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSandbox(t *testing.T) {
	ownState(t)
	// Whoever has the standard port on all addresses is not in the way.
	wildcard, err := net.Listen("tcp", ":6443")
	if err == nil { // else another sandbox has it on an address of its own, and there is nothing to avoid
		defer wildcard.Close()
	}
	fails(t, "csctl sandbox up", "sandbox", "status")
	fails(t, "csctl sandbox up", "sandbox", "kubeconfig")
	fails(t, "csctl sandbox up", "sandbox", "logs")
	if got := csctl(t, "sandbox", "down"); got != "Sandbox default does not run.\n" {
		t.Errorf("down without a sandbox: %q", got)
	}

	crds := filepath.Join(t.TempDir(), "crds.yaml")
	if err := os.WriteFile(crds, []byte(userCRD), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := inheritable(t)
	out := csctl(t, "sandbox", "up", "--operator", "none", "--crds", crds)
	ended()
	for _, want := range []string{"✓ etcd", "✓ kube-apiserver", "✓ capi-controller-manager", "Sandbox default is ready", "export KUBECONFIG="} {
		if !strings.Contains(out, want) {
			t.Errorf("up does not tell %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\033[") {
		t.Errorf("control sequences in what is no terminal:\n%q", out)
	}
	fails(t, "csctl sandbox up --registry", "sandbox", "registry")
	if again := csctl(t, "sandbox", "up"); !strings.Contains(again, "is running already") || strings.Contains(again, "settings") {
		t.Errorf("second up: %q", again)
	}
	if again := csctl(t, "sandbox", "up", "--operator", "none"); !strings.Contains(again, "It keeps the settings") {
		t.Errorf("second up with other settings: %q", again)
	}
	var added bytes.Buffer
	further := strings.NewReplacer("openstackcluster", "openstackmachine", "OpenStackCluster", "OpenStackMachine").Replace(userCRD)
	if code := Run([]string{"sandbox", "up", "--crds", "-"}, strings.NewReader(further), &added, &added); code != 0 || !strings.Contains(added.String(), "added: 1.") {
		t.Errorf("kinds for a sandbox that runs: exit code %d, %s", code, &added)
	}

	s := status(t)
	if s.Phase != daemon.PhaseReady || s.ClustersError != "" || wildcard != nil && strings.HasSuffix(s.Endpoint, ":6443") {
		t.Errorf("status: %+v", s)
	}
	var names []string
	var memory int
	for _, c := range s.Components {
		memory += pss(t, c.PID) // the simulator's process is that of the sandbox
		names = append(names, c.Name)
		if c.State != sandbox.StateReady || c.PID == 0 {
			t.Errorf("component %+v", c)
		}
	}
	const most = 1300 << 10
	if memory > most {
		t.Errorf("the management side takes %d KiB of memory, %d are promised", memory, most)
	}
	slices.Sort(names)
	want := []string{"capi-controller-manager", "capi-kubeadm-bootstrap-controller-manager", "capi-kubeadm-control-plane-controller-manager", "etcd", "kube-apiserver", "kube-controller-manager", "simulator"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if table := csctl(t, "sandbox", "status"); !strings.Contains(table, "COMPONENT") || !strings.Contains(table, "etcd") {
		t.Errorf("status:\n%s", table)
	}

	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(csctl(t, "sandbox", "kubeconfig")))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"openstackclusters", "openstackmachines"} {
		if _, err := client.RESTClient().Get().AbsPath("/apis/infrastructure.cluster.x-k8s.io/v1/" + kind).DoRaw(t.Context()); err != nil {
			t.Errorf("the user's kind is not served: %v", err)
		}
	}
	fails(t, "sandbox default has no cluster default/one", "sandbox", "kubeconfig", "--cluster", "default/one")
	testMerge(t)
	fails(t, "namespace/name", "sandbox", "kubeconfig", "--cluster", "one")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "one-kubeconfig"}, StringData: map[string]string{"value": "of the cluster"}}
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := csctl(t, "sandbox", "kubeconfig", "--cluster", "default/one"); got != "of the cluster" {
		t.Errorf("kubeconfig of a workload cluster: %q", got)
	}

	if list := csctl(t, "sandbox", "logs"); !strings.Contains(list, "kube-apiserver\n") {
		t.Errorf("logs:\n%s", list)
	}
	if log := csctl(t, "sandbox", "logs", "sandbox"); !strings.Contains(log, "Ready") {
		t.Errorf("log of the sandbox:\n%s", log)
	}
	fails(t, "csctl sandbox logs", "sandbox", "logs", "nobody")

	users := kubeconfig.UsersFile()
	if got, want := csctl(t, "sandbox", "down"), "Removed from "+users+": sandbox-default.\nSandbox default is gone.\n"; got != want {
		t.Errorf("down: %q, want %q", got, want)
	}
	if left, err := clientcmd.LoadFromFile(users); err != nil || len(left.Contexts)+len(left.Clusters)+len(left.AuthInfos) != 0 {
		t.Errorf("after down the kubeconfig has %+v, %v", left, err)
	}
}

// testMerge merges the running sandbox into a kubeconfig of the test's own.
func testMerge(t *testing.T) {
	t.Helper()
	users := filepath.Join(t.TempDir(), "kube", "config")
	t.Setenv("KUBECONFIG", users)
	for range 2 { // the second time changes nothing
		if got, want := csctl(t, "sandbox", "kubeconfig", "--merge", "--all"), "Merged into "+users+":\n  * sandbox-default\n"; got != want {
			t.Errorf("merge: %q, want %q", got, want)
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", users)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		t.Errorf("the merged context does not lead to the sandbox: %v", err)
	}
	t.Setenv("KUBECONFIG", status(t).Kubeconfig)
	fails(t, "a sandbox's own kubeconfig", "sandbox", "kubeconfig", "--merge")
	t.Setenv("KUBECONFIG", users)
}

// TestSandboxGoesOn after its process was killed, and after it was stopped and kept.
func TestSandboxGoesOn(t *testing.T) {
	ownState(t)
	fails(t, "nothing in it to keep", "sandbox", "down", "--keep", "--name", leftByAKilledUp(t))
	csctl(t, "sandbox", "down", "--name", leftByAKilledUp(t))

	crds := filepath.Join(t.TempDir(), "crds.yaml")
	if err := os.WriteFile(crds, []byte(userCRD), 0o600); err != nil {
		t.Fatal(err)
	}
	csctl(t, "sandbox", "up", "--operator", "none", "--crds", crds)
	first := status(t)
	before := csctl(t, "sandbox", "kubeconfig")
	if _, err := clientOf(t, before).CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// It is remembered by the sandbox, not read again.
	if err := os.Remove(crds); err != nil {
		t.Fatal(err)
	}
	goesOn := func(out string) {
		t.Helper()
		if !strings.Contains(out, "It goes on with what was in it.") {
			t.Errorf("up does not tell that it goes on:\n%s", out)
		}
		s := status(t)
		if s.Phase != daemon.PhaseReady || s.PID == first.PID || s.Endpoint != first.Endpoint || s.Settings.Operator != daemon.NoOperator {
			t.Errorf("status: %+v", s.State)
		}
		c := clientOf(t, before) // also with what the user took from it before
		if _, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := c.Discovery().RESTClient().Get().AbsPath("/apis/infrastructure.cluster.x-k8s.io/v1/openstackclusters").DoRaw(t.Context()); err != nil {
			t.Errorf("the user's kind is not served: %v", err)
		}
	}

	kill(t, first.PID)
	if s := status(t); s.Phase != daemon.PhaseDead {
		t.Errorf("status after the kill: %s", s.Phase)
	}
	if table := csctl(t, "sandbox", "status"); !strings.Contains(table, "csctl sandbox up goes on with it") {
		t.Errorf("status after the kill:\n%s", table)
	}
	goesOn(csctl(t, "sandbox", "up"))

	if out := csctl(t, "sandbox", "down", "--keep"); !strings.Contains(out, "csctl sandbox up goes on with it") {
		t.Errorf("down --keep: %q", out)
	}
	if pids := mentioning(t, os.Getenv("XDG_STATE_HOME")); len(pids) > 0 {
		t.Errorf("processes %q run after down --keep", pids)
	}
	if table := csctl(t, "sandbox", "status"); !strings.Contains(table, "Stopped") || !strings.Contains(table, "csctl sandbox up goes on with it") {
		t.Errorf("status after down --keep:\n%s", table)
	}
	fails(t, "it was stopped and kept", "sandbox", "kubeconfig")
	fails(t, "is not ready after 100ms", "sandbox", "up", "--wait-timeout", "100ms")
	goesOn(csctl(t, "sandbox", "up"))
	kill(t, status(t).PID)
	csctl(t, "sandbox", "down")
}

// leftByAKilledUp makes what is there when up is killed before it started anything, and gives the name.
func leftByAKilledUp(t *testing.T) string {
	t.Helper()
	const name = "killed"
	dir, err := daemon.Dir(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

func clientOf(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(kubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSandboxThatDoesNotComeUp(t *testing.T) {
	ownState(t)
	crds := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(crds, []byte("kind: Secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A relative path means the folder that csctl is called in, not the one that the sandbox's process runs in.
	programs, err := binaries.Ensure(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	assets := filepath.Dir(programs.Manifests)
	t.Chdir(filepath.Dir(assets))
	t.Setenv(binaries.AssetsVariable, filepath.Base(assets))
	fails(t, "none.yaml has none", "sandbox", "up", "--operator", "none", "--crds", crds)
	if s := status(t); s.Phase != daemon.PhaseFailed || !strings.Contains(s.Error, "none.yaml has none") {
		t.Errorf("status: %+v", s.State)
	}
	fails(t, "is failed", "sandbox", "kubeconfig")
	csctl(t, "sandbox", "down")
}

func TestSandboxThatTakesTooLong(t *testing.T) {
	ownState(t)
	fails(t, "is not ready after 100ms", "sandbox", "up", "--operator", "none", "--wait-timeout", "100ms")
	// What it was waiting for is worth to know.
	if s := status(t); s.Phase != daemon.PhaseFailed || s.Error == "" {
		t.Errorf("status: %+v", s.State)
	}
	if log := csctl(t, "sandbox", "logs", "sandbox"); !strings.Contains(log, "did not come up") {
		t.Errorf("log of the sandbox:\n%s", log)
	}
	csctl(t, "sandbox", "down")
}

// TestInterruptTakesTheSandboxDown: ownState finds out whether anything is left.
func TestInterruptTakesTheSandboxDown(t *testing.T) {
	ownState(t)
	var once sync.Once
	var stderr bytes.Buffer
	stdout := writer(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("✓ etcd")) {
			once.Do(func() {
				fails(t, "is being started or ended by another csctl; wait for it", "sandbox", "up", "--operator", "none")
				fails(t, "sandbox default is starting: wait until", "sandbox", "kubeconfig")
				_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
			})
		}
		return len(p), nil
	})
	if code := Run([]string{"sandbox", "up", "--operator", "none"}, strings.NewReader(""), stdout, &stderr); code != 1 {
		t.Errorf("exit code %d\n%s", code, &stderr)
	}
}

// inheritable opens a descriptor that children inherit, as scripts do with locks and pipes. The answer closes
// it and fails the test when somebody else still has it.
func inheritable(t *testing.T) func() {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(ends[0])
	read, write := os.NewFile(uintptr(ends[0]), "read"), os.NewFile(uintptr(ends[1]), "write")
	t.Cleanup(func() { _ = read.Close() })
	return func() {
		t.Helper()
		if err := errors.Join(write.Close(), read.SetReadDeadline(time.Now().Add(5*time.Second))); err != nil {
			t.Fatal(err)
		}
		if _, err := read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the sandbox holds a descriptor that is not its own: %v", err)
		}
	}
}

// pss is the memory of a process in KiB, pages that it shares counted by its part.
func pss(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\nPss:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func kill(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if ended, err := process.AwaitEnd(fd, time.Minute); !ended {
		t.Fatalf("process %d does not end: %v", pid, err)
	}
}

func TestServeIsNotForPeople(t *testing.T) {
	fails(t, "use csctl sandbox up", "sandbox", "serve")
}

func TestSandboxFlags(t *testing.T) {
	ownState(t)
	fails(t, "sandbox name", "sandbox", "up", "--name", "../x")
	fails(t, "--crds", "sandbox", "up", "--crds", "/nonexistent")
	fails(t, "--operator", "sandbox", "up", "--operator", "/nonexistent")
	fails(t, "use one of 1.36", "sandbox", "up", "--kubernetes", "1.20")
	fails(t, "--releases", "sandbox", "up", "--releases", "/nonexistent")
	fails(t, "use json", "sandbox", "status", "-o", "yaml")
	fails(t, "csctl sandbox up --help", "sandbox", "up", "--nam", "x")
	fails(t, `unknown command "dwon"`, "sandbox", "dwon")
	if help := csctl(t, "sandbox"); !strings.Contains(help, "kubeconfig") {
		t.Errorf("csctl sandbox:\n%s", help)
	}
}

// TestStatusIsStable: scripts read it.
func TestStatusIsStable(t *testing.T) {
	since := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	got, err := json.MarshalIndent(sandboxStatus{
		State: daemon.State{
			Name: "a", Phase: daemon.PhaseReady, PID: 1, StartTicks: 2, Since: since, Addresses: "127.64.0.0/16",
			Endpoint: "https://127.64.0.1:6443", Kubeconfig: "/k", Releases: "/r",
			Versions:   binaries.Versions{Kubernetes: "v1", Etcd: "v2", ClusterAPI: "v3"},
			Components: []sandbox.Component{{Name: "etcd", State: sandbox.StateReady, PID: 3, Address: "127.64.0.1:2379", Since: since, Restarts: 1, LastError: "e"}},
			Settings:   daemon.Options{CRDs: []string{"/c"}, Operator: daemon.NoOperator},
			Lasting:    true,
		},
		Clusters: []clusterStatus{{Namespace: "default", Name: "one", Phase: "Provisioned", Available: "True", Class: "c", Version: "v1.36.3"}},
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "name": "a",
  "phase": "Ready",
  "pid": 1,
  "startTicks": 2,
  "since": "2026-01-01T12:00:00Z",
  "addresses": "127.64.0.0/16",
  "endpoint": "https://127.64.0.1:6443",
  "kubeconfig": "/k",
  "releases": "/r",
  "versions": {
    "kubernetes": "v1",
    "etcd": "v2",
    "clusterAPI": "v3"
  },
  "components": [
    {
      "name": "etcd",
      "state": "Ready",
      "pid": 3,
      "address": "127.64.0.1:2379",
      "since": "2026-01-01T12:00:00Z",
      "restarts": 1,
      "lastError": "e"
    }
  ],
  "settings": {
    "crds": [
      "/c"
    ],
    "operator": "none"
  },
  "lasting": true,
  "clusters": [
    {
      "namespace": "default",
      "name": "one",
      "phase": "Provisioned",
      "available": "True",
      "class": "c",
      "version": "v1.36.3"
    }
  ]
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestPrintStatus(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	s := sandboxStatus{
		State: daemon.State{
			Name: "a", Phase: daemon.PhaseReady, Since: now.Add(-time.Hour), Endpoint: "https://127.64.0.1:6443", Kubeconfig: "/k", Releases: "/r",
			Components: []sandbox.Component{{Name: "etcd", State: sandbox.StateRestarting, PID: 1, Address: "127.64.0.1:2379", Since: now.Add(-time.Minute), Restarts: 2}},
		},
		Clusters: []clusterStatus{{Namespace: "default", Name: "one", Phase: "Provisioned", Available: "True", Class: "c", Version: "v1.36.3"}},
	}
	s.Versions.Kubernetes, s.Versions.ClusterAPI = "v1.36.3", "v1.14.2"
	want := `Sandbox a: Ready for 60m
API server: https://127.64.0.1:6443 (Kubernetes v1.36.3, Cluster API v1.14.2)
KUBECONFIG: /k
Releases:   /r

COMPONENT  STATE       PID  ADDRESS          SINCE  RESTARTS
etcd       Restarting  1    127.64.0.1:2379  60s    2

NAMESPACE  CLUSTER  CLASS  VERSION  PHASE        AVAILABLE
default    one      c      v1.36.3  Provisioned  True
`
	var got bytes.Buffer
	if err := printStatus(&got, s, now); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestDescribeCluster(t *testing.T) {
	object := map[string]any{
		"metadata": map[string]any{"namespace": "default", "name": "one"},
		"spec":     map[string]any{"topology": map[string]any{"classRef": map[string]any{"name": "c"}, "version": "v1.36.3"}},
		"status": map[string]any{"phase": "Provisioned", "conditions": []any{
			map[string]any{"type": "Paused", "status": "False"}, map[string]any{"type": "Available", "status": "True"},
		}},
	}
	want := clusterStatus{Namespace: "default", Name: "one", Phase: "Provisioned", Available: "True", Class: "c", Version: "v1.36.3"}
	if diff := cmp.Diff(want, describeCluster(unstructured.Unstructured{Object: object})); diff != "" {
		t.Error(diff)
	}
	bare := map[string]any{"metadata": map[string]any{"name": "two", "deletionTimestamp": "2026-01-01T12:00:00Z"}}
	want = clusterStatus{Name: "two", Phase: "Deleting", Available: "Unknown"}
	if diff := cmp.Diff(want, describeCluster(unstructured.Unstructured{Object: bare})); diff != "" {
		t.Error(diff)
	}
}

func TestProgressInATerminal(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out, live: true}
	p.event(sandbox.Event{Step: "etcd"})
	p.event(sandbox.Event{Step: "etcd", Done: true, Detail: "127.64.0.1:2379", Took: 1200 * time.Millisecond})
	p.event(sandbox.Event{Step: "kube-apiserver", Done: true, Error: "no"})
	want := "\r\033[K  … etcd" +
		"\r\033[K  \033[32m✓\033[0m etcd                                              1.2s  127.64.0.1:2379\n" +
		"\r\033[K  \033[31m✗\033[0m kube-apiserver\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestFollowLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.log")
	log, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	write := func(line string) {
		t.Helper()
		if _, err := io.WriteString(log, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	read, printed := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(copyLog(t.Context(), printed, file, true), printed.Close())
	}()
	expect := func(want string) {
		t.Helper()
		buffer := make([]byte, len(want)+1)
		if _, err := io.ReadFull(read, buffer); err != nil || string(buffer) != want+"\n" {
			t.Fatalf("got %q, %v", buffer, err)
		}
	}
	expect("first")
	write("second")
	expect("second")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after the log was removed: %v", err)
	}
}

const userCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: openstackclusters.infrastructure.cluster.x-k8s.io
  labels:
    cluster.x-k8s.io/v1beta1: v1
spec:
  group: infrastructure.cluster.x-k8s.io
  names: {kind: OpenStackCluster, plural: openstackclusters}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
`
