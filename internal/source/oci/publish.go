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
//
// Registries know no way to set a tag only if nobody else has. So the tag is asked for right before it is set, and once more
// right after: of two who publish different contents at the same time, whoever finds those of the other gets an error that
// wraps ErrPublished. What stays open is the time between one question and one answer of the registry: who sets the tag
// after both looks of the other takes it away unseen.
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
	switch there, err := s.taken(ctx, name, layers); {
	case err != nil:
		return source.Published{}, err
	case there != "":
		return source.Published{Digest: there, Existed: true}, nil
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
			return source.Published{}, s.failedAt(ctx, "publish release "+name, "in", err)
		}
		if about.Uploaded != nil {
			about.Uploaded(contents[i].Name, desc.Size, existed)
		}
	}
	if _, err := s.push(ctx, manifest.Config, manifest.Config.Data); err != nil {
		return source.Published{}, s.failedAt(ctx, "publish release "+name, "in", err)
	}
	desc := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	// To upload has taken its time.
	switch there, err := s.taken(ctx, name, layers); {
	case err != nil:
		return source.Published{}, atOnce(err)
	case there != "":
		return source.Published{Digest: there, Existed: true}, nil
	}
	if err := s.repository.PushReference(ctx, desc, bytes.NewReader(data), name); err != nil {
		return source.Published{}, s.failedAt(ctx, "publish release "+name, "in", err)
	}
	there, err := s.taken(ctx, name, layers)
	if err != nil {
		return source.Published{}, atOnce(err)
	}
	if there == "" { // what answers in place of the registry has not heard of it yet
		there = desc.Digest.String()
	}
	// Of two who publish the same, both have.
	return source.Published{Digest: there, Existed: there != desc.Digest.String()}, nil
}

// atOnce says how another release may have come there since it was looked for first.
func atOnce(err error) error {
	if errors.Is(err, ErrPublished) {
		return fmt.Errorf("somebody else publishes under this name at the same time, and theirs is what is there now: %w", err)
	}
	return err
}

// taken returns the digest of what is there under a tag, or "". That it has other files than these is an error.
func (s *Source) taken(ctx context.Context, name string, layers []ocispec.Descriptor) (string, error) {
	there, sum, err := s.manifest(ctx, release.Name{}, name)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return "", nil
	case err != nil:
		return "", s.failed(ctx, "look for release "+name, err)
	case !sameFiles(there.Layers, layers):
		return "", fmt.Errorf("release %s in %s: %w", name, s, ErrPublished)
	}
	return sum, nil
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
