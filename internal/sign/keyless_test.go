// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/clusterstacks/cluster-stack-operator/internal/sign"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

const (
	subject = "https://example.org/stacks/release"
	issuer  = "https://issuer.example.org"
)

// authorities are a certificate authority and a timestamp authority that speak their protocols and sign for real. Who asks
// for a certificate has to prove that he has the key, and nothing about his token.
type authorities struct {
	fulcio, timestamps string
	trusted            []byte
}

func startAuthorities(t *testing.T) authorities {
	t.Helper()
	rootCert, rootKey, err := ca.GenerateRootCa()
	must(t, err)
	middle, middleKey, err := ca.GenerateFulcioIntermediate(rootCert, rootKey)
	must(t, err)
	tsaMiddle, tsaMiddleKey, err := ca.GenerateTSAIntermediate(rootCert, rootKey)
	must(t, err)
	tsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tsaCert, err := ca.GenerateTSALeafCert(time.Now().Add(-time.Minute), tsaKey, tsaMiddle, tsaMiddleKey)
	must(t, err)

	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", func(w http.ResponseWriter, req *http.Request) {
		var wish struct {
			PublicKeyRequest struct {
				PublicKey         struct{ Content string }
				ProofOfPossession []byte
			}
		}
		if err := json.NewDecoder(req.Body).Decode(&wish); err != nil || req.Header.Get("Authorization") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		block, _ := pem.Decode([]byte(wish.PublicKeyRequest.PublicKey.Content))
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		sum := sha256.Sum256([]byte(subject))
		if public, is := key.(*ecdsa.PublicKey); err != nil || !is || !ecdsa.VerifyASN1(public, sum[:], wish.PublicKeyRequest.ProofOfPossession) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		uri, _ := url.Parse(subject)
		vouched, _ := asn1.MarshalWithParams(issuer, "utf8")
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(7), URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * time.Minute),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: vouched}},
		}, middle, key, middleKey)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{
			"certificates": []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))},
		}}}) // the client says what it lacks
	})
	mux.HandleFunc("POST /timestamp", func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		wish, err := timestamp.ParseRequest(body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		stamp := timestamp.Timestamp{HashAlgorithm: wish.HashAlgorithm, HashedMessage: wish.HashedMessage, Time: time.Now(), Policy: asn1.ObjectIdentifier{1, 2, 3}}
		answer, err := stamp.CreateResponseWithOpts(tsaCert, tsaKey, crypto.SHA256)
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(answer) // the client says what it lacks
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: rootCert, Intermediates: []*x509.Certificate{middle}, ValidityPeriodStart: time.Now().Add(-time.Hour)}}, nil,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{Root: rootCert, Intermediates: []*x509.Certificate{tsaMiddle}, Leaf: tsaCert, ValidityPeriodStart: time.Now().Add(-time.Hour)}}, nil)
	must(t, err)
	text, err := trusted.MarshalJSON()
	must(t, err)
	return authorities{fulcio: server.URL, timestamps: server.URL + "/timestamp", trusted: text}
}

func TestCertificatesOfTheEnvironmentsIdentityAreAccepted(t *testing.T) {
	a := startAuthorities(t)
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	token := encode(`{"alg":"none"}`) + "." + encode(`{"sub":"`+subject+`","iss":"`+issuer+`"}`) + ".x"
	signer, err := sign.NewKeyless(sign.Keyless{Token: token, Fulcio: a.fulcio, Timestamps: a.timestamps, Transport: http.DefaultTransport})
	must(t, err)
	bundle, err := signer.Manifest(t.Context(), digestOf("a"))
	must(t, err)
	for name, tc := range map[string]struct {
		identity verify.Identity
		digest   string
		want     bool
	}{
		"Trusted":       {identity: verify.Identity{Subject: subject, Issuer: issuer}, digest: digestOf("a"), want: true},
		"OtherSubject":  {identity: verify.Identity{Subject: "https://example.org/x", Issuer: issuer}, digest: digestOf("a")},
		"OtherIssuer":   {identity: verify.Identity{Subject: subject, Issuer: "https://example.org"}, digest: digestOf("a")},
		"OtherManifest": {identity: verify.Identity{Subject: subject, Issuer: issuer}, digest: digestOf("b")},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := verify.NewPolicy(verify.Config{Identities: []verify.Identity{tc.identity}, TrustedRoot: a.trusted})
			must(t, err)
			got, err := p.Verify(verify.Subject{Digest: tc.digest}, []verify.Signature{{Bundle: bundle}})
			if (err == nil) != tc.want || tc.want && (got.Subject != subject || got.Issuer != issuer) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestACertificateNeedsSomebodyWhoVouchesForTheTime(t *testing.T) {
	if _, err := sign.NewKeyless(sign.Keyless{Token: "x", Fulcio: "https://fulcio.example.org"}); err == nil {
		t.Error("it signs")
	}
}
