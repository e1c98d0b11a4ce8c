// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Patches says which patch versions of Kubernetes the clusters of a release may have beside the one that the
// release is made for. The zero value is none.
type Patches struct {
	// From is the first patch version, End is the one after the last.
	From, End int
}

const anyPatch = "any"

var patchesForm = regexp.MustCompile(`^([0-9]{1,4})-([0-9]{1,4})?$`)

// ParsePatches reads the text form: "any", "4-9", "4-" for 4 and above, or nothing for none.
func ParsePatches(text string) (Patches, error) {
	switch text {
	case "":
		return Patches{}, nil
	case anyPatch:
		return Patches{End: math.MaxInt}, nil
	}
	parts := patchesForm.FindStringSubmatch(text)
	if parts == nil {
		return Patches{}, fmt.Errorf(`%q is neither %q nor a range of patch versions such as "4-9" or "4-"`, text, anyPatch)
	}
	p := Patches{End: math.MaxInt}
	p.From, _ = strconv.Atoi(parts[1]) // four digits
	if parts[2] != "" {
		p.End, _ = strconv.Atoi(parts[2])
		p.End++
	}
	if p.From >= p.End {
		return Patches{}, fmt.Errorf("%q ends before it begins", text)
	}
	return p, nil
}

// String returns the text form.
func (p Patches) String() string {
	switch {
	case p.End == 0:
		return ""
	case p.End != math.MaxInt:
		return fmt.Sprintf("%d-%d", p.From, p.End-1)
	case p.From > 0:
		return fmt.Sprintf("%d-", p.From)
	}
	return anyPatch
}

// Allows tells whether a cluster of the release may have that version of Kubernetes: the one that the release is
// made for, or another patch of the same minor version where the release says so.
func (m Metadata) Allows(version string) bool {
	if version == m.Kubernetes {
		return true
	}
	made, _, ok1 := minorAndPatch(m.Kubernetes)
	minor, patch, ok2 := minorAndPatch(version)
	return ok1 && ok2 && made == minor && m.Patches.From <= patch && patch < m.Patches.End
}

// minorAndPatch splits "v1.35.4" into "v1.35" and 4. Versions before a release proper, such as "v1.36.0-rc.1", are
// not in any range.
func minorAndPatch(version string) (minor string, patch int, ok bool) {
	i := strings.LastIndexByte(version, '.')
	if i < 0 || !kubernetesForm.MatchString(version) {
		return "", 0, false
	}
	patch, err := strconv.Atoi(version[i+1:])
	return version[:i], patch, err == nil && strings.Count(version, ".") == 2
}
