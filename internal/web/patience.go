// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// patience ends requests whose answers come too slowly, or not any more.
type patience struct {
	next   http.RoundTripper
	window time.Duration
	min    int64
}

func (p *patience) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := p.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body := &slowBody{ReadCloser: resp.Body, cause: func() error { return context.Cause(ctx) }, cancel: cancel}
	body.watch(p.window, p.min)
	resp.Body = body
	return resp, nil
}

func (p *patience) CloseIdleConnections() { closeIdle(p.next) }

// slowBody is a body that is given up when a window of time brings too little of it.
type slowBody struct {
	io.ReadCloser
	cause  func() error // why it was given up
	cancel context.CancelCauseFunc
	read   atomic.Int64
	timer  *time.Timer
	once   sync.Once
}

func (b *slowBody) watch(window time.Duration, minimum int64) {
	last := int64(0)
	var mu sync.Mutex // the timer may fire before it is assigned
	mu.Lock()
	defer mu.Unlock()
	b.timer = time.AfterFunc(window, func() {
		mu.Lock()
		defer mu.Unlock()
		now := b.read.Load()
		if now-last < minimum {
			b.cancel(fmt.Errorf("the server sent less than %d bytes in %s", minimum, window))
			return
		}
		last = now
		b.timer.Reset(window)
	})
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	if err != nil {
		b.end()
		if cause := b.cause(); cause != nil && !errors.Is(err, io.EOF) {
			err = cause // says more than "context canceled"
		}
	}
	return n, err
}

func (b *slowBody) Close() error {
	b.end()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

func (b *slowBody) end() { b.once.Do(func() { b.timer.Stop() }) }

// RetryAfter returns for how long a server wants to be left alone, and zero when it does not say.
func RetryAfter(header http.Header, now time.Time) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		// A server that wants to be left alone for longer than a day is not worth planning for.
		return min(time.Duration(min(seconds, 24*60*60))*time.Second, 24*time.Hour)
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return min(at.Sub(now), 24*time.Hour)
	}
	return 0
}
