// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// CopyOptions are settings whose zero value works.
type CopyOptions struct {
	// Digest is what the release has to have, whatever its tag stands for by now; empty is what its tag stands for.
	Digest string
	// Uploaded, if set, is called after each file, and says whether it was there already.
	Uploaded func(file string, size int64, there bool)
}

// Copied is what came of copying a release.
type Copied struct {
	source.Published
	// Referrers is how many artifacts refer to the release, such as signatures, and Added how many of them were not there,
	// or not whole.
	Referrers, Added int
	// Left says why each of them that is not there now could not be copied, and what it is called.
	Left []error
}

// Copy copies a release to another repository as it is, so that it keeps its digest, with all that refers to it, such as
// signatures, and gives it its tag last. What is there already is not sent again. A release of that name that is another
// one is left as it is, and the error wraps source.ErrPublished. What refers to a release takes nothing from it: anybody
// may have put it there, so one that cannot be copied is told of, and the rest is copied.
func (s *Source) Copy(ctx context.Context, name release.Name, to *Source, o CopyOptions) (Copied, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	done, err := s.copy(ctx, name, to, o)
	if err != nil {
		return Copied{}, s.failed(ctx, fmt.Sprintf("copy release %s to %s", name, to), err)
	}
	return done, nil
}

func (s *Source) copy(ctx context.Context, name release.Name, to *Source, o CopyOptions) (Copied, error) {
	// What is asked for by its digest is that, and what is asked for by its tag is read once: whoever moves the tag meanwhile
	// changes nothing.
	desc, data, err := s.raw(ctx, cmp.Or(o.Digest, name.String()))
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
		if err := s.copyBlobs(ctx, manifest, to, o.Uploaded); err != nil {
			return Copied{}, err
		}
		if err := to.repository.Push(ctx, desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return Copied{}, err
		}
	}
	// Before the tag: who demands signatures does not find a release without.
	if err := s.copyReferrers(ctx, desc, to, &done); err != nil {
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
	} else if strings.Contains(reference, ":") && reference != sum.String() { // no tag has a colon
		return ocispec.Descriptor{}, nil, fmt.Errorf("the registry was asked for the manifest %s and sent %s", reference, sum)
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
func (s *Source) copyReferrers(ctx context.Context, subject ocispec.Descriptor, to *Source, done *Copied) error {
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
		return err
	}
	theirs, err := list(to)
	if err != nil {
		return to.failed(ctx, "look for signatures", err)
	}
	there := map[digest.Digest]bool{}
	for _, desc := range theirs {
		there[desc.Digest] = true
	}
	for _, desc := range ours {
		if desc.MediaType != ocispec.MediaTypeImageManifest {
			continue // nobody makes others
		}
		done.Referrers++
		if there[desc.Digest] {
			continue
		}
		if err := s.copyManifest(ctx, desc.Digest.String(), to); err != nil {
			s.left(ctx, done, desc.Digest.String(), err)
			continue
		}
		done.Added++
	}
	tag := signatureTag(subject.Digest)
	found, added, err := s.mergeSignatures(ctx, tag, to, done)
	if err != nil {
		s.left(ctx, done, tag, err)
	}
	if found {
		done.Referrers++
	}
	if added {
		done.Added++
	}
	return ctx.Err()
}

// left notes what could not be copied.
func (s *Source) left(ctx context.Context, done *Copied, what string, err error) {
	what = fmt.Sprintf("copy %s, which refers to %s,", what, done.Digest)
	if errors.Is(err, errdef.ErrNotFound) {
		err = fmt.Errorf("%s from %s: the registry has lost it, or a part of it", what, s)
	} else {
		err = s.failed(ctx, what, err)
	}
	done.Left = append(done.Left, err)
}

// signatureTag is the tag of the artifact that has the signatures of the older form for a manifest.
func signatureTag(subject digest.Digest) string {
	return subject.Algorithm().String() + "-" + subject.Encoded() + ".sig"
}

// mergeSignatures copies signatures of the older form. They are layers of one artifact with a tag, to which each signer adds
// his own, so those that only the target has stay where they are, and the others come behind them.
func (s *Source) mergeSignatures(ctx context.Context, tag string, to *Source, done *Copied) (found, added bool, err error) {
	ours, err := s.signatureList(ctx, tag)
	if err != nil || ours == nil {
		return err != nil, false, err
	}
	theirs, err := to.signatureList(ctx, tag)
	if err != nil {
		return true, false, to.failed(ctx, "look for signatures under the tag "+tag, err)
	}
	base, merged := ours, []listedSignature(nil)
	if theirs != nil {
		base, merged = theirs, slices.Clone(theirs.signatures)
	}
	before := len(merged)
	for _, one := range ours.signatures {
		if slices.ContainsFunc(merged, one.same) {
			continue
		}
		if _, err := s.copyBlob(ctx, one.layer, to); err != nil {
			s.left(ctx, done, "the layer "+one.layer.Digest.String()+" of "+tag, err)
			continue
		}
		merged = append(merged, one)
	}
	if len(merged) == before {
		return true, false, nil
	}
	if slices.EqualFunc(merged, ours.signatures, listedSignature.same) {
		// It is the same artifact where it can be.
		if _, err := s.copyBlob(ctx, ours.manifest.Config, to); err != nil {
			return true, false, err
		}
		if err := to.repository.PushReference(ctx, ours.desc, bytes.NewReader(ours.data), tag); err != nil {
			return true, false, err
		}
		return true, true, nil
	}
	manifest := *base.manifest
	manifest.Layers = nil
	for _, one := range merged {
		manifest.Layers = append(manifest.Layers, one.layer)
	}
	if manifest.Config, err = s.putConfig(ctx, base, merged, to); err != nil {
		return true, false, err
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return true, false, err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := to.repository.PushReference(ctx, desc, bytes.NewReader(data), tag); err != nil {
		return true, false, err
	}
	return true, true, nil
}

// signatureList is an artifact with signatures of the older form. cosign writes it as an image, whose configuration lists the
// layers once more.
type signatureList struct {
	desc       ocispec.Descriptor
	data       []byte
	manifest   *ocispec.Manifest
	image      *ocispec.Image // nil if it is another configuration
	signatures []listedSignature
}

// listedSignature is one of them, with what the configuration says of it.
type listedSignature struct {
	layer   ocispec.Descriptor
	diffID  digest.Digest
	history ocispec.History
}

// same tells whether two are the same signature: it stands in the annotations, over what the layer has in it.
func (l listedSignature) same(other listedSignature) bool {
	return l.layer.Digest == other.layer.Digest && maps.Equal(l.layer.Annotations, other.layer.Annotations)
}

// signatureList returns what is under a tag, nil if that is nothing.
func (s *Source) signatureList(ctx context.Context, tag string) (*signatureList, error) {
	desc, data, err := s.raw(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, nil //nolint:nilnil // that is said above
	}
	if err != nil {
		return nil, err
	}
	manifest, err := parseManifest(desc.MediaType, data)
	if err != nil {
		return nil, err
	}
	list := &signatureList{desc: desc, data: data, manifest: manifest}
	image := &ocispec.Image{}
	if text, err := s.small(ctx, manifest.Config); err == nil && json.Unmarshal(text, image) == nil && len(image.RootFS.DiffIDs) == len(manifest.Layers) {
		list.image = image
	}
	for i, layer := range manifest.Layers {
		one := listedSignature{layer: layer, diffID: layer.Digest}
		if list.image != nil {
			one.diffID = image.RootFS.DiffIDs[i]
		}
		if list.image != nil && len(image.History) == len(manifest.Layers) {
			one.history = image.History[i]
		}
		list.signatures = append(list.signatures, one)
	}
	return list, nil
}

// putConfig puts the configuration of a list of either repository, with other signatures in it, into the target.
func (s *Source) putConfig(ctx context.Context, l *signatureList, signatures []listedSignature, to *Source) (ocispec.Descriptor, error) {
	desc := l.manifest.Config
	if l.image == nil {
		_, err := s.copyBlob(ctx, desc, to)
		return desc, err
	}
	image := *l.image
	image.RootFS.DiffIDs, image.History = nil, nil
	for _, one := range signatures {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, one.diffID)
		image.History = append(image.History, one.history)
	}
	data, err := json.Marshal(image)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc.Digest, desc.Size, desc.Data = digest.FromBytes(data), int64(len(data)), nil
	_, err = to.push(ctx, desc, data)
	return desc, err
}

func (s *Source) copyManifest(ctx context.Context, reference string, to *Source) error {
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
	desc.ArtifactType, desc.Annotations = cmp.Or(manifest.ArtifactType, manifest.Config.MediaType), manifest.Annotations
	if err := to.repository.Push(ctx, desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	return nil
}
