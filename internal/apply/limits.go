// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"io"
	"net/http"
)

// maxResponse is the most that is read of one answer, in bytes. A list of the
// metadata of 10,000 objects is smaller.
const maxResponse = 32 << 20

var errTooLarge = errors.New("the answer is larger than 32 MiB")

// wary is what we allow an API server that may be in somebody else's hands: no
// answer without end, and no sending us elsewhere.
func wary(client *http.Client) *http.Client {
	bounded := *client
	next := bounded.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	bounded.Transport = limited{next}
	bounded.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &bounded
}

type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := l.next.RoundTrip(r)
	// A watch is as long as its caller wants, and read event by event.
	if err == nil && r.URL.Query().Get("watch") == "" {
		response.Body = &limitedBody{response.Body, maxResponse}
	}
	return response, err
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left <= 0 && err == nil {
		err = errTooLarge
	}
	return n, err
}
