// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"oras.land/oras-go/v2/content/oci"
)

// Draft is a bundle that is being written: a folder beside the file, which takes up where it was left. It has what the
// file has, as far as there is one.
type Draft struct {
	*Source
	// Resumed says that an earlier call has left it unfinished.
	Resumed bool

	file, folder string
}

// OpenDraft begins a bundle, or goes on with one.
func OpenDraft(ctx context.Context, file string) (*Draft, error) {
	d := &Draft{file: file, folder: file + ".partial"}
	_, err := os.Stat(d.folder)
	if d.Resumed = err == nil; errors.Is(err, fs.ErrNotExist) {
		if err := d.unpack(); err != nil {
			return nil, err
		}
	}
	store, err := oci.NewWithContext(ctx, d.folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove it to begin anew", d.folder, err)
	}
	d.Source = fromLayout(store, file)
	return d, nil
}

// unpack makes a folder of the file that is there.
func (d *Draft) unpack() error {
	in, err := os.Open(d.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read from
	if err := os.MkdirAll(filepath.Dir(d.file), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(d.file), ".csctl-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // gone already if all went well
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // written by then
	for archive := tar.NewReader(in); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s is not a bundle: %w", d.file, err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		name := path.Clean(header.Name)
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		out, err := root.Create(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, archive)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
	return os.Rename(tmp, d.folder)
}

// Close writes the bundle, which appears when it is whole, and removes the folder.
func (d *Draft) Close() error {
	tmp, err := os.CreateTemp(filepath.Dir(d.file), ".csctl-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already if all went well
	err = writeTar(tmp, os.DirFS(d.folder))
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), d.file); err != nil {
		return err
	}
	return os.RemoveAll(d.folder)
}

// Discard removes the folder of a bundle in which nothing has changed.
func (d *Draft) Discard() error { return os.RemoveAll(d.folder) }

// writeTar packs a layout. It says nothing about who packed it, and when.
func writeTar(w io.Writer, layout fs.FS) error {
	archive := tar.NewWriter(w)
	err := fs.WalkDir(layout, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasPrefix(name, "ingest/") {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Size: info.Size(), Mode: 0o644}); err != nil {
			return err
		}
		in, err := layout.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(archive, in)
		return errors.Join(err, in.Close())
	})
	return errors.Join(err, archive.Close())
}
