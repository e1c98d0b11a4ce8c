// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dir is the source of releases that lie in a folder, each in a folder of its own that is
// called like the release.
//
// A release is published as soon as its metadata.yaml is there; who copies one in by hand copies that
// file last, or renames the finished folder. Links are followed as long as they stay in the folder.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Source reads releases from a folder.
type Source struct {
	path string

	mu sync.Mutex
	// known has the digests of what was looked at, as long as sizes and times say that it is the same.
	known map[release.Name]digested
}

type digested struct {
	fingerprint, digest string
}

var _ interface {
	source.Source
	source.Resolver
	source.Publisher
} = (*Source)(nil)

// New returns the source of the releases in path, in <path>/<release tag>/.
// The folder need not exist before it is read.
func New(path string) *Source { return &Source{path: path, known: map[release.Name]digested{}} }

// List implements source.Source.
func (s *Source) List(ctx context.Context) ([]source.Offer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	defer func() { _ = root.Close() }() // only read from
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list releases in %s: %w", s.path, err)
	}
	var offers []source.Offer
	for _, entry := range entries {
		name, err := release.ParseName(entry.Name())
		if err != nil {
			continue
		}
		switch at, err := published(root, name); {
		case err != nil:
			return nil, fmt.Errorf("list releases in %s: %w", s.path, err)
		case !at.IsZero():
			offers = append(offers, source.Offer{Name: name, Published: at})
		}
	}
	return offers, nil
}

// Fetch implements source.Source.
func (s *Source) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return "", fmt.Errorf("fetch release %s: %w", name, err)
	}
	defer func() { _ = root.Close() }() // only read from
	at, err := published(root, name)
	if err != nil {
		return "", fmt.Errorf("fetch release %s from %s: %w", name, s.path, err)
	}
	if at.IsZero() {
		return "", fmt.Errorf("release %s in %s: %w", name, s.path, source.ErrNotFound)
	}
	digest, err := fetch(ctx, root, name.String(), dst)
	if err != nil {
		return "", fmt.Errorf("fetch release %s from %s: %w", name, s.path, err)
	}
	return digest, nil
}

// Resolve implements source.Resolver. Files are read again only when their sizes or times have changed.
func (s *Source) Resolve(ctx context.Context, name release.Name) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	digest, err := s.resolve(name)
	if err != nil {
		return "", fmt.Errorf("release %s in %s: %w", name, s.path, err)
	}
	return digest, nil
}

func (s *Source) resolve(name release.Name) (string, error) {
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }() // only read from
	at, err := published(root, name)
	if err != nil {
		return "", err
	}
	if at.IsZero() {
		return "", source.ErrNotFound
	}
	files, err := fs.Sub(root.FS(), name.String())
	if err != nil {
		return "", err
	}
	before, err := fingerprint(files)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	known := s.known[name]
	s.mu.Unlock()
	if known.fingerprint == before {
		return known.digest, nil
	}
	digest, err := source.Digest(files)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[name] = digested{fingerprint: before, digest: digest}
	return digest, nil
}

// fingerprint changes, as far as a file system tells, when the files of a release do.
func fingerprint(files fs.FS) (string, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return "", err
	}
	all := &strings.Builder{}
	for _, entry := range entries {
		info, err := fs.Stat(files, entry.Name())
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(all, "%s %d %d %s\n", entry.Name(), info.Size(), info.ModTime().UnixNano(), info.Mode()) // a Builder takes everything
	}
	return all.String(), nil
}

// published returns when the release was put there, and the zero time if it is not there.
func published(root *os.Root, name release.Name) (time.Time, error) {
	info, err := root.Stat(name.String() + "/" + release.MetadataFile)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func fetch(ctx context.Context, root *os.Root, folder string, dst *os.Root) (string, error) {
	src, err := fs.Sub(root.FS(), folder)
	if err != nil {
		return "", err
	}
	entries, err := fs.ReadDir(src, ".")
	if err != nil {
		return "", err
	}
	files, total := 0, int64(0)
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		info, err := fs.Stat(src, entry.Name())
		if err != nil {
			return "", err
		}
		// The existing operator unpacks archives into folders beside them.
		if !info.Mode().IsRegular() {
			continue
		}
		if files++; files > source.MaxFiles {
			return "", fmt.Errorf("more than %d files", source.MaxFiles)
		}
		size, err := copyFile(ctx, src, entry.Name(), dst)
		if err != nil {
			return "", err
		}
		if total += size; total > source.MaxTotalSize {
			return "", fmt.Errorf("larger than %d MiB", source.MaxTotalSize>>20)
		}
	}
	// Somebody may have written to the folder meanwhile. Half of one release and half of another must
	// not go as a third.
	before, err := source.Digest(dst.FS())
	if err != nil {
		return "", err
	}
	after, err := source.Digest(src)
	if err != nil {
		return "", err
	}
	if before != after {
		return "", errors.New("its files changed while they were read")
	}
	return after, nil
}

func copyFile(ctx context.Context, src fs.FS, name string, dst *os.Root) (int64, error) {
	in, err := src.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }() // only read from
	size, _, err := source.Save(ctx, dst, name, in, source.MaxFileSize)
	return size, err
}
