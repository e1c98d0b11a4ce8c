// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// TestServer talks to the server as Cluster API does, in both shapes of the Cluster.
func TestServer(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	ns := kinds.Namespace(t, c)
	if err := c.Create(t.Context(), apitest.ClusterStackRelease(ns, tag)); err != nil {
		t.Fatal(err)
	}
	create(t, c, ns, proof(ns).String(), nil, false)

	dir, port, roots := serving(t)
	s, err := New(c, c, c, Options{Host: "127.0.0.1", Port: port, CertDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if s.NeedLeaderElection() {
		t.Error("only the leader answers")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	call := func(path, body string, into any) {
		t.Helper()
		url := fmt.Sprintf("https://127.0.0.1:%d/hooks.runtime.cluster.x-k8s.io/v1alpha1/%s", port, path)
		httpClient := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
		deadline := time.Now().Add(10 * time.Second)
		for {
			response, err := httpClient.Post(url, "application/json", bytes.NewBufferString(body))
			if err != nil && time.Now().Before(deadline) {
				continue // it is only starting
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err == nil {
				err = json.Unmarshal(data, into)
			}
			if err != nil || response.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s: %s: %v", path, response.Status, data, err)
			}
			return
		}
	}

	var discovery runtimehooksv1.DiscoveryResponse
	call("discovery", "{}", &discovery)
	var handlers []string
	for _, h := range discovery.Handlers {
		text := h.Name + " " + h.RequestHook.Hook
		if h.FailurePolicy != nil {
			text += " " + string(*h.FailurePolicy)
		}
		handlers = append(handlers, text)
	}
	slices.Sort(handlers)
	if diff := cmp.Diff([]string{
		"after-cluster-upgrade AfterClusterUpgrade",
		"after-control-plane-initialized AfterControlPlaneInitialized Ignore",
		"after-control-plane-upgrade AfterControlPlaneUpgrade",
		"after-workers-upgrade AfterWorkersUpgrade",
		"before-cluster-create BeforeClusterCreate",
		"before-cluster-delete BeforeClusterDelete Ignore",
		"before-cluster-upgrade BeforeClusterUpgrade",
		"before-control-plane-upgrade BeforeControlPlaneUpgrade",
		"before-workers-upgrade BeforeWorkersUpgrade",
	}, handlers); diff != "" {
		t.Errorf("handlers (-want +got):\n%s", diff)
	}

	for name, topology := range map[string]string{
		"v1beta2": `{"classRef": {"name": "%s"}, "version": "v1.36.4"}`,
		"v1beta1": `{"class": "%s", "version": "v1.36.4"}`,
	} {
		for class, held := range map[string]bool{cls: false, "docker-starter-1-36-v7": true, "quick-start": false} {
			body := fmt.Sprintf(`{"apiVersion": "hooks.runtime.cluster.x-k8s.io/v1alpha1", "kind": "BeforeClusterUpgradeRequest",
				"settings": {"a": "b"}, "fromKubernetesVersion": "v1.35.4", "toKubernetesVersion": "v1.36.4",
				"cluster": {"apiVersion": "cluster.x-k8s.io/%s", "kind": "Cluster", "metadata": {"name": "c", "namespace": %q, "uid": %q}, "spec": {"topology": %s}}}`,
				name, ns, uid, fmt.Sprintf(topology, class))
			var response runtimehooksv1.BeforeClusterUpgradeResponse
			call("beforeclusterupgrade/before-cluster-upgrade", body, &response)
			if response.Status != runtimehooksv1.ResponseStatusSuccess || (response.RetryAfterSeconds > 0) != held {
				t.Errorf("%s with class %s: %s, %d s, %q; want hold=%t", name, class, response.Status, response.RetryAfterSeconds, response.Message, held)
			}
		}
	}
	var after runtimehooksv1.AfterClusterUpgradeResponse
	call("afterclusterupgrade/after-cluster-upgrade", `{"cluster": {}}`, &after)
	if after.Status != runtimehooksv1.ResponseStatusSuccess || after.RetryAfterSeconds != 0 {
		t.Errorf("AfterClusterUpgrade: %s, %d s", after.Status, after.RetryAfterSeconds)
	}
	var initialized runtimehooksv1.AfterControlPlaneInitializedResponse
	call("aftercontrolplaneinitialized/after-control-plane-initialized", `{"cluster": {}}`, &initialized)
	if initialized.Status != runtimehooksv1.ResponseStatusSuccess {
		t.Errorf("AfterControlPlaneInitialized: %s", initialized.Status)
	}
}

// TestServerBoundsWhatCallersCanDo has callers who send too much, or speak HTTP/2, or are nobody whom we know.
func TestServerBoundsWhatCallersCanDo(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	dir, port, roots := serving(t)
	ca, err := pki.NewCA("callers")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "callers.crt"), ca.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Request{CommonName: "cluster-api", Client: true})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, c, c, Options{Host: "127.0.0.1", Port: port, CertDir: dir, ClientCAName: "callers.crt"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	url := fmt.Sprintf("https://127.0.0.1:%d/hooks.runtime.cluster.x-k8s.io/v1alpha1/beforeclusterupgrade/before-cluster-upgrade", port)
	known := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}},
	}}
	post := func(client *http.Client, body string) (status, http int, err error) {
		response, err := client.Post(url, "application/json", strings.NewReader(body))
		if err != nil {
			return 0, 0, err
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return response.StatusCode, response.ProtoMajor, nil
	}
	status, version, err := post(known, "{}")
	for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
		status, version, err = post(known, "{}") // it is only starting
	}
	if err != nil || status != http.StatusOK || version != 1 {
		t.Fatalf("status %d over HTTP/%d, %v; want an answer over HTTP/1.1", status, version, err)
	}
	status, _, err = post(known, `{"cluster": {"metadata": {"name": "`+strings.Repeat("x", maxBody)+`"}}}`)
	if err == nil && status != http.StatusRequestEntityTooLarge {
		t.Errorf("a request that is too large is answered with status %d", status)
	}
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	if status, _, err := post(stranger, "{}"); err == nil {
		t.Errorf("a caller without a certificate is answered with status %d", status)
	}
}

// serving returns a folder with a serving certificate, a free port, and who vouches for the certificate.
func serving(t *testing.T) (dir string, port int, roots *x509.CertPool) {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Request{CommonName: "hooks", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, data := range map[string][]byte{"tls.crt": pair.CertPEM, "tls.key": pair.KeyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("not a TCP address")
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	return dir, address.Port, roots
}
