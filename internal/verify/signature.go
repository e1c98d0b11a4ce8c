// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

// signPredicate is what a statement says that cosign signs with "cosign sign". Other statements may well be
// about the same digest and by the same signer, such as a list of its vulnerabilities.
const signPredicate = "https://sigstore.dev/cosign/sign/v1"

// checkBundle verifies a sigstore bundle.
func (p *Policy) checkBundle(subject Subject, sum, text []byte) (Signer, error) {
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(text); err != nil {
		return Signer{}, fmt.Errorf("a bundle cannot be read: %w", err)
	}
	artifact := func() sigstore.ArtifactPolicyOption {
		if subject.Content != nil {
			return sigstore.WithArtifact(bytes.NewReader(subject.Content))
		}
		return sigstore.WithArtifactDigest("sha256", sum)
	}
	content, err := b.VerificationContent()
	if err != nil {
		return Signer{}, fmt.Errorf("a bundle cannot be read: %w", err)
	}
	var (
		result *sigstore.VerificationResult
		signer Signer
	)
	if content.Certificate() != nil {
		result, signer, err = p.verifyKeyless(b, artifact())
	} else {
		result, signer, err = p.verifyWithKeys(b, artifact)
	}
	if err != nil {
		return Signer{}, err
	}
	if s := result.Statement; s != nil && s.GetPredicateType() != signPredicate {
		return Signer{}, fmt.Errorf("a statement of type %q is no signature", s.GetPredicateType())
	}
	return signer, nil
}

// ClaimedBy returns whom a bundle with a signature of the contents says that it is by, and of one with a certificate which
// proofs of its time it brings along. It is "" for everything else. Equal answers tell that a signature was only made once
// more. They prove nothing: nobody has asked whether the key or the certificate is genuine.
func ClaimedBy(text, contents []byte) string {
	b := &bundle.Bundle{}
	if contents == nil || b.UnmarshalJSON(text) != nil {
		return ""
	}
	by, err := b.VerificationContent()
	if err != nil {
		return ""
	}
	signed, err := b.SignatureContent()
	if err != nil || signed.MessageSignatureContent() == nil {
		return ""
	}
	if by.Certificate() == nil {
		hint, sum := b.GetVerificationMaterial().GetPublicKey().GetHint(), sha256.Sum256(contents)
		if hint == "" || !bytes.Equal(signed.MessageSignatureContent().Digest(), sum[:]) {
			return ""
		}
		return fmt.Sprintf("key %q", hint)
	}
	verifier, err := signature.LoadDefaultVerifier(by.Certificate().PublicKey)
	if err != nil || verifier.VerifySignature(bytes.NewReader(signed.Signature()), bytes.NewReader(contents)) != nil {
		return ""
	}
	summary, err := certificate.SummarizeCertificate(by.Certificate())
	if err != nil {
		return ""
	}
	material := b.GetVerificationMaterial()
	var logs []string
	for _, entry := range material.GetTlogEntries() {
		logs = append(logs, hex.EncodeToString(entry.GetLogId().GetKeyId()))
	}
	slices.Sort(logs)
	return fmt.Sprintf("%q %q %x logs=%q stamped=%t", summary.SubjectAlternativeName, summary.Issuer, by.Certificate().AuthorityKeyId,
		logs, len(material.GetTimestampVerificationData().GetRfc3161Timestamps()) > 0)
}

// verifyKeyless verifies what was signed with the key of a certificate.
func (p *Policy) verifyKeyless(b *bundle.Bundle, artifact sigstore.ArtifactPolicyOption) (*sigstore.VerificationResult, Signer, error) {
	if p.keyless == nil {
		return nil, Signer{}, errors.New("signed with a certificate, but only keys are trusted")
	}
	// Who may have signed is asked afterwards, by expressions that match whole texts.
	result, err := p.keyless.Verify(b, sigstore.NewPolicy(artifact, sigstore.WithoutIdentitiesUnsafe()))
	if err != nil {
		return nil, Signer{}, err
	}
	signer, err := p.signer(*result.Signature.Certificate)
	return result, signer, err
}

// verifyWithKeys verifies what was signed with a key. A log or a timestamp would add nothing: whoever has the
// key can sign at any time.
func (p *Policy) verifyWithKeys(b *bundle.Bundle, artifact func() sigstore.ArtifactPolicyOption) (*sigstore.VerificationResult, Signer, error) {
	last := errNoKey
	for _, k := range p.keys {
		for _, v := range k.verifiers {
			verifier, err := sigstore.NewVerifier(&keyMaterial{key: root.NewExpiringKey(v, time.Time{}, time.Time{})}, sigstore.WithNoObserverTimestamps())
			if err != nil {
				return nil, Signer{}, err
			}
			result, err := verifier.Verify(b, sigstore.NewPolicy(artifact(), sigstore.WithKey()))
			if err == nil {
				return result, Signer{Key: k.fingerprint}, nil
			}
			last = err
		}
	}
	if len(p.keys) > 1 {
		last = errNoKeyFits
	}
	return nil, Signer{}, last
}

// keyMaterial trusts one key, by whatever hint a bundle calls it.
type keyMaterial struct {
	root.BaseTrustedMaterial
	key *root.ExpiringKey
}

func (m *keyMaterial) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	return m.key, nil
}

// The annotations in which cosign keeps a signature by the tag scheme.
const (
	signatureAnnotation   = "dev.cosignproject.cosign/signature"
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	logAnnotation         = "dev.sigstore.cosign/bundle"
	timestampAnnotation   = "dev.sigstore.cosign/rfc3161timestamp"
)

// checkSimple verifies a signature by the tag scheme of cosign: it is over a payload that names the digest.
func (p *Policy) checkSimple(subject Subject, s Signature) (Signer, error) {
	sig, err := base64.StdEncoding.DecodeString(s.Annotations[signatureAnnotation])
	if err != nil || len(sig) == 0 {
		return Signer{}, fmt.Errorf("the annotation %s has no signature in base64", signatureAnnotation)
	}
	signer, err := p.checkPayload(s, sig)
	if err != nil {
		return Signer{}, err
	}
	// Parsed only now that it is known to come from somebody who is trusted.
	var payload struct {
		Critical struct {
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(s.Payload, &payload); err != nil {
		return Signer{}, fmt.Errorf("what is signed cannot be read: %w", err)
	}
	if t := payload.Critical.Type; t != simpleType && t != simpleTypeAtomic {
		return Signer{}, fmt.Errorf("what is signed is of type %q", t)
	}
	if d := payload.Critical.Image.Digest; d != subject.Digest {
		return Signer{}, fmt.Errorf("signed is %q", d)
	}
	return signer, nil
}

// Types of the payload, by cosign and by those who sign containers for other tools.
const (
	simpleType       = "cosign container image signature"
	simpleTypeAtomic = "atomic container signature"
)

func (p *Policy) checkPayload(s Signature, sig []byte) (Signer, error) {
	if s.Annotations[certificateAnnotation] == "" {
		return p.checkWithKeys(sig, s.Payload)
	}
	b, err := bundleOf(s, sig)
	if err != nil {
		return Signer{}, err
	}
	_, signer, err := p.verifyKeyless(b, sigstore.WithArtifact(bytes.NewReader(s.Payload)))
	return signer, err
}

// checkDetached verifies a bare signature.
func (p *Policy) checkDetached(subject Subject, text []byte) (Signer, error) {
	if subject.Content == nil {
		return Signer{}, errors.New("a bare signature needs the contents that are signed")
	}
	sig, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		return Signer{}, fmt.Errorf("a bare signature is not base64: %w", err)
	}
	return p.checkWithKeys(sig, subject.Content)
}

func (p *Policy) checkWithKeys(sig, message []byte) (Signer, error) {
	for _, k := range p.keys {
		for _, v := range k.verifiers {
			if v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) == nil {
				return Signer{Key: k.fingerprint}, nil
			}
		}
	}
	if len(p.keys) == 0 {
		return Signer{}, errNoKey
	}
	return Signer{}, errNoKeyFits
}

var (
	errNoKey     = errors.New("signed with a key, but only identities are trusted")
	errNoKeyFits = errors.New("signed with a key that is not trusted, or something else was signed")
)

// bundleOf puts the parts of a keyless signature by the tag scheme into a bundle of the first version, which
// holds the same.
func bundleOf(s Signature, sig []byte) (*bundle.Bundle, error) {
	block, _ := pem.Decode([]byte(s.Annotations[certificateAnnotation]))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("the annotation %s has no certificate in PEM", certificateAnnotation)
	}
	material := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
			Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}},
		}},
	}
	if text := s.Annotations[logAnnotation]; text != "" {
		entry, err := logEntry(text)
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", logAnnotation, err)
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if text := s.Annotations[timestampAnnotation]; text != "" {
		var stamp struct {
			SignedRFC3161Timestamp []byte
		}
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", timestampAnnotation, err)
		}
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp.SignedRFC3161Timestamp}},
		}
	}
	sum := sha256.Sum256(s.Payload)
	return bundle.NewBundle(&protobundle.Bundle{
		MediaType:            "application/vnd.dev.sigstore.bundle+json;version=0.1",
		VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     sig,
		}},
	})
}

// logEntry reads what the log answered to cosign: its promise to take the entry in.
func logEntry(text string) (*protorekor.TransparencyLogEntry, error) {
	var promise struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal([]byte(text), &promise); err != nil {
		return nil, err
	}
	var body struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(promise.Payload.Body, &body); err != nil {
		return nil, err
	}
	logID, err := hex.DecodeString(promise.Payload.LogID)
	if err != nil {
		return nil, err
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          promise.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: logID},
		KindVersion:       &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion},
		IntegratedTime:    promise.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: promise.SignedEntryTimestamp},
		CanonicalizedBody: promise.Payload.Body,
	}, nil
}
