// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"

	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
)

// access is how clients prove to a proxy that they may use the identity that it has at its target.
type access struct {
	client  *rest.Config
	pool    *x509.CertPool
	keyPair pki.KeyPair
}

// ListenKubernetes starts a proxy in front of the API server of config. It presents the identity of config to
// the server, since a client certificate cannot be passed on; so it asks its own clients for a certificate, which
// RESTConfig and Kubeconfig have. To act as somebody else, clients impersonate.
func ListenKubernetes(ctx context.Context, config *rest.Config, opts Options) (*Proxy, error) {
	config = rest.CopyConfig(config)
	target, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("fault proxy for %s: %w", config.Host, err)
	}
	if target.Scheme != "https" {
		return nil, fmt.Errorf("fault proxy for %s: want an API server that speaks TLS", config.Host)
	}
	client := rest.AnonymousClientConfig(config)
	client.WrapTransport, client.Dial, client.Proxy, client.Transport = config.WrapTransport, nil, nil, nil

	ca := opts.CA
	if ca == nil {
		if ca, err = pki.NewCA("fault-proxy"); err != nil {
			return nil, err
		}
		opts.CA = ca
	}
	pair, err := ca.Issue(pki.Request{CommonName: "fault-proxy-client", Client: true})
	if err != nil {
		return nil, err
	}
	clients := &access{client: client, keyPair: pair, pool: x509.NewCertPool()}
	clients.pool.AppendCertsFromPEM(ca.CertPEM())

	config.WrapTransport = nil // the client's, not ours
	reach := func() (transport, error) {
		tlsConfig, err := rest.TLSConfigFor(config)
		if err != nil {
			return transport{}, err
		}
		if tlsConfig == nil {
			tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		dial := config.Dial
		if dial == nil {
			dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
		}
		return transports(tlsConfig, dial, func(next http.RoundTripper) (http.RoundTripper, error) {
			return rest.HTTPWrappersForConfig(config, next)
		})()
	}
	p, err := listen(ctx, target.String(), opts, reach, clients)
	if err != nil {
		return nil, err
	}
	client.Host = p.URL()
	client.TLSClientConfig = rest.TLSClientConfig{CAData: p.CertPEM(), CertData: pair.CertPEM, KeyData: pair.KeyPEM}
	return p, nil
}

// RESTConfig is how to reach the API server through a proxy of ListenKubernetes: the configuration that it was
// made from, with another address and other credentials.
func (p *Proxy) RESTConfig() *rest.Config { return rest.CopyConfig(p.kubernetes.client) }

// KubeContext is the name of the only context that the kubeconfigs of proxies have.
const KubeContext = "fault-proxy"

// Kubeconfig is a kubeconfig file that says the same.
func (p *Proxy) Kubeconfig() ([]byte, error) {
	return pki.Kubeconfig(KubeContext, p.URL(), p.CertPEM(), p.kubernetes.keyPair)
}
