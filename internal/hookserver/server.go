// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package hookserver answers the lifecycle hooks of Cluster API.
//
// It remembers nothing and decides nothing: the answer to whether an upgrade may go on is read from the
// ClusterAddon, where the controller writes the proof, so every replica gives the same one. A call that has
// to wait wakes the controller by an annotation. Where there is any doubt the answer is to wait; for Clusters
// that use no cluster stack it is always to go on.
package hookserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	runtimecatalog "sigs.k8s.io/cluster-api/api/runtime/catalog"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	"sigs.k8s.io/cluster-api/exp/runtime/server"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Options say where the server listens.
type Options struct {
	// Host is the address to listen on, all by default.
	Host string
	// Port to listen on, 9443 by default.
	Port int
	// CertDir is the folder with tls.crt and tls.key, which are read again when they change.
	CertDir string
	// ClientCAName is the file in CertDir with the authority that callers have to have a certificate of. Without
	// it anybody may call.
	ClientCAName string
	// TLSOpts change how it speaks TLS. One of them may bring the certificate, which is then not read from CertDir.
	TLSOpts []func(*tls.Config)
	// Recorder tells the users of a Cluster when it was not held although there was something to do; nil for nobody.
	Recorder events.EventRecorder
	// Clock tells how long a Cluster has been held, and how long an answer took.
	Clock clock.PassiveClock
}

// Server is the runtime extension. It is a runnable of the manager, on every replica.
type Server struct {
	*server.Server
}

// NeedLeaderElection tells the manager that every replica answers.
func (s *Server) NeedLeaderElection() bool { return false }

// New returns a server that is not started. reader is for ClusterStackReleases and may be a cache; c and live
// are for ClusterAddons, and live must not be a cache: a proof that was voided a moment ago would still be in it.
func New(c client.Writer, reader, live client.Reader, o Options) (*Server, error) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	h := &hooks{client: c, reader: reader, live: live, recorder: o.Recorder, clock: o.Clock}
	catalog := runtimecatalog.New()
	meta := &runtimecatalog.HookMeta{}
	catalog.AddHook(runtimehooksv1.GroupVersion, runtimehooksv1.Discovery, meta)
	s, err := server.New(server.Options{
		Catalog: catalog, Host: o.Host, Port: o.Port, CertDir: o.CertDir, ClientCAName: o.ClientCAName,
		TLSOpts: append([]func(*tls.Config){onlyHTTP1}, o.TLSOpts...),
	})
	if err != nil {
		return nil, fmt.Errorf("hook server: %w", err)
	}
	s.Server = &limited{Server: s.Server, turns: make(chan struct{}, maxCalls)}
	// Cluster API calls for all Clusters, also for those that use no cluster stack. While nobody answers it holds them at every
	// hook but two: an initialized control plane is seen by watch as well, and a deletion never waits for longer than its limit.
	for _, handler := range []server.ExtensionHandler{
		{Name: "before-cluster-create", Hook: BeforeClusterCreate, HandlerFunc: handler[*runtimehooksv1.BeforeClusterCreateResponse](h, release.BeforeClusterCreate)},
		{Name: "after-control-plane-initialized", Hook: AfterControlPlaneInitialized, HandlerFunc: h.wakeUp, FailurePolicy: new(runtimehooksv1.FailurePolicyIgnore)},
		{Name: "before-cluster-upgrade", Hook: BeforeClusterUpgrade, HandlerFunc: handler[*runtimehooksv1.BeforeClusterUpgradeResponse](h, release.BeforeClusterUpgrade)},
		{Name: "before-control-plane-upgrade", Hook: BeforeControlPlaneUpgrade, HandlerFunc: handler[*runtimehooksv1.BeforeControlPlaneUpgradeResponse](h, release.BeforeControlPlaneUpgrade)},
		{Name: "after-control-plane-upgrade", Hook: AfterControlPlaneUpgrade, HandlerFunc: handler[*runtimehooksv1.AfterControlPlaneUpgradeResponse](h, release.AfterControlPlaneUpgrade)},
		{Name: "before-workers-upgrade", Hook: BeforeWorkersUpgrade, HandlerFunc: handler[*runtimehooksv1.BeforeWorkersUpgradeResponse](h, release.BeforeWorkersUpgrade)},
		{Name: "after-workers-upgrade", Hook: AfterWorkersUpgrade, HandlerFunc: handler[*runtimehooksv1.AfterWorkersUpgradeResponse](h, release.AfterWorkersUpgrade)},
		{Name: "after-cluster-upgrade", Hook: AfterClusterUpgrade, HandlerFunc: handler[*runtimehooksv1.AfterClusterUpgradeResponse](h, release.AfterClusterUpgrade)},
		{Name: "before-cluster-delete", Hook: BeforeClusterDelete, HandlerFunc: handler[*runtimehooksv1.BeforeClusterDeleteResponse](h, release.BeforeClusterDelete), FailurePolicy: new(runtimehooksv1.FailurePolicyIgnore)},
	} {
		catalog.AddHook(runtimehooksv1.GroupVersion, handler.Hook, meta)
		if err := s.AddExtensionHandler(handler); err != nil {
			return nil, fmt.Errorf("hook server: handler %s: %w", handler.Name, err)
		}
	}
	return &Server{s}, nil
}

// onlyHTTP1 leaves HTTP/2 out, whose streams one client can open and reset without end.
func onlyHTTP1(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }

const (
	// maxCalls are answered at a time; others wait for their turn. Cluster API sends some dozens after its restart.
	maxCalls = 32
	// maxBody bounds a request. It carries a Cluster, which etcd does not take if it is larger than that.
	maxBody = 4 << 20
)

// limited bounds what callers can make a server do.
type limited struct {
	webhook.Server
	turns chan struct{}
}

// Register implements webhook.Server.
func (l *limited) Register(path string, handler http.Handler) {
	l.Server.Register(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), deadline)
		defer cancel()
		// Read first: who sends slowly shall not have a turn meanwhile. Where no deadline can be set the body is there.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(deadline))
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "the request cannot be read, or is larger than "+strconv.Itoa(maxBody>>20)+" MiB", http.StatusRequestEntityTooLarge)
			return
		}
		select {
		case l.turns <- struct{}{}:
			defer func() { <-l.turns }()
		case <-ctx.Done():
			http.Error(w, "too many calls at once, ask again", http.StatusServiceUnavailable)
			return
		}
		r = r.WithContext(ctx)
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler.ServeHTTP(w, r)
	}))
}
