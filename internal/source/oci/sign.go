// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// bundleType is that of a bundle and of an artifact with one, as cosign writes them.
const bundleType = bundleTypes + "v0.3+json"

// AddSignature keeps a sigstore bundle with a signature beside the release whose manifest has a digest, the way cosign does:
// in an artifact that refers to the manifest. Other signatures stay.
func (s *Source) AddSignature(ctx context.Context, name release.Name, sum string, bundle []byte, created time.Time) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if err := s.addSignature(ctx, sum, bundle, created); err != nil {
		return s.failedAt(ctx, "add a signature to release "+name.String(), "in", err)
	}
	return nil
}

func (s *Source) addSignature(ctx context.Context, sum string, bundle []byte, created time.Time) error {
	if len(bundle) > maxSignatureSize {
		return fmt.Errorf("a signature is larger than %d MiB", maxSignatureSize>>20)
	}
	subject, body, err := s.repository.FetchReference(ctx, sum)
	if err != nil {
		return err
	}
	if err := body.Close(); err != nil {
		return err
	}
	if subject.Digest.String() != sum {
		return errors.New("the registry has another manifest under its digest")
	}
	layer := ocispec.Descriptor{MediaType: bundleType, Digest: digest.FromBytes(bundle), Size: int64(len(bundle))}
	manifest := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: bundleType,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       []ocispec.Descriptor{layer},
		Subject:      &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{
			"dev.sigstore.bundle.content": "dsse-envelope",
			predicateAnnotation:           signPredicate,
			ocispec.AnnotationCreated:     created.UTC().Format(time.RFC3339),
		},
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if _, err := s.push(ctx, layer, bundle); err != nil {
		return err
	}
	if _, err := s.push(ctx, manifest.Config, manifest.Config.Data); err != nil {
		return err
	}
	return s.repository.Push(ctx, ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data)),
		ArtifactType: manifest.ArtifactType, Annotations: manifest.Annotations}, bytes.NewReader(data))
}
