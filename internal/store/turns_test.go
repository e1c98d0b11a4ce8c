// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// hasTurn tells whether it is somebody's turn.
func hasTurn(turn *turn) bool {
	select {
	case <-turn.granted:
		return true
	default:
		return false
	}
}

// enter puts a fetch for somebody in the queue.
func enter(ts *turns, tenant string) *turn {
	turn := newTurn(tenant)
	ts.enter(turn)
	return turn
}

func TestTurnsAreShared(t *testing.T) {
	ts := &turns{}
	// Four namespaces have more to fetch than there are turns. Others come late.
	var greedy []*turn
	granted := 0
	for i := range 40 {
		greedy = append(greedy, enter(ts, fmt.Sprintf("greedy-%d", i%4)))
		if hasTurn(greedy[i]) {
			granted++
		}
	}
	if granted != fetchesAtATime {
		t.Fatalf("%d fetch at a time, want %d", granted, fetchesAtATime)
	}
	// They have all that they may have; it has none yet.
	for i := range firstFetches - fetchesAtATime {
		if !hasTurn(enter(ts, fmt.Sprintf("late-%d", i))) {
			t.Fatalf("%d namespaces that have nothing wait for four that have much", firstFetches-fetchesAtATime-i)
		}
	}
	if hasTurn(enter(ts, "late-0")) {
		t.Error("a second one is begun although there are as many as may be")
	}
	last := enter(ts, "last")
	if hasTurn(last) {
		t.Fatal("more fetch than may")
	}
	ts.leave(greedy[0])
	if !hasTurn(last) {
		t.Error("others came first who have more already")
	}
}

// What two want does not wait behind what only one of them waits for.
func TestTurnOfWhatSeveralWant(t *testing.T) {
	ts := &turns{}
	for range fetchesForOne {
		enter(ts, "a")
	}
	both := enter(ts, "a")
	if hasTurn(both) {
		t.Fatal("one namespace has more turns than it may")
	}
	ts.join(both, "b")
	if !hasTurn(both) {
		t.Error("it waits for those of the first one")
	}
}

// Whatever happens, no turn is lost and none is had twice.
func TestTurnsAreGivenBack(t *testing.T) {
	ts := &turns{}
	var all sync.WaitGroup
	for i := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		turn := newTurn(fmt.Sprint(i % 7))
		all.Go(func() {
			if rand.IntN(2) == 0 {
				cancel()
			}
			ts.join(turn, fmt.Sprint(i%5))
			done, err := ts.wait(ctx, turn)
			if err == nil {
				done()
			}
			cancel()
		})
	}
	all.Wait()
	if ts.running != 0 || len(ts.waiting) != 0 || len(ts.of) != 0 {
		t.Errorf("left are %d running of %v, %d waiting", ts.running, ts.of, len(ts.waiting))
	}
}
