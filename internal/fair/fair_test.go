// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package fair

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// hasTurn tells whether it is somebody's turn.
func hasTurn(turn *Turn) bool {
	select {
	case <-turn.granted:
		return true
	default:
		return false
	}
}

// limits are those of fetches.
var limits = Limits{All: 16, One: 4, First: 32}

// enter has somebody wait for a turn.
func enter(q *Queue, tenant string) *Turn {
	turn := For(tenant)
	q.enter(turn)
	return turn
}

func TestTurnsAreShared(t *testing.T) {
	q := New(limits)
	// Four namespaces want more than there are turns. Others come late.
	var greedy []*Turn
	granted := 0
	for i := range 40 {
		greedy = append(greedy, enter(q, fmt.Sprintf("greedy-%d", i%4)))
		if hasTurn(greedy[i]) {
			granted++
		}
	}
	if granted != limits.All {
		t.Fatalf("%d have a turn, want %d", granted, limits.All)
	}
	// They have all that they may have; it has none yet.
	for i := range limits.First - limits.All {
		if !hasTurn(enter(q, fmt.Sprintf("late-%d", i))) {
			t.Fatalf("%d namespaces that have nothing wait for four that have much", limits.First-limits.All-i)
		}
	}
	if hasTurn(enter(q, "late-0")) {
		t.Error("a second one is begun although there are as many as may be")
	}
	last := enter(q, "last")
	if hasTurn(last) {
		t.Fatal("more have a turn than may")
	}
	q.leave(greedy[0])
	if !hasTurn(last) {
		t.Error("others came first who have more already")
	}
}

// What two want does not wait behind what only one of them waits for.
func TestTurnOfWhatSeveralWant(t *testing.T) {
	q := New(limits)
	for range limits.One {
		enter(q, "a")
	}
	both := enter(q, "a")
	if hasTurn(both) {
		t.Fatal("one namespace has more turns than it may")
	}
	q.Join(both, "b")
	if !hasTurn(both) {
		t.Error("it waits for those of the first one")
	}
}

// Whatever happens, no turn is lost and none is had twice.
func TestTurnsAreGivenBack(t *testing.T) {
	q := New(limits)
	var all sync.WaitGroup
	for i := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		turn := For(fmt.Sprint(i % 7))
		all.Go(func() {
			if rand.IntN(2) == 0 {
				cancel()
			}
			q.Join(turn, fmt.Sprint(i%5))
			done, err := q.Wait(ctx, turn)
			if err == nil {
				done()
			}
			cancel()
		})
	}
	all.Wait()
	if q.running != 0 || len(q.waiting) != 0 || len(q.of) != 0 {
		t.Errorf("left are %d running of %v, %d waiting", q.running, q.of, len(q.waiting))
	}
}

// Who wants something is not known while a cache cannot be read, and its answer is waited for all the same.
func TestNobodyInParticularHasATurn(t *testing.T) {
	q := New(limits)
	turn := For()
	q.enter(turn)
	if !hasTurn(turn) {
		t.Error("a turn for nobody in particular never comes")
	}
}
