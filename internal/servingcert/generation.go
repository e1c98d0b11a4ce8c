// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// generation is a certificate with the authority that signed it and nothing else: the key of the authority is thrown
// away, so that nobody who reads the Secret can make certificates that callers trust.
type generation struct {
	ca        *x509.Certificate
	cert      *x509.Certificate
	pair      tls.Certificate
	crt, key  []byte // PEM
	authority []byte // PEM
}

// backdated is how far a clock may be behind ours and still take the certificate for valid.
const backdated = time.Hour

func newGeneration(names []string, now time.Time, life time.Duration) (*generation, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := func() *big.Int {
		n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand never fails
		return n.Add(n, big.NewInt(1))
	}
	caSerial := serial()
	authority := &x509.Certificate{
		SerialNumber: caSerial,
		// Two authorities of one name would be mixed up by whoever builds a chain.
		Subject:   pkix.Name{CommonName: fmt.Sprintf("cluster-stack-operator-ca-%x", caSerial.Bytes()[:4])},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IsCA: true,
		BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	leaf := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "cluster-stack-operator"},
		NotBefore:    authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	caPEM := encode(caDER)
	return readGeneration(slices.Concat(encode(leafDER), caPEM), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// readGeneration reads a certificate, which its authority follows in the same file, and its key.
func readGeneration(crt, key []byte) (*generation, error) {
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return nil, err
	}
	if len(pair.Certificate) != 2 {
		return nil, errors.New("not a certificate followed by its authority")
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(pair.Certificate[1])
	if err != nil {
		return nil, err
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return nil, err
	}
	return &generation{ca: ca, cert: cert, pair: pair, crt: crt, key: key, authority: encode(ca.Raw)}, nil
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serves tells whether callers can use the certificate at a time under all names.
func (g *generation) serves(names []string, now time.Time) bool {
	return g != nil && !now.Before(g.cert.NotBefore) && now.Before(g.cert.NotAfter) &&
		!slices.ContainsFunc(names, func(name string) bool { return g.cert.VerifyHostname(name) != nil })
}

// issued is when a generation was made.
func (g *generation) issued() time.Time { return g.cert.NotBefore.Add(backdated) }

// bundle is a list of authorities in PEM.
type bundle []*x509.Certificate

func readBundle(data []byte) bundle {
	var b bundle
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return b
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			b = append(b, cert)
		}
	}
}

// with returns the bundle with more authorities, and without those that are expired.
func (b bundle) with(now time.Time, more ...*generation) bundle {
	kept := slices.DeleteFunc(slices.Clone(b), func(c *x509.Certificate) bool { return !now.Before(c.NotAfter) })
	for _, g := range more {
		if g != nil && !slices.ContainsFunc(kept, g.ca.Equal) {
			kept = append(kept, g.ca)
		}
	}
	return kept
}

func (b bundle) pem() []byte {
	var out bytes.Buffer
	for _, cert := range b {
		out.Write(encode(cert.Raw))
	}
	return out.Bytes()
}
