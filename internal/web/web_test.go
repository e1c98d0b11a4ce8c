// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package web_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

func get(t *testing.T, o web.Options, url string) (string, error) {
	t.Helper()
	o.Backoff = time.Millisecond
	client, err := web.Client(o)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	return string(body), errors.Join(err, resp.Body.Close())
}

func TestGuard(t *testing.T) {
	guard := &web.Guard{Allowed: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	for _, text := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.2.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "100.100.100.200", "100.64.0.1", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
	} {
		if err := guard.Check(netip.MustParseAddr(text)); err == nil || !strings.Contains(err.Error(), "--allow-networks") {
			t.Errorf("%s may be reached: %v", text, err)
		}
	}
	for _, text := range []string{"8.8.8.8", "140.82.121.4", "2606:50c0:8000::153", "10.1.2.3", "::ffff:10.1.2.3", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "100.128.0.1"} {
		if err := guard.Check(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	var none *web.Guard
	if err := none.Check(netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Error(err)
	}
}

func TestGuardLooksAtTheAddressThatANameStandsFor(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	for _, host := range []string{"localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0"} {
		_, err := get(t, web.Options{PlainHTTP: true, Guard: &web.Guard{}}, "http://"+host+port)
		if err == nil {
			t.Errorf("%s was reached", host)
		}
	}
	if _, err := get(t, web.Options{PlainHTTP: true, Guard: &web.Guard{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}, "http://127.0.0.1"+port); err != nil {
		t.Error(err)
	}
}

func TestGuardHoldsForRedirects(t *testing.T) {
	var reached atomic.Bool
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer inside.Close()
	target := strings.Replace(inside.URL, "127.0.0.1", "127.0.0.2", 1)
	outside := httptest.NewServer(http.RedirectHandler(target, http.StatusFound))
	defer outside.Close()
	only := &web.Guard{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	if _, err := get(t, web.Options{PlainHTTP: true, Guard: only}, outside.URL); err == nil || reached.Load() {
		t.Errorf("a redirect led inside: %v", err)
	}
}

func TestTLS(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	modern, old := httptest.NewUnstartedServer(handler), httptest.NewUnstartedServer(handler)
	modern.StartTLS()
	defer modern.Close()
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10} //nolint:gosec // that it is refused is what is tested
	old.StartTLS()
	defer old.Close()
	plain := httptest.NewServer(handler)
	defer plain.Close()
	down := httptest.NewUnstartedServer(http.RedirectHandler(plain.URL, http.StatusFound))
	down.StartTLS()
	defer down.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: modern.Certificate().Raw})
	for name, tc := range map[string]struct {
		o   web.Options
		url string
		ok  bool
	}{
		"Trusted":        {web.Options{CA: ca}, modern.URL, true},
		"Unknown":        {web.Options{}, modern.URL, false},
		"OtherName":      {web.Options{CA: ca}, strings.Replace(modern.URL, "127.0.0.1", "127.0.0.2", 1), false},
		"OldVersion":     {web.Options{CA: ca}, old.URL, false},
		"PlainRefused":   {web.Options{}, plain.URL, false},
		"PlainAllowed":   {web.Options{PlainHTTP: true}, plain.URL, true},
		"Downgrade":      {web.Options{CA: ca}, down.URL, false},
		"DowngradePlain": {web.Options{CA: ca, PlainHTTP: true}, down.URL, false},
		"NoTLSThere":     {web.Options{CA: ca}, strings.Replace(plain.URL, "http:", "https:", 1), false},
		"File":           {web.Options{PlainHTTP: true}, "file:///etc/passwd", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := get(t, tc.o, tc.url); (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := web.Client(web.Options{CA: []byte("no certificate")}); err == nil {
		t.Error("a broken CA bundle was taken for none")
	}
}

func TestRedirects(t *testing.T) {
	var seen atomic.Value
	last := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		seen.Store(req.Header.Get("Authorization") + req.Header.Get("Referer"))
	}))
	defer last.Close()
	var first *httptest.Server
	first = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/endless":
			http.Redirect(w, req, first.URL+"/endless", http.StatusFound)
		case "/self":
			http.Redirect(w, req, first.URL+"/show", http.StatusFound)
		case "/show":
			_, _ = w.Write([]byte(req.Header.Get("Authorization")))
		default:
			http.Redirect(w, req, last.URL, http.StatusFound)
		}
	}))
	defer first.Close()
	if _, err := get(t, web.Options{PlainHTTP: true}, first.URL+"/other"); err != nil || seen.Load() != "" {
		t.Errorf("another port of the same host saw %q, %v", seen.Load(), err)
	}
	if got, err := get(t, web.Options{PlainHTTP: true}, first.URL+"/self"); err != nil || got != "Bearer secret" {
		t.Errorf("the same server saw %q, %v", got, err)
	}
	if _, err := get(t, web.Options{PlainHTTP: true}, first.URL+"/endless"); err == nil || !strings.Contains(err.Error(), "more than 3 redirects") {
		t.Errorf("got %v", err)
	}
}

func TestRetries(t *testing.T) {
	for name, tc := range map[string]struct {
		code int
		want int32
	}{"Unavailable": {503, 3}, "TooMany": {429, 3}, "Missing": {404, 1}, "Denied": {403, 1}} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.WriteHeader(tc.code)
			}))
			defer server.Close()
			if _, err := get(t, web.Options{PlainHTTP: true}, server.URL); err != nil || asked.Load() != tc.want {
				t.Errorf("asked %d times, %v; want %d", asked.Load(), err, tc.want)
			}
		})
	}
	t.Run("LeftAlone", func(t *testing.T) {
		var asked atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		defer server.Close()
		if _, err := get(t, web.Options{PlainHTTP: true}, server.URL); err != nil || asked.Load() != 1 {
			t.Errorf("asked %d times, %v", asked.Load(), err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "soon": 0, "30": 30 * time.Second, "999999": 24 * time.Hour,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Wed, 31 Dec 2025 00:01:00 GMT": 0,
	} {
		if got := web.RetryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestServersThatWantToBeLeftAloneAre(t *testing.T) {
	var asked atomic.Int32
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "99999")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer busy.Close()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer other.Close()
	hosts := &web.Hosts{}
	if _, err := get(t, web.Options{PlainHTTP: true, Hosts: hosts}, busy.URL); err != nil || asked.Load() != 1 {
		t.Fatalf("asked %d times, %v; the caller is to have the answer", asked.Load(), err)
	}
	_, err := get(t, web.Options{PlainHTTP: true, Hosts: hosts}, busy.URL+"/else") // another client
	var refused *web.BusyError
	if !errors.As(err, &refused) || asked.Load() != 1 || refused.After <= 0 || refused.After > 15*time.Minute {
		t.Errorf("asked %d times, %v", asked.Load(), err)
	}
	if _, err := get(t, web.Options{PlainHTTP: true, Hosts: hosts}, other.URL); err != nil {
		t.Errorf("another server: %v", err)
	}
	if _, err := get(t, web.Options{PlainHTTP: true, Hosts: &web.Hosts{}}, busy.URL); err != nil || asked.Load() != 2 {
		t.Errorf("who does not share it: asked %d times, %v", asked.Load(), err)
	}
}
