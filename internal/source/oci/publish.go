// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// artifactType is that of the releases that csctl publishes, and always has.
const artifactType = "application/vnd.scs.cluster-stacks.v1"

// ErrPublished is wrapped by the error of Publish when a release of that name has other contents.
var ErrPublished = source.ErrPublished

// Publish is Put for those who want to know the digest only.
func (s *Source) Publish(ctx context.Context, name release.Name, fsys fs.FS, created time.Time, annotations map[string]string) (string, error) {
	return s.publish(ctx, name.String(), fsys, created, annotations)
}

func (s *Source) publish(ctx context.Context, name string, fsys fs.FS, created time.Time, annotations map[string]string) (string, error) {
	done, err := s.put(ctx, name, fsys, source.Publication{Created: created, Annotations: annotations})
	return done.Digest, err
}

// Put implements source.Publisher. It returns the digest of the manifest. Annotations are added to it beside the time of
// creation. The tag comes last.
func (s *Source) Put(ctx context.Context, name release.Name, files fs.FS, about source.Publication) (source.Published, error) {
	return s.put(ctx, name.String(), files, about)
}

func (s *Source) put(ctx context.Context, name string, fsys fs.FS, about source.Publication) (source.Published, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	contents, err := source.ReadFiles(fsys)
	if err != nil {
		return source.Published{}, fmt.Errorf("publish release %s: %w", name, err)
	}
	layers := layersOf(contents)
	there, sum, err := s.manifest(ctx, release.Name{}, name)
	switch {
	case err == nil:
		if !sameFiles(there.Layers, layers) {
			return source.Published{}, fmt.Errorf("release %s in %s: %w", name, s, ErrPublished)
		}
		return source.Published{Digest: sum, Existed: true}, nil
	case !errors.Is(err, errdef.ErrNotFound):
		return source.Published{}, s.failed(ctx, "look for release "+name, err)
	}
	if about.Created.IsZero() {
		about.Created = time.Now()
	}
	manifest := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       layers,
		Annotations:  map[string]string{},
	}
	maps.Copy(manifest.Annotations, about.Annotations)
	manifest.Annotations[ocispec.AnnotationCreated] = about.Created.UTC().Format(time.RFC3339)
	data, err := json.Marshal(manifest)
	if err != nil {
		return source.Published{}, err
	}
	for i, desc := range layers {
		existed, err := s.push(ctx, desc, contents[i].Data)
		if err != nil {
			return source.Published{}, s.failed(ctx, "publish release "+name, err)
		}
		if about.Uploaded != nil {
			about.Uploaded(contents[i].Name, desc.Size, existed)
		}
	}
	if _, err := s.push(ctx, manifest.Config, manifest.Config.Data); err != nil {
		return source.Published{}, s.failed(ctx, "publish release "+name, err)
	}
	desc := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := s.repository.PushReference(ctx, desc, bytes.NewReader(data), name); err != nil {
		return source.Published{}, s.failed(ctx, "publish release "+name, err)
	}
	return source.Published{Digest: desc.Digest.String()}, nil
}

// push uploads a blob that the repository does not have.
func (s *Source) push(ctx context.Context, desc ocispec.Descriptor, data []byte) (existed bool, err error) {
	existed, err = s.repository.Blobs().Exists(ctx, desc)
	if err != nil || existed {
		return existed, err
	}
	return false, s.repository.Blobs().Push(ctx, desc, bytes.NewReader(data))
}

// layersOf describes files.
func layersOf(files []source.File) []ocispec.Descriptor {
	layers := make([]ocispec.Descriptor, len(files))
	for i, f := range files {
		layers[i] = ocispec.Descriptor{
			MediaType:   layerType(f.Name),
			Digest:      digest.NewDigestFromEncoded(digest.SHA256, f.Sum),
			Size:        int64(len(f.Data)),
			Annotations: map[string]string{ocispec.AnnotationTitle: f.Name},
		}
	}
	return layers
}

// layerType is the type that csctl has always given to a file. Nobody reads it.
func layerType(name string) string {
	archive := strings.HasSuffix(name, ".tgz")
	switch {
	case name == "clusteraddon.yaml":
		return "application/vnd.scs.cluster-addon.config.layer.v1+yaml"
	case archive && strings.Contains(name, "cluster-addon"):
		return "application/vnd.scs.cluster-addon.layer.v1.tar+gzip"
	case archive && strings.Contains(name, "cluster-class"):
		return "application/vnd.scs.cluster-class.v1.tar+gzip"
	case name == release.MetadataFile:
		return "application/vnd.scs.metadata.layer.v1+yaml"
	case name == "node-images.yaml":
		return "application/vnd.scs.node-image.config.layer.v1+yaml"
	case archive && strings.Contains(name, "node-image"):
		return "application/vnd.scs.node-image.layer.v1.tar+gzip"
	case name == "hashes.json":
		return "application/vnd.scs.hashes.layer.v1+yaml"
	}
	return ocispec.MediaTypeImageLayer
}

// sameFiles tells whether two artifacts have the same files, whatever types these are said to have and whoever vouches for
// them.
func sameFiles(a, b []ocispec.Descriptor) bool {
	return source.SameContents(sums(a), sums(b))
}

func sums(layers []ocispec.Descriptor) map[string]digest.Digest {
	all := map[string]digest.Digest{}
	for _, layer := range layers {
		if title := layer.Annotations[ocispec.AnnotationTitle]; title != "" {
			all[title] = layer.Digest
		}
	}
	return all
}
