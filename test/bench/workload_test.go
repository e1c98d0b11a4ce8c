// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package bench

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// workloadServers starts API servers for workload clusters, with one etcd for all.
func workloadServers(b *testing.B, n int) []*apiServer {
	b.Helper()
	servers := make([]*apiServer, n)
	for i := range servers {
		config := rest.CopyConfig(sandboxtest.NewAPIServer(b))
		config.QPS = -1
		server := &apiServer{config: config, count: &counter{}}
		proxy, err := faultproxy.ListenKubernetes(context.Background(), config, faultproxy.Options{Observe: server.count.add})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = proxy.Close() })
		if server.proxied, err = proxy.Kubeconfig(); err != nil {
			b.Fatal(err)
		}
		if server.kubeconfig, err = kubeconfig(config); err != nil {
			b.Fatal(err)
		}
		servers[i] = server
	}
	return servers
}

func kubeconfig(config *rest.Config) ([]byte, error) {
	const name = "bench"
	return clientcmd.Write(clientcmdapi.Config{
		CurrentContext: name,
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: {
			ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken,
		}},
		Contexts: map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
	})
}

// counter counts the requests to a workload cluster. Watches, and the question whether the cluster is there at
// all, are not counted.
type counter struct {
	mu               sync.Mutex
	requests, writes int
	firstWrite       time.Time
	seen             []string
}

func (c *counter) add(e faultproxy.Event) {
	if e.Watch || e.Method == http.MethodGet && (e.Path == "/" || e.Path == "/version") {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	c.seen = append(c.seen, e.Method+" "+e.Path)
	if e.Method == http.MethodGet || strings.HasSuffix(e.Path, "reviews") {
		return
	}
	c.writes++
	if c.firstWrite.IsZero() {
		c.firstWrite = time.Now()
	}
}

// take returns what was counted, and begins anew.
func (c *counter) take() (requests, writes int, firstWrite time.Time, seen []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	requests, writes, firstWrite, seen = c.requests, c.writes, c.firstWrite, c.seen
	c.requests, c.writes, c.firstWrite, c.seen = 0, 0, time.Time{}, nil
	return requests, writes, firstWrite, seen
}
