// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"crypto/x509"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

func TestPlaceholdersAreTheSameEachTime(t *testing.T) {
	const withKey = `(genPrivateKey "ecdsa")`
	files := secrets(map[string]string{
		"ca-key":     `(genCAWithKey "cn" 10 ` + withKey + `).Cert`,
		"self":       `(genSelfSignedCert "cn" (list "10.0.0.1") (list "example.com") 10).Key`,
		"self-key":   `(genSelfSignedCertWithKey "cn" nil nil 10 ` + withKey + `).Cert`,
		"signed-key": `(genSignedCertWithKey "cn" nil nil 10 (genCA "other" 10) ` + withKey + `).Cert`,
		"bcrypt":     `bcrypt "password"`,
		"htpasswd":   `htpasswd "user" "password"`,
		"aes":        `encryptAES "password" "text"`,
		"alpha-num":  `randAlphaNum 20`,
		"another":    `randAlphaNum 20`,
		"alpha":      `randAlpha 8`,
		"ascii":      `randAscii 20`,
		"numeric":    `randNumeric 20`,
		"bytes":      `randBytes 20`,
		"int":        `randInt 5 1000000000`,
		"shuffle":    `shuffle "a sentence of many letters"`,
		"uuid":       `uuidv4`,
		"now":        `now`,
		"ago":        `ago (toDate "2006-01-02" "2020-01-01")`,
		"age":        `durationRound (toDate "2006-01-02" "2020-01-01")`,
		"checksum":   `randAlphaNum 20 | sha256sum`,
	})
	files["templates/certs.yaml"] = `{{- $ca := genCA "authority" 10 }}
{{- $server := genSignedCert "server" (list "10.0.0.1") (list "example.com") 10 $ca }}
apiVersion: v1
kind: Secret
metadata: {name: authority}
stringData:
  value: {{ $ca.Cert | quote }}
---
apiVersion: v1
kind: Secret
metadata: {name: signed}
stringData:
  value: {{ (buildCustomCert ($server.Cert | b64enc) ($server.Key | b64enc)).Cert | quote }}
`
	rel := addonOf(t, files)
	in, err := render.AddonInput(rel, "x", facts(), nil)
	if err != nil {
		t.Fatal(err)
	}
	in.Placeholders = true
	first, again := done(t)(in.Render()), done(t)(in.Render())
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("two renders differ:\n%s", diff)
	}

	values := valuesIn(first)
	for name, want := range map[string]string{
		"int": "5", "now": "2025-01-01 00:00:00 +0000 UTC", "shuffle": "a sentence of many letters",
	} {
		if values[name] != want {
			t.Errorf("%s is %q, want %q", name, values[name], want)
		}
	}
	for name, length := range map[string]int{"alpha-num": 20, "alpha": 8, "ascii": 20, "numeric": 20, "uuid": 36, "bcrypt": 60} {
		if len(values[name]) != length {
			t.Errorf("%s is %q, want %d characters", name, values[name], length)
		}
	}
	if values["alpha-num"] == values["another"] {
		t.Error("two passwords have one placeholder")
	}
	// Charts may look into what they have generated.
	authorities := x509.NewCertPool()
	authorities.AddCert(certificate(t, values["authority"]))
	signed := certificate(t, values["signed"])
	if _, err := signed.Verify(x509.VerifyOptions{Roots: authorities, DNSName: "example.com", CurrentTime: signed.NotBefore}); err != nil {
		t.Error(err)
	}

	// What is recorded wins, as it does for real.
	in.Recorded, in.Placeholders = first.Record, false
	if diff := cmp.Diff(first.Objects, done(t)(in.Render()).Objects); diff != "" {
		t.Errorf("a recorded placeholder is not repeated:\n%s", diff)
	}
}
