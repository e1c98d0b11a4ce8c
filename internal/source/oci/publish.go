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
	"slices"
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
var ErrPublished = errors.New("published already with other contents; give the release a new version")

// Publish puts the files of a release into the repository and returns the digest of its manifest.
// Annotations are added to it beside the time of creation.
//
// The tag comes last, so that nobody finds half a release. Publishing the same files again changes
// nothing; a release that has other files is left as it is.
func (s *Source) Publish(ctx context.Context, name release.Name, fsys fs.FS, created time.Time, annotations map[string]string) (string, error) {
	return s.publish(ctx, name.String(), fsys, created, annotations)
}

func (s *Source) publish(ctx context.Context, name string, fsys fs.FS, created time.Time, annotations map[string]string) (string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	layers, contents, err := layersOf(fsys)
	if err != nil {
		return "", fmt.Errorf("publish release %s: %w", name, err)
	}
	there, sum, err := s.manifest(ctx, release.Name{}, name)
	switch {
	case err == nil:
		if !sameFiles(there.Layers, layers) {
			return "", fmt.Errorf("release %s in %s: %w", name, s, ErrPublished)
		}
		return sum, nil
	case !errors.Is(err, errdef.ErrNotFound):
		return "", s.failed(ctx, "look for release "+name, err)
	}
	manifest := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       layers,
		Annotations:  map[string]string{},
	}
	maps.Copy(manifest.Annotations, annotations)
	manifest.Annotations[ocispec.AnnotationCreated] = created.UTC().Format(time.RFC3339)
	data, err := json.Marshal(manifest)
	if err != nil {
		return "", err
	}
	for i, desc := range append(slices.Clone(layers), manifest.Config) {
		blob := manifest.Config.Data
		if i < len(contents) {
			blob = contents[i]
		}
		if err := s.push(ctx, desc, blob); err != nil {
			return "", s.failed(ctx, "publish release "+name, err)
		}
	}
	desc := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := s.repository.PushReference(ctx, desc, bytes.NewReader(data), name); err != nil {
		return "", s.failed(ctx, "publish release "+name, err)
	}
	return desc.Digest.String(), nil
}

// push uploads a blob that the repository does not have.
func (s *Source) push(ctx context.Context, desc ocispec.Descriptor, data []byte) error {
	exists, err := s.repository.Blobs().Exists(ctx, desc)
	if err != nil || exists {
		return err
	}
	return s.repository.Blobs().Push(ctx, desc, bytes.NewReader(data))
}

// layersOf describes the regular files of a folder, in the order of their names.
func layersOf(fsys fs.FS) ([]ocispec.Descriptor, [][]byte, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, nil, err
	}
	var layers []ocispec.Descriptor
	var contents [][]byte
	total := 0
	for _, entry := range entries {
		info, err := fs.Stat(fsys, entry.Name())
		if err != nil {
			return nil, nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if err := source.CheckFileName(entry.Name()); err != nil {
			return nil, nil, err
		}
		if info.Size() > source.MaxFileSize {
			return nil, nil, fmt.Errorf("%s is larger than %d MiB", entry.Name(), source.MaxFileSize>>20)
		}
		data, err := fs.ReadFile(fsys, entry.Name())
		if err != nil {
			return nil, nil, err
		}
		if total += len(data); total > source.MaxTotalSize {
			return nil, nil, fmt.Errorf("it is larger than %d MiB", source.MaxTotalSize>>20)
		}
		contents = append(contents, data)
		layers = append(layers, ocispec.Descriptor{
			MediaType:   layerType(entry.Name()),
			Digest:      digest.FromBytes(data),
			Size:        int64(len(data)),
			Annotations: map[string]string{ocispec.AnnotationTitle: entry.Name()},
		})
	}
	switch {
	case len(layers) == 0:
		return nil, nil, errors.New("it has no files")
	case len(layers) > source.MaxFiles:
		return nil, nil, fmt.Errorf("it has more than %d files", source.MaxFiles)
	}
	return layers, contents, nil
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

// sameFiles tells whether two artifacts have the same files, whatever types these are said to have.
func sameFiles(a, b []ocispec.Descriptor) bool {
	return maps.Equal(sums(a), sums(b))
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
