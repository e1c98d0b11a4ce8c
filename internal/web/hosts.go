// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxQuiet is how long a server is left alone at most. One that wants it for longer is asked once more then: limits are
// lifted sooner than they say, and a question in a quarter of an hour is no burden.
const maxQuiet = 15 * time.Minute

// Hosts remembers which servers want to be left alone for a while, so that clients which share it do so, too: a limit is
// one of the server, and of the address that requests come from, and whoever goes on asking only makes it worse.
// Clients with credentials have limits of their own: they should share it with nobody. The zero value is ready to be
// used, by many at once.
type Hosts struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// Left returns for how much longer a server wants to be left alone, by its name and port as in a URL.
func (h *Hosts) Left(host string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := time.Until(h.until[strings.ToLower(host)])
	if left <= 0 {
		delete(h.until, strings.ToLower(host))
		return 0
	}
	return left
}

func (h *Hosts) quiet(host string, wish time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until == nil {
		h.until = map[string]time.Time{}
	}
	now := time.Now()
	// Of servers that nobody asks again nothing is to stay.
	maps.DeleteFunc(h.until, func(_ string, until time.Time) bool { return !until.After(now) })
	h.until[strings.ToLower(host)] = now.Add(min(wish, maxQuiet))
}

// BusyError says that a server was not asked, because it wants to be left alone.
type BusyError struct {
	Host string
	// After is for how much longer. It is not part of the message, which would change all the time.
	After time.Duration
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s has had too many requests and wants to be left alone for a while", e.Host)
}

// considerate does not send requests to servers that want to be left alone.
type considerate struct {
	next  http.RoundTripper
	hosts *Hosts
}

func (c *considerate) RoundTrip(req *http.Request) (*http.Response, error) {
	if left := c.hosts.Left(req.URL.Host); left > 0 {
		closeBody(req)
		return nil, final{&BusyError{Host: req.URL.Host, After: left}}
	}
	resp, err := c.next.RoundTrip(req)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		if wish := RetryAfter(resp.Header, time.Now()); wish > 0 {
			c.hosts.quiet(req.URL.Host, wish)
		}
	}
	return resp, err
}

func (c *considerate) CloseIdleConnections() { closeIdle(c.next) }
