// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package source says what a place is in which releases live.
//
// Its sub-packages are the implementations; package sourcetest has the behaviour that they share.
// Whether a fetched release is any good, and where it is kept, is for others.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// ErrNotFound is wrapped by the error of Fetch when the source answers that it has no such release.
var ErrNotFound = errors.New("not published")

// Source is a place in which releases live.
type Source interface {
	// List returns the releases of the source in no particular order. What is not called like a
	// release is left out without a word, because sources are shared with other things. An incomplete
	// list is an error.
	List(ctx context.Context) ([]release.Name, error)

	// Fetch writes the files of a release into dst, an empty folder, and returns their digest in the
	// form "sha256:<64 hexadecimal digits>". Equal digests mean equal files. After an error the
	// contents of dst are undefined.
	Fetch(ctx context.Context, name release.Name, dst *os.Root) (digest string, err error)
}

// Limits on what is fetched, for all sources.
const (
	MaxFiles     = 64
	MaxFileSize  = 64 << 20
	MaxTotalSize = 256 << 20
)

// Digest returns a digest over the names and contents of the regular files in a folder, for sources
// that have no digest of their own. Folders inside are not part of a release and left out.
func Digest(fsys fs.FS) (string, error) {
	entries, err := fs.ReadDir(fsys, ".") // sorted by name
	if err != nil {
		return "", err
	}
	all := sha256.New()
	for _, entry := range entries {
		info, err := fs.Stat(fsys, entry.Name())
		if err != nil {
			return "", err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if strings.ContainsRune(entry.Name(), '\n') {
			return "", fmt.Errorf("file name %q contains a line break", entry.Name())
		}
		sum, err := fileSum(fsys, entry.Name())
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(all, "%s  %s\n", sum, entry.Name()) // a hash takes everything
	}
	return "sha256:" + hex.EncodeToString(all.Sum(nil)), nil
}

func fileSum(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read from
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
