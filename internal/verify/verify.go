// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verify decides whether somebody who is trusted has signed a release.
//
// It sees digests, signatures and a policy, and needs no network: what a signature has to be compared
// with, it is given. Where signatures lie is known to sources; what becomes of a release that is not
// signed as it has to be is decided by others.
package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Signature is a signature as found beside a release. Which form it has its fields tell.
type Signature struct {
	// Bundle is a sigstore bundle in JSON, which has everything in it.
	Bundle []byte `json:"bundle,omitempty"`

	// Payload is what a signature by the tag scheme of cosign is over: the contents of a layer of type
	// application/vnd.dev.cosign.simplesigning.v1+json.
	Payload []byte `json:"payload,omitempty"`
	// Annotations are those of the same layer. The signature itself is one of them.
	Annotations map[string]string `json:"annotations,omitempty"`

	// Detached is a bare signature over the contents of the subject, in base64, as
	// "cosign sign-blob --key" prints it.
	Detached []byte `json:"detached,omitempty"`
}

// Subject is what has to be signed.
type Subject struct {
	// Digest is "sha256:" with 64 hexadecimal digits: that of an OCI manifest, or of Content.
	Digest string
	// Content has that digest. It may be missing; signatures that cannot be checked without do not count then.
	Content []byte
}

// SubjectOf returns the subject with the given content.
func SubjectOf(content []byte) Subject {
	sum := sha256.Sum256(content)
	return Subject{Digest: digestPrefix + hex.EncodeToString(sum[:]), Content: content}
}

const digestPrefix = "sha256:"

func (s Subject) sum() ([]byte, error) {
	digits, ok := strings.CutPrefix(s.Digest, digestPrefix)
	sum, err := hex.DecodeString(digits)
	if !ok || err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("%q is not a digest of the form sha256:<64 hexadecimal digits>", s.Digest)
	}
	return sum, nil
}

// maxSignatures bounds the work for one release: whoever may write to a registry can put thousands there.
const maxSignatures = 64

// Verify returns the signer whose signature makes the policy content. One good signature is enough,
// whatever else there is.
//
// The error is a *RefusedError when there is none.
func (p *Policy) Verify(subject Subject, signatures []Signature) (Signer, error) {
	sum, err := subject.sum()
	if err != nil {
		return Signer{}, err
	}
	refused := &RefusedError{Subject: subject.Digest, Wanted: p.String()}
	if len(signatures) > maxSignatures {
		refused.Reasons = append(refused.Reasons, fmt.Sprintf("only the first %d of %d signatures were looked at", maxSignatures, len(signatures)))
		signatures = signatures[:maxSignatures]
	}
	for _, s := range signatures {
		signer, err := p.check(subject, sum, s)
		if err == nil && p.also != nil {
			_, err = p.also.Verify(subject, signatures)
			return signer, err
		}
		if err == nil {
			return signer, nil
		}
		refused.Reasons = append(refused.Reasons, oneLine(err))
	}
	slices.Sort(refused.Reasons)
	refused.Reasons = slices.Compact(refused.Reasons)
	return Signer{}, refused
}

// RefusedError says why no signature of a release counts.
type RefusedError struct {
	// Subject is the digest for which a signature was wanted.
	Subject string
	// Wanted says whose signature would have done.
	Wanted string
	// Reasons say what is wrong with the signatures that were found, sorted; there are none of an unsigned release.
	Reasons []string
}

func (e *RefusedError) Error() string {
	if len(e.Reasons) == 0 {
		return fmt.Sprintf("%s is not signed; wanted is a signature by %s", e.Subject, e.Wanted)
	}
	return fmt.Sprintf("no signature of %s counts (%s); wanted is one by %s", e.Subject, strings.Join(e.Reasons, "; "), e.Wanted)
}

// maxReason bounds what of an error goes into a status. What is signed is foreign text.
const maxReason = 300

// oneLine makes an error fit into a message for people.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "?")), " ")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "..."
	}
	return text
}

// check verifies one signature.
func (p *Policy) check(subject Subject, sum []byte, s Signature) (Signer, error) {
	switch {
	case len(s.Bundle) > 0:
		return p.checkBundle(subject, sum, s.Bundle)
	case len(s.Payload) > 0:
		return p.checkSimple(subject, s)
	case len(s.Detached) > 0:
		return p.checkDetached(subject, s.Detached)
	}
	return Signer{}, errors.New("a signature is empty")
}
