// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// maxWait is how long a request waits at most before it is sent again. A server that wants to be left alone
// for longer has its answer handed to the caller, who has better things to do than to wait.
const maxWait = 10 * time.Second

// retry sends again what failed for a moment only.
type retry struct {
	next     http.RoundTripper
	attempts int
	backoff  time.Duration
}

func (r *retry) RoundTrip(req *http.Request) (*http.Response, error) {
	pause := r.backoff
	for attempt := 1; ; attempt++ {
		resp, err := r.next.RoundTrip(req)
		if attempt >= r.attempts || !again(req, resp, err) {
			return resp, err
		}
		// Jitter keeps those apart that failed at the same time.
		wait := pause/2 + rand.N(pause/2+1) //nolint:gosec // no secret
		pause *= 2
		if resp != nil {
			if wish := RetryAfter(resp.Header, time.Now()); wish > 0 {
				wait = wish
			}
			if wait > maxWait {
				return resp, nil
			}
			// Read, so that the connection can be used again.
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
			_ = resp.Body.Close()
		}
		timer := time.NewTimer(min(wait, maxWait))
		select {
		case <-req.Context().Done():
			timer.Stop()
			return nil, req.Context().Err()
		case <-timer.C:
		}
	}
}

func (r *retry) CloseIdleConnections() { closeIdle(r.next) }

// again tells whether a request may be sent once more and could then fare better.
func again(req *http.Request, resp *http.Response, err error) bool {
	if req.Method != http.MethodGet && req.Method != http.MethodHead || req.Body != nil && req.Body != http.NoBody || req.Context().Err() != nil {
		return false
	}
	if err != nil {
		var f final
		var certificate *tls.CertificateVerificationError
		var unknown x509.UnknownAuthorityError
		var header tls.RecordHeaderError
		return !errors.As(err, &f) && !errors.As(err, &certificate) && !errors.As(err, &unknown) && !errors.As(err, &header)
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
