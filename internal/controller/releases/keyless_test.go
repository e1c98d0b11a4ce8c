// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sign"
	"github.com/clusterstacks/cluster-stack-operator/internal/sign/signtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// What csctl signs with a certificate, a ClusterStack that names the identity takes from a registry, by the root that is
// pinned in a ConfigMap.
func TestIdentitiesOfAClusterStack(t *testing.T) {
	const me, issuer = "https://ci.example.org/me", "https://ci.example.org"
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	name, err := release.ParseName("docker-scs-1-35-v1")
	check(err)
	src, err := oci.New(registrytest.Start(t, registrytest.Options{}).Host+"/stacks", oci.Options{Web: web.Options{PlainHTTP: true}})
	check(err)
	published, err := src.Put(t.Context(), name, releasetest.Multistage(name.String()), source.Publication{})
	check(err)
	sigstore, stranger := signtest.Start(t), signtest.Start(t)
	signer, err := sign.NewKeyless(sign.Keyless{Token: signtest.Token(me, issuer), Fulcio: sigstore.URL, Rekor: sigstore.URL, Transport: http.DefaultTransport})
	check(err)
	bundle, err := signer.Manifest(t.Context(), published.Digest)
	check(err)
	check(src.AddSignature(t.Context(), name, published.Digest, bundle, time.Now()))

	for what, tc := range map[string]struct {
		identity v1alpha1.CertificateIdentity
		root     []byte
		want     string // a part of the error, or nothing
	}{
		"Trusted":      {identity: v1alpha1.CertificateIdentity{Subject: me, Issuer: issuer}, root: sigstore.Root(sigstore)},
		"ByExpression": {identity: v1alpha1.CertificateIdentity{SubjectRegExp: `https://ci\.example\.org/.*`, Issuer: issuer}, root: sigstore.Root(sigstore)},
		"OtherSubject": {identity: v1alpha1.CertificateIdentity{Subject: me + "/", Issuer: issuer}, root: sigstore.Root(sigstore), want: "who is not trusted"},
		"OtherIssuer":  {identity: v1alpha1.CertificateIdentity{Subject: me, Issuer: "https://example.org"}, root: sigstore.Root(sigstore), want: "who is not trusted"},
		"OtherLog":     {identity: v1alpha1.CertificateIdentity{Subject: me, Issuer: issuer}, root: sigstore.Root(stranger), want: "log"},
		"OtherRoot":    {identity: v1alpha1.CertificateIdentity{Subject: me, Issuer: issuer}, root: stranger.Root(sigstore), want: "certificate"},
	} {
		t.Run(what, func(t *testing.T) {
			stack := &v1alpha1.ClusterStack{Spec: v1alpha1.ClusterStackSpec{Verify: &v1alpha1.Verification{
				Identities: []v1alpha1.CertificateIdentity{tc.identity}, TrustedRootRef: &v1alpha1.LocalReference{Name: "root"},
			}}}
			rules := &releases.Rules{ConfigMap: func(context.Context, client.ObjectKey) (*corev1.ConfigMap, error) {
				return &corev1.ConfigMap{Data: map[string]string{releases.TrustedRootKey: string(tc.root)}}, nil
			}}
			policy, optional, err := rules.Policy(t.Context(), stack)
			if err != nil || optional {
				t.Fatalf("got %v, optional %t", err, optional)
			}
			s, err := store.Open(t.TempDir(), store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			got, err := s.Get(t.Context(), store.Want{Key: "oci", Name: name, From: src, Policy: policy, Signatures: src.Signatures})
			var refused *verify.RefusedError
			switch {
			case tc.want == "" && (err != nil || got.Signer.Subject != me || got.Signer.Issuer != issuer):
				t.Errorf("got %+v, %v", got.Signer, err)
			case tc.want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %+v, %v; want %q", got.Signer, err, tc.want)
			}
		})
	}
}
