// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package operatortest runs the real operator against many clusters that cost next to nothing: a management API
// server without controllers, and stand-ins for the API servers of workload clusters. The test plays Cluster API.
//
// Everything that the operator sends goes through handlers of the test, which can let it die at any request.
package operatortest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// Root is the repository, seen from a package below test/operator.
const Root = "../../.."

// Patience is how long a test waits for one thing to happen, many times what it takes: the machine may be busy.
const Patience = 3 * time.Minute

// Program builds the operator once for a package of tests, and returns its path.
func Program(t testing.TB) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatalf("build the operator: %v", err)
	}
	return path
}

var built = sync.OnceValues(func() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	// Below the repository's bin: a folder that git ignores, and that the next run builds into again.
	path, err := filepath.Abs(filepath.Join(Root, "bin", "test", filepath.Base(here), "cluster-stack-operator"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", path, "./cmd/cluster-stack-operator")
	cmd.Dir = Root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// Operator is a process of the operator.
type Operator struct {
	*process.Process
	log     string
	address string
	ca      []byte
	callers *http.Client
}

// The ports of an operator, at an address of its own.
const (
	hooksPort       = "9442"
	webhooksPort    = "9443"
	healthPort      = "9440"
	diagnosticsPort = "8443"
	profilerPort    = "6060"
)

// addresses are those of the operators of this process, which no other process of the machine uses: a port of 127.0.0.1
// that is free when it is chosen may be taken when an operator listens.
var addresses struct {
	sync.Mutex
	block *sandbox.Block
	given int
}

func newAddress() (string, error) {
	addresses.Lock()
	defer addresses.Unlock()
	if addresses.block == nil {
		var err error
		if addresses.block, err = sandbox.ReserveBlock(daemon.KeptBlocks()...); err != nil {
			return "", err
		}
	}
	// Long before it comes to an address again, its operator has ended.
	addresses.given = addresses.given%250 + 1
	return addresses.block.Address(addresses.given), nil
}

// Launch starts an operator that reaches the management cluster by a kubeconfig. It is killed at the end of the test
// at the latest.
func Launch(t testing.TB, kubeconfig []byte, releases, store string, args ...string) *Operator {
	t.Helper()
	dir := t.TempDir()
	if logs := os.Getenv(sandboxtest.LogsVariable); logs != "" {
		dir = filepath.Join(logs, filepath.Base(filepath.Dir(dir))+"-"+filepath.Base(dir))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := pki.NewCA("operator")
	if err != nil {
		t.Fatal(err)
	}
	address, err := newAddress()
	if err != nil {
		t.Fatal(err)
	}
	serving, err := ca.Issue(pki.Request{CommonName: "hooks", IPs: []net.IP{net.ParseIP(address)}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := serving.WriteFiles(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(config, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	o := &Operator{
		log: filepath.Join(dir, "operator.log"), address: address, ca: ca.CertPEM(),
		callers: &http.Client{
			Timeout:   10 * time.Second, // as Cluster API's
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 10},
		},
	}
	o.Process, err = process.Start(process.Spec{
		Name: "cluster-stack-operator", Path: Program(t), LogFile: o.log,
		Args: append([]string{
			"--kubeconfig=" + config, "--leader-elect=false",
			"--source=directory", "--release-dir=" + releases, "--store-dir=" + store, "--source-poll-interval=500ms",
			"--hook-bind-address=" + address, "--hook-port=" + hooksPort, "--hook-cert-dir=" + dir,
			"--health-addr=" + o.at(healthPort), "--profiler-address=" + o.at(profilerPort), "--diagnostics-address=" + o.at(diagnosticsPort), "--insecure-diagnostics",
			"--webhook-bind-address=" + address, "--webhook-port=" + webhooksPort, "--webhook-cert-dir=" + dir,
			"--kube-api-qps=10000", "--kube-api-burst=10000",
		}, args...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.End()
		o.callers.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the end of %s:\n%s", o.log, tail(o.log))
		}
	})
	return o
}

func (o *Operator) at(port string) string { return net.JoinHostPort(o.address, port) }

// Log is what the operator has said.
func (o *Operator) Log(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(o.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// End kills the operator and returns when it is gone.
func (o *Operator) End() {
	o.Kill()
	<-o.Done()
}

// AwaitReady waits until the operator says that it is ready.
func (o *Operator) AwaitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	err := o.Await(ctx, func(ctx context.Context) error {
		_, err := get(ctx, "http://"+o.at(healthPort)+"/readyz")
		return err
	})
	if err != nil {
		t.Fatalf("the operator does not become ready: %v", err)
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, data)
	}
	return data, err
}

// Extension is what Cluster API has to know to call the hooks.
func (o *Operator) Extension() runtimev1.ClientConfig {
	return runtimev1.ClientConfig{URL: "https://" + o.at(hooksPort), CABundle: o.ca}
}

// Webhooks are the configurations that we ship, for an API server that calls by URL.
func (o *Operator) Webhooks(t testing.TB) []*unstructured.Unstructured {
	t.Helper()
	var found []*unstructured.Unstructured
	for _, document := range config.Webhooks() {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			t.Fatal(err)
		}
		list, _, _ := unstructured.NestedSlice(object.Object, "webhooks")
		for _, w := range list {
			path, _, _ := unstructured.NestedString(w.(map[string]any), "clientConfig", "service", "path")
			w.(map[string]any)["clientConfig"] = map[string]any{
				"url": "https://" + o.at(webhooksPort) + path, "caBundle": base64.StdEncoding.EncodeToString(o.ca),
			}
		}
		if err := unstructured.SetNestedSlice(object.Object, list, "webhooks"); err != nil {
			t.Fatal(err)
		}
		found = append(found, object)
	}
	return found
}

// Answers is how often the operator has answered a hook with a decision, by its metrics.
func (o *Operator) Answers(ctx context.Context, hook, decision string) (int, error) {
	data, err := get(ctx, "http://"+o.at(diagnosticsPort)+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if value, is := bytes.CutPrefix(line, fmt.Appendf(nil, "cluster_stack_hook_answers_total{decision=%q,hook=%q} ", decision, hook)); is {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, nil
}

// AskFor calls the hook BeforeClusterUpgrade for a Cluster as Cluster API does. It says what the upgrade waits for, and
// nothing when it may go on. An error is no answer.
func (o *Operator) AskFor(ctx context.Context, cluster *clusterv1.Cluster, from, to string) (hold string, err error) {
	cluster = cluster.DeepCopy()
	cluster.Status = clusterv1.ClusterStatus{} // Cluster API does not send it
	cluster.SetGroupVersionKind(clusterv1.GroupVersion.WithKind(clusterv1.ClusterKind))
	body, err := json.Marshal(map[string]any{
		"apiVersion": runtimehooksv1.GroupVersion.String(), "kind": "BeforeClusterUpgradeRequest",
		"fromKubernetesVersion": from, "toKubernetesVersion": to, "cluster": cluster,
	})
	if err != nil {
		return "", err
	}
	url := "https://" + o.at(hooksPort) + "/hooks.runtime.cluster.x-k8s.io/v1alpha1/beforeclusterupgrade/before-cluster-upgrade"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := o.callers.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var response runtimehooksv1.BeforeClusterUpgradeResponse
	if err := json.NewDecoder(answer.Body).Decode(&response); err != nil {
		return "", fmt.Errorf("%s: %w", answer.Status, err)
	}
	switch {
	case response.Status != runtimehooksv1.ResponseStatusSuccess:
		return "", fmt.Errorf("the hook failed: %s", response.Message)
	case response.RetryAfterSeconds == 0:
		return "", nil
	case response.Message == "":
		return "", errors.New("the hook holds the upgrade and does not say why")
	}
	return response.Message, nil
}

// Busy tells whether a controller of the operator works or has something to do at once.
func (o *Operator) Busy(ctx context.Context) (bool, error) {
	data, err := get(ctx, "http://"+o.at(diagnosticsPort)+"/metrics")
	if err != nil {
		return false, err
	}
	started := false
	for line := range bytes.Lines(data) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte("} "))
		switch {
		case bytes.HasPrefix(name, []byte("workqueue_depth{")), bytes.HasPrefix(name, []byte("controller_runtime_active_workers{")):
			if string(value) != "0" {
				return true, nil
			}
		case bytes.HasPrefix(name, []byte(`controller_runtime_max_concurrent_reconciles{controller="clusteraddon"`)):
			started = true
		}
	}
	return !started, nil
}

// Usage is what an operator uses at a moment.
type Usage struct{ Goroutines, Files, HeapMiB, ResidentMiB float64 }

// Usage collects the garbage of the operator, which has to have a profiler, and says what it uses then.
func (o *Operator) Usage(ctx context.Context) (Usage, error) {
	if _, err := get(ctx, "http://"+o.at(profilerPort)+"/debug/pprof/heap?gc=1"); err != nil {
		return Usage{}, err
	}
	data, err := get(ctx, "http://"+o.at(diagnosticsPort)+"/metrics")
	if err != nil {
		return Usage{}, err
	}
	var u Usage
	for name, value := range map[string]*float64{
		"go_goroutines": &u.Goroutines, "process_open_fds": &u.Files, "go_memstats_heap_alloc_bytes": &u.HeapMiB, "process_resident_memory_bytes": &u.ResidentMiB,
	} {
		_, after, found := bytes.Cut(data, []byte("\n"+name+" "))
		text, _, _ := bytes.Cut(after, []byte("\n"))
		if *value, err = strconv.ParseFloat(string(text), 64); err != nil || !found {
			return Usage{}, fmt.Errorf("the metrics have no %s: %w", name, err)
		}
	}
	u.HeapMiB, u.ResidentMiB = u.HeapMiB/(1<<20), u.ResidentMiB/(1<<20)
	return u, nil
}

// tail returns the last lines of a file.
func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
}
