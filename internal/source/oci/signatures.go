// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Limits on signatures: how many are looked at, and how large one may be.
const (
	maxSignatures    = 32
	maxSignatureSize = 1 << 20
)

// Types of signatures in registries, as cosign writes them. It puts a bundle into an artifact that refers
// to what is signed, and a signature of the older form into a layer of the artifact sha256-<digest>.sig.
const (
	bundleTypes       = "application/vnd.dev.sigstore.bundle."
	simpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// Signatures implements source.Signer.
func (s *Source) Signatures(ctx context.Context, name release.Name, sum string) ([]verify.Signature, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	subject := digest.Digest(sum)
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("signatures of release %s: %w", name, err)
	}
	signatures, err := s.bundles(ctx, name, subject)
	if err == nil {
		signatures, err = s.tagged(ctx, name, subject, signatures)
	}
	if err != nil {
		return nil, s.failed(ctx, "signatures of release "+name.String(), err)
	}
	return signatures, nil
}

// bundles finds the artifacts that refer to the manifest, by the API for that or, where a registry has
// none, by the tag that stands in for it.
func (s *Source) bundles(ctx context.Context, name release.Name, subject digest.Digest) ([]verify.Signature, error) {
	var referrers []ocispec.Descriptor
	seen := 0
	err := s.repository.Referrers(ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject}, "", func(page []ocispec.Descriptor) error {
		for _, desc := range page {
			if strings.HasPrefix(desc.ArtifactType, bundleTypes) {
				referrers = append(referrers, desc)
			}
		}
		if seen += len(page); seen > maxTags || len(referrers) > maxSignatures {
			return fmt.Errorf("more than %d signatures", maxSignatures)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return nil, err
	}
	var signatures []verify.Signature
	for _, desc := range referrers {
		manifest, _, err := s.manifest(ctx, name, desc.Digest.String())
		if err != nil {
			return nil, err
		}
		for _, layer := range manifest.Layers {
			if layer.Size > maxSignatureSize {
				continue // a statement of another kind about the release, such as a list of what is in it
			}
			if len(signatures) == maxSignatures {
				return nil, fmt.Errorf("more than %d signatures", maxSignatures)
			}
			bundle, err := s.small(ctx, layer)
			if err != nil {
				return nil, err
			}
			signatures = append(signatures, verify.Signature{Bundle: bundle})
		}
	}
	return signatures, nil
}

// tagged adds the signatures of the older form.
func (s *Source) tagged(ctx context.Context, name release.Name, subject digest.Digest, signatures []verify.Signature) ([]verify.Signature, error) {
	tag := subject.Algorithm().String() + "-" + subject.Encoded() + ".sig"
	manifest, _, err := s.manifest(ctx, name, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return signatures, nil
	}
	if err != nil {
		return nil, err
	}
	for _, layer := range manifest.Layers {
		if layer.MediaType != simpleSigningType {
			continue
		}
		if len(signatures) == maxSignatures {
			return nil, fmt.Errorf("more than %d signatures", maxSignatures)
		}
		payload, err := s.small(ctx, layer)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, verify.Signature{Payload: payload, Annotations: layer.Annotations})
	}
	return signatures, nil
}

// small returns the contents of a layer of the size of a signature.
func (s *Source) small(ctx context.Context, layer ocispec.Descriptor) ([]byte, error) {
	if layer.Size < 0 || layer.Size > maxSignatureSize {
		return nil, fmt.Errorf("a signature is larger than %d MiB", maxSignatureSize>>20)
	}
	if err := layer.Digest.Validate(); err != nil {
		return nil, err
	}
	body, err := s.repository.Blobs().Fetch(ctx, layer)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // only read from
	verified := content.NewVerifyReader(body, layer)
	buffer := &bytes.Buffer{}
	if _, err := io.Copy(buffer, io.LimitReader(verified, maxSignatureSize)); err != nil {
		return nil, err
	}
	return buffer.Bytes(), verified.Verify()
}
