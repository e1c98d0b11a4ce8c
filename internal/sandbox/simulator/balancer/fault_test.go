// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package balancer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFaults(t *testing.T) {
	b, client := start(t, startAPIServer(t, "one", true))
	if err := b.AwaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	works := func(t *testing.T) {
		t.Helper()
		if name, err := get(t, client, b, "/name"); err != nil || name != "one" {
			t.Fatalf("%q, %v", name, err)
		}
	}
	heal := func() { b.SetFault(t.Context(), Fault{}) }
	works(t)

	t.Run("Refuse", func(t *testing.T) {
		watch := open(t, client, b)
		b.SetFault(t.Context(), Fault{Refuse: true, Percent: 100})
		if _, err := get(t, client, b, "/name"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset connection", err)
		}
		heal()
		works(t)
		if err := watch(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection that was there before has ended: %v", err)
		}
	})

	t.Run("Silent", func(t *testing.T) {
		b.SetFault(t.Context(), Fault{Silent: true, Percent: 100})
		taken := func() uint64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.taken
		}
		before := taken()
		patient := make(chan error, 1)
		go func() {
			_, err := get(t, client, b, "/name")
			patient <- err
		}()
		hasty := &http.Client{Transport: client.Transport, Timeout: 200 * time.Millisecond}
		if _, err := get(t, hasty, b, "/name"); !os.IsTimeout(err) {
			t.Errorf("%v, want a timeout", err)
		}
		for deadline := time.Now().Add(10 * time.Second); taken() < before+2 && time.Now().Before(deadline); {
			<-time.After(time.Millisecond) // or the patient one comes when all is well
		}
		heal()
		if err := <-patient; err == nil {
			t.Error("a connection that was lost has got an answer")
		}
		works(t)
	})

	t.Run("Resets", func(t *testing.T) {
		watch := open(t, client, b)
		b.SetFault(t.Context(), Fault{Reset: 10 * time.Millisecond, Percent: 100})
		if err := watch(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset connection", err)
		}
		heal()
		works(t)
	})

	t.Run("SetAgainChangesNothing", func(t *testing.T) {
		b.SetFault(t.Context(), Fault{Refuse: true, Percent: 1})
		before := b.fault
		b.SetFault(t.Context(), Fault{Refuse: true, Percent: 1})
		if b.fault != before {
			t.Error("connections are counted anew, so others are hit than would have been")
		}
		heal()
	})

	t.Run("EndsWithTheBalancer", func(*testing.T) {
		b.SetFault(t.Context(), Fault{Reset: time.Hour, Percent: 100})
		b.Close() // waits for all that runs
	})
}

// open opens a watch; the function that it returns reads from it until it ends, for a short while at most.
func open(t *testing.T, client *http.Client, b *Balancer) func() error {
	t.Helper()
	var conn net.Conn
	transport := client.Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return conn, err
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+b.Address().String()+"/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return func() error {
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		_, err := response.Body.Read(make([]byte, 1))
		return err
	}
}

func TestHitsTheSameConnectionsWithTheSameSeed(t *testing.T) {
	draw := func(seed int64, first uint64) []bool {
		f := &fault{Fault: Fault{Percent: 30, Seed: seed}, first: first}
		var hits []bool
		for number := range uint64(1000) {
			hits = append(hits, f.hits(first+number, 0))
		}
		return hits
	}
	if diff := cmp.Diff(draw(1, 0), draw(1, 77)); diff != "" {
		t.Errorf("one seed, two sequences:\n%s", diff)
	}
	if cmp.Equal(draw(1, 0), draw(2, 0)) {
		t.Error("two seeds, one sequence")
	}
	count := 0
	for _, hit := range draw(1, 0) {
		if hit {
			count++
		}
	}
	if count < 250 || count > 350 {
		t.Errorf("%d of 1000 are hit, want about 300", count)
	}
}
