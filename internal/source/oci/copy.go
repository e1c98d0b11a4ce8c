// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Copied is what came of copying a release.
type Copied struct {
	source.Published
	// Referrers is how many artifacts refer to the release, such as signatures, and Added how many of them were not there.
	Referrers, Added int
}

// Copy copies a release to another repository as it is, so that it keeps its digest, with all that refers to it, such as
// signatures, and gives it its tag last. What is there already is not sent again. A release of that name that is another
// one is left as it is, and the error wraps source.ErrPublished.
func (s *Source) Copy(ctx context.Context, name release.Name, to *Source, uploaded func(file string, size int64, there bool)) (Copied, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	done, err := s.copy(ctx, name, to, uploaded)
	if err != nil {
		return Copied{}, s.failed(ctx, fmt.Sprintf("copy release %s to %s", name, to), err)
	}
	return done, nil
}

func (s *Source) copy(ctx context.Context, name release.Name, to *Source, uploaded func(string, int64, bool)) (Copied, error) {
	desc, data, err := s.raw(ctx, name.String())
	if err != nil {
		return Copied{}, err
	}
	manifest, err := parseManifest(desc.MediaType, data)
	if err != nil {
		return Copied{}, &source.MalformedError{Name: name, Reason: err}
	}
	if _, err := files(manifest); err != nil {
		return Copied{}, &source.MalformedError{Name: name, Reason: err}
	}
	done := Copied{Published: source.Published{Digest: desc.Digest.String()}}
	switch there, err := to.repository.Resolve(ctx, name.String()); {
	case err == nil && there.Digest != desc.Digest:
		return Copied{}, source.ErrPublished
	case err == nil:
		done.Existed = true
	case !errors.Is(err, errdef.ErrNotFound):
		return Copied{}, to.failed(ctx, "look for release "+name.String(), err)
	}
	if !done.Existed {
		if err := s.copyBlobs(ctx, manifest, to, uploaded); err != nil {
			return Copied{}, err
		}
		if err := to.repository.Push(ctx, desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return Copied{}, err
		}
	}
	// Before the tag: who demands signatures does not find a release without.
	if done.Referrers, done.Added, err = s.copyReferrers(ctx, desc, to); err != nil {
		return Copied{}, err
	}
	if done.Existed {
		return done, nil
	}
	return done, to.repository.PushReference(ctx, desc, bytes.NewReader(data), name.String())
}

// raw returns a manifest as it is.
func (s *Source) raw(ctx context.Context, reference string) (ocispec.Descriptor, []byte, error) {
	desc, body, err := s.repository.FetchReference(ctx, reference)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err = errors.Join(err, body.Close()); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if len(data) > maxManifest {
		return ocispec.Descriptor{}, nil, fmt.Errorf("the manifest is larger than %d MiB", maxManifest>>20)
	}
	if sum := digest.FromBytes(data); desc.Digest != sum {
		return ocispec.Descriptor{}, nil, fmt.Errorf("the registry promised the manifest %s and sent %s", desc.Digest, sum)
	}
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: int64(len(data))}, data, nil
}

func (s *Source) copyBlobs(ctx context.Context, manifest *ocispec.Manifest, to *Source, uploaded func(string, int64, bool)) error {
	for _, desc := range append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...) {
		there, err := s.copyBlob(ctx, desc, to)
		if err != nil {
			return err
		}
		if title := desc.Annotations[ocispec.AnnotationTitle]; title != "" && uploaded != nil {
			uploaded(title, desc.Size, there)
		}
	}
	return nil
}

// copyBlob copies what the other repository does not have. Its size and digest are checked on the bytes that come.
func (s *Source) copyBlob(ctx context.Context, desc ocispec.Descriptor, to *Source) (there bool, err error) {
	if desc.Size < 0 || desc.Size > source.MaxFileSize {
		return false, fmt.Errorf("the layer %s is larger than %d MiB", desc.Digest, source.MaxFileSize>>20)
	}
	if there, err = to.repository.Blobs().Exists(ctx, desc); err != nil || there {
		return there, err
	}
	data := desc.Data
	if len(data) == 0 || int64(len(data)) != desc.Size || digest.FromBytes(data) != desc.Digest {
		body, err := s.repository.Blobs().Fetch(ctx, desc)
		if err != nil {
			return false, err
		}
		data, err = content.ReadAll(body, desc)
		if err = errors.Join(err, body.Close()); err != nil {
			return false, fmt.Errorf("the layer %s: %w", desc.Digest, err)
		}
	}
	if err := to.repository.Blobs().Push(ctx, desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return false, err
	}
	return false, nil
}

// maxReferrers bounds what is copied along with one release.
const maxReferrers = 1000

// copyReferrers copies what refers to a manifest, and signatures of the older form, which have a tag.
func (s *Source) copyReferrers(ctx context.Context, subject ocispec.Descriptor, to *Source) (found, added int, err error) {
	list := func(of *Source) (all []ocispec.Descriptor, err error) {
		err = of.repository.Referrers(ctx, subject, "", func(page []ocispec.Descriptor) error {
			if all = append(all, page...); len(all) > maxReferrers {
				return fmt.Errorf("more than %d artifacts refer to it", maxReferrers)
			}
			return nil
		})
		if errors.Is(err, errdef.ErrNotFound) {
			err = nil
		}
		return all, err
	}
	ours, err := list(s)
	if err != nil {
		return 0, 0, err
	}
	theirs, err := list(to)
	if err != nil {
		return 0, 0, err
	}
	there := map[digest.Digest]bool{}
	for _, desc := range theirs {
		there[desc.Digest] = true
	}
	for _, desc := range ours {
		if desc.MediaType != ocispec.MediaTypeImageManifest {
			continue // nobody makes others
		}
		found++
		if there[desc.Digest] {
			continue
		}
		if err := s.copyManifest(ctx, desc.Digest.String(), to, ""); err != nil {
			return 0, 0, err
		}
		added++
	}
	tag := subject.Digest.Algorithm().String() + "-" + subject.Digest.Encoded() + ".sig"
	switch mine, err := s.repository.Resolve(ctx, tag); {
	case errors.Is(err, errdef.ErrNotFound):
		return found, added, nil
	case err != nil:
		return 0, 0, err
	default:
		yours, err := to.repository.Resolve(ctx, tag)
		if err != nil && !errors.Is(err, errdef.ErrNotFound) {
			return 0, 0, err
		}
		if err == nil && yours.Digest == mine.Digest {
			return found + 1, added, nil
		}
		return found + 1, added + 1, s.copyManifest(ctx, tag, to, tag)
	}
}

func (s *Source) copyManifest(ctx context.Context, reference string, to *Source, tag string) error {
	desc, data, err := s.raw(ctx, reference)
	if err != nil {
		return err
	}
	manifest, err := parseManifest(desc.MediaType, data)
	if err != nil {
		return err
	}
	if err := s.copyBlobs(ctx, manifest, to, nil); err != nil {
		return err
	}
	if tag != "" {
		return to.repository.PushReference(ctx, desc, bytes.NewReader(data), tag)
	}
	desc.ArtifactType, desc.Annotations = cmp.Or(manifest.ArtifactType, manifest.Config.MediaType), manifest.Annotations
	if err := to.repository.Push(ctx, desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	return nil
}

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
