// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The files by which a release is signed at a source that knows no manifests: a list of the checksums of all
// other files, as sha256sum prints it, and signatures of that list as "cosign sign-blob" makes them. Further
// signatures stand beside the first one, see SignatureName.
const (
	SumsFile      = "SHA256SUMS"
	SumsSignature = SumsFile + bareEnding
	SumsBundle    = SumsFile + bundleEnding

	bareEnding   = ".sig"
	bundleEnding = ".sigstore.json"
)

// MaxSumsSignatures is how many signatures of its list a release may bring along.
const MaxSumsSignatures = 16

// idLength is that of the part of a name that tells signatures apart: the first digits of the SHA-256 of the file.
const idLength = 16

var signatureNames = regexp.MustCompile(`^SHA256SUMS(\.[0-9a-f]{16})?\.(sig|sigstore\.json)$`)

// Signs reports whether a file of a release only says who vouches for the others: the list of checksums, or a signature of
// it. Such files may come and go, and the release stays the same one.
func Signs(name string) bool { return name == SumsFile || isSignature(name) }

func isSignature(name string) bool { return signatureNames.MatchString(name) }

// SignatureName returns how a file with a signature, which is called by one of these names, is called beside another one
// of its form: after its contents, so that equal ones have one name and others are in nobody's way.
func SignatureName(name string, contents []byte) string {
	ending := bundleEnding
	if strings.HasSuffix(name, bareEnding) {
		ending = bareEnding
	}
	sum := sha256.Sum256(contents)
	return SumsFile + "." + hex.EncodeToString(sum[:])[:idLength] + ending
}

// Sums is what is needed to verify a release by its list of checksums.
type Sums struct {
	// List is the contents of SumsFile, nil if there is none.
	List []byte
	// Signatures are those of the list.
	Signatures []Signature
	// Files has the SHA-256 of every file of the release, as hexadecimal digits, by name.
	Files map[string]string
}

// Take takes in the contents of a file for which Signs is true.
func (s *Sums) Take(name string, contents []byte) {
	switch {
	case name == SumsFile:
		s.List = contents
	case strings.HasSuffix(name, bareEnding):
		s.Signatures = append(s.Signatures, Signature{Detached: contents})
	default:
		s.Signatures = append(s.Signatures, Signature{Bundle: contents})
	}
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
	if err := s.Check(); err != nil {
		return Signer{}, &RefusedError{Subject: SumsFile, Wanted: p.String(), Reasons: []string{err.Error()}}
	}
	return signer, nil
}

// Check compares all files with the list, whoever has signed it, or nobody. Every file for which Signs is false has to
// stand in it.
func (s Sums) Check() error {
	listed, err := parseSums(s.List)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		switch sum, there := s.Files[name]; {
		case Signs(name):
			return fmt.Errorf("it lists %s, which comes after it", name)
		case !there:
			return fmt.Errorf("it lists %.80q, which is missing", name)
		case sum != listed[name]:
			return fmt.Errorf("%s has another checksum than it says", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		if _, found := listed[name]; !Signs(name) && !found {
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
