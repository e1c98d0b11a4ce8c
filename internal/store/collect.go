// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Stored is a release in the store.
type Stored struct {
	Name   release.Name
	Digest string

	source string // the folder of its key
	folder string
	used   time.Time
}

// Of tells whether the release was fetched under a key, as Want has it.
func (s Stored) Of(key string) bool { return s.source == keyFolder(key) }

// Keep has inUse say which releases must stay, in place of what the options say.
func (s *Store) Keep(inUse func(ctx context.Context) (func(Stored) bool, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options.InUse = inUse
}

const (
	// grace is how long a release stays that nobody is known to use: whoever fetches one says so only later.
	grace = time.Hour
	// shortGrace is the same when there is no other way to make room.
	shortGrace = 5 * time.Minute
)

// errQuota says that the releases in the store take all the room that they may.
var errQuota = errors.New("the quota is used up")

// Collect removes releases that have not been in use for an hour.
func (s *Store) Collect(ctx context.Context) (removed []Stored, err error) {
	return s.collect(ctx, grace, nil)
}

// mebi rounds up to MiB.
func mebi(size int64) int64 { return (size + 1<<20 - 1) >> 20 }

// collect removes releases that are not in use and were not used for a while, longest unused first, until it is
// enough.
func (s *Store) collect(ctx context.Context, unusedFor time.Duration, enough func() bool) (removed []Stored, err error) {
	s.mu.Lock()
	users := s.options.InUse
	s.mu.Unlock()
	if users == nil {
		return nil, nil
	}
	all, err := s.list()
	if err != nil {
		return nil, err
	}
	inUse, err := users(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Stored) int { return a.used.Compare(b.used) })
	for _, stored := range all {
		if enough != nil && enough() {
			break
		}
		if time.Since(stored.used) < unusedFor || inUse(stored) {
			continue
		}
		if err := s.discard(stored.folder); err != nil {
			return removed, fmt.Errorf("remove release %s from the store: %w", stored.Name, err)
		}
		removed = append(removed, stored)
	}
	return removed, nil
}

// list returns the releases in the store.
func (s *Store) list() ([]Stored, error) {
	folders := []string{filepath.Join(s.root, "releases")}
	for range 3 { // sources, names, digests
		var inside []string
		for _, folder := range folders {
			entries, err := os.ReadDir(folder)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			for _, entry := range entries {
				if entry.IsDir() {
					inside = append(inside, filepath.Join(folder, entry.Name()))
				}
			}
		}
		folders = inside
	}
	var all []Stored
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, folder := range folders {
		name, err := release.ParseName(filepath.Base(filepath.Dir(folder)))
		digest := digestPrefix + filepath.Base(folder)
		if err != nil || !validDigest(digest) {
			continue // not put there by us
		}
		used, known := s.used[folder]
		if !known {
			used = s.began // of another process, or before we started
		}
		all = append(all, Stored{Name: name, Digest: digest, source: filepath.Base(filepath.Dir(filepath.Dir(folder))), folder: folder, used: used})
	}
	return all, nil
}

// discard takes a release out of the store. To others it vanishes at once.
func (s *Store) discard(folder string) error {
	s.discards.Lock()
	defer s.discards.Unlock()
	size, err := sizeOf(folder)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.opened = slices.DeleteFunc(s.opened, func(e *entry) bool { return s.folder(e.ref) == folder })
	s.mu.Unlock()
	tmp, err := s.tmp.make()
	switch {
	case noSpace(err):
		// A full disk has no place for a folder either. To whoever opens the release right now it looks damaged,
		// and is fetched again.
		err = os.RemoveAll(folder)
	case err == nil:
		defer func() { _ = os.RemoveAll(tmp) }() // what may stay goes with the folder of this process
		if err = os.Rename(folder, filepath.Join(tmp, "discarded")); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.size -= size
	delete(s.used, folder)
	s.mu.Unlock()
	// Their folders go with the last release in them, or else stay: that is no error.
	if os.Remove(filepath.Dir(folder)) == nil {
		_ = os.Remove(filepath.Dir(filepath.Dir(folder)))
	}
	return nil
}

// sizeOf returns the size of all files below a folder, in bytes.
func sizeOf(folder string) (size int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process removes it right now
		}
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return size, err
}
