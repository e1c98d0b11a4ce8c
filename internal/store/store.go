// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package store keeps verified releases on disk.
//
// A release enters once: fetched to a temporary folder, digest checked, opened as a proof that it can
// be, flushed to disk, made visible by one rename. It never changes after that, so readers take no
// lock and need no source. Several processes may share a store.
// Which release to open, and what to do when it cannot be had, is the caller's.
package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Fetcher writes the files of a release into dst and returns their digest, "sha256:...".
type Fetcher interface {
	Fetch(ctx context.Context, name release.Name, dst *os.Root) (digest string, err error)
}

// Store is a folder of releases. It may be used concurrently.
//
// On disk, with the digest that the source gave as the last folder's name:
//
//	releases/<source>/<release tag>/<digest>/
//	tmp/<process>/<fetch>/
type Store struct {
	root string
	tmp  *tempFolder

	mu       sync.Mutex
	opened   []entry               // most recently used last
	fetching map[ref]chan struct{} // closed when the fetch is over
}

// ref names what a caller asks for.
type ref struct {
	key    string
	name   release.Name
	digest string // empty: whichever the store has
}

type entry struct {
	ref ref
	rel *release.Release
}

// maxOpened bounds the memory for parsed releases, in bytes. A release is some megabytes as a rule, so this
// holds all that are in use at a time; but one may be a hundred times as large.
const maxOpened = 64 << 20

// MovedError says that a source offers other files under the name of a release than those that were
// fetched from it before.
type MovedError struct {
	Source  string
	Name    release.Name
	Pinned  string
	Offered string
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("release %s was published again with other contents: %s now has %s, in use is %s; publish a new version instead, or restore the old one",
		e.Name, e.Source, e.Offered, e.Pinned)
}

// Open opens the store in the folder root, which it creates if need be, and removes what processes
// that are gone have left half done.
func Open(root string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(root, "releases"), 0o755); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	tmp, err := newTempFolder(filepath.Join(root, "tmp"))
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	return &Store{root: filepath.Clean(root), tmp: tmp, fetching: map[ref]chan struct{}{}}, nil
}

// Close removes temporary files. Releases that were opened stay usable, the store does not.
func (s *Store) Close() error { return s.tmp.remove() }

// Release returns a release and its digest. When the store has it, no request is made; otherwise it
// is fetched and kept.
//
// The key says which source from is, such as "directory:/releases", so that equally named releases of
// different sources are kept apart. Pinned is the digest that the release must have; when it is empty
// the store keeps to the one that it fetched first.
//
// The error wraps that of the Fetcher, is a *MovedError when the source offers another digest than the
// pinned one, or wraps a *release.InvalidError.
func (s *Store) Release(ctx context.Context, key string, name release.Name, pinned string, from Fetcher) (*release.Release, string, error) {
	want := ref{key: key, name: name, digest: pinned}
	if pinned != "" && !validDigest(pinned) {
		return nil, "", fmt.Errorf("release %s: %q is not a digest of the form sha256:<64 hexadecimal digits>", name, pinned)
	}
	for {
		rel, digest, err := s.lookUp(want)
		if rel != nil || err != nil {
			return rel, digest, err
		}
		mine, over := s.startFetch(want)
		if !mine {
			// Somebody else fetches it: wait and look again. An error of theirs, perhaps just that
			// their caller gave up, is not ours.
			select {
			case <-over:
				continue
			case <-ctx.Done():
				return nil, "", context.Cause(ctx)
			}
		}
		rel, digest, err = s.fetch(ctx, want, from)
		s.endFetch(want)
		return rel, digest, err
	}
}

func (s *Store) startFetch(want ref) (mine bool, over <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, busy := s.fetching[want]; busy {
		return false, other
	}
	s.fetching[want] = make(chan struct{})
	return true, nil
}

func (s *Store) endFetch(want ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.fetching[want])
	delete(s.fetching, want)
}

// lookUp returns a release that the store has, or nil.
func (s *Store) lookUp(want ref) (*release.Release, string, error) {
	if want.digest == "" {
		digest, err := s.firstDigest(want)
		if err != nil || digest == "" {
			return nil, "", err
		}
		want.digest = digest
	}
	if rel := s.remembered(want); rel != nil {
		return rel, want.digest, nil
	}
	folder := s.folder(want)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	rel, err := openFolder(folder, want.name)
	if err != nil {
		// It was fine when it came in, so the release is not to blame, and the error must not say so.
		return nil, "", fmt.Errorf("the stored copy of release %s is damaged (%v): remove %s to have it fetched again", want.name, err, folder) //nolint:errorlint // see above
	}
	s.remember(want, rel)
	return rel, want.digest, nil
}

// firstDigest returns the digest that was stored first under the name, or "".
func (s *Store) firstDigest(want ref) (string, error) {
	entries, err := os.ReadDir(s.nameFolder(want))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	type stored struct {
		digest string
		at     int64
	}
	var all []stored
	for _, e := range entries {
		digest := "sha256:" + e.Name()
		info, err := e.Info()
		if err != nil || !validDigest(digest) {
			continue // not put there by us
		}
		all = append(all, stored{digest: digest, at: info.ModTime().UnixNano()})
	}
	if len(all) == 0 {
		return "", nil
	}
	first := slices.MinFunc(all, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.digest, b.digest))
	})
	return first.digest, nil
}

func (s *Store) fetch(ctx context.Context, want ref, from Fetcher) (*release.Release, string, error) {
	tmp, err := s.tmp.make()
	if err != nil {
		return nil, "", fmt.Errorf("store release %s: %w", want.name, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // what may stay goes with the folder of this process

	digest, err := fetchInto(ctx, tmp, want.name, from)
	if err != nil {
		return nil, "", err
	}
	if !validDigest(digest) {
		return nil, "", fmt.Errorf("fetch release %s from %s: got the digest %q, which has another form than sha256:<64 hexadecimal digits>", want.name, want.key, digest)
	}
	if want.digest != "" && digest != want.digest {
		return nil, "", &MovedError{Source: want.key, Name: want.name, Pinned: want.digest, Offered: digest}
	}
	rel, err := openFolder(tmp, want.name)
	if err != nil {
		return nil, "", err
	}
	want.digest = digest
	if err := s.publish(tmp, want); err != nil {
		return nil, "", fmt.Errorf("store release %s: %w", want.name, err)
	}
	s.remember(want, rel)
	return rel, digest, nil
}

func fetchInto(ctx context.Context, folder string, name release.Name, from Fetcher) (string, error) {
	dst, err := os.OpenRoot(folder)
	if err != nil {
		return "", err
	}
	defer func() { _ = dst.Close() }() // the files in it are closed and flushed on their own
	return from.Fetch(ctx, name, dst)
}

func openFolder(folder string, name release.Name) (*release.Release, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read from
	return release.Open(root.FS(), name)
}

// publish makes a fetched folder visible. After a crash at any instant, even of the machine, the
// release is wholly there or not at all.
func (s *Store) publish(tmp string, want ref) error {
	if err := flushFolder(tmp); err != nil {
		return err
	}
	parent := s.nameFolder(want)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	err := os.Rename(tmp, s.folder(want))
	// Another process was faster with the same release, which is as good.
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// A new folder lasts only when all folders above it have been flushed.
	for folder := parent; ; folder = filepath.Dir(folder) {
		if err := flush(folder); err != nil || folder == s.root {
			return err
		}
	}
}

func flushFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		file := filepath.Join(folder, entry.Name())
		if err := flush(file); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o444); err != nil {
			return err
		}
	}
	return flush(folder)
}

func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (s *Store) nameFolder(want ref) string {
	return filepath.Join(s.root, "releases", keyFolder(want.key), want.name.String())
}

func (s *Store) folder(want ref) string {
	return filepath.Join(s.nameFolder(want), strings.TrimPrefix(want.digest, "sha256:"))
}

// keyFolder returns a name for the folder of a source that a person can recognise.
func keyFolder(key string) string {
	folder := url.PathEscape(key)
	if folder != "" && folder[0] != '.' && len(folder) <= 200 {
		return folder
	}
	sum := sha256.Sum256([]byte(key))
	return ".sha256-" + hex.EncodeToString(sum[:])
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func validDigest(s string) bool { return digestForm.MatchString(s) }

func (s *Store) remembered(want ref) *release.Release {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.opened, func(e entry) bool { return e.ref == want })
	if i < 0 {
		return nil
	}
	found := s.opened[i]
	s.opened = append(slices.Delete(s.opened, i, i+1), found)
	return found.rel
}

func (s *Store) remember(want ref, rel *release.Release) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = slices.DeleteFunc(s.opened, func(e entry) bool { return e.ref == want })
	s.opened = append(s.opened, entry{ref: want, rel: rel})
	size := 0
	for _, e := range s.opened {
		size += e.rel.Size()
	}
	for size > maxOpened && len(s.opened) > 1 {
		size -= s.opened[0].rel.Size()
		s.opened = slices.Delete(s.opened, 0, 1)
	}
}
