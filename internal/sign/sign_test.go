// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sign_test

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
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/clusterstacks/cluster-stack-operator/internal/sign"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return map[string]crypto.Signer{"P256": p256, "P384": p384, "Ed25519": ed, "RSA": rsaKey}
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestWhatIsSignedIsAcceptedFromThatKeyAndForThatOnly(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	stranger, err := sign.New(other)
	must(t, err)
	for name, private := range keys(t) {
		t.Run(name, func(t *testing.T) {
			signer, err := sign.New(private)
			must(t, err)
			trusted, err := verify.NewPolicy(verify.Config{PublicKeys: []string{signer.Key()}})
			must(t, err)
			distrusting, err := verify.NewPolicy(verify.Config{PublicKeys: []string{stranger.Key()}})
			must(t, err)
			check := func(what string, p *verify.Policy, subject verify.Subject, bundle []byte, want bool) {
				t.Helper()
				_, err := p.Verify(subject, []verify.Signature{{Bundle: bundle}})
				var refused *verify.RefusedError
				if (err == nil) != want || err != nil && !errors.As(err, &refused) {
					t.Errorf("%s: %v", what, err)
				}
			}
			manifest, err := signer.Manifest(t.Context(), digestOf("a"))
			must(t, err)
			check("the manifest", trusted, verify.Subject{Digest: digestOf("a")}, manifest, true)
			check("another manifest", trusted, verify.Subject{Digest: digestOf("b")}, manifest, false)
			check("another key", distrusting, verify.Subject{Digest: digestOf("a")}, manifest, false)
			check("a manifest's signature that was changed", trusted, verify.Subject{Digest: digestOf("a")},
				[]byte(strings.Replace(string(manifest), `"sig":"`, `"sig":"AAAA`, 1)), false)
			blob, err := signer.Blob(t.Context(), []byte("list"))
			must(t, err)
			check("the file", trusted, verify.SubjectOf([]byte("list")), blob, true)
			check("another file", trusted, verify.SubjectOf([]byte("lies")), blob, false)
			check("another key for the file", distrusting, verify.SubjectOf([]byte("list")), blob, false)
		})
	}
}

func TestTheSameSignedAgainHasTheSameBytes(t *testing.T) {
	for name, private := range keys(t) {
		t.Run(name, func(t *testing.T) {
			var manifests, blobs [2][]byte
			for i := range 2 {
				signer, err := sign.New(private)
				must(t, err)
				manifests[i], err = signer.Manifest(t.Context(), digestOf("a"))
				must(t, err)
				blobs[i], err = signer.Blob(t.Context(), []byte("list"))
				must(t, err)
			}
			if !bytes.Equal(manifests[0], manifests[1]) || !bytes.Equal(blobs[0], blobs[1]) {
				t.Errorf("signed twice: %s and %s, %s and %s", manifests[0], manifests[1], blobs[0], blobs[1])
			}
		})
	}
}

func TestKeysOfCosignAndOfOpenSSL(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	sealed, err := encrypted.Encrypt(der, []byte("secret"))
	must(t, err)
	open, err := encrypted.Encrypt(der, nil)
	must(t, err)
	sec1, err := x509.MarshalECPrivateKey(private)
	must(t, err)
	block := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	for name, tc := range map[string]struct {
		text, password, want string
	}{
		"Cosign":        {text: block("ENCRYPTED SIGSTORE PRIVATE KEY", sealed), password: "secret"},
		"OldCosign":     {text: block("ENCRYPTED COSIGN PRIVATE KEY", sealed), password: "secret"},
		"NoPassword":    {text: block("ENCRYPTED SIGSTORE PRIVATE KEY", open)},
		"WrongPassword": {text: block("ENCRYPTED SIGSTORE PRIVATE KEY", sealed), password: "x", want: "the password is wrong or missing"},
		"PKCS8":         {text: block("PRIVATE KEY", der)},
		"SEC1":          {text: block("EC PRIVATE KEY", sec1)},
		"OpenSSLsealed": {text: block("ENCRYPTED PRIVATE KEY", der), want: "openssl pkey"},
		"Public":        {text: block("PUBLIC KEY", der), want: "not a private key"},
		"Two":           {text: block("PRIVATE KEY", der) + block("PRIVATE KEY", der), want: "not one private key"},
		"Nothing":       {text: "", want: "not one private key"},
		"Noise":         {text: block("PRIVATE KEY", []byte("noise")), want: "asn1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := sign.ParseKey([]byte(tc.text), []byte(tc.password))
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v", err)
				}
				return
			}
			must(t, err)
			if !private.Equal(got) {
				t.Error("it is another key")
			}
		})
	}
}

func TestKeysThatNoPolicyAcceptsDoNotSign(t *testing.T) {
	// Go makes no such keys any more, so it is one that was made before.
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	if _, err := sign.New(weak); err == nil {
		t.Error("it signs")
	}
}

func TestTokensOfTheEnvironment(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer runner" || req.URL.Query().Get("audience") != "sigstore" || req.URL.Query().Get("job") != "1" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(`{"value":"from-actions"}`))
	}))
	defer server.Close()
	for name, tc := range map[string]struct {
		env       map[string]string
		want, err string
	}{
		"Given":         {env: map[string]string{"SIGSTORE_ID_TOKEN": "given"}, want: "given"},
		"GitHubActions": {env: map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": server.URL + "/?job=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner"}, want: "from-actions"},
		"Refused":       {env: map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": server.URL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "secret"}, err: "the server answered 403"},
		"Nothing":       {err: sign.ErrNoToken.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := sign.Token(t.Context(), func(name string) string { return tc.env[name] }, server.Client())
			if got != tc.want || tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
