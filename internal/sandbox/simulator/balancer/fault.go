// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package balancer

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Fault is what is wrong with a balancer; the zero value means nothing.
type Fault struct {
	// Refuse resets new connections, Silent takes them and never answers.
	Refuse, Silent bool
	// Reset is the time between two resets of all connections; 0 if there are none.
	Reset time.Duration
	// Percent of the connections are hit; Seed decides which, by their number.
	Percent int32
	Seed    int64
}

// fault is one that is in force.
type fault struct {
	Fault
	first uint64          // the number of the first connection that may be hit
	over  <-chan struct{} // closed when another one takes its place
	end   context.CancelFunc
}

// SetFault makes something go wrong from now on, in place of what went wrong before. To set what is set already
// changes nothing.
func (b *Balancer) SetFault(ctx context.Context, f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault.Fault == f {
		return
	}
	if b.fault.end != nil {
		b.fault.end()
	}
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	b.fault = &fault{Fault: f, first: b.taken, over: ctx.Done(), end: end}
	b.log.Info("load balancer changed", "fault", f)
	if f.Reset > 0 {
		current := b.fault
		b.work.Go(func() { b.resetAgainAndAgain(ctx, current) })
	}
}

// take counts a new connection.
func (b *Balancer) take() (number uint64, of *fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	number = b.taken
	b.taken++
	return number, b.fault
}

// hits decides about a connection; round tells apart several decisions about the same one.
func (f *fault) hits(number, round uint64) bool {
	if f.Percent >= 100 {
		return true
	}
	dice := rand.New(rand.NewPCG(uint64(f.Seed), (number-f.first)<<32|round))
	return dice.Int32N(100) < f.Percent
}

// mistreats does to a new connection what is wrong, and tells whether that was all that there is to do with it.
func (f *fault) mistreats(ctx context.Context, client *net.TCPConn, number uint64) bool {
	if !f.Refuse && !f.Silent || !f.hits(number, 0) {
		return false
	}
	if f.Silent {
		gone := make(chan struct{}) // the client has had enough
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, client)
		}()
		select {
		case <-gone:
		case <-f.over:
		case <-ctx.Done():
		}
	}
	reset(client)
	return true
}

func (b *Balancer) resetAgainAndAgain(ctx context.Context, f *fault) {
	ticker := time.NewTicker(f.Reset)
	defer ticker.Stop()
	for round := uint64(1); ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var hit []session
		b.mu.Lock()
		for _, of := range b.backends {
			for s := range of.sessions {
				if f.hits(s.number, round) {
					hit = append(hit, s)
				}
			}
		}
		b.mu.Unlock()
		for _, s := range hit {
			// Before either is closed: who forwards closes the other end in turn.
			_, _ = s.client.SetLinger(0), s.server.SetLinger(0)
			s.close()
		}
	}
}

// reset closes a connection so that the other end sees an error rather than an end.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // at worst it ends in order
	_ = conn.Close()
}
