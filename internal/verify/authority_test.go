// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package verify_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"testing"
	"testing/fstest"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
)

const signPredicate = "https://sigstore.dev/cosign/sign/v1"

// authority is a sigstore in memory: a certificate authority, a log and a clock that sign for real.
type authority struct {
	*ca.VirtualSigstore
	trusted []byte // as trusted_root.json
	// certificate is in PEM, of some signer.
	certificate string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	virtual, err := ca.NewVirtualSigstore()
	must(t, err)
	a := &authority{VirtualSigstore: virtual}
	a.trusted = a.rootOf(t, a.RekorLogs(), nil)
	leaf, _, err := a.GenerateLeafCert(subject, issuer)
	must(t, err)
	a.certificate = pemOf(leaf.Raw)
	return a
}

// rootOf returns a trusted root with this authority and clock, and the given logs.
func (a *authority) rootOf(t testing.TB, logs, certificateLogs map[string]*root.TransparencyLog) []byte {
	t.Helper()
	for _, all := range []map[string]*root.TransparencyLog{logs, certificateLogs} {
		for id, log := range all {
			raw, err := hex.DecodeString(id)
			must(t, err)
			log.ID = raw
		}
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01, a.FulcioCertificateAuthorities(), certificateLogs, a.TimestampingAuthorities(), logs)
	must(t, err)
	text, err := trusted.MarshalJSON()
	must(t, err)
	return text
}

func trustingRoot(text []byte) verify.Config {
	return verify.Config{Identities: []verify.Identity{{Issuer: issuer, Subject: subject}}, TrustedRoot: text}
}

// withoutLog trusts a sigstore that runs no log.
func (a *authority) withoutLog(t testing.TB) verify.Config {
	return trustingRoot(a.rootOf(t, nil, nil))
}

// withLogOf trusts this authority, but the log of another sigstore.
func (a *authority) withLogOf(t testing.TB, other *authority) verify.Config {
	return trustingRoot(a.rootOf(t, other.RekorLogs(), nil))
}

// withCertificateLog wants to see that certificates were logged, which those of this authority were not.
func (a *authority) withCertificateLog(t testing.TB) verify.Config {
	return trustingRoot(a.rootOf(t, a.RekorLogs(), a.CTLogs()))
}

// bundle signs a statement about a digest.
func (a *authority) bundle(t testing.TB, digest, predicate string) verify.Signature {
	t.Helper()
	entity, err := a.AttestAtTime(subject, issuer, verifytest.Statement(digest, predicate), time.Now().Add(5*time.Minute), true)
	must(t, err)
	content, err := entity.SignatureContent()
	must(t, err)
	b := a.bundleOf(t, entity)
	b.MediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: envelope(t, content.EnvelopeContent().RawEnvelope())}
	return verify.Signature{Bundle: marshal(t, b)}
}

// blob signs a file.
func (a *authority) blob(t testing.TB, data []byte) *fstest.MapFile {
	t.Helper()
	entity, err := a.Sign(subject, issuer, data)
	must(t, err)
	return &fstest.MapFile{Data: a.message(t, entity)}
}

func (a *authority) message(t testing.TB, entity *ca.TestEntity) []byte {
	t.Helper()
	content, err := entity.SignatureContent()
	must(t, err)
	message := content.MessageSignatureContent()
	b := a.bundleOf(t, entity)
	b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: message.Digest()},
		Signature:     message.Signature(),
	}}
	return marshal(t, b)
}

// expired signs by the tag scheme, logged when the certificate had expired.
func (a *authority) expired(t testing.TB, digest string) verify.Signature {
	t.Helper()
	payload := verifytest.SimplePayload(t, digest)
	entity, err := a.SignAtTime(subject, issuer, payload, time.Now().Add(30*time.Minute))
	must(t, err)
	return a.annotate(t, entity, payload)
}

// simple signs by the tag scheme.
func (a *authority) simple(t testing.TB, payload []byte) verify.Signature {
	t.Helper()
	entity, err := a.Sign(subject, issuer, payload)
	must(t, err)
	return a.annotate(t, entity, payload)
}

// annotate lays a signature out the way cosign does.
func (a *authority) annotate(t testing.TB, entity *ca.TestEntity, payload []byte) verify.Signature {
	t.Helper()
	content, err := entity.SignatureContent()
	must(t, err)
	material, err := entity.VerificationContent()
	must(t, err)
	entries, err := entity.TlogEntries()
	must(t, err)
	entry := a.entry(t, entries[0])
	log, err := json.Marshal(map[string]any{
		"SignedEntryTimestamp": entry.GetInclusionPromise().GetSignedEntryTimestamp(),
		"Payload": map[string]any{
			"body": entry.GetCanonicalizedBody(), "integratedTime": entry.GetIntegratedTime(),
			"logIndex": entry.GetLogIndex(), "logID": hex.EncodeToString(entry.GetLogId().GetKeyId()),
		},
	})
	must(t, err)
	return verify.Signature{Payload: payload, Annotations: map[string]string{
		"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(content.Signature()),
		"dev.sigstore.cosign/certificate":    pemOf(material.Certificate().Raw),
		"dev.sigstore.cosign/bundle":         string(log),
	}}
}

func (a *authority) bundleOf(t testing.TB, entity *ca.TestEntity) *protobundle.Bundle {
	t.Helper()
	content, err := entity.VerificationContent()
	must(t, err)
	timestamps, err := entity.Timestamps()
	must(t, err)
	entries, err := entity.TlogEntries()
	must(t, err)
	material := &protobundle.VerificationMaterial{
		Content:                   &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}},
		TlogEntries:               []*protorekor.TransparencyLogEntry{a.entry(t, entries[0])},
		TimestampVerificationData: &protobundle.TimestampVerificationData{},
	}
	for _, stamp := range timestamps {
		material.TimestampVerificationData.Rfc3161Timestamps = append(material.TimestampVerificationData.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: stamp})
	}
	return &protobundle.Bundle{VerificationMaterial: material}
}

// entry completes what the log says about an entry: the library for tests leaves out what it does not need
// itself.
func (a *authority) entry(t testing.TB, e *tlog.Entry) *protorekor.TransparencyLogEntry {
	t.Helper()
	entry := e.TransparencyLogEntry()
	var body struct{ APIVersion, Kind string }
	must(t, json.Unmarshal(entry.GetCanonicalizedBody(), &body))
	entry.KindVersion = &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion}
	set, err := a.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(entry.GetCanonicalizedBody()), IntegratedTime: entry.GetIntegratedTime(),
		LogIndex: entry.GetLogIndex(), LogID: hex.EncodeToString(entry.GetLogId().GetKeyId()),
	})
	must(t, err)
	entry.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: set}
	return entry
}

func envelope(t testing.TB, e *dsse.Envelope) *protodsse.Envelope {
	t.Helper()
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	must(t, err)
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	must(t, err)
	return &protodsse.Envelope{PayloadType: e.PayloadType, Payload: payload, Signatures: []*protodsse.Signature{{Sig: sig}}}
}

func marshal(t testing.TB, b *protobundle.Bundle) []byte {
	t.Helper()
	text, err := protojson.Marshal(b)
	must(t, err)
	return text
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
