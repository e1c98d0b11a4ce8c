// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The files by which a release is signed at a source that knows no manifests: a list of the checksums of all
// other files, as sha256sum prints it, and signatures of that list as "cosign sign-blob" makes them.
const (
	SumsFile      = "SHA256SUMS"
	SumsSignature = "SHA256SUMS.sig"
	SumsBundle    = "SHA256SUMS.sigstore.json"
)

// Sums is what is needed to verify a release by its list of checksums.
type Sums struct {
	// List is the contents of SumsFile, nil if there is none.
	List []byte
	// Signatures are those of the list.
	Signatures []Signature
	// Files has the SHA-256 of every file of the release, as hexadecimal digits, by name.
	Files map[string]string
}

// VerifySums returns the signer of the list of checksums, after it has compared all files with it. Every file
// has to stand in the list, and nothing else may: to leave out a file of a release makes another release of it.
//
// The error is a *RefusedError.
func (p *Policy) VerifySums(s Sums) (Signer, error) {
	if s.List == nil {
		return Signer{}, &RefusedError{Subject: "a release without " + SumsFile, Wanted: p.String()}
	}
	subject := SubjectOf(s.List)
	signer, err := p.Verify(subject, s.Signatures)
	if err != nil {
		return Signer{}, err
	}
	// Parsed only now that it is known to come from somebody who is trusted.
	if err := s.check(); err != nil {
		return Signer{}, &RefusedError{Subject: SumsFile, Wanted: p.String(), Reasons: []string{err.Error()}}
	}
	return signer, nil
}

// isListed reports whether a file has to stand in the list: its signatures cannot.
func isListed(name string) bool {
	return name != SumsFile && name != SumsSignature && name != SumsBundle
}

func (s Sums) check() error {
	listed, err := parseSums(s.List)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		switch sum, there := s.Files[name]; {
		case !isListed(name):
			return fmt.Errorf("it lists %s, which comes after it", name)
		case !there:
			return fmt.Errorf("it lists %.80q, which is missing", name)
		case sum != listed[name]:
			return fmt.Errorf("%s has another checksum than it says", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		if _, found := listed[name]; isListed(name) && !found {
			return fmt.Errorf("it does not list %s", name)
		}
	}
	return nil
}

// Limits of a list: many times what the largest release has.
const (
	maxSumsSize    = 1 << 20
	maxSumsEntries = 1000
)

func parseSums(list []byte) (map[string]string, error) {
	sums := map[string]string{}
	if len(list) > maxSumsSize {
		return nil, fmt.Errorf("larger than %d bytes", maxSumsSize)
	}
	for line := range strings.Lines(string(list)) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			continue
		}
		sum, name, ok := strings.Cut(line, " ")
		if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size || len(name) < 2 || name[0] != ' ' && name[0] != '*' {
			return nil, fmt.Errorf("%.80q is not a line of sha256sum", line)
		}
		name = strings.TrimPrefix(name[1:], "./")
		if _, twice := sums[name]; twice {
			return nil, fmt.Errorf("%q stands in it twice", name)
		}
		if sums[name] = strings.ToLower(sum); len(sums) > maxSumsEntries {
			return nil, fmt.Errorf("more than %d lines", maxSumsEntries)
		}
	}
	if len(sums) == 0 {
		return nil, errors.New("it is empty")
	}
	return sums, nil
}
