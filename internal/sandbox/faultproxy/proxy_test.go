// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/wait"
)

// patience is for what must happen, on a machine that has much else to do.
const patience = time.Minute

// moment is how long a test looks whether something does not happen.
const moment = 200 * time.Millisecond

// content is what the server answers.
var content = strings.Repeat("0123456789", 10)

// site is a server that remembers what reached it, behind a proxy, and a client of the proxy.
type site struct {
	*Proxy
	client *http.Client
	got    chan string
	// next lets a watch say its next event.
	next chan struct{}
}

type protocol struct {
	name       string
	tls, http2 bool
}

var protocols = []protocol{{"HTTP1", false, false}, {"HTTP1OverTLS", true, false}, {"HTTP2", true, true}}

func newSite(t *testing.T, with protocol, plan string) *site {
	t.Helper()
	s := &site{got: make(chan string, 100), next: make(chan struct{}, 100)}
	server := httptest.NewUnstartedServer(http.HandlerFunc(s.answer))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	opts := Options{Plan: MustParse(plan)}
	if with.tls {
		server.EnableHTTP2 = with.http2
		server.StartTLS()
		pool := x509.NewCertPool()
		pool.AddCert(server.Certificate())
		opts.TLS = &tls.Config{RootCAs: pool}
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	var err error
	if s.Proxy, err = Listen(t.Context(), server.URL, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.client = s.newClient(t, with.http2)
	return s
}

func (s *site) newClient(t *testing.T, http2 bool) *http.Client {
	transport := &http.Transport{ForceAttemptHTTP2: http2, TLSClientConfig: s.clientTLS()}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *site) clientTLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CertPEM())
	return &tls.Config{RootCAs: pool}
}

func (s *site) answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.got <- strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, body))
	if err != nil {
		return
	}
	switch {
	case r.URL.Query().Get("watch") != "":
		w.Header().Set("Content-Type", "application/json")
		for i := 1; i <= 5; i++ {
			_, _ = fmt.Fprintf(w, "{%q:%d}\n", "event", i)
			w.(http.Flusher).Flush()
			if i == 3 {
				select {
				case <-s.next:
				case <-r.Context().Done():
					return
				}
			}
		}
	case r.URL.Path == "/chunked":
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, content)
	case r.URL.Path == "/host":
		_, _ = io.WriteString(w, r.Host)
	case r.URL.Path == "/query":
		_, _ = io.WriteString(w, r.URL.RawQuery)
	case r.URL.Path == "/teapot":
		w.Header().Set("Trailer", "X-Checksum")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, content)
		w.Header().Set("X-Checksum", "42")
	default:
		_, _ = io.WriteString(w, content)
	}
}

// reached is what the server got, once it did.
func (s *site) reached(t *testing.T) string {
	t.Helper()
	select {
	case got := <-s.got:
		return got
	case <-time.After(patience):
		t.Fatal("nothing reached the server")
		return ""
	}
}

func (s *site) notReached(t *testing.T) {
	t.Helper()
	select {
	case got := <-s.got:
		t.Errorf("%s reached the server", got)
	default:
	}
}

// outcome is what a client sees.
type outcome struct {
	status int
	body   string
	header http.Header
	length int64
	proto  int
	// err is of the header, bodyErr of the body.
	err, bodyErr error
}

func (o outcome) String() string {
	return fmt.Sprintf("%d %q %v, length %d, error %v, %v", o.status, o.body, o.header, o.length, o.err, o.bodyErr)
}

func (s *site) ask(t *testing.T, method, path, body string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return s.askWith(ctx, t, method, path, body)
}

func (s *site) askWith(ctx context.Context, t *testing.T, method, path, body string) outcome {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, s.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return outcome{err: err}
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	return outcome{status: resp.StatusCode, body: string(read), header: resp.Header, length: resp.ContentLength, proto: resp.ProtoMajor, bodyErr: err}
}

func TestWithoutRulesEverythingPasses(t *testing.T) {
	for _, with := range protocols {
		t.Run(with.name, func(t *testing.T) {
			s := newSite(t, with, "")
			got := s.ask(t, http.MethodPut, "/teapot", "milk")
			if got.err != nil || got.bodyErr != nil || got.status != http.StatusTeapot || got.body != content {
				t.Errorf("%v", got)
			}
			if got.proto != map[bool]int{true: 2, false: 1}[with.http2] {
				t.Errorf("HTTP/%d", got.proto)
			}
			if reached := s.reached(t); reached != "PUT /teapot milk" {
				t.Error(reached)
			}
			if got := s.ask(t, http.MethodGet, "/host", ""); "http"+map[bool]string{true: "s"}[with.tls]+"://"+got.body != s.URL() {
				t.Errorf("the server is asked as %s, so links that it makes lead around the proxy at %s", got.body, s.URL())
			}
			if got := s.ask(t, http.MethodGet, "/query?a=b;c&%zz", ""); got.body != "a=b;c&%zz" {
				t.Errorf("the server is asked for ?%s", got.body)
			}
			if len(s.Faults()) != 0 || s.Requests() != 3 {
				t.Errorf("%d requests, faults: %v", s.Requests(), s.Faults())
			}
		})
	}
}

// unexpected is the end of a body that a client notices.
func unexpected(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || err != nil && strings.Contains(err.Error(), "stream error")
}

func TestFaultsAsAClientSeesThem(t *testing.T) {
	for name, tc := range map[string]struct {
		rule string
		// method and path are GET and /file by default.
		method, path string
		check        func(t *testing.T, with protocol, got outcome)
		// reached is what reaches the server, empty if nothing does.
		reached string
	}{
		"Status": {
			rule: `* /** status=503 header="Retry-After: 7" body="later; maybe"`,
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.status != 503 || got.header.Get("Retry-After") != "7" || got.body != "later; maybe" {
					t.Errorf("%v", got)
				}
			},
		},
		"Redirect": {
			rule: `* /** status=307 header="Location: /elsewhere"`,
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.status != 307 || got.header.Get("Location") != "/elsewhere" {
					t.Errorf("%v", got)
				}
			},
		},
		"Drop": {
			rule: "* /** drop", method: http.MethodPut,
			check: func(t *testing.T, with protocol, got outcome) {
				if got.err == nil || !with.http2 && !errors.Is(got.err, io.EOF) && !errors.Is(got.err, syscall.ECONNRESET) {
					t.Errorf("%v", got)
				}
			},
		},
		"DropAnswer": {
			rule: "* /** drop-answer", method: http.MethodPut, reached: "PUT /file",
			check: func(t *testing.T, with protocol, got outcome) {
				if got.err == nil || !with.http2 && !errors.Is(got.err, io.EOF) {
					t.Errorf("%v", got)
				}
			},
		},
		"Reset": {
			rule: "* /** reset", method: http.MethodPut,
			check: func(t *testing.T, with protocol, got outcome) {
				// Go's client of HTTP/2 calls it so where reading met the end first.
				if !errors.Is(got.err, syscall.ECONNRESET) && (!with.http2 || !errors.Is(got.err, io.ErrUnexpectedEOF)) {
					t.Errorf("%v", got)
				}
			},
		},
		"Cut": {
			rule: "* /** cut=42", reached: "GET /file",
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.body != content[:42] || got.length != 100 || !unexpected(got.bodyErr) {
					t.Errorf("%v", got)
				}
			},
		},
		"CutOfAnUnknownLength": {
			rule: "* /** cut=42", path: "/chunked", reached: "GET /chunked",
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.body != content[:42] || got.length != -1 || !unexpected(got.bodyErr) {
					t.Errorf("%v", got)
				}
			},
		},
		"CutAtTheStart": {
			rule: "* /** cut=0", reached: "GET /file",
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.err != nil || got.status != 200 || got.body != "" || !unexpected(got.bodyErr) {
					t.Errorf("%v", got)
				}
			},
		},
		"CutBehindTheEnd": {
			rule: "* /** cut=1000", reached: "GET /file",
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.body != content || got.bodyErr != nil {
					t.Errorf("%v", got)
				}
			},
		},
		"Truncate": {
			rule: "* /** truncate=42", reached: "GET /file",
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.body != content[:42] || got.length != 100 || !unexpected(got.bodyErr) {
					t.Errorf("%v", got)
				}
			},
		},
		"TruncateClaimsALengthThatTheServerDidNot": {
			rule: "* /** truncate=42", path: "/chunked", reached: "GET /chunked",
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.body != content[:42] || got.length != 100 || !unexpected(got.bodyErr) {
					t.Errorf("%v", got)
				}
			},
		},
		"ShortenIsNotNoticed": {
			rule: "* /** shorten=42", reached: "GET /file",
			check: func(t *testing.T, _ protocol, got outcome) {
				if got.body != content[:42] || got.length != 42 || got.bodyErr != nil {
					t.Errorf("%v", got)
				}
			},
		},
		"Corrupt": {
			rule: "* /** corrupt=41", reached: "GET /file",
			check: func(t *testing.T, _ protocol, got outcome) {
				want := []byte(content)
				want[41] ^= 0xff
				if got.body != string(want) || got.bodyErr != nil {
					t.Errorf("%v", got)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, with := range protocols {
				t.Run(with.name, func(t *testing.T) {
					t.Parallel()
					s := newSite(t, with, tc.rule)
					method, path := tc.method, tc.path
					if method == "" {
						method = http.MethodGet
					}
					if path == "" {
						path = "/file"
					}
					tc.check(t, with, s.ask(t, method, path, ""))
					if tc.reached == "" {
						s.notReached(t)
					} else if got := s.reached(t); got != tc.reached {
						t.Errorf("%s reached the server, want %s", got, tc.reached)
					}
					if faults := s.Faults(); len(faults) != 1 || faults[0].Method != method || faults[0].Path != path || faults[0].Match != 1 {
						t.Errorf("recorded: %v", faults)
					}
				})
			}
		})
	}
}

func TestFaultsThatTakeTime(t *testing.T) {
	for _, with := range protocols {
		t.Run(with.name, func(t *testing.T) {
			t.Run("Delay", func(t *testing.T) {
				s := newSite(t, with, "* /** delay=300ms")
				begin := time.Now()
				if got := s.ask(t, http.MethodGet, "/", ""); got.body != content || time.Since(begin) < 300*time.Millisecond {
					t.Errorf("after %s: %+v", time.Since(begin), got)
				}
			})
			t.Run("DelayAnswer", func(t *testing.T) {
				s := newSite(t, with, "* /** delay-answer=1h")
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				go func() {
					s.reached(t) // The server has it; nobody hears of that.
					cancel()
				}()
				if got := s.askWith(ctx, t, http.MethodGet, "/", ""); !errors.Is(got.err, context.Canceled) {
					t.Errorf("%v", got)
				}
			})
			t.Run("Never", func(t *testing.T) {
				s := newSite(t, with, "* /** never")
				ctx, cancel := context.WithTimeout(t.Context(), moment)
				defer cancel()
				if got := s.askWith(ctx, t, http.MethodPut, "/", "body"); !errors.Is(got.err, context.DeadlineExceeded) {
					t.Errorf("%v", got)
				}
				s.notReached(t)
			})
			t.Run("Stall", func(t *testing.T) {
				s := newSite(t, with, "* /** stall=42")
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				r, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL(), nil)
				resp, err := s.client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got := make([]byte, 42)
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != content[:42] {
					t.Errorf("%q, %v", got, err)
				}
				time.AfterFunc(moment, cancel)
				if n, err := resp.Body.Read(got); n != 0 || !errors.Is(err, context.Canceled) {
					t.Errorf("after the stall: %q, %v", got[:n], err)
				}
			})
			t.Run("Dribble", func(t *testing.T) {
				s := newSite(t, with, "* /** dribble=200")
				begin := time.Now()
				got := s.ask(t, http.MethodGet, "/", "")
				if took := time.Since(begin); got.body != content || took < 400*time.Millisecond {
					t.Errorf("100 bytes at 200 per second took %s: %+v", took, got)
				}
			})
		})
	}
}

// Of HTTP/2 it is the protocol that tells the proxy. A connection of HTTP/1.1 has to be read to its end.
func TestADelayThatNobodyWaitsForEnds(t *testing.T) {
	for _, with := range protocols[:2] {
		t.Run(with.name, func(t *testing.T) {
			s := newSite(t, with, "* /** delay=1h")
			ctx, cancel := context.WithTimeout(t.Context(), moment)
			defer cancel()
			s.askWith(ctx, t, http.MethodPut, "/", "body")
			err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
				s.open.mu.Lock()
				defer s.open.mu.Unlock()
				return len(s.open.open) == 0, nil
			})
			if err != nil {
				t.Error("the request is kept although its client has gone")
			}
			s.notReached(t)
		})
	}
}

func TestARequestIsCutOnItsWay(t *testing.T) {
	for _, with := range protocols {
		t.Run(with.name, func(t *testing.T) {
			s := newSite(t, with, "PUT /** cut-request=3")
			if got := s.ask(t, http.MethodPut, "/upload", content); got.err == nil {
				t.Errorf("%v", got)
			}
			if got := s.reached(t); got != "PUT /upload 012" {
				t.Error(got)
			}
		})
	}
}

// watch reads events until told otherwise.
func (s *site) watch(t *testing.T) *bufio.Scanner {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/pods?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return bufio.NewScanner(resp.Body)
}

func events(t *testing.T, from *bufio.Scanner, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n && from.Scan() {
		got = append(got, from.Text())
	}
	return got
}

func TestWatches(t *testing.T) {
	all := []string{`{"event":1}`, `{"event":2}`, `{"event":3}`, `{"event":4}`, `{"event":5}`}
	for _, with := range protocols {
		t.Run(with.name, func(t *testing.T) {
			t.Run("PassAsTheyCome", func(t *testing.T) {
				s := newSite(t, with, "")
				w := s.watch(t)
				if diff := cmp.Diff(all[:3], events(t, w, 3)); diff != "" {
					t.Error(diff)
				}
				s.next <- struct{}{}
				if diff := cmp.Diff(all[3:], events(t, w, 5)); diff != "" || w.Err() != nil {
					t.Error(diff, w.Err())
				}
			})
			t.Run("AreCut", func(t *testing.T) {
				s := newSite(t, with, "watch /** cut=24")
				w := s.watch(t)
				if diff := cmp.Diff(all[:2], events(t, w, 5)); diff != "" || !unexpected(w.Err()) {
					t.Error(diff, w.Err())
				}
			})
			t.Run("LoseEvents", func(t *testing.T) {
				s := newSite(t, with, "watch /** swallow=2-4")
				s.next <- struct{}{}
				w := s.watch(t)
				if diff := cmp.Diff([]string{all[0], all[4]}, events(t, w, 5)); diff != "" || w.Err() != nil {
					t.Error(diff, w.Err())
				}
			})
			t.Run("RepeatEvents", func(t *testing.T) {
				s := newSite(t, with, "watch /** repeat=2-3")
				s.next <- struct{}{}
				w := s.watch(t)
				if diff := cmp.Diff([]string{all[0], all[1], all[1], all[2], all[2], all[3], all[4]}, events(t, w, 7)); diff != "" || w.Err() != nil {
					t.Error(diff, w.Err())
				}
			})
			t.Run("FallSilentForAWhile", func(t *testing.T) {
				s := newSite(t, with, "watch /** freeze=2 for=300ms")
				s.next <- struct{}{}
				begin := time.Now()
				if diff := cmp.Diff(all, events(t, s.watch(t), 5)); diff != "" || time.Since(begin) < 300*time.Millisecond {
					t.Error(time.Since(begin), diff)
				}
			})
			t.Run("AreFrozenAndThawed", func(t *testing.T) {
				s := newSite(t, with, "")
				w := s.watch(t)
				if diff := cmp.Diff(all[:3], events(t, w, 3)); diff != "" {
					t.Fatal(diff)
				}
				thaw := s.FreezeWatches()
				s.next <- struct{}{}
				rest := make(chan []string, 1)
				go func() { rest <- events(t, w, 5) }()
				select {
				case got := <-rest:
					t.Errorf("a frozen watch says %v", got)
				case <-time.After(moment):
				}
				thaw()
				if diff := cmp.Diff(all[3:], <-rest); diff != "" {
					t.Error(diff)
				}
			})
			t.Run("EndWithTheirConnections", func(t *testing.T) {
				s := newSite(t, with, "")
				w := s.watch(t)
				events(t, w, 3)
				s.Disconnect()
				if got := events(t, w, 5); len(got) != 0 || !errors.Is(w.Err(), syscall.ECONNRESET) && !with.http2 || w.Err() == nil {
					t.Error(got, w.Err())
				}
			})
		})
	}
}

func TestAnUpgradedConnectionPassesAndIsCut(t *testing.T) {
	for name, tc := range map[string]struct{ rule, want string }{
		"Passes":  {"", "hello world"},
		"IsCut":   {"upgrade /** cut=5", "hello"},
		"IsReset": {"upgrade /** reset", ""},
	} {
		t.Run(name, func(t *testing.T) {
			// It answers each line with itself.
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != "SPDY/3.1" {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				conn, buffered, err := w.(http.Hijacker).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
				_, _ = io.Copy(conn, buffered)
			}))
			t.Cleanup(server.Close)
			pool := x509.NewCertPool()
			pool.AddCert(server.Certificate())
			p, err := Listen(t.Context(), server.URL, Options{Plan: MustParse(tc.rule), TLS: &tls.Config{RootCAs: pool}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			s := &site{Proxy: p}

			config := s.clientTLS()
			config.NextProtos = []string{"http/1.1"}
			conn, err := tls.Dial("tcp", strings.TrimPrefix(p.URL(), "https://"), config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(conn, "POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
			buffered := bufio.NewReader(conn)
			resp, err := http.ReadResponse(buffered, nil) //nolint:bodyclose // it is the connection, which is closed above
			if tc.want == "" {
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%v, %v", resp, err)
				}
				return
			}
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v, %v", resp, err)
			}
			_, _ = io.WriteString(conn, "hello world")
			got := make([]byte, len(tc.want))
			if _, err := io.ReadFull(buffered, got); err != nil || string(got) != tc.want {
				t.Errorf("%q, %v", got, err)
			}
			if tc.rule != "" {
				if n, err := buffered.Read(got); err == nil {
					t.Errorf("%q after the cut", got[:n])
				}
			}
		})
	}
}

func TestAtCallsForTheNthRequest(t *testing.T) {
	for _, with := range protocols {
		t.Run(with.name, func(t *testing.T) {
			s := newSite(t, with, "write /** #2 drop-answer")
			var told []string
			var mu sync.Mutex
			note := func(moment Moment) func(Event) {
				return func(e Event) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, fmt.Sprintf("%s %s, %d at the server", moment, e.Path, len(s.got)))
				}
			}
			delivered := make(chan struct{})
			for _, err := range []error{
				s.At(Arrived, "write", "/**", 2, note(Arrived)),
				s.At(Answered, "write", "/**", 2, note(Answered)),
				s.At(Delivered, "write", "/**", 3, func(e Event) { note(Delivered)(e); close(delivered) }),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range []string{"/1", "/2", "/3"} {
				s.ask(t, http.MethodGet, path, "")
				s.ask(t, http.MethodPost, path, "")
			}
			select {
			case <-delivered:
			case <-time.After(patience):
				t.Fatal("nothing was delivered")
			}
			mu.Lock()
			defer mu.Unlock()
			// The GETs and the POST before it have reached the server already.
			want := []string{"Arrived /2, 3 at the server", "Answered /2, 4 at the server", "Delivered /3, 6 at the server"}
			if diff := cmp.Diff(want, told); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRequestsAreObserved(t *testing.T) {
	s := &site{got: make(chan string, 100)}
	server := httptest.NewServer(http.HandlerFunc(s.answer))
	defer server.Close()
	told := make(chan Event, 10)
	var err error
	s.Proxy, err = Listen(t.Context(), server.URL, Options{Plan: MustParse("read /a status=500"), Observe: func(e Event) { told <- e }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.client = s.newClient(t, false)
	s.client.Transport = agent{s.client.Transport}
	s.ask(t, http.MethodGet, "/a?b=c", "")
	s.ask(t, http.MethodPut, "/a", "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for range 2 {
			<-s.got // The first request never arrives.
		}
	}()
	s.askWith(ctx, t, http.MethodGet, "/a?watch=1", "")
	for _, want := range []Event{
		{Number: 1, Method: "GET", Path: "/a", Query: "b=c", UserAgent: "somebody", Fault: "status=500", Rule: "read /a status=500", Match: 1},
		{Number: 2, Method: "PUT", Path: "/a", UserAgent: "somebody"},
		{Number: 3, Method: "GET", Path: "/a", Query: "watch=1", UserAgent: "somebody", Watch: true},
	} {
		if diff := cmp.Diff(want, <-told); diff != "" {
			t.Error(diff)
		}
	}
}

// agent tells who asks.
type agent struct{ http.RoundTripper }

func (a agent) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", "somebody")
	return a.RoundTripper.RoundTrip(r)
}

func TestConcurrentRequestsMeetAsManyFaults(t *testing.T) {
	s := newSite(t, protocols[2], "GET /** every=5 status=500")
	var failed atomic.Int32
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if got := s.ask(t, http.MethodGet, "/", ""); got.status == 500 {
				failed.Add(1)
			} else if got.body != content {
				t.Errorf("%v", got)
			}
		})
	}
	all.Wait()
	if failed.Load() != 10 || len(s.Faults()) != 10 {
		t.Errorf("%d of 50 requests failed", failed.Load())
	}
}

func TestATargetThatIsNotThere(t *testing.T) {
	p, err := Listen(t.Context(), "http://127.0.0.1:1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s := &site{Proxy: p, client: &http.Client{Transport: &http.Transport{}}}
	if got := s.ask(t, http.MethodPut, "/", ""); !errors.Is(got.err, io.EOF) {
		t.Errorf("%v", got)
	}
}

func TestListenRefuses(t *testing.T) {
	for want, tc := range map[string]struct {
		target string
		opts   Options
	}{
		"want an http or https URL": {target: "127.0.0.1:80"},
		"no fault":                  {target: "http://127.0.0.1:80", opts: Options{Plan: Plan{Rules: []Rule{{Verb: "GET", Path: "/"}}}}},
		"want one of loopback":      {target: "http://127.0.0.1:80", opts: Options{Address: "0.0.0.0:0"}},
	} {
		if _, err := Listen(t.Context(), tc.target, tc.opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Faults leave requests lying about in every state; none may stay when their clients and the proxy have gone.
func TestNothingIsLeftRunning(t *testing.T) {
	count := func() int {
		runtime.GC()
		return runtime.NumGoroutine()
	}
	t.Run("warm", func(t *testing.T) { newSite(t, protocols[2], "").ask(t, http.MethodGet, "/", "") })
	before := count()
	t.Run("run", func(t *testing.T) {
		for _, with := range protocols {
			for _, rule := range []string{"never", "stall=10", "delay=1h", "delay-answer=1h", "drop", "drop-answer", "reset", "cut=5", "truncate=5", "dribble=1", "cut-request=1"} {
				s := newSite(t, with, "* /** "+rule)
				for range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
					s.askWith(ctx, t, http.MethodPut, "/", content)
					cancel()
				}
			}
			frozen := newSite(t, with, "watch /** freeze=1")
			events(t, frozen.watch(t), 1)
			thawed := newSite(t, with, "")
			events(t, thawed.watch(t), 1)
			thawed.FreezeWatches()
		}
	})
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) { return count() <= before, nil })
	if err != nil {
		stacks := make([]byte, 1<<20)
		t.Fatalf("%d goroutines before, %d after:\n%s", before, count(), stacks[:runtime.Stack(stacks, true)])
	}
}

func BenchmarkPassThrough(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		body := strings.Repeat("x", size)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		server.EnableHTTP2 = true
		server.StartTLS()
		pool := x509.NewCertPool()
		pool.AddCert(server.Certificate())
		p, err := Listen(b.Context(), server.URL, Options{TLS: &tls.Config{RootCAs: pool}, Plan: MustParse("PUT /a drop; GET /b/** #3 cut=5; watch /** p=0.1 reset")})
		if err != nil {
			b.Fatal(err)
		}
		throughProxy := x509.NewCertPool()
		throughProxy.AppendCertsFromPEM(p.CertPEM())
		for _, way := range []struct {
			name, url string
			roots     *x509.CertPool
		}{{"Direct", server.URL, pool}, {"Proxy", p.URL(), throughProxy}} {
			b.Run(fmt.Sprintf("%s/%dKiB", way.name, size>>10), func(b *testing.B) {
				transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: way.roots}}
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport}
				b.SetBytes(int64(size))
				for b.Loop() {
					resp, err := client.Get(way.url)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						b.Fatal(err)
					}
					resp.Body.Close()
				}
			})
		}
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
		server.Close()
	}
}
