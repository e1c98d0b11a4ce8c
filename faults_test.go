// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package repository_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFaultsAreHeldByTests looks for the tests that the lists of faults, threats and defects name, and for rows that name
// none and do not say why.
func TestFaultsAreHeldByTests(t *testing.T) {
	for _, list := range []string{"faults", "threats", "defects"} {
		t.Run(list, func(t *testing.T) { rowsAreHeldByTests(t, "docs/contributing/"+list+".md") })
	}
}

func rowsAreHeldByTests(t *testing.T, list string) {
	page, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	test := regexp.MustCompile("`([a-z/]+) (Test[A-Za-z0-9]+)(?:/([A-Za-z0-9]+))?`")
	untested := regexp.MustCompile(`\| none: \S.* \|\n?$`) // said honestly
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| fault ") || strings.HasPrefix(line, "| attack ") || strings.HasPrefix(line, "| defect |") {
			continue
		}
		fault, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		named := test.FindAllStringSubmatch(line, -1)
		if len(named) == 0 && !untested.MatchString(line) {
			t.Errorf("%s: no test, and no reason why there is none", fault)
		}
		for _, n := range named {
			if !hasTest(t, n[1], n[2], n[3]) {
				t.Errorf("%s: there is no test %s", fault, strings.Trim(n[0], "`"))
			}
		}
	}
}
