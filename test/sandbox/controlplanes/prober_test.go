// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplanes

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// prober asks an endpoint again and again, each time once: over a new connection and over one that is kept, reading
// and writing.
type prober struct {
	stop context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex
	requests int
	failures []string
	// resent counts requests that HTTP sent a second time, as its rules allow: the kept connection was closed
	// before anything of an answer came.
	resent int
}

const (
	// probePause lies between two requests of a lane.
	probePause = 200 * time.Millisecond
	// probeTimeout is what a person would wait.
	probeTimeout = 10 * time.Second
)

// probe begins to ask a cluster. It reads and writes a ConfigMap that it makes.
func probe(t *testing.T, config *rest.Config) *prober {
	t.Helper()
	p := &prober{}
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	const configMap = "/api/v1/namespaces/default/configmaps/probe"
	if err := ask(ctx, httpClient(t, config, true), http.MethodPost, config.Host+"/api/v1/namespaces/default/configmaps", "application/json",
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"probe"}}`); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{false, true} {
		for _, lane := range []struct{ name, method, body string }{
			{"read", http.MethodGet, ""},
			{"write", http.MethodPatch, `{"data":{"at":"%s"}}`},
		} {
			name := lane.name + " over a new connection"
			if keep {
				name = lane.name + " over a kept connection"
			}
			c := httpClient(t, config, keep)
			p.work.Go(func() {
				defer c.CloseIdleConnections()
				for ctx.Err() == nil {
					now := time.Now()
					body := lane.body
					if body != "" {
						body = fmt.Sprintf(body, now.Format(time.RFC3339Nano))
					}
					p.once(ctx, name, func(ctx context.Context) error {
						return ask(ctx, c, lane.method, config.Host+configMap, "application/merge-patch+json", body)
					})
					select {
					case <-ctx.Done():
					case <-time.After(probePause):
					}
				}
			})
		}
	}
	return p
}

// once asks and keeps the result; what was under way when the prober was stopped does not count.
func (p *prober) once(ctx context.Context, lane string, request func(context.Context) error) {
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	sent := 0
	begin := time.Now()
	err := request(httptrace.WithClientTrace(limited, &httptrace.ClientTrace{WroteHeaders: func() { sent++ }}))
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	p.resent += max(0, sent-1)
	if err != nil {
		p.failures = append(p.failures, fmt.Sprintf("%s %s, after %s: %v", begin.Format("15:04:05.000"), lane, time.Since(begin).Round(time.Millisecond), err))
	}
}

// end stops the prober and checks that at most failed of so many requests failed.
func (p *prober) end(t *testing.T, failed, of int) {
	t.Helper()
	p.stop()
	p.work.Wait()
	t.Logf("%d of %d requests to the endpoint failed; %d were sent again by HTTP", len(p.failures), p.requests, p.resent)
	for _, f := range p.failures {
		t.Log(f)
	}
	if p.requests < of {
		t.Errorf("%d requests are too few to tell", p.requests)
	}
	if len(p.failures)*of > failed*p.requests {
		t.Errorf("%d of %d requests failed, more than %d of %d", len(p.failures), p.requests, failed, of)
	}
}

// httpClient trusts and identifies itself as the config says, and does nothing else that client-go does: no retries.
func httpClient(t *testing.T, config *rest.Config, keep bool) *http.Client {
	t.Helper()
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: tls, DisableKeepAlives: !keep, ForceAttemptHTTP2: keep, MaxIdleConnsPerHost: 1}}
}

func ask(ctx context.Context, c *http.Client, method, url, contentType, body string) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", contentType)
	response, err := c.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(answer)))
	}
	return nil
}
