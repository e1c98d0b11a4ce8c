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
	"crypto/tls"
	"fmt"

	runtimecatalog "sigs.k8s.io/cluster-api/api/runtime/catalog"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	"sigs.k8s.io/cluster-api/exp/runtime/server"
	"sigs.k8s.io/controller-runtime/pkg/client"
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
	catalog := runtimecatalog.New()
	meta := &runtimecatalog.HookMeta{}
	catalog.AddHook(runtimehooksv1.GroupVersion, runtimehooksv1.Discovery, meta)
	catalog.AddHook(runtimehooksv1.GroupVersion, BeforeClusterUpgrade, meta)
	catalog.AddHook(runtimehooksv1.GroupVersion, AfterClusterUpgrade, meta)
	catalog.AddHook(runtimehooksv1.GroupVersion, AfterControlPlaneInitialized, meta)

	s, err := server.New(server.Options{
		Catalog: catalog, Host: o.Host, Port: o.Port, CertDir: o.CertDir, ClientCAName: o.ClientCAName, TLSOpts: o.TLSOpts,
	})
	if err != nil {
		return nil, fmt.Errorf("hook server: %w", err)
	}
	h := &Hooks{client: c, reader: reader, live: live}
	for _, handler := range []server.ExtensionHandler{
		{Name: "before-cluster-upgrade", Hook: BeforeClusterUpgrade, HandlerFunc: h.BeforeClusterUpgrade},
		{Name: "after-cluster-upgrade", Hook: AfterClusterUpgrade, HandlerFunc: h.AfterClusterUpgrade},
		{Name: "after-control-plane-initialized", Hook: AfterControlPlaneInitialized, HandlerFunc: h.AfterControlPlaneInitialized},
	} {
		if err := s.AddExtensionHandler(handler); err != nil {
			return nil, fmt.Errorf("hook server: handler %s: %w", handler.Name, err)
		}
	}
	return &Server{s}, nil
}
