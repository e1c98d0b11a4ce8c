// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version is the version of a cluster stack or of one of its components: "v3", or with a channel and
// a suffix "v0-sha.d2lgujm". It has two written forms, because not every place where it stands may
// hold a dot: the dot form (String) and the dash form (Dashed).
type Version struct {
	Major int
	// Channel is empty for stable versions, else a word such as "alpha", "custom" or "sha".
	Channel string
	// Suffix tells the versions of one channel and major number apart. It is empty for stable versions.
	Suffix string
}

// maxMajorDigits keeps the major number within an int on every platform.
const maxMajorDigits = 9

// Upper-case letters and underscores are left out: a version is part of the names of Kubernetes
// objects, which could never be created with them.
var versionForm = regexp.MustCompile(`^v([0-9]+)(?:-([a-z0-9]+)\.([a-z0-9]+))?$`)

// ParseVersion reads the dot form, "v3" or "v0-sha.d2lgujm".
func ParseVersion(s string) (Version, error) {
	parts := versionForm.FindStringSubmatch(s)
	if parts == nil {
		return Version{}, fmt.Errorf("version %q is neither of the form v1 nor v1-channel.suffix (lower-case letters and digits)", s)
	}
	if len(parts[1]) > maxMajorDigits {
		return Version{}, fmt.Errorf("version %q: the major number has more than %d digits", s, maxMajorDigits)
	}
	if parts[2] == "stable" {
		return Version{}, fmt.Errorf("version %q: a stable version has no suffix, write v%s", s, parts[1])
	}
	major, err := strconv.Atoi(parts[1])
	if err != nil {
		return Version{}, fmt.Errorf("version %q: %w", s, err)
	}
	return Version{Major: major, Channel: parts[2], Suffix: parts[3]}, nil
}

// String returns the dot form, which stands in the names of ClusterClasses, in metadata.yaml and in
// the spec of a ClusterStack.
func (v Version) String() string { return v.format(".") }

// Dashed returns the dash form, which stands in release tags.
func (v Version) Dashed() string { return v.format("-") }

func (v Version) format(separator string) string {
	s := "v" + strconv.Itoa(v.Major)
	if v.Channel != "" {
		s += "-" + v.Channel + separator + v.Suffix
	}
	return s
}

// Compare orders two versions by age as far as they tell it: negative when v is older than other, zero
// when they are the same.
//
// Not all versions can be ordered: channels are independent of one another, and words and the hashes of
// the channels "sha" and "git" say nothing about age. For those comparable is false. Versions of one
// channel are ordered by their major numbers, then by suffixes that are numbers.
func (v Version) Compare(other Version) (order int, comparable bool) {
	if v == other {
		return 0, true
	}
	if v.Channel != other.Channel {
		return 0, false
	}
	if v.Major != other.Major {
		return cmp.Compare(v.Major, other.Major), true
	}
	if v.Channel == "sha" || v.Channel == "git" || !isNumber(v.Suffix) || !isNumber(other.Suffix) {
		return 0, false
	}
	return compareSuffix(v.Suffix, other.Suffix), true
}

// Sort is a total order for lists: stable versions last, channels together, and within them as Compare says
// where it says something.
func (v Version) Sort(other Version) int {
	if stable := v.Channel == ""; stable != (other.Channel == "") {
		if stable {
			return 1
		}
		return -1
	}
	return cmp.Or(
		cmp.Compare(v.Channel, other.Channel),
		cmp.Compare(v.Major, other.Major),
		compareSuffix(v.Suffix, other.Suffix),
	)
}

func compareSuffix(a, b string) int {
	aNumber, bNumber := isNumber(a), isNumber(b)
	switch {
	case aNumber && bNumber:
		// Compared as text of equal length, because a suffix may be longer than any integer type.
		aDigits, bDigits := strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(
			cmp.Compare(len(aDigits), len(bDigits)),
			cmp.Compare(aDigits, bDigits),
			cmp.Compare(a, b),
		)
	case aNumber:
		return -1
	case bNumber:
		return 1
	}
	return cmp.Compare(a, b)
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
