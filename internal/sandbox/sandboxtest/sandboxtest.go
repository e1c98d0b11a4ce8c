// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sandboxtest gives tests real API servers, and whole management clusters with Cluster API.
//
// A package that uses it calls Main from its TestMain. What a test asks for runs in a second process, the
// test binary once more, which ends and removes everything when the test's process is gone: after the
// tests, after a panic, and after kill -9. The programs are those of csctl sandbox; they are built when
// the user's cache does not have them yet, which takes minutes.
package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// LogsVariable is the environment variable that names a folder to keep the logs of all programs in; without
// it they go with everything else when the tests have ended.
const LogsVariable = "CLUSTER_STACK_SANDBOX_LOGS"

// reaperVariable makes the test binary a reaper.
const reaperVariable = "CLUSTER_STACK_SANDBOX_REAPER"

// reaperDescriptor is the descriptor of the connection in the reaper, the first after the standard ones.
const reaperDescriptor = 3

// mainRuns guards against tests without Main: their binary, started as reaper, would run the tests.
var mainRuns bool

// Main runs the tests of a package and exits; TestMain calls it.
func Main(m *testing.M) {
	os.Exit(run(m)) //nolint:forbidigo // it is the end of TestMain
}

func run(m *testing.M) int {
	if os.Getenv(reaperVariable) != "" {
		if err := reapFor(os.NewFile(reaperDescriptor, "test")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	mainRuns = true
	code := m.Run()
	if err := hangUp(); err != nil {
		fmt.Fprintln(os.Stderr, "sandboxtest: clean up:", err)
		return max(code, 1)
	}
	return code
}

// reapFor is the second process's main function. It takes over the connection that it inherited, so that
// its own children do not inherit it in turn.
func reapFor(test *os.File) error {
	conn, err := net.FileConn(test)
	if err := errors.Join(err, test.Close()); err != nil {
		return err
	}
	return reap(conn)
}

// APIServer returns the configuration of an administrator of the package's API server: etcd and
// kube-apiserver without controllers. It is started on first use and shared by the tests of the package;
// a test uses namespaces of its own. All API servers of a package keep their objects in one etcd, each below a prefix.
func APIServer(t testing.TB) *rest.Config {
	t.Helper()
	started, err := sharedAPIServer()
	if err != nil {
		t.Fatalf("start an API server: %v", err)
	}
	return loadConfig(t, started)
}

// NewAPIServer is an API server for one test, which ends with it.
func NewAPIServer(t testing.TB) *rest.Config {
	t.Helper()
	started, err := start(StartArgs{APIServerOnly: true})
	if err != nil {
		t.Fatalf("start an API server: %v", err)
	}
	t.Cleanup(func() {
		if err := stop(started.ID); err != nil {
			t.Errorf("stop an API server: %v", err)
		}
	})
	return loadConfig(t, started)
}

// Option changes what Management starts.
type Option func(*StartArgs)

// WithOperator runs the cluster-stack-operator at path beside the managers. It reads releases of cluster
// stacks from the folder releases.
func WithOperator(path, releases string) Option {
	return func(a *StartArgs) { a.Operator, a.Releases = path, releases }
}

// WithCRDs installs CustomResourceDefinitions from files and folders besides those of Cluster API and its
// Docker/Dev provider.
func WithCRDs(paths ...string) Option {
	return func(a *StartArgs) { a.CRDs = append(a.CRDs, paths...) }
}

// WithKubernetes has the management cluster behave like a minor, one of binaries.Minors.
func WithKubernetes(minor string) Option {
	return func(a *StartArgs) { a.Kubernetes = minor }
}

// WithLite makes workload clusters lite that do not say otherwise themselves: no kube-controller-manager and no
// kube-scheduler, so no pods of workloads, and Nodes that are Ready without a CNI.
func WithLite() Option {
	return func(a *StartArgs) { a.Lite = true }
}

// WithoutFeature turns a feature gate of Cluster API off, such as RuntimeSDK.
func WithoutFeature(name string) Option {
	return func(a *StartArgs) { a.Without = append(a.Without, name) }
}

// WithAudit writes the requests of a group of users into the file sandbox.AuditLog in the folder of the instance.
func WithAudit(group string) Option {
	return func(a *StartArgs) { a.AuditGroup = group }
}

// Instance is a management cluster with Cluster API and simulated infrastructure.
type Instance struct {
	started Started
	config  *rest.Config
}

// Management returns the package's management cluster. It is started on first use; every test of the
// package that asks for it must ask with the same options.
func Management(t testing.TB, opts ...Option) *Instance {
	t.Helper()
	args := StartArgs{}
	for _, o := range opts {
		o(&args)
	}
	management.Lock()
	defer management.Unlock()
	if management.instance == nil && management.err == nil {
		management.args = args
		var started Started
		if started, management.err = start(args); management.err == nil {
			management.instance = &Instance{started: started, config: loadConfig(t, started)}
		}
	}
	if management.err != nil {
		t.Fatalf("start a management cluster: %v", management.err)
	}
	if !reflect.DeepEqual(management.args, args) {
		t.Fatalf("the management cluster of this package was started with other options: %+v", management.args)
	}
	return management.instance
}

// NewManagement is a management cluster for one test, which ends with it.
func NewManagement(t testing.TB, opts ...Option) *Instance {
	t.Helper()
	args := StartArgs{}
	for _, o := range opts {
		o(&args)
	}
	started, err := start(args)
	if err != nil {
		t.Fatalf("start a management cluster: %v", err)
	}
	i := &Instance{started: started, config: loadConfig(t, started)}
	t.Cleanup(func() {
		if err := i.Stop(); err != nil {
			t.Errorf("stop a management cluster: %v", err)
		}
	})
	return i
}

// Config is how to reach the management API server, as an administrator.
func (i *Instance) Config() *rest.Config { return rest.CopyConfig(i.config) }

// Kubeconfig is the path of a kubeconfig file that says the same.
func (i *Instance) Kubeconfig() string { return i.started.Kubeconfig }

// Dir is the folder with everything that the cluster keeps; logs are below logs/.
func (i *Instance) Dir() string { return i.started.Dir }

// Run runs a program beside the cluster until the test ends. What it prints goes to a file in t.TempDir.
func (i *Instance) Run(t testing.TB, name, path string, args ...string) *process.Process {
	t.Helper()
	p, err := process.Start(process.Spec{Name: name, Path: path, Args: args, LogFile: filepath.Join(t.TempDir(), name+".log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if err := p.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Stop ends the cluster before the tests have ended; when it was the package's, the next call of Management
// starts another.
func (i *Instance) Stop() error {
	management.Lock()
	defer management.Unlock()
	if management.instance == i {
		management.instance = nil
	}
	return stop(i.started.ID)
}

var management struct {
	sync.Mutex
	args     StartArgs
	instance *Instance
	err      error
}

var sharedAPIServer = sync.OnceValues(func() (Started, error) { return start(StartArgs{APIServerOnly: true}) })

func loadConfig(t testing.TB, s Started) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	// The default limits of client-go are made for servers that are shared.
	config.QPS, config.Burst = -1, -1
	return config
}

func start(args StartArgs) (Started, error) {
	var err error
	args.Binaries, err = binaries.Ensure(context.Background(), func(line string) { fmt.Fprintln(os.Stderr, line) })
	if err != nil {
		return Started{}, err
	}
	client, err := reaper()
	if err != nil {
		return Started{}, err
	}
	var started Started
	err = client.Call("Reaper.Start", args, &started)
	return started, err
}

func stop(id int) error {
	client, err := reaper()
	if err != nil {
		return err
	}
	return client.Call("Reaper.Stop", id, &struct{}{})
}

// second is the second process, once it is started.
var second struct {
	sync.Mutex
	cmd    *exec.Cmd
	client *rpc.Client
}

// reaper starts the second process on first use.
func reaper() (*rpc.Client, error) {
	second.Lock()
	defer second.Unlock()
	if second.client != nil {
		return second.client, nil
	}
	if !mainRuns {
		return nil, errors.New("TestMain of this package must call sandboxtest.Main")
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "reaper"), os.NewFile(uintptr(ends[1]), "test")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self) //nolint:noctx // it ends when we hang up
	cmd.Env = append(os.Environ(), reaperVariable+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	// A session of its own: what ends the test from the keyboard must not end the cleaning. And none of our
	// standard descriptors, or go test would wait for it after a test was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	second.cmd, second.client = cmd, jsonrpc.NewClient(conn)
	return second.client, nil
}

// hangUp ends the second process and waits until it has cleaned up.
func hangUp() error {
	second.Lock()
	defer second.Unlock()
	if second.client == nil {
		return nil
	}
	return errors.Join(second.client.Close(), second.cmd.Wait())
}
