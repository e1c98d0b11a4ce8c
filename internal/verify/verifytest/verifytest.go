// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verifytest signs releases for tests, as cosign does with a key. Keys are made anew by each test.
package verifytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Key is a key pair.
type Key struct {
	// Public is the public key in PEM.
	Public string

	t      testing.TB
	signer signature.Signer
}

// NewKey returns a new key of the kind that "cosign generate-key-pair" makes.
func NewKey(t testing.TB) *Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return KeyOf(t, private)
}

// NewRSAKey returns a new RSA key of the given size.
func NewRSAKey(t testing.TB, bits int) *Key {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	return KeyOf(t, private)
}

// NewEd25519Key returns a new Ed25519 key.
func NewEd25519Key(t testing.TB) *Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return KeyOf(t, private)
}

// KeyOf returns the key pair of a private key.
func KeyOf(t testing.TB, private crypto.Signer) *Key {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	must(t, err)
	signer, err := signature.LoadSigner(private, crypto.SHA256)
	must(t, err)
	return &Key{Public: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), t: t, signer: signer}
}

// Sign returns a bare signature in base64.
func (k *Key) Sign(message []byte) []byte {
	k.t.Helper()
	sig, err := k.signer.SignMessage(bytes.NewReader(message))
	must(k.t, err)
	return []byte(base64.StdEncoding.EncodeToString(sig))
}

// SignDigest returns a signature of a manifest by the tag scheme.
func (k *Key) SignDigest(digest string) verify.Signature {
	k.t.Helper()
	payload := SimplePayload(k.t, digest)
	return verify.Signature{Payload: payload, Annotations: map[string]string{"dev.cosignproject.cosign/signature": string(k.Sign(payload))}}
}

// StatementType is the type of what is signed in a bundle.
const StatementType = "application/vnd.in-toto+json"

// Statement returns a statement about what has a digest. The predicate says of which kind it is.
func Statement(digest, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
		strings.TrimPrefix(digest, "sha256:"), predicate)
}

// Bundle returns a statement that is signed, in a bundle.
func (k *Key) Bundle(digest, predicate string) verify.Signature {
	k.t.Helper()
	body := Statement(digest, predicate)
	sig, err := base64.StdEncoding.DecodeString(string(k.Sign(dsse.PAE(StatementType, body))))
	must(k.t, err)
	text, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "whatever"}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: StatementType, Payload: body, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	})
	must(k.t, err)
	return verify.Signature{Bundle: text}
}

// SimplePayload returns what a signature by the tag scheme is over.
func SimplePayload(t testing.TB, digest string) []byte {
	t.Helper()
	payload, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": "registry.test/stacks"},
			"image":    map[string]string{"docker-manifest-digest": digest},
			"type":     "cosign container image signature",
		},
		"optional": nil,
	})
	must(t, err)
	return payload
}

// SignFiles adds a list of checksums and its signature to the files of a release.
func (k *Key) SignFiles(files fstest.MapFS) {
	k.t.Helper()
	list := SumsOf(files)
	files[verify.SumsFile] = &fstest.MapFile{Data: list}
	files[verify.SumsSignature] = &fstest.MapFile{Data: k.Sign(list)}
}

// SumsOf returns the list of checksums of files.
func SumsOf(files fstest.MapFS) []byte {
	var list bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum := sha256.Sum256(files[name].Data)
		fmt.Fprintf(&list, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	return list.Bytes()
}

// Policy returns a policy that trusts the keys.
func Policy(t testing.TB, keys ...*Key) *verify.Policy {
	t.Helper()
	var c verify.Config
	for _, k := range keys {
		c.PublicKeys = append(c.PublicKeys, k.Public)
	}
	p, err := verify.NewPolicy(c)
	must(t, err)
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
