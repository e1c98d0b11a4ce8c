// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// folders fetches releases that are made as they are asked for.
type folders struct{}

func (folders) Fetch(_ context.Context, name release.Name, dst *os.Root) (string, error) {
	for file, content := range releasetest.Legacy(name.String()) {
		if err := dst.WriteFile(file, content.Data, 0o644); err != nil {
			return "", err
		}
	}
	return source.Digest(dst.FS())
}

// filled returns a store with releases v0, v1, ..., the last of which was used now and each one before it an hour
// earlier than the next.
func filled(t *testing.T, n int, o Options) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range n {
		bring(t, s, i)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for folder := range s.used {
		for i := range n {
			if s.folder(ref{key: "k", name: named(t, i), digest: digestPrefix + folder[len(folder)-64:]}) == folder {
				s.used[folder] = time.Now().Add(-time.Duration(n-1-i) * time.Hour)
			}
		}
	}
	return s
}

func named(t *testing.T, i int) release.Name {
	t.Helper()
	name, err := release.ParseName(fmt.Sprintf("docker-scs-1-35-v%d", i))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func bring(t *testing.T, s *Store, i int) {
	t.Helper()
	if _, err := s.Get(t.Context(), Want{Key: "k", Name: named(t, i), From: folders{}}); err != nil {
		t.Fatal(err)
	}
}

func versions(t *testing.T, s *Store) (all []string) {
	t.Helper()
	list, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, stored := range list {
		all = append(all, stored.Name.Version.String())
	}
	slices.Sort(all)
	return all
}

func using(names ...string) func(context.Context) (func(Stored) bool, error) {
	return func(context.Context) (func(Stored) bool, error) {
		return func(s Stored) bool { return slices.Contains(names, s.Name.Version.String()) }, nil
	}
}

func TestCollectRemovesWhatNobodyHasUsedForAnHour(t *testing.T) {
	s := filled(t, 4, Options{InUse: using("v0")})
	removed, err := s.Collect(t.Context())
	if err != nil || len(removed) != 2 {
		t.Errorf("got %v, %v", removed, err)
	}
	if diff := cmp.Diff([]string{"v0", "v3"}, versions(t, s)); diff != "" {
		t.Error(diff)
	}
	size, err := sizeOf(s.root)
	if err != nil || s.size > size {
		t.Errorf("it counts %d bytes, there are %d (%v)", s.size, size, err)
	}
	bring(t, s, 1) // what was removed can be had again
}

// With the quota used up the one goes that was used longest ago, and no more than it takes.
func TestQuotaIsMadeRoomForByTheLeastUsed(t *testing.T) {
	s := filled(t, 4, Options{InUse: using("v0")})
	s.options.Quota = s.size + s.size/8
	bring(t, s, 9)
	if diff := cmp.Diff([]string{"v0", "v2", "v3", "v9"}, versions(t, s)); diff != "" {
		t.Error(diff)
	}
}

// Two fetches that need room at once find the same release to remove. Its room is there once.
func TestWhatTwoRemoveIsCountedOnce(t *testing.T) {
	s := filled(t, 8, Options{})
	all, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for _, stored := range all {
		for range 4 {
			group.Go(func() {
				if err := s.discard(stored.folder); err != nil {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	if size := s.Size(); size != 0 {
		t.Errorf("of an empty store it counts %d bytes", size)
	}
}

// A release that is moved into the store is not counted twice meanwhile, or there would seem to be no room.
func TestWhatIsKeptIsCountedOnce(t *testing.T) {
	s := filled(t, 0, Options{Quota: 100})
	_, r := s.withRoom(t.Context())
	if err := r.take(t.Context(), 60); err != nil {
		t.Fatal(err)
	}
	r.keep(60, "folder")
	_, other := s.withRoom(t.Context())
	if err := other.take(t.Context(), 40); err != nil {
		t.Error(err)
	}
	r.free()
	other.free()
	if s.size != 60 || s.incoming != 0 {
		t.Errorf("it counts %d bytes and %d that come", s.size, s.incoming)
	}
}
