// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// errCut ends a body where a rule wants it; the reverse proxy then ends the connection.
var errCut = errors.New("cut by a rule")

// errGone ends a body whose reader has left.
var errGone = errors.New("nobody listens any more")

// answer answers in place of the server.
func answer(w http.ResponseWriter, f Fault) {
	body := []byte(f.Body)
	for name, values := range f.Header {
		w.Header()[name] = values
	}
	if f.Reason != "" {
		status := metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Status:   metav1.StatusFailure, Code: int32(f.Status), Reason: metav1.StatusReason(f.Reason),
			Message: "the fault proxy was asked to answer this",
		}
		if seconds, err := strconv.ParseInt(f.Header.Get("Retry-After"), 10, 32); err == nil {
			status.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(seconds)}
		}
		var err error
		if body, err = json.Marshal(status); err != nil {
			panic(err) // it is made of strings and numbers
		}
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(f.Status)
	_, _ = w.Write(body) // a client that has left misses nothing
}

// shapes says whether the answer is changed on its way, so that when its parts are sent matters.
func shapes(g *passage) bool {
	switch g.fault.Kind {
	case Cut, Truncate, Stall, Dribble, Freeze, Swallow, Repeat:
		return true
	default:
		return g.watch
	}
}

// eager sends the header of an answer at once: a body that is cut at 0 has one all the same.
type eager struct{ http.ResponseWriter }

func (e *eager) WriteHeader(code int) {
	e.ResponseWriter.WriteHeader(code)
	if code >= http.StatusOK {
		_ = http.NewResponseController(e.ResponseWriter).Flush() // the next write says it if the client has left
	}
}

// Unwrap lets net/http find what else the writer can do.
func (e *eager) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// shape carries out what befalls an answer.
func (p *Proxy) shape(resp *http.Response) error {
	ctx := resp.Request.Context()
	g := ctx.Value(passageKey{}).(*passage)
	if g.fault.Kind == DropAnswer {
		// All of it, so that the server is done. A watch and an upgraded connection are never done.
		if !g.watch && resp.StatusCode != http.StatusSwitchingProtocols {
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		g.reach(Answered)
		return errCut
	}
	g.reach(Answered)
	if g.fault.Kind == DelayAnswer && !pause(ctx.Done(), g.fault.Duration) {
		return errCut
	}
	b := &body{ReadCloser: resp.Body, closed: make(chan struct{})}
	read := b.shape(resp, g)
	if g.watch && resp.StatusCode == http.StatusOK {
		read = p.watches.guard(b.closed, orRead(read, resp.Body))
	}
	if read == nil {
		return nil
	}
	b.read = read
	// The context ends with the client, or the proxy; of upgraded connections only Close tells.
	b.forget = context.AfterFunc(ctx, b.leave)
	resp.Body = b
	if connection, ok := b.ReadCloser.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &upgraded{body: b, Writer: connection}
	}
	return nil
}

type reader func([]byte) (int, error)

func orRead(read reader, otherwise io.Reader) reader {
	if read != nil {
		return read
	}
	return otherwise.Read
}

// body is an answer that is changed on its way.
type body struct {
	io.ReadCloser
	read   reader
	forget func() bool
	once   sync.Once
	closed chan struct{}
}

// leave ends all waiting: nobody listens any more.
func (b *body) leave() { b.once.Do(func() { close(b.closed) }) }

// Read reads what is left of it.
func (b *body) Read(p []byte) (int, error) { return b.read(p) }

// Close ends the answer, and whoever waits for it.
func (b *body) Close() error {
	b.forget()
	b.leave()
	return b.ReadCloser.Close()
}

// upgraded is the connection with a server that speaks something else now.
type upgraded struct {
	*body
	io.Writer
}

// shape is how the answer is read from now on, nil if as it comes.
func (b *body) shape(resp *http.Response, g *passage) reader {
	source := b.ReadCloser
	limit := g.fault.Bytes
	switch g.fault.Kind {
	case Cut:
		return limited(source, limit, func() error { return errCut })
	case Stall:
		return limited(source, limit, func() error { <-b.closed; return errGone })
	case Shorten:
		if resp.ContentLength > limit {
			resp.ContentLength = limit
			resp.Header.Set("Content-Length", strconv.FormatInt(limit, 10))
		}
		return limited(source, limit, func() error { return io.EOF })
	case Truncate:
		return b.truncate(resp, g)
	case Corrupt:
		at := int64(0)
		return func(p []byte) (int, error) {
			n, err := source.Read(p)
			if at <= limit && limit < at+int64(n) {
				p[limit-at] ^= 0xff
			}
			at += int64(n)
			return n, err
		}
	case Dribble:
		return b.dribble(limit)
	case Freeze, Swallow, Repeat:
		if resp.StatusCode == http.StatusOK {
			return b.filter(resp, g.fault)
		}
	default: // done before the request was forwarded, or nothing
	}
	return nil
}

// limited reads so many bytes; what comes then is the end's to say.
func limited(source io.Reader, left int64, end func() error) reader {
	return func(p []byte) (int, error) {
		if left <= 0 {
			return 0, end()
		}
		n, err := source.Read(p[:min(int64(len(p)), left)])
		left -= int64(n)
		return n, err
	}
}

// truncate announces the whole length, which may have to be found out, and sends less. Of what never ends
// nobody announces a length: it is cut.
func (b *body) truncate(resp *http.Response, g *passage) reader {
	if g.watch || resp.StatusCode == http.StatusSwitchingProtocols {
		return limited(b.ReadCloser, g.fault.Bytes, func() error { return errCut })
	}
	var source io.Reader = b.ReadCloser
	if resp.ContentLength < 0 {
		whole, err := io.ReadAll(source)
		if err != nil {
			return func([]byte) (int, error) { return 0, err }
		}
		source = bytes.NewReader(whole)
		resp.ContentLength = int64(len(whole))
		resp.Header.Set("Content-Length", strconv.Itoa(len(whole)))
	}
	return limited(source, g.fault.Bytes, func() error { return io.EOF })
}

// dribble reads so many bytes per second, ten times a second or one by one.
func (b *body) dribble(rate int64) reader {
	portion := max(rate/10, 1)
	interval := time.Duration(float64(time.Second) * float64(portion) / float64(rate))
	return func(p []byte) (int, error) {
		if !pause(b.closed, interval) {
			return 0, errGone
		}
		return b.ReadCloser.Read(p[:min(int64(len(p)), portion)])
	}
}

// filter freezes a watch, or swallows or repeats events of it.
func (b *body) filter(resp *http.Response, f Fault) reader {
	source := bufio.NewReader(b.ReadCloser)
	next := lines(source)
	if mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && mediaType == "application/vnd.kubernetes.protobuf" {
		next = messages(source)
	}
	seen := 0
	var rest []byte
	return func(p []byte) (int, error) {
		for len(rest) == 0 {
			if f.Kind == Freeze && seen == f.First {
				seen++ // once
				if f.Duration == 0 {
					<-b.closed
					return 0, errGone
				}
				if !pause(b.closed, f.Duration) {
					return 0, errGone
				}
				continue
			}
			event, err := next()
			if err != nil {
				return 0, err
			}
			seen++
			concerned := seen >= f.First && (f.Last == 0 || seen <= f.Last)
			switch {
			case f.Kind == Freeze, !concerned:
				rest = event
			case f.Kind == Repeat:
				rest = slices.Concat(event, event)
			}
		}
		n := copy(p, rest)
		rest = rest[n:]
		return n, nil
	}
}

// lines reads the events of a watch in JSON: a line each.
func lines(source *bufio.Reader) func() ([]byte, error) {
	return func() ([]byte, error) {
		line, err := source.ReadBytes('\n')
		if len(line) > 0 {
			return line, nil
		}
		return nil, err
	}
}

// messages reads the events of a watch in protobuf: each after its length.
func messages(source *bufio.Reader) func() ([]byte, error) {
	return func() ([]byte, error) {
		header, err := source.Peek(4)
		if err != nil {
			return nil, err
		}
		message := make([]byte, 4+int(binary.BigEndian.Uint32(header)))
		_, err = io.ReadFull(source, message)
		return message, err
	}
}

// cutReader is the body of a request that ends too early.
type cutReader struct {
	io.ReadCloser
	left int64
}

// Read reads what may pass.
func (c *cutReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errCut
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// gate holds watches back while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // closed and forgotten when the gate opens
}

func (g *gate) freeze() (thaw func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
	}
	shut := g.shut
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.shut == shut {
			close(shut)
			g.shut = nil
		}
	}
}

// guard reads from a watch, and keeps what it has read while the gate is shut.
func (g *gate) guard(closed <-chan struct{}, read reader) reader {
	return func(p []byte) (int, error) {
		n, err := read(p)
		for {
			g.mu.Lock()
			shut := g.shut
			g.mu.Unlock()
			if shut == nil {
				return n, err
			}
			select {
			case <-shut:
			case <-closed:
				return 0, errGone
			}
		}
	}
}

// pause waits, and says whether it got to the end before whoever it waits for had left.
func pause(left <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-left:
		return false
	}
}
