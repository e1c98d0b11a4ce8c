// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// Config is a policy as people write it.
type Config struct {
	// PublicKeys are keys in PEM ("PUBLIC KEY"), each text with one or more of them: ECDSA, Ed25519, or RSA of at
	// least 2048 bits.
	PublicKeys []string
	// Identities are those of keyless signatures. They need a TrustedRoot.
	Identities []Identity
	// TrustedRoot is sigstore's trusted_root.json: the authorities whose certificates, logs and timestamps count.
	TrustedRoot []byte
}

// Identity is whoever an OpenID Connect issuer vouched for when the certificate of a signature was issued.
// Of issuer and subject there has to be one form each. A regular expression has to match the whole text:
// else "https://github.com/org/" would match a repository of that name on any host.
type Identity struct {
	Issuer, IssuerRegExp   string
	Subject, SubjectRegExp string
}

func (i Identity) String() string {
	or := func(exact, expression string) string {
		if exact != "" {
			return exact
		}
		return "/" + expression + "/"
	}
	return fmt.Sprintf("%s of issuer %s", or(i.Subject, i.SubjectRegExp), or(i.Issuer, i.IssuerRegExp))
}

// Policy says whose signatures count. It does not change and may be used concurrently.
type Policy struct {
	keys        []key
	identities  []matcher
	material    root.TrustedMaterial
	keyless     *sigstore.Verifier
	fingerprint string
	// also has to be content, too, if it is not nil.
	also *Policy
}

// Signer is who has signed.
type Signer struct {
	// Key is the fingerprint of the public key, "sha256:..." over its DER form, or empty.
	Key string
	// Subject and Issuer are those of the certificate, or empty.
	Subject, Issuer string
}

func (s Signer) String() string {
	if s.Key != "" {
		return "key " + s.Key
	}
	return fmt.Sprintf("%s of issuer %s", s.Subject, s.Issuer)
}

// NewPolicy checks a policy. A policy that trusts nobody is an error: it could only refuse everything, and
// nobody means that.
func NewPolicy(c Config) (*Policy, error) {
	p := &Policy{}
	for i, text := range c.PublicKeys {
		keys, err := parseKeys(text)
		if err != nil {
			return nil, fmt.Errorf("public key %d: %w", i+1, err)
		}
		p.keys = append(p.keys, keys...)
	}
	for i, identity := range c.Identities {
		m, err := newMatcher(identity)
		if err != nil {
			return nil, fmt.Errorf("identity %d: %w", i+1, err)
		}
		p.identities = append(p.identities, m)
	}
	if len(p.keys)+len(p.identities) == 0 {
		return nil, errors.New("neither a public key nor an identity is trusted: name at least one")
	}
	if len(p.identities) > 0 {
		if len(c.TrustedRoot) == 0 {
			return nil, errors.New("identities need a trusted root (trusted_root.json of the sigstore instance that issued their certificates)")
		}
		if err := p.trust(c.TrustedRoot); err != nil {
			return nil, fmt.Errorf("trusted root: %w", err)
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	p.fingerprint = hex.EncodeToString(sum[:])
	return p, nil
}

// Both returns a policy that is content with what both are content with, be it for the same signature. It names the
// signer that the first one trusts. One that is nil or demands nothing else changes nothing about the other one.
func Both(first, second *Policy) *Policy {
	switch {
	case first == nil:
		return second
	case second == nil || first.fingerprint == second.fingerprint:
		return first
	}
	both := *first
	both.also = Both(first.also, second)
	sum := sha256.Sum256([]byte(first.fingerprint + " " + second.fingerprint))
	both.fingerprint = hex.EncodeToString(sum[:])
	return &both
}

// trust sets up the verification of keyless signatures. It demands all that the root has authorities for:
// whoever runs a sigstore without a log cannot show entries of one, but a root with a log is not satisfied
// by less.
func (p *Policy) trust(trustedRoot []byte) error {
	material, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return err
	}
	if len(material.FulcioCertificateAuthorities()) == 0 {
		return errors.New("it has no certificate authority")
	}
	// A time that somebody else vouches for: certificates are valid for minutes.
	opts := []sigstore.VerifierOption{sigstore.WithObserverTimestamps(1)}
	if len(material.RekorLogs()) > 0 {
		opts = append(opts, sigstore.WithTransparencyLog(1))
	}
	if len(material.CTLogs()) > 0 {
		opts = append(opts, sigstore.WithSignedCertificateTimestamps(1))
	}
	p.material = material
	p.keyless, err = sigstore.NewVerifier(material, opts...)
	return err
}

// Fingerprint is equal for equal policies, and differs for others.
func (p *Policy) Fingerprint() string { return p.fingerprint }

// String lists who is trusted.
func (p *Policy) String() string {
	var all []string
	for _, k := range p.keys {
		all = append(all, Signer{Key: k.fingerprint}.String())
	}
	for _, m := range p.identities {
		all = append(all, m.identity.String())
	}
	text := strings.Join(all, " or ")
	if p.also != nil {
		text += ", and one by " + p.also.String()
	}
	return text
}

// key is a public key with the ways in which cosign has signed with such keys.
type key struct {
	fingerprint string
	verifiers   []signature.Verifier
}

const minRSABits = 2048

func parseKeys(text string) ([]key, error) {
	var keys []key
	rest := []byte(text)
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		public, err := parseKey(block)
		if err != nil {
			return nil, err
		}
		verifiers, err := verifiersOf(public)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(der)
		keys = append(keys, key{fingerprint: digestPrefix + hex.EncodeToString(sum[:]), verifiers: verifiers})
	}
	if len(keys) == 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("it is not a public key in PEM")
	}
	return keys, nil
}

func parseKey(block *pem.Block) (crypto.PublicKey, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	}
	return nil, fmt.Errorf("a PEM block is a %q, not a PUBLIC KEY", block.Type)
}

func verifiersOf(public crypto.PublicKey) ([]signature.Verifier, error) {
	var verifiers []signature.Verifier
	add := func(v signature.Verifier, err error) error {
		if err == nil {
			verifiers = append(verifiers, v)
		}
		return err
	}
	var err error
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		err = add(signature.LoadECDSAVerifier(k, crypto.SHA256))
		// Bundles of larger curves are signed with the hash that fits the curve, everything else with SHA-256.
		if err == nil && k.Curve != elliptic.P256() {
			err = add(signature.LoadDefaultVerifier(k))
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("an RSA key has %d bits; it takes %d to be safe", k.N.BitLen(), minRSABits)
		}
		err = add(signature.LoadRSAPKCS1v15Verifier(k, crypto.SHA256))
	case ed25519.PublicKey:
		err = errors.Join(
			add(signature.LoadED25519Verifier(k)),
			add(signature.LoadDefaultVerifier(k, options.WithED25519ph())),
		)
	default:
		return nil, fmt.Errorf("keys of type %T are not supported: use ECDSA, Ed25519 or RSA", public)
	}
	return verifiers, err
}

// matcher is an identity with its expressions compiled.
type matcher struct {
	identity        Identity
	issuer, subject *regexp.Regexp
}

func newMatcher(i Identity) (matcher, error) {
	m := matcher{identity: i}
	var err error
	for _, part := range []struct {
		name, exact, expression string
		into                    **regexp.Regexp
	}{
		{"issuer", i.Issuer, i.IssuerRegExp, &m.issuer},
		{"subject", i.Subject, i.SubjectRegExp, &m.subject},
	} {
		if (part.exact == "") == (part.expression == "") {
			return m, fmt.Errorf("it needs either %[1]s or %[1]sRegExp", part.name)
		}
		expression := part.expression
		if part.exact != "" {
			expression = regexp.QuoteMeta(part.exact)
		}
		if *part.into, err = regexp.Compile(`\A(?:` + expression + `)\z`); err != nil {
			return m, fmt.Errorf("%sRegExp: %w", part.name, err)
		}
	}
	return m, nil
}

// signer returns whom a certificate is for, if that is an identity that is trusted.
func (p *Policy) signer(c certificate.Summary) (Signer, error) {
	s := Signer{Subject: c.SubjectAlternativeName, Issuer: c.Issuer}
	if slices.ContainsFunc(p.identities, func(m matcher) bool {
		return m.issuer.MatchString(s.Issuer) && m.subject.MatchString(s.Subject)
	}) {
		return s, nil
	}
	return Signer{}, fmt.Errorf("signed by %s, who is not trusted", s)
}
