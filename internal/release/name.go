// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Name identifies a release. Written with dashes only it is the release's tag, which is also the name
// of its ClusterStackRelease and of its folder; with the dot form of the version it is the name of its
// ClusterClass.
type Name struct {
	Provider string
	Stack    string
	// Kubernetes is the minor version of Kubernetes, such as "1.35".
	Kubernetes string
	Version    Version
}

// maxNameLength is what a label value can hold. Tags and class names are used as such.
const maxNameLength = 63

var (
	// A name is split at its dashes, so neither provider nor stack can contain one. Numbers are
	// written without leading zeros, so that every name has one spelling.
	tagForm   = regexp.MustCompile(`^([a-z0-9]+)-([a-z0-9]+)-([0-9]+)-([0-9]+)-(v[0-9]+)(?:-([a-z0-9]+)-([a-z0-9]+))?$`)
	classForm = regexp.MustCompile(`^([a-z0-9]+)-([a-z0-9]+)-([0-9]+)-([0-9]+)-(v[0-9]+)(?:-([a-z0-9]+)\.([a-z0-9]+))?$`)
)

// ParseName reads a release tag, such as "docker-scs-1-30-v0-sha-rwvgrna".
func ParseName(tag string) (Name, error) {
	name, err := parse(tagForm, tag)
	if err != nil || name.String() != tag {
		return Name{}, fmt.Errorf("%q is not the name of a release, which has the form <provider>-<stack>-<major>-<minor>-<version>, such as docker-scs-1-30-v1", tag)
	}
	return name, nil
}

// ParseClassName reads the name of a ClusterClass, such as "docker-scs-1-30-v0-sha.rwvgrna".
// An error means that the class does not come from a release of a cluster stack.
func ParseClassName(class string) (Name, error) {
	name, err := parse(classForm, class)
	if err != nil || name.ClassName() != class {
		return Name{}, fmt.Errorf("ClusterClass %q does not have the name of one from a cluster stack, <provider>-<stack>-<major>-<minor>-<version>, such as docker-scs-1-30-v1", class)
	}
	return name, nil
}

func parse(form *regexp.Regexp, s string) (Name, error) {
	parts := form.FindStringSubmatch(s)
	if parts == nil || len(s) > maxNameLength {
		return Name{}, fmt.Errorf("%q has another form", s)
	}
	version := parts[5]
	if parts[6] != "" {
		version += "-" + parts[6] + "." + parts[7]
	}
	v, err := ParseVersion(version)
	if err != nil {
		return Name{}, err
	}
	for _, number := range parts[3:5] {
		if len(number) > 1 && number[0] == '0' {
			return Name{}, fmt.Errorf("%q has a number with a leading zero", s)
		}
	}
	return Name{Provider: parts[1], Stack: parts[2], Kubernetes: parts[3] + "." + parts[4], Version: v}, nil
}

// String returns the release's tag.
func (n Name) String() string { return n.Prefix() + "-" + n.Version.Dashed() }

// ClassName returns the name of the ClusterClass that the release brings.
func (n Name) ClassName() string { return n.Prefix() + "-" + n.Version.String() }

// Prefix returns "<provider>-<stack>-<major>-<minor>", what all versions of a stack have in common.
// The release's charts are rendered under this name.
func (n Name) Prefix() string {
	return n.Provider + "-" + n.Stack + "-" + strings.ReplaceAll(n.Kubernetes, ".", "-")
}

// NextMinor returns the name of the same stack and version for the next minor version of Kubernetes.
func (n Name) NextMinor() (Name, error) {
	major, minor, _ := strings.Cut(n.Kubernetes, ".")
	number, err := strconv.Atoi(minor)
	if err != nil {
		return Name{}, fmt.Errorf("Kubernetes %q is not a minor version such as 1.35", n.Kubernetes)
	}
	n.Kubernetes = fmt.Sprintf("%s.%d", major, number+1)
	return n, nil
}

// Newest returns the releases of one cluster stack that no other one is newer than, as far as versions tell:
// one, or several that cannot be compared. They are sorted, and each is there once.
func Newest(names []Name) []Name {
	var newest []Name
	for _, name := range names {
		if !slices.ContainsFunc(names, func(other Name) bool {
			order, comparable := other.Version.Compare(name.Version)
			return comparable && order > 0
		}) {
			newest = append(newest, name)
		}
	}
	slices.SortFunc(newest, func(a, b Name) int { return a.Version.Sort(b.Version) })
	return slices.Compact(newest)
}
