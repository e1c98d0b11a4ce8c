// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package egress is the way from API servers to the inside of their cluster.
//
// In a sandbox only kubelets are there to be reached, on loopback. Addresses of pods and services belong to
// nobody, or worse, to somebody on the network of the machine: without this proxy an API server that looks for
// an aggregated API or a webhook would knock at other people's doors and wait long for an answer. Here it is
// told at once that there is none.
package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// The reasons that an API server reports.
const (
	noNetwork  = "a sandbox has no network between pods"
	noListener = "nothing listens there"
)

const (
	dialTimeout   = 5 * time.Second
	headerTimeout = 10 * time.Second
)

// Proxy answers the CONNECT requests of API servers.
type Proxy struct {
	listener net.Listener
	cancel   context.CancelFunc
	work     sync.WaitGroup
	log      logr.Logger
}

// Listen starts a proxy on a Unix socket. (API servers would speak TLS to a TCP port, even where told not to.)
// A name that begins with @ is one of the kernel's: no file, of any length that a state folder may make of it,
// and gone with the process.
func Listen(ctx context.Context, name string, log logr.Logger) (*Proxy, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("egress proxy: %w", err)
	}
	p := &Proxy{listener: listener, log: log}
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.work.Go(func() { p.accept(ctx) })
	return p, nil
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Close ends all connections and frees the address.
func (p *Proxy) Close() {
	p.cancel()
	_ = p.listener.Close() // nothing else can be done about a listener that does not close
	p.work.Wait()
}

func (p *Proxy) accept(ctx context.Context) {
	for {
		conn, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.log.Error(err, "egress proxy")
			time.Sleep(50 * time.Millisecond) // descriptors may come back; without a pause this would be a busy loop
		default:
			p.work.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				defer conn.Close()
				serve(ctx, conn.(*net.UnixConn))
			})
		}
	}
}

// serve answers one connection. It speaks HTTP by hand: the reason of a refusal belongs into the status line,
// which is the only thing that API servers quote.
func serve(ctx context.Context, client *net.UnixConn) {
	_ = client.SetReadDeadline(time.Now().Add(headerTimeout)) // an error shows when reading
	reader := bufio.NewReader(client)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	_ = client.SetReadDeadline(time.Time{})
	if request.Method != http.MethodConnect {
		refuse(client, http.StatusMethodNotAllowed, "only CONNECT is answered here")
		return
	}
	if target, err := netip.ParseAddrPort(request.Host); err != nil || !target.Addr().IsLoopback() {
		refuse(client, http.StatusBadGateway, noNetwork)
		return
	}
	server, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", request.Host)
	if err != nil {
		refuse(client, http.StatusBadGateway, noListener)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	defer server.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { forward(server.(*net.TCPConn), reader, client) })
	both.Go(func() { forward(client, server, server.(*net.TCPConn)) })
	both.Wait()
}

// conn is one end of a connection, which can be ended in one direction alone.
type conn interface {
	net.Conn
	CloseWrite() error
}

// forward copies until the source ends. An orderly end is passed on; after any other both connections are of no use.
func forward(to conn, from io.Reader, source conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		_ = source.Close()
		return
	}
	_ = to.CloseWrite()
}

func refuse(client net.Conn, status int, reason string) {
	// Whether the answer arrives or not, the connection ends here.
	_, _ = fmt.Fprintf(client, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status, reason)
}
