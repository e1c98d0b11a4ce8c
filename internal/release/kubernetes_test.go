// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import "testing"

func TestAllows(t *testing.T) {
	for name, tt := range map[string]struct {
		why, patches, version string
		want                  bool
	}{
		"TheVersionItself":          {version: "v1.35.4", want: true},
		"NoOtherPatchByDefault":     {why: "the release says nothing about it", version: "v1.35.5"},
		"AnyPatch":                  {patches: "any", version: "v1.35.0", want: true},
		"AnyPatchOfAnotherMinor":    {patches: "any", version: "v1.36.4"},
		"AnyPatchOfAnotherMajor":    {patches: "any", version: "v2.35.4"},
		"InTheRange":                {patches: "2-9", version: "v1.35.9", want: true},
		"BelowTheRange":             {patches: "2-9", version: "v1.35.1"},
		"AboveTheRange":             {patches: "2-9", version: "v1.35.10"},
		"TheVersionOutsideTheRange": {why: "it is what the release is made for", patches: "6-9", version: "v1.35.4", want: true},
		"OpenRange":                 {patches: "4-", version: "v1.35.40", want: true},
		"BelowTheOpenRange":         {patches: "4-", version: "v1.35.3"},
		"ReleaseCandidate":          {why: "it is older than the patch it is called after", patches: "any", version: "v1.35.5-rc.1"},
		"Variant":                   {patches: "any", version: "v1.35.5+rke2r1"},
		"NoVersion":                 {patches: "any", version: ""},
		"HalfAVersion":              {patches: "any", version: "v1.35"},
		"Rubbish":                   {patches: "any", version: "v1.35.x"},
	} {
		t.Run(name, func(t *testing.T) {
			patches, err := ParsePatches(tt.patches)
			if err != nil {
				t.Fatal(err)
			}
			if patches.String() != tt.patches {
				t.Errorf("%q is written %q", tt.patches, patches)
			}
			metadata := Metadata{Kubernetes: "v1.35.4", Patches: patches}
			if got := metadata.Allows(tt.version); got != tt.want {
				t.Errorf("%s: %q is allowed: %t, want %t", tt.why, tt.version, got, tt.want)
			}
		})
	}
}

func TestParsePatchesRefuses(t *testing.T) {
	for _, text := range []string{"all", "4", "-4", "9-4", "4-9-", "v1.35.4-", "12345-", "any "} {
		if patches, err := ParsePatches(text); err == nil {
			t.Errorf("%q was taken for %q", text, patches)
		}
	}
}
