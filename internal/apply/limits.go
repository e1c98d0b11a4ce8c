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

// Wary is what we allow an API server that may be in somebody else's hands: no
// answer without end, and no sending us elsewhere. A watch that has told so much
// ends, and whoever needs it begins another one.
func Wary(next http.RoundTripper) http.RoundTripper { return wary{next} }

type wary struct{ next http.RoundTripper }

func (w wary) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := w.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Header.Del("Location") // Without it a redirection is an answer like any other.
	response.Body = &limitedBody{response.Body, maxResponse}
	return response, nil
}

// WrappedRoundTripper returns the one below, for those who look for the connections.
func (w wary) WrappedRoundTripper() http.RoundTripper { return w.next }

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
