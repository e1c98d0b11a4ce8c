// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package signtest has a sigstore for tests, on loopback: a certificate authority, a transparency log and a timestamp
// authority that speak their protocols and sign for real. The certificate authority wants to see that who asks has the key,
// and believes every token.
package signtest

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
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
)

// Sigstore is an instance of sigstore. Its authorities have keys that no other instance has.
type Sigstore struct {
	// URL is that of the certificate authority and of the log, and Timestamps that of the timestamp authority.
	URL, Timestamps string
	// CA is the certificate of all its servers in PEM, when it has TLS.
	CA []byte
	// LogIsAhead is by how much the clock of the log is.
	LogIsAhead time.Duration
	// Certificates counts those that were issued.
	Certificates int

	t                 testing.TB
	root, middle      *x509.Certificate
	middleKey         *ecdsa.PrivateKey
	tsaMiddle, tsaOwn *x509.Certificate
	tsaKey            *ecdsa.PrivateKey
	log               *transparencyLog
}

// Start starts an instance that ends with the test.
func Start(t testing.TB) *Sigstore {
	t.Helper()
	return start(t, (*httptest.Server).Start)
}

// StartTLS is Start with TLS.
func StartTLS(t testing.TB) *Sigstore {
	t.Helper()
	return start(t, (*httptest.Server).StartTLS)
}

func start(t testing.TB, begin func(*httptest.Server)) *Sigstore {
	t.Helper()
	s := &Sigstore{t: t, log: newLog(t)}
	var rootKey, tsaMiddleKey *ecdsa.PrivateKey
	var err error
	s.root, rootKey, err = ca.GenerateRootCa()
	must(t, err)
	s.middle, s.middleKey, err = ca.GenerateFulcioIntermediate(s.root, rootKey)
	must(t, err)
	s.tsaMiddle, tsaMiddleKey, err = ca.GenerateTSAIntermediate(s.root, rootKey)
	must(t, err)
	s.tsaKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	s.tsaOwn, err = ca.GenerateTSALeafCert(time.Now().Add(-time.Minute), s.tsaKey, s.tsaMiddle, tsaMiddleKey)
	must(t, err)

	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", s.certify)
	mux.HandleFunc("POST /timestamp", s.stamp)
	mux.HandleFunc("POST /api/v1/log/entries", func(w http.ResponseWriter, req *http.Request) { s.log.add(w, req, s.LogIsAhead) })
	mux.HandleFunc("GET /api/v1/log/entries/{uuid}", s.log.get)
	server := httptest.NewUnstartedServer(mux)
	begin(server)
	t.Cleanup(server.Close)
	s.URL, s.Timestamps = server.URL, server.URL+"/timestamp"
	if server.Certificate() != nil {
		s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	}
	return s
}

// Token returns a token of OpenID Connect, which nobody has signed.
func Token(subject, issuer string) string {
	encode := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(map[string]string{"sub": subject, "iss": issuer, "aud": "sigstore"})
	if err != nil {
		panic(err) // strings can be encoded
	}
	return encode([]byte(`{"alg":"none"}`)) + "." + encode(claims) + ".x"
}

// Root returns the trusted_root.json that trusts the authorities of this instance, and the logs of some.
func (s *Sigstore) Root(logs ...*Sigstore) []byte {
	s.t.Helper()
	trusted := map[string]*root.TransparencyLog{}
	for _, of := range logs {
		trusted[of.log.id] = of.log.trusted(of.URL)
	}
	since := time.Now().Add(-time.Hour)
	made, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: s.root, Intermediates: []*x509.Certificate{s.middle}, ValidityPeriodStart: since, URI: s.URL}}, nil,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{Root: s.root, Intermediates: []*x509.Certificate{s.tsaMiddle}, Leaf: s.tsaOwn, ValidityPeriodStart: since, URI: s.Timestamps}},
		trusted)
	must(s.t, err)
	text, err := made.MarshalJSON()
	must(s.t, err)
	return text
}

// issued is the extension of a certificate that names the issuer of the token.
var issued = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}

// certify issues a certificate for the subject of a token.
func (s *Sigstore) certify(w http.ResponseWriter, req *http.Request) {
	var wish struct {
		PublicKeyRequest struct {
			PublicKey         struct{ Content string }
			ProofOfPossession []byte
		}
	}
	var claims struct{ Sub, Iss string }
	_, token, _ := strings.Cut(req.Header.Get("Authorization"), ".")
	token, _, _ = strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || json.Unmarshal(text, &claims) != nil || json.NewDecoder(req.Body).Decode(&wish) != nil {
		http.Error(w, "no token, or no wish", http.StatusBadRequest)
		return
	}
	block, _ := pem.Decode([]byte(wish.PublicKeyRequest.PublicKey.Content))
	if block == nil {
		http.Error(w, "no key", http.StatusBadRequest)
		return
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	sum := sha256.Sum256([]byte(claims.Sub))
	if public, is := key.(*ecdsa.PublicKey); err != nil || !is || !ecdsa.VerifyASN1(public, sum[:], wish.PublicKeyRequest.ProofOfPossession) {
		http.Error(w, "whose key is that?", http.StatusBadRequest)
		return
	}
	subject, err := url.Parse(claims.Sub)
	if err != nil {
		http.Error(w, "who?", http.StatusBadRequest)
		return
	}
	vouched, err := asn1.MarshalWithParams(claims.Iss, "utf8")
	if err != nil {
		http.Error(w, "who says so?", http.StatusBadRequest)
		return
	}
	s.Certificates++
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(int64(s.Certificates)), URIs: []*url.URL{subject}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: issued, Value: vouched}},
	}, s.middle, key, s.middleKey)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{
		"certificates": []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))},
	}}}) // the client says what it lacks
}

// stamp says what time it is.
func (s *Sigstore) stamp(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	wish, err := timestamp.ParseRequest(body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	stamp := timestamp.Timestamp{HashAlgorithm: wish.HashAlgorithm, HashedMessage: wish.HashedMessage, Time: time.Now(), Policy: asn1.ObjectIdentifier{1, 2, 3}}
	answer, err := stamp.CreateResponseWithOpts(s.tsaOwn, s.tsaKey, crypto.SHA256)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer) // the client says what it lacks
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
