// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package balancer is the TCP load balancer in front of the API servers of one cluster.
//
// A backend takes part while its /readyz says so. When it stops saying so, its connections are closed:
// an API server whose etcd was removed keeps running, and a watch that stays there would never hear
// anything again. Connections that come while no backend is healthy wait a moment for one.
//
// A backend that is about to go is drained first: others take its connections over, each between two requests.
package balancer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/probe"
)

const (
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 2 * time.Second
	dialTimeout   = time.Second
	// hold is how long a new connection waits for a healthy backend.
	hold = 4 * time.Second

	// Cluster API takes the etcd of a machine away about a second after it decided to. By then a drain has to be
	// through.
	drainInterval = 20 * time.Millisecond
	// pause is how long nothing has to follow an answer, or the beginning of TLS, which a busy client takes its time for.
	pause = 150 * time.Millisecond
	// silence is how long nothing has to be said at all, when the client had the last word: there is more than
	// requests in HTTP/2.
	silence = 500 * time.Millisecond
)

// Balancer listens on one address and forwards each connection to a healthy backend, in turn.
type Balancer struct {
	listener net.Listener
	log      logr.Logger

	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	backends []*backend
	next     int
	changed  chan struct{} // closed and replaced whenever the health of a backend changes
	taken    uint64        // connections so far
	fault    *fault
}

type backend struct {
	address  string
	gone     <-chan struct{} // closed by stop
	stop     context.CancelFunc
	healthy  bool
	draining bool
	sessions map[session]struct{}
}

// Listen starts a balancer without backends.
func Listen(ctx context.Context, address string, log logr.Logger) (*Balancer, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	b := &Balancer{listener: listener, log: log, changed: make(chan struct{}), fault: &fault{}}
	ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.work.Go(func() { b.accept(ctx) })
	return b, nil
}

// Address is where the balancer listens.
func (b *Balancer) Address() *net.TCPAddr { return b.listener.Addr().(*net.TCPAddr) }

// Add makes an API server with a certificate of roots a backend. It gets connections once it says that it is
// ready. An address that is a backend already stays as it is.
func (b *Balancer) Add(ctx context.Context, address string, roots *x509.CertPool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, known := range b.backends {
		if known.address == address {
			return
		}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	added := &backend{address: address, gone: ctx.Done(), stop: stop, sessions: map[session]struct{}{}}
	b.backends = append(b.backends, added)
	b.work.Go(func() { b.watch(ctx, added, roots) })
}

// Drain prepares a backend for its removal, as long as there is a healthy one besides: it gets no new connections, and
// those that it has are closed as soon as no request is under way on them. Clients find another backend then.
func (b *Balancer) Drain(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, known := range b.backends {
		if known.address == address && !known.draining {
			known.draining = true
			b.work.Go(func() { b.drain(known) })
		}
	}
}

// drain closes quiet connections of a backend until it is gone. Once it has none, only few can come again: those for
// which no other backend was healthy.
func (b *Balancer) drain(of *backend) {
	for interval := drainInterval; ; {
		b.mu.Lock()
		if next := b.pick(nil); next != nil && !next.draining {
			for s := range of.sessions {
				if s.quiet() {
					s.close()
					delete(of.sessions, s)
				}
			}
		}
		if len(of.sessions) > 0 {
			interval = drainInterval
		} else {
			interval = min(2*interval, time.Second)
		}
		b.mu.Unlock()
		select {
		case <-of.gone:
			return
		case <-time.After(interval):
		}
	}
}

// Remove takes a backend out and closes its connections.
func (b *Balancer) Remove(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, known := range b.backends {
		if known.address == address {
			known.stop()
			b.setHealthy(known, false)
			b.backends = append(b.backends[:i:i], b.backends[i+1:]...)
			return
		}
	}
}

// AwaitHealthy returns once a backend is healthy; the error is that of ctx.
func (b *Balancer) AwaitHealthy(ctx context.Context) error {
	for {
		b.mu.Lock()
		picked, changed := b.pick(nil), b.changed
		b.mu.Unlock()
		if picked != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("no API server is ready behind %s: %w", b.Address(), context.Cause(ctx))
		}
	}
}

// Healthy tells whether a backend takes part.
func (b *Balancer) Healthy(address string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, known := range b.backends {
		if known.address == address {
			return known.healthy
		}
	}
	return false
}

// Changed is closed when the health of a backend next changes.
func (b *Balancer) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// Close ends all connections and frees the address.
func (b *Balancer) Close() {
	b.cancel()
	_ = b.listener.Close() // nothing else can be done about a listener that does not close
	b.mu.Lock()
	if b.fault.end != nil {
		b.fault.end()
	}
	for _, known := range b.backends {
		known.stop()
		b.setHealthy(known, false)
	}
	b.backends = nil
	b.mu.Unlock()
	b.work.Wait()
}

// setHealthy needs the lock.
func (b *Balancer) setHealthy(of *backend, healthy bool) {
	if !healthy {
		for s := range of.sessions {
			s.close() // whoever uses it notices
		}
		clear(of.sessions)
	}
	if of.healthy == healthy {
		return
	}
	of.healthy = healthy
	close(b.changed)
	b.changed = make(chan struct{})
	b.log.V(1).Info("API server changed", "backend", of.address, "healthy", healthy)
}

// pick needs the lock. It gives the next healthy backend that is not among the tried ones; one that is drained only
// when there is no other.
func (b *Balancer) pick(tried map[*backend]bool) *backend {
	var draining *backend
	for range b.backends {
		b.next = (b.next + 1) % len(b.backends)
		candidate := b.backends[b.next]
		switch {
		case !candidate.healthy || tried[candidate]:
		case candidate.draining:
			draining = candidate
		default:
			return candidate
		}
	}
	return draining
}

// watch keeps the health of a backend until ctx ends.
func (b *Balancer) watch(ctx context.Context, of *backend, roots *x509.CertPool) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()

	slow := false
	for {
		err := ready(ctx, client, of.address)
		// A busy machine may miss one probe; only the second in a row that gets no answer counts.
		timedOut := errors.Is(err, context.DeadlineExceeded)
		if !timedOut || slow {
			b.mu.Lock()
			if ctx.Err() == nil {
				b.setHealthy(of, err == nil)
			}
			b.mu.Unlock()
		}
		slow = timedOut
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func ready(ctx context.Context, client *http.Client, address string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return probe.Get(ctx, client, "https://"+address+"/readyz")
}

func (b *Balancer) accept(ctx context.Context) {
	for {
		conn, err := b.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			// Descriptors come back; without a pause this would be a busy loop.
			time.Sleep(50 * time.Millisecond)
		case err != nil:
			b.log.Error(err, "accept")
		default:
			b.work.Go(func() { b.serve(ctx, conn.(*net.TCPConn)) })
		}
	}
}

// serve forwards one connection until either end is done.
func (b *Balancer) serve(ctx context.Context, client *net.TCPConn) {
	defer client.Close()
	number, fault := b.take()
	if fault.mistreats(ctx, client, number) {
		return
	}
	server, of := b.connect(ctx)
	if server == nil {
		return
	}
	defer server.Close()

	b.mu.Lock()
	if !of.healthy {
		b.mu.Unlock()
		return
	}
	s := session{client: client, server: server, number: number}
	of.sessions[s] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(of.sessions, s)
		b.mu.Unlock()
	}()

	var both sync.WaitGroup
	both.Go(func() { forward(server, client) })
	both.Go(func() { forward(client, server) })
	both.Wait()
}

// forward copies until from ends and passes that end on, so that the other direction can finish.
func forward(to, from *net.TCPConn) {
	// An error means that one end is gone; the other one is told the same way as of an orderly end.
	_, err := io.Copy(to, from)
	if err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}

// connect gives a connection to a healthy backend, or nil when there is none in time.
func (b *Balancer) connect(ctx context.Context) (*net.TCPConn, *backend) {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	tried := map[*backend]bool{}
	for {
		b.mu.Lock()
		picked, changed := b.pick(tried), b.changed
		b.mu.Unlock()
		if picked == nil {
			clear(tried)
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, nil
			}
		}
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", picked.address)
		if err == nil {
			return conn.(*net.TCPConn), picked
		}
		tried[picked] = true
	}
}
