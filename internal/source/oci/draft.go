// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"
)

// Draft is a bundle that is being written, in a folder beside the file, <file>.partial. It begins with what the file has, and
// until Write has replaced the file nobody sees any of it: after a kill at any moment there is the old file or the new one.
//
// The folder is locked as long as the draft is open, so that two of them do not mix. What an earlier draft has left in it
// is trusted in one respect only: what has the digest that is asked for need not be copied again.
type Draft struct {
	*Source

	file, folder string
	lock         *os.File
	store        *oci.Store
	// packed are the names of those blobs in the folder that the file has, too.
	packed []string
}

// ErrDrafted is wrapped by the error of OpenDraft when somebody else is writing the bundle.
var ErrDrafted = errors.New("another process is writing this bundle: wait until it has ended")

// What is in the folder of a draft beside the layout.
const (
	// keptFolder has blobs of earlier drafts, called like their digests.
	keptFolder = "kept"
	// draftFile is the bundle before it takes the place of the file: in the folder, so that nothing is left elsewhere.
	draftFile = "bundle.tar"
)

// OpenDraft begins a bundle with what the file has, as far as there is one.
func OpenDraft(ctx context.Context, file string) (*Draft, error) {
	// The file itself is replaced, and not a link to it; and whoever comes by another name finds the same folder.
	if to, err := filepath.EvalSymlinks(file); err == nil {
		file = to
	}
	d := &Draft{file: file, folder: file + ".partial"}
	if err := d.lockFolder(); err != nil {
		return nil, err
	}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.Leave())
	}
	return d, nil
}

// lockFolder makes the folder and locks it. A process that ends gives up its lock.
func (d *Draft) lockFolder() error {
	for {
		if err := os.MkdirAll(d.folder, 0o755); err != nil {
			return err
		}
		f, err := os.Open(d.folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has finished its draft meanwhile
		}
		if err != nil {
			return err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return errors.Join(fmt.Errorf("%s: %w", d.file, ErrDrafted), f.Close())
		}
		if err != nil {
			return errors.Join(&fs.PathError{Op: "lock", Path: d.folder, Err: err}, f.Close())
		}
		locked, lockedErr := f.Stat()
		there, err := os.Stat(d.folder)
		if err == nil && lockedErr == nil && os.SameFile(locked, there) {
			d.lock = f
			return nil
		}
		// The folder that is locked is not there any more.
		if err = errors.Join(lockedErr, f.Close()); err != nil {
			return err
		}
	}
}

// open clears the folder up and fills it with what the file has.
func (d *Draft) open(ctx context.Context) error {
	kept := filepath.Join(d.folder, keptFolder)
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(globbed(d.folder), ocispec.ImageBlobsDir, "*", "*"))
	if err != nil {
		return err
	}
	for _, blob := range left {
		if err := os.Rename(blob, filepath.Join(kept, filepath.Base(filepath.Dir(blob))+"-"+filepath.Base(blob))); err != nil {
			return err
		}
	}
	for _, name := range []string{ocispec.ImageIndexFile, ocispec.ImageLayoutFile, ocispec.ImageBlobsDir, "ingest", draftFile} {
		if err := os.RemoveAll(filepath.Join(d.folder, name)); err != nil {
			return err
		}
	}
	if err := d.unpack(); err != nil {
		return err
	}
	if d.store, err = oci.NewWithContext(ctx, d.folder); err != nil {
		return fmt.Errorf("%s is not a bundle, an OCI image layout in a tar archive: %w", d.file, err)
	}
	d.store.AutoSaveIndex = false
	d.Source = fromLayout(drafted{d.store, d.folder}, d.file)
	d.packed, err = reachable(os.DirFS(d.folder))
	return err
}

// globbed returns a path as a pattern that means just this path.
func globbed(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// unpack fills the folder with what the file has.
func (d *Draft) unpack() error {
	in, err := os.Open(d.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read from
	root, err := os.OpenRoot(d.folder)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // each file is closed by itself
	for archive := tar.NewReader(in); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s is not a bundle: %w", d.file, err)
		}
		// Nothing else is in a layout.
		name := path.Clean(header.Name)
		if header.Typeflag != tar.TypeReg || name != ocispec.ImageIndexFile && name != ocispec.ImageLayoutFile && !strings.HasPrefix(name, ocispec.ImageBlobsDir+"/") {
			continue
		}
		if err := unpackFile(root, name, archive); err != nil {
			return fmt.Errorf("%s: %w", d.file, err)
		}
	}
}

// unpackFile writes a file of a bundle. What is called after its digest has to have it.
func unpackFile(root *os.Root, name string, contents io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	sum := digest.SHA256.Digester()
	_, err = io.Copy(io.MultiWriter(out, sum.Hash()), contents)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if hex, is := strings.CutPrefix(name, ocispec.ImageBlobsDir+"/sha256/"); is && sum.Digest().Encoded() != hex {
		return fmt.Errorf("it is damaged: %s has the digest %s; write a new bundle", name, sum.Digest())
	}
	return nil
}

// drafted is the layout of a draft. It takes blobs of earlier drafts when they are asked for.
type drafted struct {
	*oci.Store
	folder string
}

// Exists tells whether the content is there. It looks at what an earlier draft has left, too. What that has of manifests is
// not asked for in this way, and pushed anew: only so it is known what they refer to.
func (l drafted) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	there, err := l.Store.Exists(ctx, desc)
	if err != nil || there || desc.Digest.Validate() != nil {
		return there, err
	}
	kept := filepath.Join(l.folder, keptFolder, desc.Digest.Algorithm().String()+"-"+desc.Digest.Encoded())
	in, err := os.Open(kept)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// Its digest is checked: a machine that loses power leaves files that are not whole.
	err = errors.Join(l.Push(ctx, desc, in), in.Close())
	_ = os.Remove(kept) // what stays is in nobody's way
	return err == nil, nil
}

// Write writes the bundle, which takes the place of the file when it is whole and on disk. The draft cannot be used any more.
func (d *Draft) Write() error {
	if err := d.store.SaveIndex(); err != nil {
		return err
	}
	tmp, err := os.OpenFile(filepath.Join(d.folder, draftFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	packed, err := writeTar(tmp, os.DirFS(d.folder))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), d.file); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(d.file))
	if err != nil {
		return err
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return err
	}
	d.packed = packed
	return nil
}

// Discard removes the folder, with all in it that is not in the bundle.
func (d *Draft) Discard() error {
	return errors.Join(os.RemoveAll(d.folder), d.lock.Close())
}

// Leave gives up the draft. What was copied and is in no bundle stays for the next one.
func (d *Draft) Leave() error {
	left := false
	var errs []error
	for _, name := range d.packed {
		errs = append(errs, os.Remove(filepath.Join(d.folder, filepath.FromSlash(name))))
	}
	errs = append(errs, filepath.WalkDir(d.folder, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && entry.Name() != ocispec.ImageIndexFile && entry.Name() != ocispec.ImageLayoutFile {
			left = true
			return fs.SkipAll
		}
		return err
	}))
	if !left {
		errs = append(errs, os.RemoveAll(d.folder))
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

// writeTar packs a layout, with nothing in it to which its index does not lead, and returns the names of the blobs. It says
// nothing about who packed it, and when.
func writeTar(w io.Writer, layout fs.FS) (blobs []string, err error) {
	blobs, err = reachable(layout)
	if err != nil {
		return nil, err
	}
	archive := tar.NewWriter(w)
	for _, name := range append([]string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile}, blobs...) {
		if err := packFile(archive, layout, name); err != nil {
			return nil, err
		}
	}
	return blobs, archive.Close()
}

func packFile(archive *tar.Writer, layout fs.FS, name string) error {
	info, err := fs.Stat(layout, name)
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
}

// reachable returns the names of the blobs to which the index of a layout leads, as far as they are there: a bundle that others
// have made may lack some. Their order is that of the index.
func reachable(layout fs.FS) ([]string, error) {
	data, err := fs.ReadFile(layout, ocispec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[digest.Digest]bool{}
	// One form for the index and for manifests: of what refers to others, each has what it needs.
	var follow func(data []byte) error
	follow = func(data []byte) error {
		var node struct {
			Manifests []ocispec.Descriptor `json:"manifests"`
			Config    *ocispec.Descriptor  `json:"config"`
			Layers    []ocispec.Descriptor `json:"layers"`
			Subject   *ocispec.Descriptor  `json:"subject"`
		}
		if err := json.Unmarshal(data, &node); err != nil {
			return err
		}
		below := slices.Concat(node.Manifests, node.Layers)
		for _, one := range []*ocispec.Descriptor{node.Config, node.Subject} {
			if one != nil {
				below = append(below, *one)
			}
		}
		for _, desc := range below {
			if seen[desc.Digest] || desc.Digest.Validate() != nil {
				continue
			}
			seen[desc.Digest] = true
			name := path.Join(ocispec.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded())
			if _, err := fs.Stat(layout, name); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			names = append(names, name)
			if !isNode(desc.MediaType) || desc.Size > maxManifest {
				continue
			}
			data, err := fs.ReadFile(layout, name)
			if err == nil {
				err = follow(data)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}
	err = follow(data)
	return names, err
}

// isNode tells whether contents of a type refer to others.
func isNode(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		return true
	}
	return false
}
