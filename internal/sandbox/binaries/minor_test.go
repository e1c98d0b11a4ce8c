// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"strings"
	"testing"
)

func TestParseMinor(t *testing.T) {
	minors := Minors()
	if len(minors) != 3 || !strings.HasPrefix(Pinned().Kubernetes, "v"+minors[0]+".") {
		t.Fatalf("minors %q, the programs are %s", minors, Pinned().Kubernetes)
	}
	for text, want := range map[string]string{
		minors[0]: minors[0], "v" + minors[2]: minors[2],
		"1.9": "", "1." + strings.Repeat("9", 30): "", Pinned().Kubernetes: "", "": "", "next": "",
	} {
		got, err := ParseMinor(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), strings.Join(minors, ", ")) {
			t.Errorf("%q: the error does not say which there are: %v", text, err)
		}
	}
}
