// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// token shows the token to the API, and to nobody else.
type token struct {
	next  http.RoundTripper
	token string
	// origins may see it.
	origins []*url.URL
}

func (t *token) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.token != "" && slices.ContainsFunc(t.origins, func(o *url.URL) bool { return web.SameOrigin(o, req.URL) }) {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+t.token)
	}
	return t.next.RoundTrip(req)
}

// maxAnswer is how large an answer of the API may be, and maxRemembered how much of them is kept.
const (
	maxAnswer     = 10 << 20
	maxRemembered = 32 << 20
)

// memory asks the API only whether something has changed, as far as it knows an answer. That costs nothing
// of the rate limit as long as nothing has.
type memory struct {
	next http.RoundTripper

	mu      sync.Mutex
	answers map[string]answer
	size    int
}

type answer struct {
	etag   string
	header http.Header
	body   []byte
}

func (m *memory) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet {
		return m.next.RoundTrip(req)
	}
	key := req.URL.String()
	known, found := m.get(key)
	if found {
		req = req.Clone(req.Context())
		req.Header.Set("If-None-Match", known.etag)
	}
	resp, err := m.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if found && resp.StatusCode == http.StatusNotModified {
		_ = resp.Body.Close() // it has none
		header := known.header.Clone()
		for name, values := range resp.Header { // what is left of the rate limit, for one
			header[name] = values
		}
		resp.StatusCode, resp.Status, resp.Header = http.StatusOK, "200 OK", header
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(known.body)), int64(len(known.body))
		return resp, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if etag := resp.Header.Get("Etag"); etag != "" && resp.StatusCode == http.StatusOK {
		m.put(key, answer{etag: etag, header: resp.Header.Clone(), body: body})
	}
	return resp, nil
}

func (m *memory) get(key string) (answer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, found := m.answers[key]
	return known, found
}

func (m *memory) put(key string, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.size+len(a.body) > maxRemembered || m.answers == nil {
		m.answers, m.size = map[string]answer{}, 0 // all is asked for once more, which is rare enough
	}
	m.size += len(a.body) - len(m.answers[key].body)
	m.answers[key] = a
}
