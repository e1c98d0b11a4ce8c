// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pki makes the certificates of a sandbox: its own, and those of workload clusters from the
// certificate authorities that Cluster API made for them. Keys stay where the caller puts them.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// lifetime of an issued certificate; it never goes beyond that of its authority.
const lifetime = 365 * 24 * time.Hour

// CA is a certificate authority.
type CA struct {
	cert    *x509.Certificate
	key     crypto.Signer
	certPEM []byte
}

// NewCA makes a self-signed authority with an ECDSA P-256 key, valid for ten years.
func NewCA(commonName string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", commonName, err)
	}
	c, err := cert.NewSelfSignedCACert(cert.Config{CommonName: commonName}, key)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", commonName, err)
	}
	return newCA(c, key)
}

// EnsureCA reads the authority that is kept in two files, or makes a new one and keeps it there when there is none.
func EnsureCA(certFile, keyFile, commonName string) (*CA, error) {
	certPEM, certErr := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	err := errors.Join(certErr, keyErr)
	switch {
	case err == nil:
		return LoadCA(certPEM, keyPEM)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	ca, err := NewCA(commonName)
	if err != nil {
		return nil, err
	}
	if keyPEM, err = ca.KeyPEM(); err != nil {
		return nil, err
	}
	// Each whole or not at all, and the certificate last: whoever finds it finds the key that belongs to it.
	if err := statefile.Replace(keyFile, keyPEM); err != nil {
		return nil, err
	}
	return ca, statefile.Replace(certFile, ca.CertPEM())
}

// LoadCA reads an authority from PEM. The key may be RSA or ECDSA, in any of the encodings that Go reads.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	certs, err := cert.ParseCertsPEM(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load CA certificate: %w", err)
	}
	parsed, err := keyutil.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load key of CA %s: %w", certs[0].Subject.CommonName, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("load key of CA %s: a %T cannot sign", certs[0].Subject.CommonName, parsed)
	}
	type equaler interface{ Equal(crypto.PublicKey) bool }
	if pub, ok := key.Public().(equaler); !ok || !pub.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("load CA %s: certificate and key do not belong together", certs[0].Subject.CommonName)
	}
	return newCA(certs[0], key)
}

func newCA(c *x509.Certificate, key crypto.Signer) (*CA, error) {
	certPEM, err := cert.EncodeCertificates(c)
	if err != nil {
		return nil, err
	}
	return &CA{cert: c, key: key, certPEM: certPEM}, nil
}

// CertPEM is the certificate of the authority, for those who are to trust it.
func (ca *CA) CertPEM() []byte { return ca.certPEM }

// KeyPEM is the private key of the authority.
func (ca *CA) KeyPEM() ([]byte, error) { return keyutil.MarshalPrivateKeyToPEM(ca.key) }

// Request describes a certificate.
type Request struct {
	CommonName    string
	Organizations []string
	DNSNames      []string
	IPs           []net.IP
	// Client and Server say what it may be used for; at least one is needed.
	Client, Server bool
}

// KeyPair is a certificate and its private key.
type KeyPair struct{ CertPEM, KeyPEM []byte }

// Issue signs a certificate for a new ECDSA P-256 key.
func (ca *CA) Issue(r Request) (KeyPair, error) {
	var usages []x509.ExtKeyUsage
	if r.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	if r.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if len(usages) == 0 {
		return KeyPair{}, fmt.Errorf("issue certificate %s: neither for clients nor for servers", r.CommonName)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate %s: %w", r.CommonName, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate %s: %w", r.CommonName, err)
	}
	now := time.Now()
	notAfter := now.Add(lifetime)
	if ca.cert.NotAfter.Before(notAfter) {
		notAfter = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: r.CommonName, Organization: r.Organizations},
		DNSNames:     r.DNSNames,
		IPAddresses:  r.IPs,
		// From the start of the authority: the clock of whoever made it may be a little ahead of ours.
		NotBefore:   ca.cert.NotBefore,
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: usages,
	}, ca.cert, key.Public(), ca.key)
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate %s: %w", r.CommonName, err)
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate %s: %w", r.CommonName, err)
	}
	certPEM, err := cert.EncodeCertificates(issued)
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate %s: %w", r.CommonName, err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate %s: %w", r.CommonName, err)
	}
	return KeyPair{CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

// WriteFiles writes the pair; the key is readable by its owner only.
func (p KeyPair) WriteFiles(certFile, keyFile string) error {
	if err := os.WriteFile(certFile, p.CertPEM, 0o600); err != nil {
		return err
	}
	return os.WriteFile(keyFile, p.KeyPEM, 0o600)
}

// SigningKey is a key pair for the tokens of service accounts.
type SigningKey struct{ PublicPEM, PrivatePEM []byte }

// NewSigningKey makes an RSA key: the algorithm that every consumer of such tokens understands.
func NewSigningKey() (SigningKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return SigningKey{}, fmt.Errorf("make signing key: %w", err)
	}
	private, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return SigningKey{}, fmt.Errorf("make signing key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return SigningKey{}, fmt.Errorf("make signing key: %w", err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: keyutil.PublicKeyBlockType, Bytes: der})
	return SigningKey{PublicPEM: public, PrivatePEM: private}, nil
}

// Kubeconfig is a kubeconfig file with everything embedded. Name becomes the name of cluster, user and context.
func Kubeconfig(name, server string, caPEM []byte, client KeyPair) ([]byte, error) {
	if server == "" || len(caPEM) == 0 {
		return nil, errors.New("kubeconfig " + name + ": needs a server and a CA")
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: caPEM}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: client.CertPEM, ClientKeyData: client.KeyPEM}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	return clientcmd.Write(*config)
}
