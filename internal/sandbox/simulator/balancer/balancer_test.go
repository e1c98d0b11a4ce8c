// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package balancer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
)

// apiServer answers /readyz as told, tells its name at /name, and keeps /watch open.
type apiServer struct {
	*httptest.Server
	ready atomic.Bool
}

func startAPIServer(t *testing.T, name string, ready bool) *apiServer {
	t.Helper()
	s := &apiServer{}
	s.ready.Store(ready)
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/name", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
	mux.HandleFunc("/watch", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *apiServer) address() string { return s.Listener.Addr().String() }

func start(t *testing.T, servers ...*apiServer) (*Balancer, *http.Client) {
	t.Helper()
	roots := x509.NewCertPool()
	for _, s := range servers {
		roots.AddCert(s.Certificate())
	}
	b, err := Listen(t.Context(), "127.0.0.1:0", testr.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	for _, s := range servers {
		b.Add(t.Context(), s.address(), roots)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	return b, &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func get(t *testing.T, client *http.Client, b *Balancer, path string) (string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+b.Address().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestConnectionsGoToReadyBackendsInTurn(t *testing.T) {
	one, two, sick := startAPIServer(t, "one", true), startAPIServer(t, "two", true), startAPIServer(t, "sick", false)
	b, client := start(t, one, two, sick)
	seen := map[string]int{}
	deadline := time.Now().Add(30 * time.Second)
	for (seen["one"] < 3 || seen["two"] < 3) && time.Now().Before(deadline) {
		name, err := get(t, client, b, "/name")
		if err != nil {
			t.Fatal(err)
		}
		seen[name]++
	}
	if seen["one"] < 3 || seen["two"] < 3 || seen["sick"] > 0 {
		t.Errorf("answers came from %v, want from one and two alike and never from sick", seen)
	}
}

func TestConnectionWaitsForTheFirstReadyBackend(t *testing.T) {
	late := startAPIServer(t, "late", false)
	b, client := start(t, late)
	time.AfterFunc(300*time.Millisecond, func() { late.ready.Store(true) })
	if name, err := get(t, client, b, "/name"); err != nil || name != "late" {
		t.Errorf("got %q, %v; want the answer of the backend that became ready", name, err)
	}
}

func TestOpenConnectionsOfASickBackendAreClosed(t *testing.T) {
	server := startAPIServer(t, "one", true)
	b, client := start(t, server)
	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+b.Address().String()+"/watch", nil)
		if err != nil {
			ended <- err
			return
		}
		response, err := client.Do(request)
		if err != nil {
			ended <- err
			return
		}
		close(started)
		_, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
		ended <- err
	}()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	server.ready.Store(false)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the watch ended without an error")
		}
	case <-time.After(30 * time.Second):
		t.Error("the watch was not closed")
	}
}

// TestDrain asks over one connection again and again while the backend that serves it is drained: the connection moves
// to the other one, between two requests.
func TestDrain(t *testing.T) {
	servers := map[string]*apiServer{"one": startAPIServer(t, "one", true), "two": startAPIServer(t, "two", true)}
	b, client := start(t, servers["one"], servers["two"])
	client.Transport.(*http.Transport).DisableKeepAlives = false
	drained, err := get(t, client, b, "/name")
	if err != nil {
		t.Fatal(err)
	}
	b.Drain(servers[drained].address())
	deadline := time.After(20 * time.Second)
	for {
		name, err := get(t, client, b, "/name")
		if err != nil {
			t.Fatal(err)
		}
		if name != drained {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the connection stays at the backend that is drained")
		case <-time.After(2 * pause):
		}
	}
}

// TestDrainOfTheLastBackend goes on to serve: a bad answer is better than none.
func TestDrainOfTheLastBackend(t *testing.T) {
	one := startAPIServer(t, "one", true)
	b, client := start(t, one)
	b.Drain(one.address())
	if name, err := get(t, client, b, "/name"); err != nil || name != "one" {
		t.Errorf("got %q, %v", name, err)
	}
}

func TestIsQuiet(t *testing.T) {
	cases := map[string]struct {
		asked, answered time.Duration
		want            bool
	}{
		"RequestUnderWay":       {asked: 10 * time.Millisecond, answered: time.Minute, want: false},
		"SlowRequest":           {asked: 400 * time.Millisecond, answered: time.Minute, want: false},
		"JustAnswered":          {asked: 120 * time.Millisecond, answered: 100 * time.Millisecond, want: false},
		"Answered":              {asked: time.Second, answered: 160 * time.Millisecond, want: true},
		"WatchThatSaysNothing":  {asked: time.Minute, answered: time.Minute, want: true},
		"OnlyTheClientIsActive": {asked: 600 * time.Millisecond, answered: time.Second, want: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := isQuiet(c.asked, c.answered); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestRemoveAndClose(t *testing.T) {
	one, two := startAPIServer(t, "one", true), startAPIServer(t, "two", true)
	b, client := start(t, one, two)
	if err := b.AwaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Remove(one.address())
	for range 4 {
		if name, err := get(t, client, b, "/name"); err != nil || name != "two" {
			t.Fatalf("got %q, %v; want an answer of the remaining backend", name, err)
		}
	}
	b.Remove(two.address())
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("no longer"))
	defer cancel()
	if err := b.AwaitHealthy(ctx); err == nil {
		t.Error("AwaitHealthy succeeded without a backend")
	}
	address := b.Address().String()
	b.Close()
	if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address); err == nil {
		_ = conn.Close()
		t.Error("the address still answers after Close")
	}
}
