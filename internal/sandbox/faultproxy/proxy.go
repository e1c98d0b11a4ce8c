// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package faultproxy is a reverse proxy on loopback that does harm on purpose.
//
// It stands in front of anything that speaks HTTP or HTTPS, an API server, a registry, a hook server, and
// passes everything on unchanged, watches and upgraded connections included, except where a rule of its
// Plan says otherwise. What it does depends on the plan and on how many requests came before, not on time or
// chance, so the line that Replay gives makes the same happen again to the same requests. Where requests come
// at the same time, which of them is the third is theirs to decide.
//
// A client may repeat a request by itself, so one fault is not always one error: Go's does it when a
// connection ends before the answer to a GET.
package faultproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
)

// Options of a Proxy. The zero value works.
type Options struct {
	// Plan is what goes wrong from the start.
	Plan Plan
	// Address on loopback to listen on; by default any port of 127.0.0.1.
	Address string
	// CA issues the certificate of a proxy whose target speaks TLS; by default the proxy makes its own.
	CA *pki.CA
	// TLS is how the target is reached, by default with the authorities that the system trusts.
	TLS *tls.Config
	// Observe is told of each request when it arrives. It must not block.
	Observe func(Event)
	// Wrap, if set, stands before the proxy, for harm that no rule describes. It sees every request first.
	Wrap func(http.Handler) http.Handler
	// Log gets what goes wrong without having been asked for.
	Log logr.Logger
}

// Event is one request as the proxy saw it.
type Event struct {
	// Number counts all requests of the proxy, from 1.
	Number int
	// Method and Path are those of the request.
	Method, Path string
	// Watch says that it is a watch of Kubernetes.
	Watch bool
	// Query is that of the request, as it was sent.
	Query string
	// UserAgent is who asks, by its own account.
	UserAgent string
	// Fault is what was done to it, empty if nothing.
	Fault string
	// Rule is the rule that did it, and Match the how manieth of the requests that match it this was.
	Rule  string
	Match int
}

// String is the event in one line.
func (e Event) String() string {
	if e.Fault == "" {
		return fmt.Sprintf("%d %s %s", e.Number, e.Method, e.Path)
	}
	return fmt.Sprintf("%d %s %s: %s (match %d of %s)", e.Number, e.Method, e.Path, e.Fault, e.Match, e.Rule)
}

// Proxy forwards requests to one target.
type Proxy struct {
	target  *url.URL
	url     *url.URL
	caPEM   []byte
	server  *http.Server
	log     logr.Logger
	observe func(Event)
	rules   *rules
	watches gate
	open    connections

	forwarder  *httputil.ReverseProxy
	upgrader   *httputil.ReverseProxy // over HTTP/1.1, which alone can be upgraded
	closeIdle  func()
	kubernetes *access // of ListenKubernetes
	cancel     context.CancelFunc
	work       sync.WaitGroup
	mu         sync.Mutex
	closed     bool
}

// Listen starts a proxy in front of target, the URL of a server. It speaks TLS if the target does. Credentials
// of clients are passed on; client certificates cannot be. The proxy ends with Close, not with ctx.
func Listen(ctx context.Context, target string, opts Options) (*Proxy, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if opts.TLS != nil {
		config = opts.TLS.Clone()
	}
	dial := (&net.Dialer{Timeout: dialTimeout}).DialContext
	return listen(ctx, target, opts, transports(config, dial, nil), nil)
}

// dialTimeout bounds how long a proxy waits for a target that is not there.
const dialTimeout = 10 * time.Second

// transport is how a target is reached, once over what protocol it likes and once over HTTP/1.1.
type transport struct {
	any, http1 http.RoundTripper
	closeIdle  func()
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// transports makes the connections to a target. Wrap may add headers to requests.
func transports(config *tls.Config, dial dialer, wrap func(http.RoundTripper) (http.RoundTripper, error)) func() (transport, error) {
	return func() (transport, error) {
		// Answers pass as they are, compressed or not.
		anyVersion := &http.Transport{TLSClientConfig: config, DialContext: dial, ForceAttemptHTTP2: true, DisableCompression: true, MaxIdleConnsPerHost: 100}
		only1 := config.Clone()
		only1.NextProtos = []string{"http/1.1"}
		http1 := &http.Transport{TLSClientConfig: only1, DialContext: dial, DisableCompression: true, DisableKeepAlives: true}
		t := transport{any: anyVersion, http1: http1, closeIdle: func() { anyVersion.CloseIdleConnections(); http1.CloseIdleConnections() }}
		if wrap == nil {
			return t, nil
		}
		var err, err1 error
		t.any, err = wrap(anyVersion)
		t.http1, err1 = wrap(http1)
		return t, errors.Join(err, err1)
	}
}

func listen(ctx context.Context, target string, opts Options, reach func() (transport, error), clients *access) (*Proxy, error) {
	to, err := url.Parse(target)
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "" {
		return nil, fmt.Errorf("fault proxy: target %q: want an http or https URL", target)
	}
	rules, err := newRules(opts.Plan)
	if err != nil {
		return nil, fmt.Errorf("fault proxy: %w", err)
	}
	transport, err := reach()
	if err != nil {
		return nil, fmt.Errorf("fault proxy for %s: %w", target, err)
	}
	address := opts.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	if host, _, err := net.SplitHostPort(address); err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("fault proxy: address %s: want one of loopback and a port, such as 127.0.0.1:8080", address)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("fault proxy: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &Proxy{
		target: to, url: &url.URL{Scheme: to.Scheme, Host: listener.Addr().String()},
		rules: rules, observe: opts.Observe, log: opts.Log,
		closeIdle: transport.closeIdle, cancel: cancel, kubernetes: clients,
	}
	if p.observe == nil {
		p.observe = func(Event) {}
	}
	p.forwarder, p.upgrader = p.reverseProxy(transport.any), p.reverseProxy(transport.http1)
	var handler http.Handler = http.HandlerFunc(p.serve)
	if opts.Wrap != nil {
		handler = opts.Wrap(handler)
	}
	p.server = &http.Server{
		Handler:     handler,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		ErrorLog: log.New(io.Discard, "", 0), // what it has to say is what this package does on purpose
	}
	tracked := &trackingListener{Listener: listener, open: &p.open}
	serve := func() error { return p.server.Serve(tracked) }
	if to.Scheme == "https" {
		config, err := p.serverTLS(opts.CA, clients)
		if err != nil {
			cancel()
			return nil, errors.Join(err, listener.Close())
		}
		p.server.TLSConfig = config
		serve = func() error { return p.server.ServeTLS(tracked, "", "") }
	}
	p.work.Go(func() {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error(err, "fault proxy ended", "target", target)
		}
	})
	return p, nil
}

// serverTLS makes the certificate of the proxy.
func (p *Proxy) serverTLS(ca *pki.CA, clients *access) (*tls.Config, error) {
	var err error
	if ca == nil {
		if ca, err = pki.NewCA("fault-proxy"); err != nil {
			return nil, err
		}
	}
	host, _, err := net.SplitHostPort(p.url.Host)
	if err != nil {
		return nil, err
	}
	pair, err := ca.Issue(pki.Request{CommonName: "fault-proxy", DNSNames: []string{"localhost"}, IPs: []net.IP{net.ParseIP(host)}, Server: true})
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return nil, err
	}
	p.caPEM = ca.CertPEM()
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	if clients != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, clients.pool
	}
	return config, nil
}

// URL is where the proxy listens. Paths are those of the target.
func (p *Proxy) URL() string { return p.url.String() }

// CertPEM is the authority that signed the proxy's certificate; empty without TLS.
func (p *Proxy) CertPEM() []byte { return p.caPEM }

// Close ends all connections and frees the address.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	err := p.server.Close()
	p.open.close(false)
	p.work.Wait()
	p.closeIdle()
	return err
}

// Set replaces all rules; the new ones count from 0. The seed stays.
func (p *Proxy) Set(rules ...Rule) error { return p.rules.set(rules) }

// Add appends rules to those that there are, which go on counting.
func (p *Proxy) Add(rules ...Rule) error { return p.rules.add(rules) }

// Replay is the plan that makes the same happen again, with all rules that there ever were. What is not done by
// rules, by FreezeWatches, Disconnect and the functions of At, is the test's to repeat.
func (p *Proxy) Replay() Plan { return p.rules.replay() }

// Faults are the requests that something was done to so far.
func (p *Proxy) Faults() []Event { return p.rules.struck() }

// Requests is how many requests have arrived.
func (p *Proxy) Requests() int { return p.rules.requests() }

// FreezeWatches silences all watches, those that are open and those to come, until thaw is called. The events
// that come meanwhile are delivered then.
func (p *Proxy) FreezeWatches() (thaw func()) { return p.watches.freeze() }

// Disconnect ends all connections that clients have, with RST, and with them what they ask for at the moment.
func (p *Proxy) Disconnect() { p.open.close(true) }

// Moment is a point in the life of a request.
type Moment string

const (
	// Arrived is before anything is done with a request, by a rule or by the server.
	Arrived Moment = "Arrived"
	// Answered is when the server has answered and nobody has heard of it.
	Answered Moment = "Answered"
	// Delivered is when the whole answer is on its way to the client.
	Delivered Moment = "Delivered"
)

// At calls f once, for the n-th request from now on that matches verb and path, as in a Rule, when it has got to a
// moment. Requests that a rule lets pass are not counted. The request waits until f returns, except when Delivered;
// Close waits for f, too. A test that wants a program to die there kills it in f, and adds a rule for what becomes
// of the request.
func (p *Proxy) At(moment Moment, verb, path string, n int, f func(Event)) error {
	return p.rules.at(moment, Rule{Verb: verb, Path: path, First: n, Last: n, Fault: Fault{Kind: Pass}}, f)
}

// begin counts a request in flight, unless the proxy is closed.
func (p *Proxy) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.work.Add(1)
	return true
}

type connKey struct{}

// passage is one request on its way through.
type passage struct {
	request
	event Event
	fault Fault
	calls map[Moment][]func(Event)
}

type passageKey struct{}

func (g *passage) reach(moment Moment) {
	for _, f := range g.calls[moment] {
		f(g.event)
	}
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	if !p.begin() {
		panic(http.ErrAbortHandler)
	}
	defer p.work.Done()
	g := p.rules.decide(describe(r))
	p.observe(g.event)
	g.reach(Arrived)
	p.act(w, r, g)
	if calls := g.calls[Delivered]; len(calls) > 0 {
		// Of HTTP/2 the end of the answer is sent when this has returned.
		p.work.Go(func() { g.reach(Delivered) })
	}
}

// act carries out what befalls a request before it is forwarded, and forwards it.
func (p *Proxy) act(w http.ResponseWriter, r *http.Request, g *passage) {
	switch f := g.fault; f.Kind {
	case Status:
		answer(w, f)
		return
	case Drop:
		panic(http.ErrAbortHandler)
	case Reset:
		if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			reset(conn)
		}
		panic(http.ErrAbortHandler)
	case Never:
		// That a client has gone shows only once it has said all.
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case Delay:
		// A client that gives up takes its request back. Over HTTP/1.1 that shows only once it has said all.
		if r.ProtoMajor == 1 {
			said, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			r.Body = io.NopCloser(bytes.NewReader(said))
		}
		if !pause(r.Context().Done(), f.Duration) {
			panic(http.ErrAbortHandler)
		}
	case CutRequest:
		r.Body = &cutReader{ReadCloser: r.Body, left: f.Bytes}
	default: // the others befall the answer
	}
	if shapes(g) {
		w = &eager{w}
	}
	forwarder := p.forwarder
	if g.upgrade {
		forwarder = p.upgrader
	}
	forwarder.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), passageKey{}, g)))
}

func (p *Proxy) reverseProxy(transport http.RoundTripper) *httputil.ReverseProxy {
	// A server on loopback is known by the address that it is asked at, and so makes links that lead back here.
	// Others want to be called by their names.
	host, _, err := net.SplitHostPort(p.target.Host)
	if err != nil {
		host = p.target.Host
	}
	ip := net.ParseIP(host)
	keepHost := host == "localhost" || ip != nil && ip.IsLoopback()
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		BufferPool:    &buffers,
		ErrorLog:      silent,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.RawQuery = r.In.URL.RawQuery // it would be without what Go cannot parse
			r.SetURL(p.target)
			if keepHost {
				r.Out.Host = r.In.Host
			}
		},
		ModifyResponse: p.shape,
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			// As if there were no proxy: a server that does not answer is not answered for.
			if r.Context().Err() == nil && !errors.Is(err, errCut) {
				p.log.Error(err, "the target does not answer", "method", r.Method, "url", r.URL.Redacted())
			}
			panic(http.ErrAbortHandler)
		},
	}
}

// silent swallows what net/http has to say of what this package does on purpose.
var silent = log.New(io.Discard, "", 0)

// buffers are those that answers are copied with.
var buffers bufferPool

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(buffer []byte) { b.pool.Put(&buffer) }

// connections are those that clients have with a proxy.
type connections struct {
	mu   sync.Mutex
	open map[*trackedConn]struct{}
}

func (c *connections) close(withReset bool) {
	c.mu.Lock()
	open := make([]*trackedConn, 0, len(c.open))
	for conn := range c.open {
		open = append(open, conn)
	}
	c.mu.Unlock()
	for _, conn := range open {
		if withReset {
			reset(conn)
		}
		_ = conn.Close() // whoever uses it notices
	}
}

// trackingListener notes connections. The server of net/http loses sight of those that are upgraded.
type trackingListener struct {
	net.Listener
	open *connections
}

func (l *trackingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: conn, open: l.open}
	l.open.mu.Lock()
	defer l.open.mu.Unlock()
	if l.open.open == nil {
		l.open.open = map[*trackedConn]struct{}{}
	}
	l.open.open[tracked] = struct{}{}
	return tracked, nil
}

type trackedConn struct {
	net.Conn
	open *connections
}

// Close closes the connection.
func (c *trackedConn) Close() error {
	c.open.mu.Lock()
	delete(c.open.open, c)
	c.open.mu.Unlock()
	return c.Conn.Close()
}

// reset ends a connection with RST.
func reset(conn net.Conn) {
	for {
		switch c := conn.(type) {
		case *tls.Conn:
			conn = c.NetConn()
		case *trackedConn:
			if tcp, ok := c.Conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // it fails for a connection that has ended already
			}
			_ = c.Close()
			return
		default:
			_ = conn.Close()
			return
		}
	}
}
