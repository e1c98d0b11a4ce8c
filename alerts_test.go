// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package repository_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestAlertsAskForMetricsThatExist: an alert about a series that nobody writes is never raised. The table of metrics is
// compared with a running operator by test/deploy. Whoever is called finds what to do.
func TestAlertsAskForMetricsThatExist(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	labels := map[string][]string{} // of each series
	row := regexp.MustCompile("(?m)^\\| `(cluster_stack_[a-z_]+)` \\| ([a-z, ]*) ?\\|")
	for _, match := range row.FindAllStringSubmatch(read("docs/reference/operations.md"), -1) {
		labels[match[1]] = strings.FieldsFunc(match[2], func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(labels) < 10 {
		t.Fatalf("docs/reference/operations.md has %d series", len(labels))
	}
	var rules struct {
		Spec struct {
			Groups []struct {
				Rules []struct {
					Alert, Expr, For    string
					Labels, Annotations map[string]string
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read("config/prometheus/rules.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	page := read("docs/how-to/on-call.md")
	series := regexp.MustCompile(`(cluster_stack_[a-z_]+?)(?:_count|_sum|_bucket)?(?:\{([^}]*)\})?(?:\[[0-9a-z]+\])?(?:[^a-z_]|$)`)
	by := regexp.MustCompile(`(?:sum|max|min) by \(([a-z, ]+)\)`)
	for _, group := range rules.Spec.Groups {
		for _, rule := range group.Rules {
			t.Run(rule.Alert, func(t *testing.T) {
				if !strings.Contains(page, "\n### "+rule.Alert+"\n") {
					t.Error("docs/how-to/on-call.md does not say what to do")
				}
				if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" {
					t.Error("no severity or no summary")
				}
				if strings.Count(rule.Expr, "(") != strings.Count(rule.Expr, ")") || strings.Count(rule.Expr, "{") != strings.Count(rule.Expr, "}") {
					t.Errorf("brackets do not fit together: %s", rule.Expr)
				}
				found := series.FindAllStringSubmatch(rule.Expr, -1)
				if len(found) == 0 {
					t.Fatalf("no series of ours in %s", rule.Expr)
				}
				for _, match := range found {
					has, documented := labels[match[1]]
					if !documented {
						t.Errorf("there is no series %s", match[1])
					}
					var asked []string
					for _, selector := range strings.FieldsFunc(match[2], func(r rune) bool { return r == ',' || r == ' ' }) {
						label, _, _ := strings.Cut(selector, "=")
						asked = append(asked, label)
					}
					for _, grouping := range by.FindAllStringSubmatch(rule.Expr, -1) {
						asked = append(asked, strings.FieldsFunc(grouping[1], func(r rune) bool { return r == ',' || r == ' ' })...)
					}
					for _, label := range asked {
						if !slices.Contains(has, label) {
							t.Errorf("%s has no label %s, only %v", match[1], label, has)
						}
					}
				}
			})
		}
	}
}
