// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"time"
)

// room is what a fetch takes of the quota before its release is in the store.
type room struct {
	store *Store
	taken int64 // guarded by the mutex of the store
}

type roomKey struct{}

// Reserve takes room for n bytes that a Fetcher is about to write, whose context is ctx. The error is one for which
// there is no place. A Fetcher that does not reserve is counted when it is done.
func Reserve(ctx context.Context, n int64) error {
	r, ok := ctx.Value(roomKey{}).(*room)
	if !ok {
		return nil
	}
	return r.take(ctx, n)
}

// withRoom returns a context for a Fetcher, and what it takes.
func (s *Store) withRoom(ctx context.Context) (context.Context, *room) {
	r := &room{store: s}
	return context.WithValue(ctx, roomKey{}, r), r
}

// take takes n bytes more, for which what is not in use makes room, longest unused first.
func (r *room) take(ctx context.Context, n int64) error {
	s := r.store
	fits := func() bool {
		return s.options.Quota <= 0 || s.size+s.incoming+n <= s.options.Quota
	}
	try := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n > 0 && !fits() {
			return false
		}
		s.incoming += n
		r.taken += n
		return true
	}
	if try() {
		return nil
	}
	if _, err := s.collect(ctx, shortGrace, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return fits()
	}); err != nil {
		return fmt.Errorf("%w, and what could be removed is not known: %w", errQuota, err)
	}
	if try() {
		return nil
	}
	// How much each of them takes differs from one try to the next, and the message stands in conditions; metrics tell.
	return fmt.Errorf("%w: together with those that are in use or being fetched this one takes more than %d MiB; raise the quota, or remove releases that are no longer needed",
		errQuota, mebi(s.options.Quota))
}

// settle takes what a release needs in the end.
func (r *room) settle(ctx context.Context, size int64) error {
	r.store.mu.Lock()
	taken := r.taken
	r.store.mu.Unlock()
	return r.take(ctx, size-taken)
}

// keep counts what was taken as that of a release in the store.
func (r *room) keep(size int64, folder string) {
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.incoming -= r.taken
	r.taken = 0
	s.size += size
	s.used[folder] = time.Now()
}

// free gives back what was not kept.
func (r *room) free() {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.store.incoming -= r.taken
	r.taken = 0
}
