// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sign signs releases, in the form in which package verify takes signatures and cosign writes them.
//
// What a signature is over it is told; where signatures are kept is known to sources.
package sign

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	openapi "github.com/go-openapi/runtime/client"
	"github.com/go-openapi/strfmt"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Predicate is what the statement in a signature of a manifest says that it is.
const Predicate = "https://sigstore.dev/cosign/sign/v1"

const payloadType = "application/vnd.in-toto+json"

// Signer signs with a key, or with one that lives for one signature and a certificate for it.
type Signer struct {
	keypair sigstore.Keypair
	options sigstore.BundleOptions
}

// Keyless says where the certificate of a signature comes from, and who vouches for the time of it.
type Keyless struct {
	// Token is a token of OpenID Connect that the certificate authority accepts.
	Token string
	// Fulcio is the URL of the certificate authority.
	Fulcio string
	// Rekor is the URL of the log, and Timestamps that of the timestamp authority, with its path. One of them is needed.
	Rekor, Timestamps string
	Transport         http.RoundTripper
}

// New returns who signs with a private key. The same signed once more has the same signature, byte by byte.
func New(private crypto.Signer) (*Signer, error) {
	k, err := newKeypair(private)
	if err != nil {
		return nil, err
	}
	return &Signer{keypair: k}, nil
}

// NewKeyless returns who signs with a certificate, which is asked for when it is needed first. It is valid for some minutes.
func NewKeyless(o Keyless) (*Signer, error) {
	if o.Rekor == "" && o.Timestamps == "" {
		return nil, errors.New("a certificate is valid for minutes: name a log or a timestamp authority that vouches for the time of the signature")
	}
	k, err := sigstore.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, err
	}
	s := &Signer{keypair: k, options: sigstore.BundleOptions{
		CertificateProvider:        &once{from: sigstore.NewFulcio(&sigstore.FulcioOptions{BaseURL: strings.TrimSuffix(o.Fulcio, "/"), Retries: 2, Transport: o.Transport})},
		CertificateProviderOptions: &sigstore.CertificateProviderOptions{IDToken: o.Token},
	}}
	if o.Rekor != "" {
		entries, err := rekor(o.Rekor, o.Transport)
		if err != nil {
			return nil, fmt.Errorf("the log %s: %w", o.Rekor, err)
		}
		s.options.TransparencyLogs = append(s.options.TransparencyLogs, sigstore.NewRekor(&sigstore.RekorOptions{Client: entries}))
	}
	if o.Timestamps != "" {
		s.options.TimestampAuthorities = append(s.options.TimestampAuthorities,
			sigstore.NewTimestampAuthority(&sigstore.TimestampAuthorityOptions{URL: o.Timestamps, Retries: 2, Transport: o.Transport}))
	}
	return s, nil
}

// rekor returns who asks a log. Left to itself the library would ask with a transport of its own, which trusts nobody but the
// system.
func rekor(base string, transport http.RoundTripper) (entries.ClientService, error) {
	u, err := url.Parse(strings.TrimSuffix(base, "/"))
	if err != nil {
		return nil, err
	}
	if u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("it is not a URL with https://")
	}
	// What is sent twice is in the log once, and the answer says where.
	patient := retryablehttp.NewClient()
	patient.HTTPClient = &http.Client{Transport: transport}
	patient.RetryMax, patient.Logger = 2, nil
	asked := openapi.NewWithClient(u.Host, cmp.Or(u.Path, "/"), []string{u.Scheme}, patient.StandardClient())
	return entries.New(asked, strfmt.Default), nil
}

// once asks for a certificate for one key, and keeps it.
type once struct {
	from sigstore.CertificateProvider

	mu  sync.Mutex
	der []byte
}

// GetCertificate implements sigstore.CertificateProvider.
func (o *once) GetCertificate(ctx context.Context, k sigstore.Keypair, options *sigstore.CertificateProviderOptions) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.der != nil {
		return o.der, nil
	}
	var err error
	o.der, err = o.from.GetCertificate(ctx, k, options)
	return o.der, err
}

// Identity returns for whom the certificate of a signer is. It is an error for one that has a key.
func (s *Signer) Identity(ctx context.Context) (verify.Identity, error) {
	if s.options.CertificateProvider == nil {
		return verify.Identity{}, errors.New("a key has no identity")
	}
	der, err := s.options.CertificateProvider.GetCertificate(ctx, s.keypair, s.options.CertificateProviderOptions)
	if err != nil {
		return verify.Identity{}, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return verify.Identity{}, fmt.Errorf("the certificate that came: %w", err)
	}
	about, err := certificate.SummarizeCertificate(parsed)
	if err != nil {
		return verify.Identity{}, fmt.Errorf("the certificate that came: %w", err)
	}
	return verify.Identity{Subject: about.SubjectAlternativeName, Issuer: about.Issuer}, nil
}

// Key returns the public key in PEM of a signer that has one, and "" of one that has certificates.
func (s *Signer) Key() string {
	if k, is := s.keypair.(*keypair); is {
		return k.pem
	}
	return ""
}

// Manifest signs the manifest with a digest, "sha256:...". It returns a sigstore bundle in JSON.
func (s *Signer) Manifest(ctx context.Context, digest string) ([]byte, error) {
	sum, is := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(sum); !is || err != nil || len(raw) != sha256.Size {
		return nil, fmt.Errorf("%q is not a digest of the form sha256:<64 hexadecimal digits>", digest)
	}
	statement, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{"sha256": sum}}},
		"predicateType": Predicate,
		"predicate":     map[string]any{},
	})
	if err != nil {
		return nil, err
	}
	return s.bundle(ctx, &sigstore.DSSEData{Data: statement, PayloadType: payloadType})
}

// Blob signs a file. It returns a sigstore bundle in JSON.
func (s *Signer) Blob(ctx context.Context, data []byte) ([]byte, error) {
	return s.bundle(ctx, &sigstore.PlainData{Data: data})
}

func (s *Signer) bundle(ctx context.Context, content sigstore.Content) ([]byte, error) {
	options := s.options
	options.Context = ctx
	b, err := sigstore.Bundle(content, s.keypair, options)
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(b)
	if err != nil {
		return nil, err
	}
	// That library puts in spaces that differ from one build of a program to the next.
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

// Sums returns the list of checksums of the files of a release, by their sha256 sums: what is signed where a source knows
// no manifests.
func Sums(sums map[string]string) []byte {
	var list bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if !verify.Signs(name) {
			_, _ = fmt.Fprintf(&list, "%s  %s\n", sums[name], name) // a Buffer takes everything
		}
	}
	return list.Bytes()
}

// Types of PEM blocks with a private key that a password protects, as cosign calls them now and did before.
const (
	sigstoreKey = "ENCRYPTED SIGSTORE PRIVATE KEY"
	cosignKey   = "ENCRYPTED COSIGN PRIVATE KEY"
)

// ErrPassword is wrapped by errors that another password cures.
var ErrPassword = errors.New("the password is wrong or missing")

// ParseKey reads a private key in PEM: one of cosign, which the password opens, or one without a password, as openssl
// writes it.
func ParseKey(text, password []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one private key in PEM")
	}
	der := block.Bytes
	var (
		key any
		err error
	)
	switch block.Type {
	case sigstoreKey, cosignKey:
		if der, err = encrypted.Decrypt(der, password); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPassword, err)
		}
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("a key that openssl has encrypted is not read: decrypt it with openssl pkey, or import it with cosign import-key-pair")
	default:
		return nil, fmt.Errorf("a PEM block is a %q, not a private key", block.Type)
	}
	if err != nil {
		return nil, err
	}
	private, is := key.(crypto.Signer)
	if !is {
		return nil, fmt.Errorf("keys of type %T do not sign", key)
	}
	return private, nil
}

// keypair signs with a key as package verify checks with it: ECDSA and RSA with SHA-256, Ed25519 as it is.
type keypair struct {
	signer signature.Signer
	ecdsa  *ecdsa.PrivateKey // nil for keys of another kind
	public crypto.PublicKey
	pem    string
	hint   string
}

func newKeypair(private crypto.Signer) (*keypair, error) {
	signer, err := signature.LoadSigner(private, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	text, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	if err != nil {
		return nil, err
	}
	// Nobody would accept what a key signs that a policy refuses, such as one that is too short.
	if _, err := verify.NewPolicy(verify.Config{PublicKeys: []string{string(text)}}); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	onCurve, _ := private.(*ecdsa.PrivateKey)
	return &keypair{signer: signer, ecdsa: onCurve, public: private.Public(), pem: string(text), hint: base64.StdEncoding.EncodeToString(sum[:])}, nil
}

func (k *keypair) GetHashAlgorithm() protocommon.HashAlgorithm {
	return protocommon.HashAlgorithm_SHA2_256
}

func (k *keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	details, err := signature.GetDefaultAlgorithmDetails(k.public)
	if err != nil {
		return protocommon.PublicKeyDetails_PUBLIC_KEY_DETAILS_UNSPECIFIED
	}
	return details.GetSignatureAlgorithm()
}

func (k *keypair) GetHint() []byte                  { return []byte(k.hint) }
func (k *keypair) GetKeyAlgorithm() string          { return "" } // asked for certificates only
func (k *keypair) GetPublicKey() crypto.PublicKey   { return k.public }
func (k *keypair) GetPublicKeyPem() (string, error) { return k.pem, nil }

// SignData returns the signature and the digest of what is signed. The same again gives the same signature, so that what is
// made from the same sources has the same bytes.
func (k *keypair) SignData(_ context.Context, data []byte) ([]byte, []byte, error) {
	sum := sha256.Sum256(data)
	if k.ecdsa != nil {
		// Without a source of randomness the nonce comes from key and digest (RFC 6979). The other kinds of keys need none.
		sig, err := k.ecdsa.Sign(nil, sum[:], crypto.SHA256)
		return sig, sum[:], err
	}
	sig, err := k.signer.SignMessage(bytes.NewReader(data))
	return sig, sum[:], err
}
