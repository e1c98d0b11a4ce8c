// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

func offer(t *testing.T, tag string) source.Offer {
	t.Helper()
	n, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return source.Offer{Name: n}
}

func TestListerTellsChanges(t *testing.T) {
	v1, v2 := offer(t, "docker-scs-1-35-v1"), offer(t, "docker-scs-1-35-v2")
	var names []source.Offer
	var failure error
	l := releases.NewLister(func(context.Context) ([]source.Offer, error) { return names, failure }, time.Minute)
	told := func() bool {
		select {
		case <-l.Changes():
			return true
		default:
			return false
		}
	}
	if l.Last().Asked {
		t.Error("an answer without a question")
	}
	for _, tc := range []struct {
		what    string
		names   []source.Offer
		failure error
		told    bool
	}{
		{"the first answer, though empty", nil, nil, true},
		{"the same", nil, nil, false},
		{"two releases", []source.Offer{v2, v1}, nil, true},
		{"in another order", []source.Offer{v1, v2}, nil, false},
		{"a failure", nil, errors.New("refused"), true},
		{"the same failure", nil, errors.New("refused"), false},
		{"another failure", nil, errors.New("timeout"), true},
		{"up again", []source.Offer{v1, v2}, nil, true},
	} {
		names, failure = tc.names, tc.failure
		l.Refresh(t.Context())
		if got := told(); got != tc.told {
			t.Errorf("%s: told %v, want %v", tc.what, got, tc.told)
		}
		last := l.Last()
		if !last.Asked || !errors.Is(last.Err, failure) && last.Err.Error() != failure.Error() {
			t.Errorf("%s: answer is %+v", tc.what, last)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	names, failure = nil, context.Canceled
	l.Refresh(stopped)
	if l.Last().Err != nil || told() {
		t.Error("being stopped was taken for an answer of the source")
	}
}

func TestListerAsksAgainSoonerAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var asked []time.Duration
		l := releases.NewLister(func(context.Context) ([]source.Offer, error) {
			asked = append(asked, time.Since(begin))
			if len(asked) <= 3 {
				return nil, errors.New("refused")
			}
			return nil, nil
		}, time.Minute)
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		if err := l.Start(ctx); err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 95 * time.Second}
		if len(asked) != len(want) {
			t.Fatalf("asked at %v, want %v", asked, want)
		}
		for i := range want {
			if asked[i] != want[i] {
				t.Fatalf("asked at %v, want %v", asked, want)
			}
		}
	})
}
