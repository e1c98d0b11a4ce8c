// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package foreignyaml_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
)

// laughs is a document in which each list has nine times the one before.
func laughs(levels int) string {
	text := "l0: &l0 lol\n"
	for i := 1; i <= levels; i++ {
		text += fmt.Sprintf("l%d: &l%d [%s*l%d]\n", i, i, strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 8), i-1)
	}
	return text
}

func TestAliasesRepeatSoMuch(t *testing.T) {
	for name, tc := range map[string]struct {
		why, give, refused string
	}{
		"None":            {why: "nothing is repeated, however large it is", give: "a: " + strings.Repeat("x", 2<<20)},
		"AnAsterisk":      {why: "it is text", give: "a: '*'\nb: |\n  * one\n  * two\n"},
		"AListOfStages":   {why: "releases have that", give: "a: &a [{name: cni}, {name: csi}]\nb: *a\nc: *a\n"},
		"MergedKeys":      {why: "values have that", give: "a: &a {one: 1, two: 2}\nb:\n  <<: *a\n  three: 3\n"},
		"AnAnchorTwice":   {why: "the later one counts from there on", give: "a: &a 1\nb: *a\nc: &a 2\nd: *a\n"},
		"ALongText":       {why: "the parser counts values and would make gigabytes of it", give: "a: &a " + strings.Repeat("x", 50_000) + "\nl: [" + strings.Repeat("*a, ", 1000) + "]\n", refused: "aliases repeat more than 1 MiB"},
		"ListsOfLists":    {why: "each level is nine times as large", give: laughs(9), refused: "aliases repeat more than 1 MiB"},
		"MergedLongTexts": {why: "keys that are merged are repeated, too", give: "a: &a {t: " + strings.Repeat("x", 50_000) + "}\nl:\n" + strings.Repeat("- <<: *a\n", 1000), refused: "aliases repeat more than 1 MiB"},
		"InItself":        {why: "it has no end", give: "a: &a [*a]\n", refused: "an alias repeats what it stands in"},
		"NoAnchor":        {why: "the parser says so", give: "a: *b\n", refused: "unknown anchor"},
	} {
		t.Run(name, func(t *testing.T) {
			for reads, read := range map[string]func() (any, error){
				"Unmarshal":        func() (any, error) { var v any; return v, foreignyaml.Unmarshal([]byte(tc.give), &v) },
				"YAMLToJSON":       func() (any, error) { return foreignyaml.YAMLToJSON([]byte(tc.give)) },
				"YAMLToJSONStrict": func() (any, error) { return foreignyaml.YAMLToJSONStrict([]byte(tc.give)) },
			} {
				_, err := read()
				switch {
				case tc.refused == "" && err != nil:
					t.Errorf("%s: %s: refused: %v", reads, tc.why, err)
				case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)):
					t.Errorf("%s: %s: got %v, want %q", reads, tc.why, err, tc.refused)
				}
			}
		})
	}
}

// FuzzReadsWhatTheParserReads: what is not refused is what the parser makes of it, and is never larger than it may be.
func FuzzReadsWhatTheParserReads(f *testing.F) {
	f.Add("a: &a [1, 2]\nb: *a\n")
	f.Add("a: &a {x: 1}\nb:\n  <<: *a\n")
	f.Add(laughs(3))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := foreignyaml.YAMLToJSON([]byte(text))
		if err != nil {
			return
		}
		want, err := yaml.YAMLToJSON([]byte(text))
		if diff := cmp.Diff(string(want), string(got)); diff != "" || err != nil {
			t.Errorf("(-want +got), %v:\n%s", err, diff)
		}
		// In JSON a byte becomes six at most, and a value has a few beside it.
		if limit := 8 * (len(text)*8 + foreignyaml.MaxRepeated); len(got) > limit {
			t.Errorf("%d bytes became %d", len(text), len(got))
		}
	})
}
