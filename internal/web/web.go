// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package web makes HTTP clients that are fit to talk to servers that nobody here controls.
//
// Such a server may be slow, silent, endless, broken or hostile. A client of this package waits for none for
// ever, sends nothing without TLS unless it was told to, hands credentials to no other host than the one
// that they were meant for, tries again what is worth it, and can be kept away from the networks inside.
// What is asked of a server, and how large an answer may be, is the caller's.
package web

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Options are settings whose zero value works.
type Options struct {
	// CA has certificates in PEM that are trusted besides those of the system.
	CA []byte
	// PlainHTTP allows requests without TLS.
	PlainHTTP bool
	// Guard keeps the client away from networks, nil from none.
	Guard *Guard
	// Hosts are the servers that want to be left alone; clients that share it tell each other. Without it, each client
	// finds out anew.
	Hosts *Hosts
	// UserAgent is told to servers that are asked without one.
	UserAgent string

	// Answer is how long a server may take until it begins to answer, 30 seconds by default.
	Answer time.Duration
	// Window is how long a body may take for the next MinPerWindow bytes of it, 30 seconds by default.
	Window time.Duration
	// MinPerWindow is 300 KiB by default, in 30 seconds 10 KiB/s.
	MinPerWindow int64
	// Attempts is how often a request is sent at most, 3 by default.
	Attempts int
	// Backoff is how long to wait before the second attempt, one second by default. It doubles.
	Backoff time.Duration
}

func (o *Options) setDefaults() {
	set(&o.Answer, 30*time.Second)
	set(&o.Window, 30*time.Second)
	set(&o.MinPerWindow, 300<<10)
	set(&o.Attempts, 3)
	set(&o.Backoff, time.Second)
}

func set[T comparable](setting *T, value T) {
	var zero T
	if *setting == zero {
		*setting = value
	}
}

// maxRedirects is more than any registry or forge needs.
const maxRedirects = 3

// Client returns a client. It keeps connections; CloseIdleConnections ends them.
func Client(o Options) (*http.Client, error) {
	o.setDefaults()
	roots, err := rootsWith(o.CA)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           o.Guard.dial(dialer),
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: o.Answer,
		// Of headers nobody needs more; the default of net/http is ten times as much.
		MaxResponseHeaderBytes: 1 << 20,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    4,
		ForceAttemptHTTP2:      true,
		// Blobs are compressed already, and digests are over what is sent.
		DisableCompression: true,
	}
	var rt http.RoundTripper = transport
	rt = &patience{next: rt, window: o.Window, min: o.MinPerWindow}
	rt = &retry{next: rt, attempts: o.Attempts, backoff: o.Backoff}
	if o.Hosts != nil {
		rt = &considerate{next: rt, hosts: o.Hosts}
	}
	rt = &manners{next: rt, plainHTTP: o.PlainHTTP, userAgent: o.UserAgent}
	return &http.Client{Transport: rt, CheckRedirect: checkRedirect}, nil
}

func rootsWith(ca []byte) (*x509.CertPool, error) {
	if len(ca) == 0 {
		return nil, nil // those of the system
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a container without certificates
	}
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the CA bundle has no certificate in PEM")
	}
	return roots, nil
}

// manners says who asks, and keeps everything from the wire that must not go there without TLS.
type manners struct {
	next      http.RoundTripper
	plainHTTP bool
	userAgent string
}

func (m *manners) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && (req.URL.Scheme != "http" || !m.plainHTTP) {
		closeBody(req)
		return nil, final{fmt.Errorf("%s://%s is not spoken to without TLS", req.URL.Scheme, req.URL.Host)}
	}
	if m.userAgent != "" && req.Header.Get("User-Agent") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("User-Agent", m.userAgent)
	}
	return m.next.RoundTrip(req)
}

func (m *manners) CloseIdleConnections() { closeIdle(m.next) }

// checkRedirect takes from a request that goes to another server what was meant for the first one only. The
// standard library lets subdomains and other ports of the same host have it.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return final{fmt.Errorf("more than %d redirects", maxRedirects)}
	}
	first := via[0].URL
	if first.Scheme == "https" && req.URL.Scheme != "https" {
		return final{fmt.Errorf("%s redirects to %s, which is not spoken to without TLS", first.Host, req.URL.Host)}
	}
	for _, hop := range append(via[1:len(via):len(via)], req) {
		if !SameOrigin(first, hop.URL) {
			for _, header := range []string{"Authorization", "Cookie", "Referer", "Www-Authenticate"} {
				req.Header.Del(header)
			}
		}
	}
	return nil
}

// SameOrigin tells whether two URLs lead to the same server by the same protocol.
func SameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if strings.EqualFold(u.Scheme, "http") {
		return "80"
	}
	return "443"
}

// Cause returns what was wrong with a request, without its URL: the URL to which a server has redirected us
// can have a signature in it that lets everybody read what it names.
func Cause(err error) error {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return err
	}
	host := "the server"
	if u, parseErr := url.Parse(failed.URL); parseErr == nil && u.Host != "" {
		host = u.Host
	}
	return fmt.Errorf("%s %s: %w", strings.ToUpper(failed.Op), host, failed.Err)
}

// final is an error that sending the same request again does not cure.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // a RoundTripper must; what it says does not matter any more
	}
}

func closeIdle(rt http.RoundTripper) {
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
