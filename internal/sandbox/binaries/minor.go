// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// supported is how many minors of Kubernetes a sandbox offers: as many as the Kubernetes project supports at a time.
const supported = 3

// Minors are the minors of Kubernetes that the programs behave like when they are told to, newest first.
func Minors() []string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(Pinned().Kubernetes, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	newest, err := strconv.Atoi(minor)
	if err != nil {
		return nil // the pins are tested
	}
	var minors []string
	for i := range supported {
		minors = append(minors, fmt.Sprintf("%s.%d", major, newest-i))
	}
	return minors
}

// ParseMinor reads one of Minors, with or without a leading v.
func ParseMinor(text string) (string, error) {
	minor := strings.TrimPrefix(text, "v")
	if minors := Minors(); !slices.Contains(minors, minor) {
		return "", fmt.Errorf("the programs of this sandbox cannot be Kubernetes %q: use one of %s", text, strings.Join(minors, ", "))
	}
	return minor, nil
}
