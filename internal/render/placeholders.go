// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"strings"
	"time"
)

// placeholderTime is in place of the time of a render.
var placeholderTime = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

// placeholder returns what stands for the result of a generating call, encoded as in a Record. It has the form of a
// generated value, depends on the call alone, and is known to everybody.
func placeholder(function string, args []any, c call) (string, error) {
	from := &seeded{seed: sha256.Sum256([]byte(c.key()))}
	count := func() int {
		n, _ := args[0].(int)
		return max(0, n)
	}
	text := func(i int) string {
		s, _ := args[i].(string)
		return s
	}
	const digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyz"
	switch function {
	case "randAlphaNum", "randAscii":
		return from.text(count(), letters+digits), nil
	case "randAlpha":
		return from.text(count(), letters), nil
	case "randNumeric":
		return from.characters(count(), digits), nil
	case "randBytes":
		return base64.StdEncoding.EncodeToString(from.bytes(count())), nil
	case "randInt":
		low, _ := args[0].(int)
		return strconv.Itoa(low), nil
	case "uuidv4":
		b := from.bytes(16)
		b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
	case "shuffle":
		return text(0), nil
	case "bcrypt":
		return from.bcrypt(), nil
	case "htpasswd":
		return text(0) + ":" + from.bcrypt(), nil
	case "encryptAES":
		return base64.StdEncoding.EncodeToString(from.bytes(48)), nil
	case "ago", "durationRound":
		return "0s", nil
	case "genPrivateKey":
		return encodeKey(from.key())
	case "genCA", "genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey", "genSignedCert", "genSignedCertWithKey":
		return from.certificate(function, args)
	}
	return "", errors.New(limitMark + "function " + function + " has no placeholder")
}

// seeded gives bytes that depend on its seed alone.
type seeded struct {
	seed  [sha256.Size]byte
	round byte
}

func (s *seeded) bytes(n int) []byte {
	var all []byte
	for len(all) < n {
		s.round++
		sum := sha256.Sum256(append(s.seed[:], s.round))
		all = append(all, sum[:]...)
	}
	return all[:n]
}

func (s *seeded) characters(n int, of string) string {
	all := s.bytes(n)
	for i, b := range all {
		all[i] = of[int(b)%len(of)]
	}
	return string(all)
}

// text says what it is where there is room for that.
func (s *seeded) text(n int, of string) string {
	const mark = "placeholder"
	if n < len(mark)+4 {
		return s.characters(n, of)
	}
	return mark + s.characters(n-len(mark), of)
}

func (s *seeded) bcrypt() string {
	return "$2a$10$" + s.characters(53, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
}

func (s *seeded) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(s.bytes(ed25519.SeedSize)) }

// pair is the form in which a certificate is recorded.
type pair struct{ Cert, Key string }

// certificate makes one with a key of a kind whose signatures are the same each time. Who is to sign it does, if its
// signatures are, too; else the certificate signs itself.
func (s *seeded) certificate(function string, args []any) (string, error) {
	kind, withKey := strings.CutSuffix(function, "WithKey")
	key, keyText := crypto.Signer(s.key()), ""
	var signer pair
	if withKey {
		keyText, _ = args[len(args)-1].(string)
		if given, err := signerOf(keyText); err == nil {
			key = given
		}
		args = args[:len(args)-1]
	}
	if keyText == "" {
		var err error
		if keyText, err = encodeKey(key); err != nil {
			return "", err
		}
	}
	if kind == "genSignedCert" {
		// The library does not export its type.
		data, err := json.Marshal(args[len(args)-1])
		if err == nil {
			err = json.Unmarshal(data, &signer)
		}
		if err != nil {
			return "", errors.New(limitMark + function + " is not given a certificate to sign with")
		}
		args = args[:len(args)-1]
	}
	name, _ := args[0].(string)
	days, _ := args[len(args)-1].(int)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(s.bytes(16)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    placeholderTime, NotAfter: placeholderTime.AddDate(0, 0, days),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if kind == "genCA" {
		template.IsCA = true
		template.KeyUsage |= x509.KeyUsageCertSign
	} else {
		for _, ip := range listOf(args[1]) {
			if address := net.ParseIP(ip); address != nil {
				template.IPAddresses = append(template.IPAddresses, address)
			}
		}
		template.DNSNames = listOf(args[2])
	}
	parent, by := template, key
	if cert, signing, err := signer.open(); err == nil {
		parent, by = cert, signing
	}
	if _, chance := by.(*ecdsa.PrivateKey); chance {
		own := s.key()
		parent, key, by = template, own, own
	}
	der, err := x509.CreateCertificate(nil, template, parent, key.Public(), by)
	if err != nil {
		return "", fmt.Errorf("%s: %w", function, err)
	}
	data, err := json.Marshal(pair{Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), Key: keyText})
	return string(data), err
}

func (p pair) open() (*x509.Certificate, crypto.Signer, error) {
	block, _ := pem.Decode([]byte(p.Cert))
	if block == nil {
		return nil, nil, errors.New("no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, err := signerOf(p.Key)
	return cert, key, err
}

func encodeKey(key crypto.Signer) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func signerOf(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no key")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("no key to sign with")
	}
	return signer, nil
}

func listOf(arg any) []string {
	all, _ := arg.([]any)
	var texts []string
	for _, one := range all {
		if s, ok := one.(string); ok {
			texts = append(texts, s)
		}
	}
	return texts
}
