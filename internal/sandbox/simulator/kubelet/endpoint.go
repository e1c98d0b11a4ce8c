// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

const (
	// idleTimeout ends a port-forward over which nothing is sent; that of a kubelet.
	idleTimeout           = 4 * time.Hour
	streamCreationTimeout = 30 * time.Second
)

// endpoint is the API of one kubelet.
type endpoint struct {
	server *http.Server
	done   chan struct{}
	// cancel ends open port-forwards: their connections are hijacked, so that the server cannot close them.
	cancel context.CancelFunc
}

// serve starts the API of a kubelet at the address of its Node.
func serve(ctx context.Context, n Node, config *tls.Config, log logr.Logger) (*endpoint, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", n.Address.String())
	if err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	e := &endpoint{done: make(chan struct{})}
	ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))

	mux := http.NewServeMux()
	forward := func(w http.ResponseWriter, r *http.Request) { portForward(w, r, n) }
	mux.HandleFunc("/portForward/{namespace}/{pod}", forward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", forward)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the kubelets of a sandbox are simulated: no container runs, so there is nothing to look at", http.StatusNotImplemented)
	})
	e.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(logr.ToSlogHandler(log.WithValues("node", n.Name)), slog.LevelDebug),
		// SPDY, by which API servers forward ports, takes over a connection of HTTP/1.1.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	secure := tls.NewListener(listener, config)
	go func() {
		defer close(e.done)
		if err := e.server.Serve(secure); !errors.Is(err, http.ErrServerClosed) {
			log.Error(err, "kubelet", "node", n.Name)
		}
	}()
	return e, nil
}

func (e *endpoint) close() {
	e.cancel()
	_ = e.server.Close() // it was only listening
	<-e.done
}

func portForward(w http.ResponseWriter, r *http.Request, n Node) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, forwarder{node: n}, r.PathValue("pod"), r.PathValue("uid"), options,
		idleTimeout, streamCreationTimeout, portforward.SupportedProtocols)
}

// forwarder connects streams with the programs of a machine.
type forwarder struct{ node Node }

// PortForward copies between the stream and the port until the program has said all it has to say.
func (f forwarder) PortForward(ctx context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	real, ok := f.node.Ports[port]
	if !ok {
		return fmt.Errorf("nothing listens on port %d of pod %s: its containers are simulated", port, pod)
	}
	address := netip.AddrPortFrom(f.node.Address.Addr(), real)
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	stopped := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stopped()

	go func() {
		_, _ = io.Copy(conn, stream) // however it ends, the program is told that nothing more comes
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	// An error here means that one of the two left, which is how a forward ends.
	_, _ = io.Copy(stream, conn)
	return nil
}
