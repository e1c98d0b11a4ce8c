// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package repository_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestEventsAreDocumented compares the reasons that are only for events with the table of them. The types and the objects
// are compared with a running operator by test/deploy.
func TestEventsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/reference/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Events\n")
	parsed, err := parser.ParseFile(token.NewFileSet(), "api/v1alpha1/conditions.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{} // by the names of their constants
	var ofEvents []string
	for _, decl := range parsed.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		for _, spec := range block.Specs {
			constant := spec.(*ast.ValueSpec)
			name := constant.Names[0].Name
			reasons[name] = strings.Trim(constant.Values[0].(*ast.BasicLit).Value, `"`)
			if strings.HasPrefix(block.Doc.Text(), "Reasons of events") {
				ofEvents = append(ofEvents, reasons[name])
			}
		}
	}
	// Those that code tells by itself, beside the conditions of steps.
	told := regexp.MustCompile(`(?:\btell\((?:request, )?|Eventf\([^\n]*?corev1\.EventType[A-Za-z]+, )v1alpha1\.([A-Za-z]+Reason)`)
	err = filepath.WalkDir("internal", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range told.FindAllStringSubmatch(string(text), -1) {
			ofEvents = append(ofEvents, reasons[match[1]])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|").FindAllStringSubmatch(section, -1) {
		documented = append(documented, match[1])
	}
	slices.Sort(ofEvents)
	slices.Sort(documented)
	if diff := cmp.Diff(slices.Compact(ofEvents), documented); diff != "" {
		t.Errorf("reasons of events (-told +documented):\n%s", diff)
	}
}

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
