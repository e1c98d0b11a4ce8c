// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fair hands out turns of what there is not enough of for everybody, such as connections to sources.
//
// It is the turn of whoever has the fewest, so that a tenant who wants much, or whose turns do not end, keeps waiting nobody but
// himself. What a tenant is, the caller says; mostly a namespace.
package fair

import (
	"context"
	"slices"
	"sync"
)

// Limits bound how many turns there are at a time.
type Limits struct {
	// All is for how many tenants together.
	All int
	// One is how many of them are for one tenant.
	One int
	// First is how many there are when those beyond All are each the only one of its tenant: whoever has none waits for
	// nobody, as long as not that many have one. It is All if it is less.
	First int
}

// Queue hands out turns. Of those who wait it is the turn of whoever has the fewest, and else of the first.
type Queue struct {
	limits Limits

	mu      sync.Mutex
	running int
	of      map[string]int
	waiting []*Turn
}

// New returns a Queue in which nobody waits.
func New(limits Limits) *Queue {
	limits.First = max(limits.First, limits.All)
	return &Queue{limits: limits, of: map[string]int{}}
}

// Turn is a turn that somebody wants or has. It is used once.
type Turn struct {
	wantedBy []string
	granted  chan struct{}
	// by is who it was granted to.
	by string
}

// For returns a turn for one of the tenants, of whom each is as good. Without any it is for the tenant called "".
func For(tenants ...string) *Turn {
	if len(tenants) == 0 {
		tenants = []string{""}
	}
	return &Turn{wantedBy: slices.Clone(tenants), granted: make(chan struct{})}
}

// Join says that somebody else wants what the turn is for as well. It need not wait behind what the first one waits for.
func (q *Queue) Join(turn *Turn, tenant string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Contains(turn.wantedBy, tenant) {
		turn.wantedBy = append(turn.wantedBy, tenant)
		q.grant()
	}
}

// Wait waits for a turn. The function that it returns ends it. The error is the cause of the end of ctx.
func (q *Queue) Wait(ctx context.Context, turn *Turn) (done func(), err error) {
	q.enter(turn)
	select {
	case <-turn.granted:
		return func() { q.leave(turn) }, nil
	case <-ctx.Done():
		q.leave(turn)
		return nil, context.Cause(ctx)
	}
}

// Try takes a turn for a tenant, if there is one at once for which nobody waits. The function that it returns ends it.
func (q *Queue) Try(tenant string) (done func(), ok bool) {
	turn := For(tenant)
	q.enter(turn)
	select {
	case <-turn.granted:
		return func() { q.leave(turn) }, true
	default:
		q.leave(turn)
		return nil, false
	}
}

// With returns a context for what is done for a tenant.
func With(ctx context.Context, tenant string) context.Context {
	return context.WithValue(ctx, tenantKey{}, tenant)
}

// Tenant returns the tenant for whom something is done, who is called "" if nobody has said.
func Tenant(ctx context.Context) string {
	tenant, _ := ctx.Value(tenantKey{}).(string)
	return tenant
}

type tenantKey struct{}

func (q *Queue) enter(turn *Turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, turn)
	q.grant()
}

// leave ends a turn, or the wait for it.
func (q *Queue) leave(turn *Turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, turn); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		return
	}
	q.running--
	if q.of[turn.by]--; q.of[turn.by] == 0 {
		delete(q.of, turn.by)
	}
	q.grant()
}

// grant hands out what is free. The lock is held.
func (q *Queue) grant() {
	for q.running < q.limits.First {
		next, by := -1, ""
		for i, turn := range q.waiting {
			for _, tenant := range turn.wantedBy {
				has := q.of[tenant]
				may := has == 0 || has < q.limits.One && q.running < q.limits.All
				if may && (next < 0 || has < q.of[by]) {
					next, by = i, tenant
				}
			}
		}
		if next < 0 {
			return
		}
		turn := q.waiting[next]
		q.waiting = slices.Delete(q.waiting, next, next+1)
		turn.by = by
		q.running++
		q.of[by]++
		close(turn.granted)
	}
}
