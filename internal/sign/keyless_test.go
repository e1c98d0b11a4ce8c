// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/sign"
	"github.com/clusterstacks/cluster-stack-operator/internal/sign/signtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

const (
	subject = "https://example.org/stacks/release"
	issuer  = "https://issuer.example.org"
)

func keyless(t *testing.T, s *signtest.Sigstore, change func(*sign.Keyless)) *sign.Signer {
	t.Helper()
	o := sign.Keyless{Token: signtest.Token(subject, issuer), Fulcio: s.URL, Rekor: s.URL, Timestamps: s.Timestamps, Transport: http.DefaultTransport}
	if change != nil {
		change(&o)
	}
	signer, err := sign.NewKeyless(o)
	must(t, err)
	return signer
}

func trusting(t *testing.T, identity verify.Identity, root []byte) *verify.Policy {
	t.Helper()
	p, err := verify.NewPolicy(verify.Config{Identities: []verify.Identity{identity}, TrustedRoot: root})
	must(t, err)
	return p
}

func TestCertificatesOfTheEnvironmentsIdentityAreAccepted(t *testing.T) {
	mine := verify.Identity{Subject: subject, Issuer: issuer}
	noLog := func(o *sign.Keyless) { o.Rekor = "" }
	noTime := func(o *sign.Keyless) { o.Timestamps = "" }
	for name, tc := range map[string]struct {
		signer   func(*sign.Keyless)
		prepare  func(s *signtest.Sigstore)
		root     func(s, foreign *signtest.Sigstore) []byte // with the log, unless it is set
		identity verify.Identity
		asked    string // "a", which is signed, unless it is set
		want     string // a part of the reason, or nothing
	}{
		"LogAndTime":        {identity: mine},
		"Log":               {signer: noTime, identity: mine},
		"TimeWithoutLog":    {signer: noLog, root: func(s, _ *signtest.Sigstore) []byte { return s.Root() }, identity: mine},
		"OneOfTwoLogs":      {root: func(s, foreign *signtest.Sigstore) []byte { return s.Root(foreign, s) }, identity: mine},
		"NoEntryInTheLog":   {signer: noLog, identity: mine, want: "log"},
		"OtherLog":          {root: func(s, foreign *signtest.Sigstore) []byte { return s.Root(foreign) }, identity: mine, want: "log"},
		"OtherAuthority":    {root: func(s, foreign *signtest.Sigstore) []byte { return foreign.Root(s) }, identity: mine, want: "certificate"},
		"ExpiredWhenLogged": {signer: noTime, prepare: func(s *signtest.Sigstore) { s.LogIsAhead = 30 * time.Minute }, identity: mine, want: "integrated time outside certificate validity"},
		"OtherSubject":      {identity: verify.Identity{Subject: "https://example.org/x", Issuer: issuer}, want: "who is not trusted"},
		"OtherIssuer":       {identity: verify.Identity{Subject: subject, Issuer: "https://example.org"}, want: "who is not trusted"},
		"OtherContents":     {identity: mine, asked: "b", want: "no signature of sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			s, foreign := signtest.Start(t), signtest.Start(t)
			if tc.prepare != nil {
				tc.prepare(s)
			}
			root := s.Root(s)
			if tc.root != nil {
				root = tc.root(s, foreign)
			}
			asked := cmp.Or(tc.asked, "a")
			signer := keyless(t, s, tc.signer)
			manifest, err := signer.Manifest(t.Context(), digestOf("a"))
			must(t, err)
			blob, err := signer.Blob(t.Context(), []byte("a"))
			must(t, err)
			p := trusting(t, tc.identity, root)
			for what, check := range map[string]func() (verify.Signer, error){
				"manifest": func() (verify.Signer, error) {
					return p.Verify(verify.Subject{Digest: digestOf(asked)}, []verify.Signature{{Bundle: manifest}})
				},
				"list": func() (verify.Signer, error) {
					return p.Verify(verify.SubjectOf([]byte(asked)), []verify.Signature{{Bundle: blob}})
				},
			} {
				got, err := check()
				if tc.want == "" && (err != nil || got.Subject != subject || got.Issuer != issuer) {
					t.Errorf("%s: got %v, %v", what, got, err)
				}
				if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("%s: got %v, %v; want %q", what, got, err, tc.want)
				}
			}
			if s.Certificates != 1 {
				t.Errorf("%d certificates for one key", s.Certificates)
			}
		})
	}
}

// An entry is worth something only with what the log has signed about it.
func TestEntriesOfTheLogCannotBeChanged(t *testing.T) {
	s := signtest.Start(t)
	signer := keyless(t, s, func(o *sign.Keyless) { o.Timestamps = "" })
	bundle, err := signer.Manifest(t.Context(), digestOf("a"))
	must(t, err)
	p := trusting(t, verify.Identity{Subject: subject, Issuer: issuer}, s.Root(s))
	for name, change := range map[string]func(entry map[string]any){
		"Time":      func(e map[string]any) { e["integratedTime"] = "1700000000" },
		"Place":     func(e map[string]any) { e["logIndex"] = "1" },
		"Promise":   func(e map[string]any) { e["inclusionPromise"] = map[string]any{"signedEntryTimestamp": "AAAA"} },
		"NoPromise": func(e map[string]any) { delete(e, "inclusionPromise") },
		"Proof": func(e map[string]any) {
			proof := e["inclusionProof"].(map[string]any) //nolint:forcetypeassert // a test
			proof["hashes"] = proof["hashes"].([]any)[1:] //nolint:forcetypeassert // a test
		},
		"Checkpoint": func(e map[string]any) {
			proof := e["inclusionProof"].(map[string]any) //nolint:forcetypeassert // a test
			proof["checkpoint"] = map[string]any{"envelope": "rekor.localhost - 42\n6\nAAAA\n\n— rekor.localhost AAAA\n"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var all map[string]any
			must(t, json.Unmarshal(bundle, &all))
			material := all["verificationMaterial"].(map[string]any)    //nolint:forcetypeassert // a test
			change(material["tlogEntries"].([]any)[0].(map[string]any)) //nolint:forcetypeassert // a test
			changed, err := json.Marshal(all)
			must(t, err)
			if got, err := p.Verify(verify.Subject{Digest: digestOf("a")}, []verify.Signature{{Bundle: changed}}); err == nil {
				t.Errorf("accepted as by %v", got)
			}
		})
	}
	if _, err := p.Verify(verify.Subject{Digest: digestOf("a")}, []verify.Signature{{Bundle: bundle}}); err != nil {
		t.Error(err)
	}
}

func TestACertificateNeedsSomebodyWhoVouchesForTheTime(t *testing.T) {
	if _, err := sign.NewKeyless(sign.Keyless{Token: "x", Fulcio: "https://fulcio.example.org"}); err == nil {
		t.Error("it signs")
	}
}

// A sigstore of one's own has a certificate of one's own: all its servers are spoken to alike.
func TestAllServersAreSpokenToInTheWayThatIsSaid(t *testing.T) {
	s := signtest.StartTLS(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA)
	ours := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer ours.CloseIdleConnections()
	signer := keyless(t, s, func(o *sign.Keyless) { o.Transport = ours })
	bundle, err := signer.Manifest(t.Context(), digestOf("a"))
	must(t, err)
	p := trusting(t, verify.Identity{Subject: subject, Issuer: issuer}, s.Root(s))
	if _, err := p.Verify(verify.Subject{Digest: digestOf("a")}, []verify.Signature{{Bundle: bundle}}); err != nil {
		t.Error(err)
	}
}

func TestALogThatDoesNotAnswerIsAnError(t *testing.T) {
	s := signtest.Start(t)
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"code":400,"message":"no such kind"}`, http.StatusBadRequest)
	}))
	defer down.Close()
	signer := keyless(t, s, func(o *sign.Keyless) { o.Rekor = down.URL })
	if _, err := signer.Manifest(t.Context(), digestOf("a")); err == nil {
		t.Error("it signs without the log")
	}
	for _, url := range []string{"rekor.example.org", "ftp://rekor.example.org", "http://["} {
		if _, err := sign.NewKeyless(sign.Keyless{Token: "x", Fulcio: s.URL, Rekor: url}); err == nil || !strings.Contains(err.Error(), "the log "+url) {
			t.Errorf("%s: got %v", url, err)
		}
	}
}
