// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for give, want := range map[string]Version{
		"v1":             {Major: 1},
		"v01":            {Major: 1},
		"v1-alpha.1":     {Major: 1, Channel: "alpha", Suffix: "1"},
		"v0-sha.abc1234": {Channel: "sha", Suffix: "abc1234"},
		"v0-git.98555b0": {Channel: "git", Suffix: "98555b0"},
		"v0-ttl.1713":    {Channel: "ttl", Suffix: "1713"},
		"v0-custom.pr12": {Channel: "custom", Suffix: "pr12"},
	} {
		t.Run(give, func(t *testing.T) {
			got, err := ParseVersion(give)
			if err != nil || got != want {
				t.Errorf("got %#v, %v; want %#v", got, err, want)
			}
		})
	}

	for name, give := range map[string]string{
		"Empty":           "",
		"NoV":             "1",
		"TwoNumbers":      "v1.2",
		"DashForm":        "v1-alpha-1",
		"NoNumber":        "v-alpha.1",
		"NoSuffix":        "v0-sha.",
		"ThreeParts":      "v1-a.b.c",
		"ChannelOnly":     "v2-test",
		"DotBeforeDash":   "v0.custom-pr123",
		"UpperCase":       "v0-custom.ABC",
		"Underscore":      "v0-custom.a_b",
		"Path":            "v1/../x",
		"Newline":         "v1\n",
		"StableIsNoWord":  "v1-stable.3",
		"OverflowsAnyInt": "v99999999999999999999",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ParseVersion(give); err == nil {
				t.Errorf("%q was read as %#v", give, got)
			}
		})
	}
}

func TestVersionCompare(t *testing.T) {
	for name, tt := range map[string]struct {
		why          string
		older, newer string
		incomparable bool
		same         bool
	}{
		"Majors":              {older: "v2", newer: "v10"},
		"Same":                {older: "v2", newer: "v2", same: true},
		"NumbersByValue":      {why: "as text, beta.10 comes before beta.2", older: "v0-beta.2", newer: "v0-beta.10"},
		"LongNumbersByValue":  {why: "no integer type is wide enough", older: "v0-ttl.99999999999999999999", newer: "v0-ttl.100000000000000000000"},
		"LeadingZeros":        {older: "v0-beta.9", newer: "v0-beta.010"},
		"EqualNumbersDiffer":  {why: "an order must not call different versions the same", older: "v0-beta.01", newer: "v0-beta.1"},
		"MajorBeforeSuffix":   {older: "v1-alpha.9", newer: "v2-alpha.1"},
		"NumberAndWord":       {older: "v0-custom.12", newer: "v0-custom.a", incomparable: true},
		"Words":               {why: "what a person calls a release says nothing about its age", older: "v0-custom.a", newer: "v0-custom.b", incomparable: true},
		"Hashes":              {why: "a hash says nothing about age", older: "v0-sha.abc", newer: "v0-sha.abd", incomparable: true},
		"HashesOfDigitsOnly":  {older: "v0-sha.1234567", newer: "v0-sha.7654321", incomparable: true},
		"GitHashes":           {older: "v0-git.1", newer: "v0-git.2", incomparable: true},
		"SameHash":            {older: "v0-git.1", newer: "v0-git.1", same: true},
		"Channels":            {older: "v1-alpha.1", newer: "v1-beta.1", incomparable: true},
		"StableAndPreRelease": {older: "v1-alpha.1", newer: "v1", incomparable: true},
	} {
		t.Run(name, func(t *testing.T) {
			older, newer := mustVersion(t, tt.older), mustVersion(t, tt.newer)
			wantOrder, wantComparable := -1, !tt.incomparable
			if tt.same || tt.incomparable {
				wantOrder = 0
			}
			if order, ok := older.Compare(newer); order != wantOrder || ok != wantComparable {
				t.Errorf("%s: %s.Compare(%s) = %d, %t; want %d, %t", tt.why, older, newer, order, ok, wantOrder, wantComparable)
			}
			if order, ok := newer.Compare(older); order != -wantOrder || ok != wantComparable {
				t.Errorf("%s: %s.Compare(%s) = %d, %t; want %d, %t", tt.why, newer, older, order, ok, -wantOrder, wantComparable)
			}
		})
	}
}

// An order that is none would sort one list in many ways, and subscribe to another release each time.
func TestVersionOrders(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test that repeats itself
	pick := func() Version {
		v := Version{Major: random.IntN(3)}
		if v.Channel = []string{"", "alpha", "sha", "ttl"}[random.IntN(4)]; v.Channel != "" {
			v.Suffix = []string{"1", "01", "2", "10", "1a", "a", "b1"}[random.IntN(7)]
		}
		return v
	}
	for range 1_000_000 {
		a, b, c := pick(), pick(), pick()
		ab, bc, ac := a.Sort(b), b.Sort(c), a.Sort(c)
		if ab != -b.Sort(a) || (ab == 0) != (a == b) || (ab < 0 && bc < 0 && ac >= 0) {
			t.Fatalf("Sort is no order of %s, %s, %s", a, b, c)
		}
		ab, abOK := a.Compare(b)
		bc, bcOK := b.Compare(c)
		ac, acOK := a.Compare(c)
		if abOK && bcOK && ab < 0 && bc < 0 && (!acOK || ac >= 0) {
			t.Fatalf("Compare is no order of %s, %s, %s", a, b, c)
		}
		if abOK && ab != a.Sort(b) {
			t.Fatalf("Compare and Sort disagree on %s and %s", a, b)
		}
	}
}

func mustVersion(t *testing.T, s string) Version {
	t.Helper()
	v, err := ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNameForms(t *testing.T) {
	for _, tt := range []struct{ tag, class, prefix string }{
		{"docker-ferrol-1-27-v1", "docker-ferrol-1-27-v1", "docker-ferrol-1-27"},
		{"docker-scs-1-30-v0-sha-rwvgrna", "docker-scs-1-30-v0-sha.rwvgrna", "docker-scs-1-30"},
		{"openstack-scs2-1-9-v12-alpha-3", "openstack-scs2-1-9-v12-alpha.3", "openstack-scs2-1-9"},
	} {
		t.Run(tt.tag, func(t *testing.T) {
			fromTag, err := ParseName(tt.tag)
			if err != nil {
				t.Fatal(err)
			}
			fromClass, err := ParseClassName(tt.class)
			if err != nil {
				t.Fatal(err)
			}
			if fromTag != fromClass {
				t.Errorf("tag gives %#v, class gives %#v", fromTag, fromClass)
			}
			if fromTag.String() != tt.tag || fromTag.ClassName() != tt.class || fromTag.Prefix() != tt.prefix {
				t.Errorf("printed as %s, %s, %s", fromTag, fromTag.ClassName(), fromTag.Prefix())
			}
		})
	}
}

func TestForeignNames(t *testing.T) {
	for name, give := range map[string]string{
		"Empty":               "",
		"QuickStartClass":     "quick-start",
		"HelperChart":         "openstack-csp-helper-v0.2.0",
		"UnknownChannel":      "openstack-scs-1-29-v2-test",
		"NoKubernetes":        "openstack-scs-v5",
		"Signature":           "sha256-2f4f4b1f.sig",
		"ProviderWithDash":    "open-stack-scs-1-29-v2",
		"LeadingZeroVersion":  "docker-scs-1-30-v01",
		"LeadingZeroMinor":    "docker-scs-1-030-v1",
		"Path":                "../../x-a-1-27-v1",
		"UpperCase":           "Docker-scs-1-30-v1",
		"TooLong":             "docker-" + strings.Repeat("x", 63) + "-1-30-v1",
		"EmptyStack":          "docker--1-30-v1",
		"StableAsChannel":     "docker-scs-1-30-v1-stable-3",
		"ClassChartOfRelease": "docker-scs-1-30-cluster-class-v1",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ParseName(give); err == nil {
				t.Errorf("tag %q was read as %#v", give, got)
			}
			if got, err := ParseClassName(give); err == nil {
				t.Errorf("class %q was read as %#v", give, got)
			}
		})
	}
	t.Run("EachFormInItsPlace", func(t *testing.T) {
		if _, err := ParseName("docker-scs-1-30-v0-sha.abc"); err == nil {
			t.Error("a class name was taken for a tag")
		}
		if _, err := ParseClassName("docker-scs-1-30-v0-sha-abc"); err == nil {
			t.Error("a tag was taken for a class name")
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	for _, seed := range []string{"v1", "v0-sha.abc1234", "v01", "v1-a.b.c", "v0-", "v99999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVersion(s)
		if err != nil {
			return
		}
		if again, err := ParseVersion(v.String()); err != nil || again != v {
			t.Errorf("%q reads as %#v, whose form %q reads as %#v, %v", s, v, v, again, err)
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, seed := range []string{"docker-scs-1-30-v1", "docker-scs-1-30-v0-sha-abc", "docker-scs-1-30-v0-sha.abc", "a-b-01-2-v3", "../a-b-1-2-v3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := ParseName(s); err == nil && name.String() != s {
			t.Errorf("tag %q reads as %#v, which is written %q", s, name, name)
		}
		name, err := ParseClassName(s)
		if err != nil {
			return
		}
		if name.ClassName() != s {
			t.Errorf("class %q reads as %#v, which is written %q", s, name, name.ClassName())
		}
		if again, err := ParseName(name.String()); err != nil || again != name {
			t.Errorf("class %q has tag %q, which reads as %#v, %v", s, name, again, err)
		}
	})
}
