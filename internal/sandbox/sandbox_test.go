// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
)

// TestProgressOfAGroupThatFails: a step that was given up because of another is not told as done.
func TestProgressOfAGroupThatFails(t *testing.T) {
	var mu sync.Mutex
	var told []string
	s := &Sandbox{opts: Options{Progress: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Done {
			told = append(told, e.Step+": "+e.Error)
		}
	}}}
	finished := make(chan struct{})
	err := s.run(t.Context(), []step{
		{"works", func(context.Context) (string, error) {
			close(finished)
			return "", nil
		}},
		{"fails", func(context.Context) (string, error) {
			<-finished
			return "", errors.New("no memory")
		}},
		{"waits", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}},
	})
	if err == nil || err.Error() != "fails: no memory" {
		t.Errorf("got %v", err)
	}
	slices.Sort(told)
	if want := []string{"fails: no memory", "works: "}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
