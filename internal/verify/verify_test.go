// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
)

const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

const other = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

const (
	issuer  = "https://token.example.org"
	subject = "release@example.org"
)

func identity(i verify.Identity) func(*testing.T, *fixture) verify.Config {
	return func(_ *testing.T, f *fixture) verify.Config {
		return verify.Config{Identities: []verify.Identity{i}, TrustedRoot: f.root.trusted}
	}
}

func trustKey(_ *testing.T, f *fixture) verify.Config {
	return verify.Config{PublicKeys: []string{f.key.Public}}
}

func trustIdentity(t *testing.T, f *fixture) verify.Config {
	return identity(verify.Identity{Issuer: issuer, Subject: subject})(t, f)
}

// fixture has the signers of a test.
type fixture struct {
	key, stranger *verifytest.Key
	root, foreign *authority
}

func TestWhichSignaturesCount(t *testing.T) {
	f := &fixture{key: verifytest.NewKey(t), stranger: verifytest.NewKey(t), root: newAuthority(t), foreign: newAuthority(t)}
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, rsa, ed25519 := verifytest.KeyOf(t, large), verifytest.NewRSAKey(t, 2048), verifytest.NewEd25519Key(t)
	trusting := func(k *verifytest.Key) func(*testing.T, *fixture) verify.Config {
		return func(*testing.T, *fixture) verify.Config { return verify.Config{PublicKeys: []string{k.Public}} }
	}
	sig := func(s ...verify.Signature) []verify.Signature { return s }
	annotated := func(s verify.Signature, key, value string) verify.Signature {
		s.Annotations = maps.Clone(s.Annotations)
		s.Annotations[key] = value
		return s
	}
	signed := f.key.SignDigest(digest)

	for name, tt := range map[string]struct {
		policy func(*testing.T, *fixture) verify.Config
		give   []verify.Signature
		want   string // a part of the signer, or of the error after "no"
	}{
		// With a key, by the tag scheme.
		"Key":                        {trustKey, sig(signed), "key sha256:"},
		"KeyP384":                    {trusting(p384), sig(p384.SignDigest(digest)), "key sha256:"},
		"KeyRSA":                     {trusting(rsa), sig(rsa.SignDigest(digest)), "key sha256:"},
		"KeyEd25519":                 {trusting(ed25519), sig(ed25519.SignDigest(digest)), "key sha256:"},
		"SecondOfTwoKeys":            {trusting(&verifytest.Key{Public: f.stranger.Public + f.key.Public}), sig(signed), "key sha256:"},
		"TwoSignaturesOneGood":       {trustKey, sig(f.stranger.SignDigest(digest), signed), "key sha256:"},
		"OneBrokenOneGood":           {trustKey, sig(verify.Signature{Bundle: []byte("{")}, signed), "key sha256:"},
		"Unsigned":                   {trustKey, nil, "no is not signed"},
		"WrongKey":                   {trustKey, sig(f.stranger.SignDigest(digest)), "no key that is not trusted"},
		"OfAnotherDigest":            {trustKey, sig(f.key.SignDigest(other)), `no signed is "sha256:bbbb`},
		"DigestSwappedInPayload":     {trustKey, sig(verify.Signature{Payload: verifytest.SimplePayload(t, digest), Annotations: f.key.SignDigest(other).Annotations}), "no key that is not trusted"},
		"SignatureIsNotBase64":       {trustKey, sig(annotated(signed, "dev.cosignproject.cosign/signature", "%")), "no has no signature in base64"},
		"SignatureIsEmpty":           {trustKey, sig(annotated(signed, "dev.cosignproject.cosign/signature", "")), "no has no signature in base64"},
		"EmptySignature":             {trustKey, sig(verify.Signature{}), "no a signature is empty"},
		"PayloadOfAnotherType":       {trustKey, sig(simple(f.key, `{"critical":{"type":"receipt","image":{"docker-manifest-digest":"`+digest+`"}}}`)), `no of type "receipt"`},
		"PayloadIsNotJSON":           {trustKey, sig(simple(f.key, "x")), "no cannot be read"},
		"KeyButIdentitiesTrusted":    {trustIdentity, sig(signed), "no only identities are trusted"},
		"SelfMadeCertificateWithKey": {trustKey, sig(annotated(signed, "dev.sigstore.cosign/certificate", f.root.certificate)), "no only keys are trusted"},
		"FloodHidesAGoodOne":         {trustKey, append(slices.Repeat(sig(f.stranger.SignDigest(digest)), 64), signed), "no only the first 64 of 65"},

		// With a key, in a bundle.
		"KeyBundle":                 {trustKey, sig(f.key.Bundle(digest, signPredicate)), "key sha256:"},
		"KeyBundleRSA":              {trusting(rsa), sig(rsa.Bundle(digest, signPredicate)), "key sha256:"},
		"KeyBundleOfAnotherDigest":  {trustKey, sig(f.key.Bundle(other, signPredicate)), "no digest"},
		"KeyBundleOfAttestation":    {trustKey, sig(f.key.Bundle(digest, "https://spdx.dev/Document")), "no is no signature"},
		"KeyBundleByStranger":       {trustKey, sig(f.stranger.Bundle(digest, signPredicate)), "no could not verify"},
		"BundleIsNotJSON":           {trustKey, sig(verify.Signature{Bundle: []byte("x")}), "no cannot be read"},
		"BundleOfUnknownVersion":    {trustKey, sig(verify.Signature{Bundle: []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v9.0+json"}`)}), "no cannot be read"},
		"BundleWithoutVerification": {trustKey, sig(verify.Signature{Bundle: []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{}}`)}), "no cannot be read"},

		// Keyless.
		"Identity":                     {trustIdentity, sig(f.root.bundle(t, digest, signPredicate)), "release@example.org of issuer https://token.example.org"},
		"IdentityByTagScheme":          {trustIdentity, sig(f.root.simple(t, verifytest.SimplePayload(t, digest))), "release@example.org"},
		"IdentityByTimestampOnly":      {func(*testing.T, *fixture) verify.Config { return f.root.withoutLog(t) }, sig(f.root.bundle(t, digest, signPredicate)), "release@example.org"},
		"SubjectByExpression":          {identity(verify.Identity{Issuer: issuer, SubjectRegExp: `.*@example\.org`}), sig(f.root.bundle(t, digest, signPredicate)), "release@example.org"},
		"IssuerByExpression":           {identity(verify.Identity{IssuerRegExp: `https://token\..*`, Subject: subject}), sig(f.root.bundle(t, digest, signPredicate)), "release@example.org"},
		"ExpressionMatchesOnlyAPart":   {identity(verify.Identity{Issuer: issuer, SubjectRegExp: "release@example"}), sig(f.root.bundle(t, digest, signPredicate)), "no who is not trusted"},
		"WrongSubject":                 {identity(verify.Identity{Issuer: issuer, Subject: "someone@example.org"}), sig(f.root.bundle(t, digest, signPredicate)), "no signed by release@example.org of issuer https://token.example.org, who is not trusted"},
		"WrongIssuer":                  {identity(verify.Identity{Issuer: "https://other.example.org", Subject: subject}), sig(f.root.bundle(t, digest, signPredicate)), "no who is not trusted"},
		"OtherRoot":                    {trustIdentity, sig(f.foreign.bundle(t, digest, signPredicate)), "no log"},
		"OtherRootByTagScheme":         {trustIdentity, sig(f.foreign.simple(t, verifytest.SimplePayload(t, digest))), "no log"},
		"OtherAuthorityInTheSameLog":   {func(*testing.T, *fixture) verify.Config { return f.foreign.withLogOf(t, f.root) }, sig(f.root.bundle(t, digest, signPredicate)), "no leaf certificate"},
		"ExpiredWhenLogged":            {trustIdentity, sig(f.root.expired(t, digest)), "no integrated time outside certificate validity"},
		"IdentityOfAnotherDigest":      {trustIdentity, sig(f.root.bundle(t, other, signPredicate)), "no digest"},
		"IdentityOfAttestation":        {trustIdentity, sig(f.root.bundle(t, digest, "https://slsa.dev/provenance/v1")), "no is no signature"},
		"TagSchemeOfAnotherDigest":     {trustIdentity, sig(f.root.simple(t, verifytest.SimplePayload(t, other))), `no signed is "sha256:bbbb`},
		"TagSchemePayloadSwapped":      {trustIdentity, sig(swapPayload(f.root.simple(t, verifytest.SimplePayload(t, other)), verifytest.SimplePayload(t, digest))), "no digest"},
		"TagSchemeWithoutLogEntry":     {trustIdentity, sig(annotated(f.root.simple(t, verifytest.SimplePayload(t, digest)), "dev.sigstore.cosign/bundle", "")), "no log"},
		"TagSchemeLogEntryIsNotJSON":   {trustIdentity, sig(annotated(f.root.simple(t, verifytest.SimplePayload(t, digest)), "dev.sigstore.cosign/bundle", "x")), "no annotation dev.sigstore.cosign/bundle"},
		"TagSchemeWithoutPEM":          {trustIdentity, sig(annotated(f.root.simple(t, verifytest.SimplePayload(t, digest)), "dev.sigstore.cosign/certificate", "x")), "no certificate in PEM"},
		"CertificateNotInTransparency": {func(*testing.T, *fixture) verify.Config { return f.root.withCertificateLog(t) }, sig(f.root.bundle(t, digest, signPredicate)), "no timestamp"},
		"EitherKeyOrIdentity": {func(t *testing.T, f *fixture) verify.Config {
			c := trustIdentity(t, f)
			c.PublicKeys = trustKey(t, f).PublicKeys
			return c
		}, sig(signed), "key sha256:"},
		"EitherIdentityOrKey": {func(t *testing.T, f *fixture) verify.Config {
			c := trustIdentity(t, f)
			c.PublicKeys = trustKey(t, f).PublicKeys
			return c
		}, sig(f.root.bundle(t, digest, signPredicate)), "release@example.org"},
	} {
		t.Run(name, func(t *testing.T) {
			policy, err := verify.NewPolicy(tt.policy(t, f))
			if err != nil {
				t.Fatal(err)
			}
			signer, err := policy.Verify(verify.Subject{Digest: digest}, tt.give)
			reason, refuse := strings.CutPrefix(tt.want, "no ")
			if !refuse {
				if err != nil || !strings.Contains(signer.String(), tt.want) {
					t.Errorf("got %v, %v; want %s", signer, err, tt.want)
				}
				return
			}
			var refused *verify.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), reason) || signer != (verify.Signer{}) {
				t.Errorf("got %v, %v; want the reason %q", signer, err, reason)
			}
		})
	}
}

// simple signs any payload by the tag scheme.
func simple(k *verifytest.Key, payload string) verify.Signature {
	return verify.Signature{Payload: []byte(payload), Annotations: map[string]string{"dev.cosignproject.cosign/signature": string(k.Sign([]byte(payload)))}}
}

func swapPayload(s verify.Signature, payload []byte) verify.Signature {
	s.Payload = payload
	return s
}

func TestPolicyHasToTrustSomebody(t *testing.T) {
	root := newAuthority(t)
	good := verifytest.NewKey(t).Public
	for name, tt := range map[string]struct {
		give verify.Config
		want string
	}{
		"Nobody":               {verify.Config{TrustedRoot: root.trusted}, "neither a public key nor an identity"},
		"EmptyKey":             {verify.Config{PublicKeys: []string{""}}, "public key 1: it is not a public key in PEM"},
		"KeyAndRubbish":        {verify.Config{PublicKeys: []string{good + "rubbish"}}, "public key 1: it is not"},
		"SecondKeyIsNoKey":     {verify.Config{PublicKeys: []string{good, "x"}}, "public key 2"},
		"Certificate":          {verify.Config{PublicKeys: []string{root.certificate}}, `"CERTIFICATE", not a PUBLIC KEY`},
		"ShortRSAKey":          {verify.Config{PublicKeys: []string{verifytest.NewRSAKey(t, 1024).Public}}, "1024 bits"},
		"IdentityWithoutRoot":  {verify.Config{Identities: []verify.Identity{{Issuer: issuer, Subject: subject}}}, "need a trusted root"},
		"RootIsNotJSON":        {verify.Config{Identities: []verify.Identity{{Issuer: issuer, Subject: subject}}, TrustedRoot: []byte("x")}, "trusted root:"},
		"RootOfNobody":         {verify.Config{Identities: []verify.Identity{{Issuer: issuer, Subject: subject}}, TrustedRoot: []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)}, "trusted root:"},
		"IdentityOfAnySubject": {verify.Config{Identities: []verify.Identity{{Issuer: issuer}}, TrustedRoot: root.trusted}, "identity 1: it needs either subject or subjectRegExp"},
		"TwoFormsOfIssuer":     {verify.Config{Identities: []verify.Identity{{Issuer: issuer, IssuerRegExp: ".*", Subject: subject}}, TrustedRoot: root.trusted}, "either issuer or issuerRegExp"},
		"BadExpression":        {verify.Config{Identities: []verify.Identity{{IssuerRegExp: "(", Subject: subject}}, TrustedRoot: root.trusted}, "issuerRegExp"},
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := verify.NewPolicy(tt.give); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error with %q", p, err, tt.want)
			}
		})
	}
}

func TestFingerprintTellsPoliciesApart(t *testing.T) {
	a, b := verifytest.NewKey(t), verifytest.NewKey(t)
	both := verifytest.Policy(t, a, b).Fingerprint()
	if again := verifytest.Policy(t, a, b).Fingerprint(); again != both {
		t.Errorf("equal policies have the fingerprints %s and %s", both, again)
	}
	if one := verifytest.Policy(t, a).Fingerprint(); one == both {
		t.Errorf("different policies have the same fingerprint")
	}
}

func TestSubjectNeedsADigest(t *testing.T) {
	p := verifytest.Policy(t, verifytest.NewKey(t))
	for _, digest := range []string{"", "sha256:", "sha256:abcd", "sha512:" + strings.Repeat("a", 64), strings.Repeat("a", 64)} {
		if _, err := p.Verify(verify.Subject{Digest: digest}, nil); err == nil {
			t.Errorf("%q was taken for a digest", digest)
		}
	}
}

// folder is a release with a list of checksums, the way a source hands it over.
func folder(files fstest.MapFS) verify.Sums {
	s := verify.Sums{Files: map[string]string{}}
	for name, file := range files {
		sum := sha256.Sum256(file.Data)
		s.Files[name] = hex.EncodeToString(sum[:])
		if verify.Signs(name) {
			s.Take(name, file.Data)
		}
	}
	return s
}

func TestSignedListOfChecksums(t *testing.T) {
	key, stranger, root := verifytest.NewKey(t), verifytest.NewKey(t), newAuthority(t)
	policy, err := verify.NewPolicy(verify.Config{
		PublicKeys: []string{key.Public}, Identities: []verify.Identity{{Issuer: issuer, Subject: subject}}, TrustedRoot: root.trusted,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(files fstest.MapFS)
		want   string // a part of the error, or nothing
	}{
		"Signed": {func(fstest.MapFS) {}, ""},
		"SignedWithBundle": {func(f fstest.MapFS) {
			delete(f, verify.SumsSignature)
			f[verify.SumsBundle] = root.blob(t, f[verify.SumsFile].Data)
		}, ""},
		"SignedByOthersToo": {func(f fstest.MapFS) {
			mine := f[verify.SumsSignature]
			f[verify.SumsSignature] = &fstest.MapFile{Data: stranger.Sign(f[verify.SumsFile].Data)}
			f[verify.SignatureName(verify.SumsSignature, mine.Data)] = mine
		}, ""},
		"SignedWithBundleToo": {func(f fstest.MapFS) {
			f[verify.SumsSignature].Data = stranger.Sign(f[verify.SumsFile].Data)
			bundle := root.blob(t, f[verify.SumsFile].Data)
			f[verify.SignatureName(verify.SumsBundle, bundle.Data)] = bundle
		}, ""},
		"NameThatIsLikeThatOfASignature": {func(f fstest.MapFS) {
			f["SHA256SUMS.0123456789abcdef.yaml"] = &fstest.MapFile{}
		}, "does not list SHA256SUMS.0123456789abcdef.yaml"},
		"ListListsASignature": {func(f fstest.MapFS) {
			name := verify.SignatureName(verify.SumsSignature, nil)
			resign(f, key, sums(f)+strings.Repeat("0", 64)+"  "+name+"\n")
		}, "which comes after it"},
		"ListListsItself": {func(f fstest.MapFS) {
			stranger.SignFiles(f)
			f[verify.SumsBundle] = root.blob(t, f[verify.SumsFile].Data)
		}, "it lists SHA256SUMS"},
		"BinaryMode":   {func(f fstest.MapFS) { resign(f, key, strings.ReplaceAll(sums(f), "  ", " *")) }, ""},
		"WindowsLines": {func(f fstest.MapFS) { resign(f, key, strings.ReplaceAll(sums(f), "\n", "\r\n")) }, ""},
		"UpperCase":    {func(f fstest.MapFS) { resign(f, key, upper(sums(f))) }, ""},
		"NoList":       {func(f fstest.MapFS) { delete(f, verify.SumsFile) }, "without SHA256SUMS is not signed"},
		"NoSignature":  {func(f fstest.MapFS) { delete(f, verify.SumsSignature) }, "is not signed"},
		"ByStranger":   {func(f fstest.MapFS) { f[verify.SumsSignature].Data = stranger.Sign(f[verify.SumsFile].Data) }, "key that is not trusted"},
		"ListChanged":  {func(f fstest.MapFS) { f[verify.SumsFile].Data = append(f[verify.SumsFile].Data, '\n') }, "something else was signed"},
		"BundleOfOtherList": {func(f fstest.MapFS) {
			delete(f, verify.SumsSignature)
			f[verify.SumsBundle] = root.blob(t, []byte("x"))
		}, "could not verify message"},
		"FileChanged":        {func(f fstest.MapFS) { f["metadata.yaml"].Data = append(f["metadata.yaml"].Data, '\n') }, "metadata.yaml has another checksum"},
		"FileAdded":          {func(f fstest.MapFS) { f["node-images.yaml"] = &fstest.MapFile{} }, "does not list node-images.yaml"},
		"FileRemoved":        {func(f fstest.MapFS) { delete(f, "clusteraddon.yaml") }, `lists "clusteraddon.yaml", which is missing`},
		"ListedTwice":        {func(f fstest.MapFS) { resign(f, key, sums(f)+sums(f)) }, "stands in it twice"},
		"ShortChecksum":      {func(f fstest.MapFS) { resign(f, key, "abcd  metadata.yaml\n") }, "not a line of sha256sum"},
		"EmptyList":          {func(f fstest.MapFS) { resign(f, key, "\n") }, "it is empty"},
		"HugeList":           {func(f fstest.MapFS) { resign(f, key, strings.Repeat("\n", 2<<20)) }, "larger than"},
		"SignatureIsRubbish": {func(f fstest.MapFS) { f[verify.SumsSignature].Data = []byte("%") }, "not base64"},
	} {
		t.Run(name, func(t *testing.T) {
			files := releasetest.Multistage("docker-scs-1-35-v1")
			key.SignFiles(files)
			tt.change(files)
			_, err := policy.VerifySums(folder(files))
			var refused *verify.RefusedError
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func sums(f fstest.MapFS) string { return string(f[verify.SumsFile].Data) }

func resign(f fstest.MapFS, k *verifytest.Key, list string) {
	f[verify.SumsFile].Data = []byte(list)
	f[verify.SumsSignature].Data = k.Sign([]byte(list))
}

// upper writes the checksums of a list in capital letters.
func upper(list string) string {
	var all strings.Builder
	for line := range strings.Lines(list) {
		sum, name, _ := strings.Cut(line, " ")
		fmt.Fprintf(&all, "%s %s", strings.ToUpper(sum), name)
	}
	return all.String()
}

// Whichever byte of a signed release is changed: it is not accepted.
func TestNoChangedByteIsAccepted(t *testing.T) {
	key := verifytest.NewKey(t)
	policy := verifytest.Policy(t, key)
	files := fstest.MapFS{"metadata.yaml": {Data: bytes.Repeat([]byte("0123456789abcdef"), 60)}, "charts.tgz": {Data: make([]byte, 9<<10)}}
	if _, err := rand.Read(files["charts.tgz"].Data); err != nil {
		t.Fatal(err)
	}
	key.SignFiles(files)
	if _, err := policy.VerifySums(folder(files)); err != nil {
		t.Fatal(err)
	}
	changes, accepted := 0, 0
	for _, name := range []string{"metadata.yaml", "charts.tgz", verify.SumsFile} {
		data := files[name].Data
		for i := range data {
			data[i] ^= 1 << (i % 8)
			if _, err := policy.VerifySums(folder(files)); err == nil {
				accepted++
				t.Errorf("%s with byte %d changed was accepted", name, i)
			}
			data[i] ^= 1 << (i % 8)
			changes++
		}
	}
	t.Logf("%d changes, %d accepted", changes, accepted)
}

// FuzzSignature feeds what a registry may hand out. Nothing of it may be accepted, since nobody has signed it.
func FuzzSignature(f *testing.F) {
	key := verifytest.NewKey(f)
	root := newAuthority(f)
	policy, err := verify.NewPolicy(verify.Config{
		PublicKeys: []string{key.Public}, Identities: []verify.Identity{{Issuer: issuer, Subject: subject}}, TrustedRoot: root.trusted,
	})
	if err != nil {
		f.Fatal(err)
	}
	good := root.simple(f, verifytest.SimplePayload(f, other))
	f.Add(key.Bundle(other, signPredicate).Bundle, good.Payload, good.Annotations["dev.cosignproject.cosign/signature"], good.Annotations["dev.sigstore.cosign/certificate"], good.Annotations["dev.sigstore.cosign/bundle"])
	f.Add(root.bundle(f, other, signPredicate).Bundle, []byte(nil), "", "", "")
	f.Fuzz(func(t *testing.T, bundle, payload []byte, sig, cert, log string) {
		for _, s := range []verify.Signature{
			{Bundle: bundle},
			{Payload: payload, Annotations: map[string]string{"dev.cosignproject.cosign/signature": sig, "dev.sigstore.cosign/certificate": cert, "dev.sigstore.cosign/bundle": log}},
			{Detached: payload},
		} {
			if signer, err := policy.Verify(verify.Subject{Digest: digest}, []verify.Signature{s}); err == nil {
				t.Errorf("accepted as signed by %s", signer)
			}
		}
	})
}
