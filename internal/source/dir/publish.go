// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Put implements source.Publisher: the files go to a folder beside the final one, which is renamed when it is whole.
// A folder that is there without a release is not touched. Signatures that a release lacks are added to its folder.
func (s *Source) Put(ctx context.Context, name release.Name, files fs.FS, about source.Publication) (source.Published, error) {
	done, err := s.put(ctx, name, files, about)
	if err != nil {
		return source.Published{}, fmt.Errorf("publish release %s in %s: %w", name, s.path, err)
	}
	return done, nil
}

func (s *Source) put(ctx context.Context, name release.Name, files fs.FS, about source.Publication) (source.Published, error) {
	contents, err := source.ReadFiles(files)
	if err != nil {
		return source.Published{}, err
	}
	digest, err := source.DigestOf(source.SumsOf(contents))
	if err != nil {
		return source.Published{}, err
	}
	if existed, err := s.compare(name, digest); err != nil || existed {
		return s.existing(name, digest, contents, err)
	}
	if err := os.MkdirAll(s.path, 0o755); err != nil {
		return source.Published{}, err
	}
	// Not the name of a release, so nobody reads it.
	prepared, err := os.MkdirTemp(s.path, "."+name.String()+"-*")
	if err != nil {
		return source.Published{}, err
	}
	defer func() { _ = os.RemoveAll(prepared) }() // gone already if all went well
	for _, f := range contents {
		if err := ctx.Err(); err != nil {
			return source.Published{}, err
		}
		if err := writeSynced(filepath.Join(prepared, f.Name), f.Data); err != nil {
			return source.Published{}, err
		}
		if about.Uploaded != nil {
			about.Uploaded(f.Name, int64(len(f.Data)), false)
		}
	}
	if err := os.Chmod(prepared, 0o755); err != nil {
		return source.Published{}, err
	}
	if err := os.Rename(prepared, filepath.Join(s.path, name.String())); err != nil {
		// Somebody else may have been faster.
		if existed, compareErr := s.compare(name, digest); compareErr != nil || existed {
			return s.existing(name, digest, contents, compareErr)
		}
		return source.Published{}, err
	}
	return source.Published{Digest: digest}, nil
}

// existing says what came of publishing a release that is there, unless there is a reason against it, and adds the
// signatures that it lacks.
func (s *Source) existing(name release.Name, digest string, contents []source.File, reason error) (source.Published, error) {
	if reason != nil {
		return source.Published{}, reason
	}
	folder := filepath.Join(s.path, name.String())
	root, err := os.OpenRoot(folder)
	if err != nil {
		return source.Published{}, err
	}
	defer func() { _ = root.Close() }() // only read from
	there, err := source.ReadFiles(root.FS())
	if err != nil {
		return source.Published{}, err
	}
	there = slices.DeleteFunc(there, func(f source.File) bool { return !verify.Signs(f.Name) })
	lacking, err := source.Lacking(there, contents)
	if err != nil {
		return source.Published{}, err
	}
	for _, f := range lacking {
		if err := WriteFile(filepath.Join(folder, f.Name), f.Data); err != nil {
			return source.Published{}, err
		}
	}
	return source.Published{Digest: digest, Existed: true, Signed: len(lacking) > 0}, nil
}

// WriteFile writes a file of a release that is there already. The file is there whole and on disk, or as it was before.
func WriteFile(path string, data []byte) error {
	folder := filepath.Dir(path)
	// Beside the release, so that nobody takes it for a part of it.
	tmp, err := os.CreateTemp(filepath.Dir(folder), "."+filepath.Base(folder)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already if all went well
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// compare tells whether there is a release with this digest. One with another digest is an error.
func (s *Source) compare(name release.Name, digest string) (same bool, err error) {
	there, err := s.resolve(name)
	switch {
	case err == nil && there == digest:
		return true, nil
	case err == nil:
		return false, source.ErrPublished
	case errors.Is(err, source.ErrNotFound):
		entries, err := os.ReadDir(filepath.Join(s.path, name.String()))
		if err == nil && len(entries) > 0 {
			return false, fmt.Errorf("the folder is there without %s: somebody is copying a release there, or has given up; remove it if nobody is", release.MetadataFile)
		}
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, err
}

// writeSynced writes a file that is on disk when it returns.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
