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
	"io"
	"io/fs"
	"os"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Source reads releases from a folder.
type Source struct {
	path string
}

var _ source.Source = (*Source)(nil)

// New returns the source of the releases in path, in <path>/<release tag>/.
// The folder need not exist before it is read.
func New(path string) *Source { return &Source{path: path} }

// List implements source.Source.
func (s *Source) List(ctx context.Context) ([]release.Name, error) {
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
	var names []release.Name
	for _, entry := range entries {
		name, err := release.ParseName(entry.Name())
		if err != nil {
			continue
		}
		switch published, err := isPublished(root, name); {
		case err != nil:
			return nil, fmt.Errorf("list releases in %s: %w", s.path, err)
		case published:
			names = append(names, name)
		}
	}
	return names, nil
}

// Fetch implements source.Source.
func (s *Source) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return "", fmt.Errorf("fetch release %s: %w", name, err)
	}
	defer func() { _ = root.Close() }() // only read from
	published, err := isPublished(root, name)
	if err != nil {
		return "", fmt.Errorf("fetch release %s from %s: %w", name, s.path, err)
	}
	if !published {
		return "", fmt.Errorf("release %s in %s: %w", name, s.path, source.ErrNotFound)
	}
	digest, err := fetch(ctx, root, name.String(), dst)
	if err != nil {
		return "", fmt.Errorf("fetch release %s from %s: %w", name, s.path, err)
	}
	return digest, nil
}

// isPublished reports whether the release is there.
func isPublished(root *os.Root, name release.Name) (bool, error) {
	info, err := root.Stat(name.String() + "/" + release.MetadataFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular(), err
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
		size, err := copyFile(src, entry.Name(), dst)
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

func copyFile(src fs.FS, name string, dst *os.Root) (size int64, err error) {
	in, err := src.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }() // only read from
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	size, err = io.Copy(out, io.LimitReader(in, source.MaxFileSize+1))
	if err = errors.Join(err, out.Close()); err != nil {
		return 0, fmt.Errorf("copy %s: %w", name, err)
	}
	if size > source.MaxFileSize {
		return 0, fmt.Errorf("%s is larger than %d MiB", name, source.MaxFileSize>>20)
	}
	return size, nil
}
