// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// Bundle returns the source of the releases in a file: an OCI image layout in a tar archive, with a tag for
// each release. Nothing can be published there.
func Bundle(ctx context.Context, file string) (*Source, error) {
	layout, err := oci.NewFromTar(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("%s is not a bundle, an OCI image layout in a tar archive: %w", file, err)
	}
	return fromLayout(readOnly{layout}, file), nil
}

// layout is a repository on disk.
type layout interface {
	content.ReadOnlyGraphStorage
	content.Pusher
	content.TagResolver
	registry.TagLister
}

func fromLayout(l layout, location string) *Source {
	s := &Source{repository: inLayout{l}, location: location}
	s.setDefaults()
	return s
}

// readOnly is a layout that cannot be written to.
type readOnly struct{ *oci.ReadOnlyStore }

var errReadOnly = errors.New("a bundle is written as a whole: use csctl mirror")

func (readOnly) Push(context.Context, ocispec.Descriptor, io.Reader) error { return errReadOnly }
func (readOnly) Tag(context.Context, ocispec.Descriptor, string) error     { return errReadOnly }
func (l readOnly) Tags(ctx context.Context, last string, fn func([]string) error) error {
	return l.ReadOnlyStore.Tags(ctx, last, fn)
}

// inLayout is a repository in an OCI image layout.
type inLayout struct{ layout }

func (l inLayout) Blobs() blobs { return l.layout }

func (l inLayout) FetchReference(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error) {
	desc, err := l.Resolve(ctx, reference)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	body, err := l.Fetch(ctx, desc)
	return desc, body, err
}

func (l inLayout) PushReference(ctx context.Context, desc ocispec.Descriptor, manifest io.Reader, tag string) error {
	if err := l.Push(ctx, desc, manifest); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	return l.Tag(ctx, desc, tag)
}

func (l inLayout) Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string, fn func([]ocispec.Descriptor) error) error {
	// Who asks knows the digest only, and what is compared with is the whole.
	full, err := l.Resolve(ctx, desc.Digest.String())
	if err != nil {
		return err
	}
	found, err := registry.Referrers(ctx, l.layout, full, artifactType)
	if err != nil {
		return err
	}
	return fn(found)
}

func (l inLayout) Below(path string) (repository, error) {
	return belowLayout{inLayout: l, prefix: path + ":"}, nil
}

// belowLayout is a part of a layout, which has one list of tags for all: in each tag stands where it belongs.
type belowLayout struct {
	inLayout
	prefix string
}

func (l belowLayout) reference(text string) string {
	if digest.Digest(text).Validate() == nil {
		return text
	}
	return l.prefix + text
}

func (l belowLayout) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	return l.inLayout.Resolve(ctx, l.reference(reference))
}

func (l belowLayout) FetchReference(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error) {
	return l.inLayout.FetchReference(ctx, l.reference(reference))
}

func (l belowLayout) PushReference(ctx context.Context, desc ocispec.Descriptor, manifest io.Reader, tag string) error {
	return l.inLayout.PushReference(ctx, desc, manifest, l.reference(tag))
}

func (l belowLayout) Tags(ctx context.Context, _ string, fn func([]string) error) error {
	return l.inLayout.Tags(ctx, "", func(all []string) error {
		var mine []string
		for _, tag := range all {
			if rest, is := strings.CutPrefix(tag, l.prefix); is {
				mine = append(mine, rest)
			}
		}
		return fn(mine)
	})
}
