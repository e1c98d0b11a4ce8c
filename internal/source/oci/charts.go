// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Types of charts in registries, as "helm push" writes them.
const (
	chartConfig = "application/vnd.cncf.helm.config.v1+json"
	chartLayer  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// Charts are the versions of one chart in a repository, as "helm push" puts them there: each under a tag that is its version.
type Charts struct{ in *Source }

// Charts returns those at a path below the repository of the releases. In a bundle their tags are <path>:<version>. No request
// is made.
func (s *Source) Charts(path string) (Charts, error) {
	below, err := s.repository.Below(path)
	if err != nil {
		return Charts{}, err
	}
	return Charts{&Source{repository: below, location: s.location + "/" + path, hosts: s.hosts, timeout: s.timeout}}, nil
}

// chartTag returns the tag of a version. Tags have no plus signs.
func chartTag(version string) string { return strings.ReplaceAll(version, "+", "_") }

// Versions returns the versions that are there, none if there is no such chart.
func (c Charts) Versions(ctx context.Context) ([]string, error) {
	ctx, cancel := c.in.bounded(ctx)
	defer cancel()
	var versions []string
	err := c.in.repository.Tags(ctx, "", func(tags []string) error {
		if len(versions)+len(tags) > maxTags {
			return fmt.Errorf("more than %d tags", maxTags)
		}
		for _, tag := range tags {
			versions = append(versions, strings.ReplaceAll(tag, "_", "+"))
		}
		return nil
	})
	if err != nil {
		if err = c.in.failed(ctx, "list versions", err); errors.Is(err, source.ErrNotFound) || errors.Is(err, ErrNoRepository) {
			return nil, nil
		}
		return nil, err
	}
	return versions, nil
}

// Get returns the package of a version, and its digest. The error wraps source.ErrNotFound when it is not there.
func (c Charts) Get(ctx context.Context, version string) (packed []byte, sum string, err error) {
	ctx, cancel := c.in.bounded(ctx)
	defer cancel()
	layer, err := c.layer(ctx, version)
	if err == nil {
		packed, err = c.fetch(ctx, layer)
	}
	if err != nil {
		return nil, "", c.in.failed(ctx, "chart "+version, err)
	}
	return packed, layer.Digest.String(), nil
}

func (c Charts) fetch(ctx context.Context, layer ocispec.Descriptor) ([]byte, error) {
	if layer.Size < 0 || layer.Size > source.MaxFileSize {
		return nil, fmt.Errorf("it is larger than %d MiB", source.MaxFileSize>>20)
	}
	body, err := c.in.repository.Blobs().Fetch(ctx, layer)
	if err != nil {
		return nil, err
	}
	packed, err := content.ReadAll(body, layer)
	return packed, errors.Join(err, body.Close())
}

// layer returns what has the package of a version.
func (c Charts) layer(ctx context.Context, version string) (ocispec.Descriptor, error) {
	desc, data, err := c.in.raw(ctx, chartTag(version))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := parseManifest(desc.MediaType, data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, layer := range manifest.Layers {
		if layer.MediaType == chartLayer {
			return layer, nil
		}
	}
	return ocispec.Descriptor{}, errors.New("what is there is no chart")
}

// Digest returns the digest of the package of a version. The error wraps source.ErrNotFound when it is not there.
func (c Charts) Digest(ctx context.Context, version string) (string, error) {
	ctx, cancel := c.in.bounded(ctx)
	defer cancel()
	layer, err := c.layer(ctx, version)
	if err != nil {
		if err = c.in.failed(ctx, "chart "+version, err); errors.Is(err, ErrNoRepository) {
			err = fmt.Errorf("%w: %w", source.ErrNotFound, err)
		}
		return "", err
	}
	return layer.Digest.String(), nil
}

// Put puts a package there, with its Chart.yaml as JSON. The same again changes nothing; a version that has another package
// is left as it is, and the error wraps source.ErrPublished.
func (c Charts) Put(ctx context.Context, name, version string, metadata, packed []byte) (source.Published, error) {
	sum := digest.FromBytes(packed)
	switch there, err := c.Digest(ctx, version); {
	case err == nil && there == sum.String():
		return source.Published{Digest: there, Existed: true}, nil
	case err == nil:
		return source.Published{}, fmt.Errorf("chart %s in %s is there with other contents: %s, not %s", version, c.in, there, sum)
	case !errors.Is(err, source.ErrNotFound):
		return source.Published{}, err
	}
	ctx, cancel := c.in.bounded(ctx)
	defer cancel()
	if err := c.put(ctx, name, version, metadata, packed); err != nil {
		return source.Published{}, c.in.failed(ctx, "put chart "+version, err)
	}
	return source.Published{Digest: sum.String()}, nil
}

func (c Charts) put(ctx context.Context, name, version string, metadata, packed []byte) error {
	describe := func(mediaType string, data []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	// Nothing in it changes from one call to the next.
	manifest := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      describe(chartConfig, metadata),
		Layers:      []ocispec.Descriptor{describe(chartLayer, packed)},
		Annotations: map[string]string{ocispec.AnnotationTitle: name, ocispec.AnnotationVersion: version},
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if _, err := c.in.push(ctx, manifest.Config, metadata); err != nil {
		return err
	}
	if _, err := c.in.push(ctx, manifest.Layers[0], packed); err != nil {
		return err
	}
	return c.in.repository.PushReference(ctx, describe(manifest.MediaType, data), bytes.NewReader(data), chartTag(version))
}
