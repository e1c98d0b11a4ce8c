// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// profilerVariable names the address at which the operator serves its profiles, so that one can see where time and
// memory go.
const profilerVariable = "CLUSTER_STACK_BENCH_PROFILER"

// patience is how long anything may take before the benchmark gives up on it.
const patience = 10 * time.Minute

// site is a management cluster with an operator that the benchmark can start again. Cluster API does not run in
// it: what it would write into Clusters, the benchmark does.
type site struct {
	client    client.WithWatch
	namespace string
	program   string
	release   published
	dir       string
	ca        *pki.CA
	hooks     string // address of the hook server
	health    string
	operator  *process.Process
	// writes counts what the operator changes in the management cluster, leases left out. Nothing is counted where time
	// is measured: the proxy that counts would take part in it.
	writes atomic.Int64
	mu     sync.Mutex
	// written are the paths that were written to since forget.
	written []string
}

func newSite(b *testing.B, program string, rel published, counted bool) *site {
	b.Helper()
	config := sandboxtest.NewAPIServer(b)
	s := &site{client: kinds.Client(b, config), program: program, release: rel, dir: b.TempDir()}
	s.namespace = kinds.Namespace(b, s.client)
	var err error
	if s.ca, err = pki.NewCA("bench"); err != nil {
		b.Fatal(err)
	}
	pair, err := s.ca.Issue(pki.Request{CommonName: "bench", DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
	if err != nil {
		b.Fatal(err)
	}
	if err := pair.WriteFiles(filepath.Join(s.dir, "tls.crt"), filepath.Join(s.dir, "tls.key")); err != nil {
		b.Fatal(err)
	}
	direct, err := kubeconfig(config)
	if counted {
		direct, err = s.count(b, config)
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "kubeconfig"), direct, 0o600); err != nil {
		b.Fatal(err)
	}
	s.hooks, s.health = freeAddress(b), freeAddress(b)
	s.start(b)
	b.Cleanup(func() { s.stop(b) })

	stack := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "bench"},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "bench", KubernetesVersion: "1.36",
			Versions: []string{"v1"}, AutoSubscribe: false, NoProvider: true,
		},
	}
	if err := s.client.Create(b.Context(), stack); err != nil {
		b.Fatal(err)
	}
	s.await(b, &v1alpha1.ClusterStackReleaseList{}, "the release is ready", func(obj client.Object) bool {
		return obj.(*v1alpha1.ClusterStackRelease).Status.Ready
	}, 1)
	return s
}

// count returns a kubeconfig for the management cluster that leads through a proxy, which counts.
func (s *site) count(b *testing.B, config *rest.Config) ([]byte, error) {
	b.Helper()
	proxy, err := faultproxy.ListenKubernetes(context.Background(), config, faultproxy.Options{Observe: func(e faultproxy.Event) {
		if isWrite(e) && !strings.Contains(e.Path, "/leases") {
			s.writes.Add(1)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.written = append(s.written, e.Method+" "+e.Path)
		}
	}})
	if err != nil {
		return nil, err
	}
	b.Cleanup(func() { _ = proxy.Close() })
	return proxy.Kubeconfig()
}

// forget returns what was written since it was called last.
func (s *site) forget() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	written := s.written
	s.written = nil
	return written
}

// isWrite tells whether a request changes something: questions about rights, and what is only tried, do not.
func isWrite(e faultproxy.Event) bool {
	query, _ := url.ParseQuery(e.Query)
	return query.Get("dryRun") == "" && e.Method != http.MethodGet && e.Method != http.MethodHead && !strings.HasSuffix(e.Path, "reviews")
}

func freeAddress(b *testing.B) string {
	b.Helper()
	listener, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// start starts the operator and returns once it has.
func (s *site) start(b *testing.B) {
	b.Helper()
	host, port, err := net.SplitHostPort(s.hooks)
	if err != nil {
		b.Fatal(err)
	}
	s.operator, err = process.Start(process.Spec{
		Name: "cluster-stack-operator", Path: s.program, LogFile: filepath.Join(s.dir, "log"),
		Args: []string{
			"--kubeconfig=" + filepath.Join(s.dir, "kubeconfig"), "--leader-elect-namespace=" + s.namespace,
			"--health-addr=" + s.health, "--diagnostics-address=127.0.0.1:0", "--insecure-diagnostics",
			"--hook-bind-address=" + host, "--hook-port=" + port, "--hook-cert-dir=" + s.dir,
			"--source=directory", "--release-dir=" + s.release.folder, "--store-dir=" + filepath.Join(s.dir, "store"),
			"--webhook-port=0", "--v=1", "--profiler-address=" + os.Getenv(profilerVariable),
		},
	})
	if err != nil {
		b.Fatal(err)
	}
}

// stop ends the operator in good order, so that the next one need not wait for its lease.
func (s *site) stop(b *testing.B) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.operator.Stop(ctx); err != nil {
		b.Errorf("stop the operator: %v", err)
	}
}

// await waits until n objects of a kind are as wanted.
func (s *site) await(b *testing.B, list client.ObjectList, what string, wanted func(client.Object) bool, n int) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	watch, err := s.client.Watch(ctx, list, client.InNamespace(s.namespace))
	if err != nil {
		b.Fatal(err)
	}
	defer watch.Stop()
	done := map[types.UID]bool{}
	for len(done) < n {
		select {
		case event, ok := <-watch.ResultChan():
			if !ok {
				b.Fatalf("%s: the watch ended", what)
			}
			if obj, is := event.Object.(client.Object); is && wanted(obj) {
				done[obj.GetUID()] = true
			}
		case <-s.operator.Done():
			b.Fatalf("the operator has ended: %v", s.operator.Err())
		case <-ctx.Done():
			b.Fatalf("%s: %d of %d in %s", what, len(done), n, patience)
		}
	}
}

// add creates a Cluster whose control plane is not initialized yet.
func (s *site) add(b *testing.B, name string, kubeconfig []byte) *clusterv1.Cluster {
	b.Helper()
	cluster := apitest.Cluster(s.namespace, name, s.release.name.ClassName(), version)
	cluster.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: "192.0.2.1", Port: 6443}
	if err := s.client.Create(b.Context(), cluster); err != nil {
		b.Fatal(err)
	}
	err := s.client.Create(b.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.namespace, Name: secret.Name(name, secret.Kubeconfig),
			Labels:          map[string]string{clusterv1.ClusterNameLabel: name},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cluster, clusterv1.GroupVersion.WithKind("Cluster"))},
		},
		Type: clusterv1.ClusterSecretType,
		Data: map[string][]byte{secret.KubeconfigDataName: kubeconfig},
	})
	if err != nil {
		b.Fatal(err)
	}
	return cluster
}

// initialize says that the control plane of a Cluster has answered.
func (s *site) initialize(b *testing.B, cluster *clusterv1.Cluster) {
	b.Helper()
	before := cluster.DeepCopy()
	apitest.Initialize(cluster)
	cluster.Status.Conditions = append(cluster.Status.Conditions, metav1.Condition{
		Type: clusterv1.ClusterControlPlaneInitializedCondition, Status: metav1.ConditionTrue,
		Reason: clusterv1.ClusterControlPlaneInitializedReason, LastTransitionTime: metav1.Now(),
	})
	if err := s.client.Status().Patch(b.Context(), cluster, client.MergeFrom(before)); err != nil {
		b.Fatal(err)
	}
}

// installed waits until the addons of n clusters are applied.
func (s *site) installed(b *testing.B, clusters []*clusterv1.Cluster) {
	b.Helper()
	wanted := map[string]bool{}
	for _, cluster := range clusters {
		wanted[v1alpha1.ClusterAddonName(cluster.Name)] = true
	}
	s.await(b, &v1alpha1.ClusterAddonList{}, "addons are applied", func(obj client.Object) bool {
		addon := obj.(*v1alpha1.ClusterAddon)
		return wanted[addon.Name] && addon.Status.Ready
	}, len(clusters))
}

// remove deletes Clusters and waits until their ClusterAddons are gone.
func (s *site) remove(b *testing.B, clusters []*clusterv1.Cluster) {
	b.Helper()
	for _, cluster := range clusters {
		if err := s.client.Delete(b.Context(), cluster); client.IgnoreNotFound(err) != nil {
			b.Fatal(err)
		}
		// Nobody collects garbage here.
		addon := &v1alpha1.ClusterAddon{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: v1alpha1.ClusterAddonName(cluster.Name)}}
		if err := s.client.Delete(b.Context(), addon); client.IgnoreNotFound(err) != nil {
			b.Fatal(err)
		}
	}
	deadline := time.Now().Add(patience)
	for {
		list := &v1alpha1.ClusterAddonList{}
		if err := s.client.List(b.Context(), list, client.InNamespace(s.namespace)); err != nil {
			b.Fatal(err)
		}
		if len(list.Items) == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d ClusterAddons are still there", len(list.Items))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// cpu is the time that the operator has computed, with all processes that it started.
func (s *site) cpu(b *testing.B) time.Duration {
	b.Helper()
	total := time.Duration(0)
	for i, pid := range family(b, s.operator.Pid()) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended, and is counted with its parent
		}
		// Behind the name, which is in parentheses: state, and then utime, stime, cutime, cstime as 12th to 15th.
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		last := 13
		if i == 0 {
			last = 15
		}
		for _, field := range fields[11:last] {
			ticks, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			total += time.Duration(ticks) * time.Second / 100
		}
	}
	return total
}

// rests waits until the operator has written nothing for a while and the processes that it renders in have ended, which
// they do a minute after the last render.
func (s *site) rests(b *testing.B) {
	b.Helper()
	s.settle(b)
	for deadline := time.Now().Add(patience); len(family(b, s.operator.Pid())) > 1; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			b.Fatalf("renders go on after %s", patience)
		}
	}
}

// memory is what the operator holds with all processes that it started, shared pages counted once.
func (s *site) memory(b *testing.B) (mebibytes float64) {
	b.Helper()
	for _, pid := range family(b, s.operator.Pid()) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if rest, is := strings.CutPrefix(line, "Pss:"); is {
				kibibytes, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					b.Fatal(err)
				}
				mebibytes += float64(kibibytes) / 1024
			}
		}
	}
	return mebibytes
}

// family is a process and all that descend from it.
func family(b *testing.B, pid int) []int {
	b.Helper()
	all := []int{pid}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range threads {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(raw)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, family(b, child)...)
		}
	}
	return all
}

// hookClient calls the hook server as Cluster API does.
func (s *site) hookClient() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.ca.CertPEM())
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
		MaxIdleConnsPerHost: 64,
	}}
}

// apiServer is a workload cluster.
type apiServer struct {
	config *rest.Config
	// kubeconfig leads to it directly, proxied through a proxy that counts.
	kubeconfig, proxied []byte
	count               *counter
}
