// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/compare"
	"github.com/clusterstacks/cluster-stack-operator/internal/trial"
)

// Programs are written by what the page says.
func TestTheReferenceHasEachFieldOfTheOutput(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/csctl-output.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(page), "\n## ")
	for command, output := range map[string]any{"csctl test": trial.Result{}, "csctl diff": compare.Comparison{}, "csctl render": rendering{}} {
		i := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, command+"\n") })
		if i < 0 {
			t.Errorf("there is nothing about %s", command)
			continue
		}
		fields := map[string]bool{}
		fieldsOf(reflect.TypeOf(output), fields, map[reflect.Type]bool{})
		for field := range fields {
			if !strings.Contains(sections[i], "`"+field+"`") {
				t.Errorf("%s: the page does not tell what %s is", command, field)
			}
		}
		for _, row := range regexp.MustCompile("(?m)^\\| (`.*?`) \\|").FindAllStringSubmatch(sections[i], -1) {
			for name := range strings.SplitSeq(row[1], ", ") {
				if !fields[strings.Trim(name, "`")] {
					t.Errorf("%s: there is no field %s", command, name)
				}
			}
		}
	}
}

// fieldsOf collects the names that a type has in JSON. What is inside of Kubernetes' objects is not ours.
func fieldsOf(typ reflect.Type, names map[string]bool, seen map[reflect.Type]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[unstructured.Unstructured]() || seen[typ] {
		return
	}
	seen[typ] = true
	for field := range typ.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			names[name] = true
		}
		fieldsOf(field.Type, names, seen)
	}
}
