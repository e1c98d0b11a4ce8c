// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"slices"
	"sync"
)

const (
	// fetchesAtATime bounds what all sources together cost: connections, memory and room.
	fetchesAtATime = 16
	// fetchesForOne is how many of them are for one namespace.
	fetchesForOne = 4
	// firstFetches is how many there are at a time when those beyond fetchesAtATime are each the only one of its namespace:
	// sources that do not answer keep nobody else waiting, as long as not that many namespaces have such.
	firstFetches = 32
)

// turns hands out the right to fetch. Of those who wait it is the turn of whoever has the fewest, and else of the first.
type turns struct {
	mu      sync.Mutex
	running int
	of      map[string]int
	waiting []*turn
}

// turn is that of one fetch, which several may want.
type turn struct {
	wantedBy []string
	granted  chan struct{}
	// by is who it was granted to.
	by string
}

func newTurn(tenant string) *turn {
	return &turn{wantedBy: []string{tenant}, granted: make(chan struct{})}
}

// join says that somebody else wants what is fetched as well. It need not wait behind what the first one waits for.
func (t *turns) join(turn *turn, tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(turn.wantedBy, tenant) {
		turn.wantedBy = append(turn.wantedBy, tenant)
		t.grant()
	}
}

// wait waits for a turn. The function that it returns ends it.
func (t *turns) wait(ctx context.Context, turn *turn) (done func(), err error) {
	t.enter(turn)
	select {
	case <-turn.granted:
		return func() { t.leave(turn) }, nil
	case <-ctx.Done():
		t.leave(turn)
		return nil, context.Cause(ctx)
	}
}

func (t *turns) enter(turn *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = append(t.waiting, turn)
	t.grant()
}

// leave ends a turn, or the wait for it.
func (t *turns) leave(turn *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, turn); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		return
	}
	t.running--
	if t.of[turn.by]--; t.of[turn.by] == 0 {
		delete(t.of, turn.by)
	}
	t.grant()
}

// grant hands out what is free. The lock is held.
func (t *turns) grant() {
	if t.of == nil {
		t.of = map[string]int{}
	}
	for t.running < firstFetches {
		next, by := -1, ""
		for i, turn := range t.waiting {
			for _, tenant := range turn.wantedBy {
				has := t.of[tenant]
				may := has == 0 || has < fetchesForOne && t.running < fetchesAtATime
				if may && (next < 0 || has < t.of[by]) {
					next, by = i, tenant
				}
			}
		}
		if next < 0 {
			return
		}
		turn := t.waiting[next]
		t.waiting = slices.Delete(t.waiting, next, next+1)
		turn.by = by
		t.running++
		t.of[by]++
		close(turn.granted)
	}
}
