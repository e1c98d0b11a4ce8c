// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verify decides whether somebody who is trusted has signed a release.
//
// It sees digests, signatures and a policy, and needs no network: what a signature has to be compared
// with, it is given. Where signatures lie is known to sources; what becomes of a release that is not
// signed as it has to be is decided by others.
package verify

// Signature is a signature as found beside a release. Which form it has its fields tell.
type Signature struct {
	// Bundle is a sigstore bundle in JSON, which has everything in it.
	Bundle []byte

	// Payload is what a signature by the tag scheme of cosign is over: the contents of a layer of type
	// application/vnd.dev.cosign.simplesigning.v1+json.
	Payload []byte
	// Annotations are those of the same layer. The signature itself is one of them.
	Annotations map[string]string
}
