// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clustertest is what tests of workload clusters in a sandbox have in common: objects of a file are
// created, something is waited for, and the cluster that came about is looked at from inside and outside.
package clustertest

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// Management is a management cluster, with a client that knows the kinds of Cluster API.
type Management struct {
	client.WithWatch
	dir string // of the sandbox
}

// New connects to a management cluster of sandboxtest.
func New(t testing.TB, instance *sandboxtest.Instance) *Management {
	t.Helper()
	return &Management{WithWatch: Connect(t, instance.Config()), dir: instance.Dir()}
}

// Open connects to the sandbox with a kubeconfig and a state folder.
func Open(t testing.TB, kubeconfig, dir string) *Management {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	return &Management{WithWatch: Connect(t, config), dir: dir}
}

// Connect gives a client that knows the kinds of Kubernetes, Cluster API, the operator and the sandbox.
func Connect(t testing.TB, config *rest.Config) client.WithWatch {
	t.Helper()
	kinds := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, clusterv1.AddToScheme, runtimev1.AddToScheme, controlplanev1.AddToScheme, v1alpha1.AddToScheme, failure.AddToScheme} {
		if err := add(kinds); err != nil {
			t.Fatal(err)
		}
	}
	config = rest.CopyConfig(config)
	config.WarningHandler = rest.NoWarnings{}
	c, err := client.NewWithWatch(config, client.Options{Scheme: kinds})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Namespace creates a namespace. It stays: clusters in it are deleted with DeleteCluster, the rest is nobody's.
func (m *Management) Namespace(t testing.TB, name string) {
	t.Helper()
	if err := m.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		t.Fatal(err)
	}
}

// Class is the name of the ClusterClass of CreateClass, Workers that of its class of workers.
const (
	Class   = "plain"
	Workers = "worker"
)

//go:embed files
var files embed.FS

// CreateClass creates a ClusterClass in the shape of the usual quick start.
func CreateClass(t testing.TB, c client.Client, namespace string) {
	t.Helper()
	createAll(t, c, namespace, "files/class.yaml", files.ReadFile)
}

// ClassTemplate is the ClusterClass of CreateClass as a template in a chart, named as releases of cluster stacks name
// theirs.
func ClassTemplate(t testing.TB) string {
	t.Helper()
	data, err := files.ReadFile("files/class.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "name: "+Class, "name: {{ .Release.Name }}-{{ .Chart.Version }}")
}

// InstallNetwork creates the least in a workload cluster that its Nodes take for a network, so that they become Ready.
func InstallNetwork(t testing.TB, workload client.Client) {
	t.Helper()
	createAll(t, workload, "", "files/network.yaml", files.ReadFile)
}

// NewCluster is a Cluster of the class of CreateClass, which has to be in its namespace. It is not created yet.
func NewCluster(key types.NamespacedName, version string, controlPlanes, workers int32) *clusterv1.Cluster {
	return &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
		Spec: clusterv1.ClusterSpec{
			ClusterNetwork: clusterv1.ClusterNetwork{Pods: clusterv1.NetworkRanges{CIDRBlocks: []string{"192.168.0.0/16"}}},
			Topology: clusterv1.Topology{
				ClassRef: clusterv1.ClusterClassRef{Name: Class}, Version: version,
				ControlPlane: clusterv1.ControlPlaneTopology{Replicas: &controlPlanes},
				Workers: clusterv1.WorkersTopology{MachineDeployments: []clusterv1.MachineDeploymentTopology{
					{Class: Workers, Name: "md-0", Replicas: &workers},
				}},
			},
		},
	}
}

// Apply creates the objects of a file. Those of kinds with a namespace come into the given one if they name none.
func Apply(t testing.TB, c client.Client, namespace, file string) {
	t.Helper()
	createAll(t, c, namespace, file, os.ReadFile)
}

func createAll(t testing.TB, c client.Client, namespace, file string, read func(string) ([]byte, error)) {
	t.Helper()
	data, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		namespaced, err := c.IsObjectNamespaced(object)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if namespaced && object.GetNamespace() == "" {
			object.SetNamespace(namespace)
		}
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatalf("%s: create %s %s: %v", file, object.GetKind(), object.GetName(), err)
		}
	}
}

// Await lists again with every event until the list is as wanted. Past the limit the test fails with what was not.
func Await[L client.ObjectList](t testing.TB, c client.WithWatch, limit time.Duration, into L, wanted func(L) error, opts ...client.ListOption) L {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		// Watched before it is listed: what happens in between is an event.
		watcher, err := c.Watch(ctx, into.DeepCopyObject().(client.ObjectList), opts...)
		if err != nil {
			last = err
			pause(ctx)
			continue
		}
		for open := true; open; {
			if last = c.List(ctx, into, opts...); last == nil {
				last = wanted(into)
			}
			if last == nil {
				watcher.Stop()
				return into
			}
			select {
			case _, open = <-watcher.ResultChan():
			case <-ctx.Done():
				open = false
			}
		}
		watcher.Stop()
	}
	t.Fatalf("not within %s: %v", limit, last)
	return into
}

// pause waits a moment before a server that did not answer is asked again.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(200 * time.Millisecond):
	}
}

// AwaitCluster waits until a Cluster is as wanted.
func (m *Management) AwaitCluster(t testing.TB, limit time.Duration, key types.NamespacedName, wanted func(*clusterv1.Cluster) error) {
	t.Helper()
	Await(t, m, limit, &clusterv1.ClusterList{}, func(clusters *clusterv1.ClusterList) error {
		if len(clusters.Items) == 0 {
			return fmt.Errorf("there is no Cluster %s", key)
		}
		return wanted(&clusters.Items[0])
	}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name})
}

// Holds is what AwaitCluster waits for: a condition is True.
func Holds(condition string) func(*clusterv1.Cluster) error {
	return func(c *clusterv1.Cluster) error {
		switch found := conditions.Get(c, condition); {
		case found == nil:
			return fmt.Errorf("Cluster %s says nothing of %s", c.Name, condition)
		case found.Status != metav1.ConditionTrue:
			return fmt.Errorf("Cluster %s has %s=%s: %s", c.Name, condition, found.Status, found.Message)
		}
		return nil
	}
}

// Kubeconfig is what Cluster API gives to users of a cluster; it is waited for.
func (m *Management) Kubeconfig(t testing.TB, limit time.Duration, cluster types.NamespacedName) *rest.Config {
	t.Helper()
	secrets := Await(t, m, limit, &corev1.SecretList{}, func(secrets *corev1.SecretList) error {
		if len(secrets.Items) == 0 {
			return fmt.Errorf("cluster %s has no kubeconfig", cluster)
		}
		return nil
	}, client.InNamespace(cluster.Namespace), client.MatchingFields{"metadata.name": cluster.Name + "-kubeconfig"})
	config, err := clientcmd.RESTConfigFromKubeConfig(secrets.Items[0].Data["value"])
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	return config
}

// Workload gives a client of a workload cluster once its control plane is initialized.
func (m *Management) Workload(t testing.TB, limit time.Duration, cluster types.NamespacedName) client.WithWatch {
	t.Helper()
	m.AwaitCluster(t, limit, cluster, Holds(clusterv1.ClusterControlPlaneInitializedCondition))
	return Connect(t, m.Kubeconfig(t, limit, cluster))
}

// DeleteCluster deletes a Cluster and waits until it, its programs and its folder are gone.
func (m *Management) DeleteCluster(t testing.TB, limit time.Duration, key types.NamespacedName) {
	t.Helper()
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if err := m.Delete(t.Context(), cluster); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	Await(t, m, limit, &clusterv1.ClusterList{}, func(clusters *clusterv1.ClusterList) error {
		if len(clusters.Items) > 0 {
			return fmt.Errorf("Cluster %s is still there", key)
		}
		return nil
	}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name})
	for _, p := range m.Programs(t, key) {
		t.Errorf("of the deleted cluster %s, %s still runs (pid %d)", key, p.Name, p.Pid)
	}
	if _, err := os.Stat(m.ClusterDir(key)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of the deleted cluster %s, %s is left (%v)", key, m.ClusterDir(key), err)
	}
}

// ClusterDir is the folder with all that the sandbox keeps of a workload cluster.
func (m *Management) ClusterDir(cluster types.NamespacedName) string {
	return filepath.Join(m.dir, "machines", cluster.Namespace, cluster.Name)
}

// Program is a process of a workload cluster.
type Program struct {
	Pid  int
	Name string // such as kube-apiserver
	// Machine is the one that it runs on; empty for what a cluster has only one of.
	Machine string
	Args    []string
}

// Programs lists the processes of a workload cluster: those that use files of its folder.
func (m *Management) Programs(t testing.TB, cluster types.NamespacedName) []Program {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	machines := m.ClusterDir(cluster) + "/machines/"
	var found []Program
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
		line := strings.Join(args, " ")
		if !strings.Contains(line, m.ClusterDir(cluster)+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		p := Program{Pid: pid, Name: filepath.Base(args[0]), Args: args[1:]}
		if _, rest, ok := strings.Cut(line, machines); ok {
			p.Machine, _, _ = strings.Cut(rest, "/")
		}
		found = append(found, p)
	}
	return found
}

// Names gives the names of the objects of a list.
func Names(t testing.TB, list client.ObjectList) []string {
	t.Helper()
	var names []string
	err := meta.EachListItem(list, func(object runtime.Object) error {
		accessor, err := meta.Accessor(object)
		if err == nil {
			names = append(names, accessor.GetName())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Kill ends a process without any warning, and waits until it is gone. One that has ended by itself is none.
func Kill(t testing.TB, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Fatal(err)
	}
	if ended, err := process.AwaitEnd(fd, time.Minute); !ended {
		t.Fatalf("process %d does not end: %v", pid, err)
	}
}
