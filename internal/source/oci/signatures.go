// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Limits on signatures: how many of each kind are looked at, and how large one may be. Whoever may write to a repository
// can put any number of them there, and many a producer does: one for each run of a pipeline.
const (
	maxSignatures    = 32
	maxSignatureSize = 1 << 20
)

// Types of signatures in registries, as cosign writes them. It puts a bundle into an artifact that refers
// to what is signed, and a signature of the older form into a layer of the artifact sha256-<digest>.sig.
const (
	bundleTypes       = "application/vnd.dev.sigstore.bundle."
	simpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"

	// predicateAnnotation says what the statement in a bundle is about, and signPredicate that it is a signature. All
	// others say something about the release, such as how it was built. Some registries forget the annotation.
	predicateAnnotation = "dev.sigstore.bundle.predicateType"
	signPredicate       = "https://sigstore.dev/cosign/sign/v1"
)

// Signatures implements source.Signer. Where there are more than it looks at, it returns the newest of those that are
// likeliest to be signatures.
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
		if seen += len(page); seen > maxTags {
			return fmt.Errorf("more than %d artifacts refer to it", maxTags)
		}
		referrers = likeliest(append(referrers, page...))
		return nil
	})
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return nil, err
	}
	var signatures []verify.Signature
	for _, desc := range referrers {
		manifest, _, err := s.manifest(ctx, name, desc.Digest.String())
		var malformed *source.MalformedError
		if errors.As(err, &malformed) || errors.Is(err, errdef.ErrNotFound) {
			continue // what is no signature takes nothing from others
		}
		if err != nil {
			return nil, err
		}
		if !maySign(manifest.Annotations) {
			continue
		}
		for _, layer := range manifest.Layers {
			if layer.Size > maxSignatureSize {
				continue // a statement of another kind about the release, such as a list of what is in it
			}
			if len(signatures) == maxSignatures {
				return signatures, nil
			}
			bundle, err := s.small(ctx, layer)
			if errors.Is(err, errNoSignature) {
				continue
			}
			if err != nil {
				return nil, err
			}
			signatures = append(signatures, verify.Signature{Bundle: bundle})
		}
	}
	return signatures, nil
}

// likeliest returns those artifacts that may have a signature in them, and of too many the best: those that are said to
// have one, and of these the newest.
func likeliest(referrers []ocispec.Descriptor) []ocispec.Descriptor {
	referrers = slices.DeleteFunc(referrers, func(desc ocispec.Descriptor) bool {
		return !strings.HasPrefix(desc.ArtifactType, bundleTypes) || !maySign(desc.Annotations)
	})
	slices.SortFunc(referrers, func(a, b ocispec.Descriptor) int {
		// Times as they are written sort as they follow one another.
		return cmp.Or(
			strings.Compare(b.Annotations[predicateAnnotation], a.Annotations[predicateAnnotation]),
			strings.Compare(b.Annotations[ocispec.AnnotationCreated], a.Annotations[ocispec.AnnotationCreated]),
			strings.Compare(a.Digest.String(), b.Digest.String()),
		)
	})
	return referrers[:min(len(referrers), 2*maxSignatures)]
}

// maySign tells whether the annotations of a bundle do not say that it is something else than a signature.
func maySign(annotations map[string]string) bool {
	predicate := annotations[predicateAnnotation]
	return predicate == "" || predicate == signPredicate
}

// tagged adds the signatures of the older form.
func (s *Source) tagged(ctx context.Context, name release.Name, subject digest.Digest, signatures []verify.Signature) ([]verify.Signature, error) {
	manifest, _, err := s.manifest(ctx, name, signatureTag(subject))
	var malformed *source.MalformedError
	if errors.As(err, &malformed) || errors.Is(err, errdef.ErrNotFound) {
		return signatures, nil
	}
	if err != nil {
		return nil, err
	}
	layers := slices.DeleteFunc(manifest.Layers, func(layer ocispec.Descriptor) bool { return layer.MediaType != simpleSigningType })
	// A further signature is added at the end.
	for _, layer := range layers[max(0, len(layers)-maxSignatures):] {
		payload, err := s.small(ctx, layer)
		if errors.Is(err, errNoSignature) {
			continue
		}
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, verify.Signature{Payload: payload, Annotations: layer.Annotations})
	}
	return signatures, nil
}

// errNoSignature is wrapped by errors that say that a layer is none that could be a signature: another one may be. Whoever
// may write to a repository can put such things there, and many a registry loses a blob and keeps the manifest.
var errNoSignature = errors.New("this layer is no signature")

// small returns the contents of a layer of the size of a signature. An error that wraps errNoSignature is one of what is
// in the registry, all others are of asking for it.
func (s *Source) small(ctx context.Context, layer ocispec.Descriptor) ([]byte, error) {
	if layer.Size < 0 || layer.Size > maxSignatureSize {
		return nil, fmt.Errorf("%w: it is larger than %d MiB", errNoSignature, maxSignatureSize>>20)
	}
	if err := layer.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSignature, err)
	}
	body, err := s.repository.Blobs().Fetch(ctx, layer)
	if err != nil && !ofAsking(ctx, err) {
		// The blob is missing, or the manifest gives another size for it: no registry looks at that.
		return nil, fmt.Errorf("%w: %w", errNoSignature, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // only read from
	verified := content.NewVerifyReader(body, layer)
	buffer := &bytes.Buffer{}
	if _, err := io.Copy(buffer, io.LimitReader(verified, maxSignatureSize)); err != nil {
		return nil, err
	}
	if err := verified.Verify(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSignature, err)
	}
	return buffer.Bytes(), nil
}

// ofAsking tells whether an error is one of asking a registry for something, and not of what it has: asking again may help.
func ofAsking(ctx context.Context, err error) bool {
	if errors.Is(err, errdef.ErrNotFound) {
		return false
	}
	var answer *errcode.ErrorResponse
	var request *url.Error
	return ctx.Err() != nil || errors.As(err, &answer) || errors.As(err, &request) || errors.Is(err, auth.ErrBasicCredentialNotFound)
}
