// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package standin stands in for the API servers of many workload clusters, for tests with a thousand of them.
//
// One listener serves them all, each below a path of its own and to its own credentials. A stand-in keeps
// objects and their managedFields as an API server does: server-side apply with conflicts, the other patches,
// updates, preconditions, finalizers, lists of metadata, watches, and the kinds of CustomResourceDefinitions as
// soon as they are created. Applying is the real code, from the libraries of Kubernetes, with the real schemas.
//
// It is not an API server. Nothing is defaulted, validated or admitted; there is no authorization, no
// conversion between versions of a kind beyond its apiVersion, no subresource but status, no Table, no protobuf
// in answers, no OpenAPI, no garbage collection and no aggregated API. A namespace that is deleted is gone at once with all
// that is in it, as if a controller-manager were there. Lists are of the present, whatever version they ask for,
// and nothing survives the process. What must hold against the real thing is tested against the real thing.
package standin

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"weak"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
)

// Server serves stand-ins.
type Server struct {
	ca       *pki.CA
	listener net.Listener
	http     *http.Server
	cancel   context.CancelFunc
	work     sync.WaitGroup

	mu       sync.RWMutex
	clusters map[string]*Cluster

	// Clusters that define the same kinds share what is made of the definitions. There are as many documents as there
	// are ways to define some kinds after others, so those that no cluster has any more go.
	shared sync.Mutex
	crds   map[[sha256.Size]byte]*definition
	docs   map[[sha256.Size]byte]weak.Pointer[documents]
}

// Listen starts a server without stand-ins, on loopback. Each of wrap stands before all of them, and sees a request
// for a stand-in below /clusters/<its name>.
func Listen(wrap ...func(http.Handler) http.Handler) (*Server, error) {
	ca, err := pki.NewCA("stand-ins")
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("stand-ins: %w", err)
	}
	s := &Server{
		ca: ca, listener: listener, clusters: map[string]*Cluster{},
		crds: map[[sha256.Size]byte]*definition{}, docs: map[[sha256.Size]byte]weak.Pointer[documents]{},
	}
	certificate, err := s.certificate(listener.Addr().(*net.TCPAddr).IP)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca.CertPEM())
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	var handler http.Handler = http.HandlerFunc(s.serve)
	for _, w := range wrap {
		handler = w(handler)
	}
	s.http = &http.Server{
		Handler:     handler,
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: clients,
		},
		ErrorLog: log.New(io.Discard, "", 0), // of clients that leave in the middle of a handshake
	}
	s.work.Go(func() { _ = s.http.ServeTLS(listener, "", "") }) // it ends with Close
	return s, nil
}

func (s *Server) certificate(ip net.IP) (tls.Certificate, error) {
	pair, err := s.ca.Issue(pki.Request{CommonName: "stand-ins", DNSNames: []string{"localhost"}, IPs: []net.IP{ip}, Server: true})
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
}

// Close ends all stand-ins.
func (s *Server) Close() error {
	s.cancel()
	err := s.http.Close()
	s.work.Wait()
	return err
}

// Add makes the stand-in of a cluster with the namespaces of a new one. Version is the one that it claims to have,
// such as v1.36.3; it serves the kinds of one version only.
func (s *Server) Add(name, version string) (*Cluster, error) {
	if strings.Contains(name, "/") || name == "" {
		return nil, fmt.Errorf("stand-in %q: want a name without slashes", name)
	}
	c, err := newCluster(s, name, version)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clusters[name] != nil {
		return nil, fmt.Errorf("stand-in %s is there already", name)
	}
	s.clusters[name] = c
	return c, nil
}

// Remove ends the stand-in of a cluster; its watches end, and requests are not found.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	c := s.clusters[name]
	delete(s.clusters, name)
	s.mu.Unlock()
	if c != nil {
		c.close()
	}
}

const pathPrefix = "/clusters/"

// serve finds the stand-in that a request is for.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	rest, below := strings.CutPrefix(r.URL.Path, pathPrefix)
	name, path, _ := strings.Cut(rest, "/")
	s.mu.RLock()
	c := s.clusters[name]
	s.mu.RUnlock()
	if !below || c == nil {
		http.Error(w, "no such cluster", http.StatusNotFound)
		return
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != name {
		writeError(w, errUnauthorized)
		return
	}
	r.URL.Path, r.URL.RawPath = "/"+path, ""
	c.serve(w, r)
}

// Kubeconfig is a new kubeconfig of an administrator of the cluster.
func (c *Cluster) Kubeconfig() ([]byte, error) {
	pair, err := c.server.ca.Issue(pki.Request{CommonName: c.name, Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		return nil, err
	}
	return pki.Kubeconfig(c.name, "https://"+c.server.listener.Addr().String()+pathPrefix+c.name, c.server.ca.CertPEM(), pair)
}

// Config is a new configuration of an administrator of the cluster, without limits of requests.
func (c *Cluster) Config() (*rest.Config, error) {
	raw, err := c.Kubeconfig()
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = -1, -1
	return config, nil
}
