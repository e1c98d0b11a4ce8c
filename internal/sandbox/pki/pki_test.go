// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

func TestEnsureCA(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	ensure := func() *CA {
		t.Helper()
		ca, err := EnsureCA(certFile, keyFile, "sandbox")
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	first := ensure()
	if again := ensure(); string(again.CertPEM()) != string(first.CertPEM()) {
		t.Error("another authority the second time: whoever trusts the first one is cut off")
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	if other := ensure(); string(other.CertPEM()) == string(first.CertPEM()) {
		t.Error("an authority without its key")
	}
}

func TestIssue(t *testing.T) {
	own, err := NewCA("sandbox")
	if err != nil {
		t.Fatal(err)
	}
	ownKey, err := own.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	reloaded, err := LoadCA(own.CertPEM(), ownKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, ca := range map[string]*CA{"OwnAuthority": own, "ReloadedAuthority": reloaded, "RSAAuthorityOfClusterAPI": rsaCA(t)} {
		t.Run(name, func(t *testing.T) {
			pair, err := ca.Issue(Request{
				CommonName: "kube-apiserver", Organizations: []string{"sandbox"},
				DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 80, 0, 1)}, Server: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM); err != nil {
				t.Fatal(err)
			}
			certs, err := cert.ParseCertsPEM(pair.CertPEM)
			if err != nil {
				t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(ca.CertPEM())
			for _, host := range []string{"localhost", "127.80.0.1"} {
				if _, err := certs[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
					t.Errorf("as server %s: %v", host, err)
				}
			}
			if _, err := certs[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
				t.Error("a serving certificate passes as a client's")
			}
			if diff := cmp.Diff([]string{"sandbox"}, certs[0].Subject.Organization); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestIssueNeedsAPurpose(t *testing.T) {
	ca, err := NewCA("sandbox")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(Request{CommonName: "nobody"}); err == nil {
		t.Error("issued a certificate for nothing")
	}
}

func TestLoadCARefusesAForeignKey(t *testing.T) {
	one, err := NewCA("one")
	if err != nil {
		t.Fatal(err)
	}
	two, err := NewCA("two")
	if err != nil {
		t.Fatal(err)
	}
	key, err := two.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(one.CertPEM(), key); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("got %v", err)
	}
}

func TestKubeconfig(t *testing.T) {
	ca, err := NewCA("sandbox")
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.Issue(Request{CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Kubeconfig("default", "https://127.80.0.1:6443", ca.CertPEM(), client)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://127.80.0.1:6443" || !cmp.Equal(config.CAData, ca.CertPEM()) || !cmp.Equal(config.CertData, client.CertPEM) {
		t.Errorf("got host %s", config.Host)
	}
}

func rsaCA(t *testing.T) *CA {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "kubernetes"}, key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := cert.EncodeCertificates(c)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := LoadCA(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
