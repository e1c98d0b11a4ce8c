// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

func TestErrorsNameThePlaceAndHideTheValues(t *testing.T) {
	const secret = "hunter2"
	chart := "apiVersion: v2\nname: x\nversion: v1\n"
	for name, c := range map[string]struct {
		why   string
		files map[string]string
		want  string
	}{
		"Required": {
			files: map[string]string{"templates/a.yaml": "\n\n{{ required \"A host is needed\" .Values.host }}"},
			want:  "templates/a.yaml:3: the chart refuses these values: A host is needed",
		},
		"FailWithText": {
			files: map[string]string{"templates/a.yaml": "{{ fail \"Set \\\"mode\\\" to a or b\" }}"},
			want:  `templates/a.yaml:1: the chart refuses these values: Set "mode" to a or b`,
		},
		"FailWithAValue": {
			why:   "What stands in the chart is no secret; what it makes of the values may be.",
			files: map[string]string{"templates/a.yaml": "{{ fail (printf \"bad: %s\" .Values.secret) }}"},
			want:  "templates/a.yaml:1: the chart refuses these values",
		},
		"FailInADependency": {
			files: map[string]string{
				"charts/sub/Chart.yaml":       "apiVersion: v2\nname: sub\nversion: 1.0.0\n",
				"charts/sub/templates/a.yaml": "{{ fail \"never\" }}",
			},
			want: "charts/sub/templates/a.yaml:1: the chart refuses these values: never",
		},
		"NilPointer": {
			files: map[string]string{"templates/a.yaml": "a:\n  b: {{ .Values.no.such.thing }}"},
			want:  "templates/a.yaml:2: nil pointer evaluating interface {}.such (at <.Values.no.such.thing>)",
		},
		"InAHelper": {
			files: map[string]string{
				"templates/_helpers.tpl": "{{ define \"h\" }}\n{{ .Values.no.such.thing }}{{ end }}",
				"templates/a.yaml":       "{{ include \"h\" . }}",
			},
			want: "templates/a.yaml:1: x/templates/_helpers.tpl:2: nil pointer evaluating interface {}.such (at <.Values.no.such.thing>)",
		},
		"ValueInTheMessageOfAFunction": {
			files: map[string]string{"templates/a.yaml": "{{ mustToDate \"2006\" .Values.secret }}"},
			want:  "templates/a.yaml:1: function mustToDate failed (its message may hold values and is left out) (at <mustToDate \"2006\" .Values.secret>)",
		},
		"ValueThatIsATemplate": {
			files: map[string]string{"templates/a.yaml": "{{ tpl (print \"{{\" .Values.secret) . }}"},
			want:  "templates/a.yaml:1: function tpl failed",
		},
		"FieldInATemplateOfAValue": {
			files: map[string]string{"templates/a.yaml": "{{ tpl (printf \"{{ .x.%s.z }}\" .Values.secret) . }}"},
			want:  "templates/a.yaml:1: function tpl failed",
		},
		"RangeOverAValue": {
			files: map[string]string{"templates/a.yaml": "{{ range .Values.secret }}{{ end }}"},
			want:  "templates/a.yaml:1: the template failed",
		},
		"SyntaxError": {
			files: map[string]string{"templates/a.yaml": "a\n{{ if }}"},
			want:  "templates/a.yaml:2: missing value for if",
		},
		"EnvironmentOfTheOperator": {
			files: map[string]string{"templates/a.yaml": "{{ env \"HOME\" }}"},
			want:  `templates/a.yaml:1: function "env" does not exist here: it would hand out the operator's environment`,
		},
		"NotYAML": {
			files: map[string]string{"templates/a.yaml": "a: {{ .Values.secret }}\n b: c: *{{ .Values.secret }}\n"},
			want:  "templates/a.yaml: does not render to YAML: line 2: mapping values are not allowed in this context",
		},
		"UnknownAnchor": {
			files: map[string]string{"templates/a.yaml": "a: *{{ .Values.secret }}\n"},
			want:  "templates/a.yaml: does not render to YAML: unknown anchor",
		},
		"NoObject":     {files: map[string]string{"templates/a.yaml": "{{ .Values.secret }}"}, want: "templates/a.yaml: does not render to YAML: cannot unmarshal string"},
		"NoKind":       {files: map[string]string{"templates/a.yaml": "apiVersion: v1\nmetadata: {name: a}"}, want: "templates/a.yaml: renders to an object without apiVersion or kind"},
		"NoName":       {files: map[string]string{"templates/a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {labels: {a: b}}"}, want: "templates/a.yaml: renders to a Secret without a name"},
		"GenerateName": {files: map[string]string{"templates/a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {generateName: a}"}, want: "templates/a.yaml: renders to a Secret with generateName: it would be another object each time, so give it a name"},
		"LabelsNoMap":  {files: map[string]string{"templates/a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: a, labels: [x]}"}, want: "templates/a.yaml: Secret a: metadata.labels is not a map"},
		"NoTemplate":   {files: map[string]string{"templates/a.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}"}, want: "templates/a.yaml: Deployment a: spec.template is not a map"},
		"Unvendored":   {files: map[string]string{"Chart.yaml": chart + "dependencies:\n- {name: cilium, version: 1.16.6, repository: https://helm.cilium.io}\n- {name: b, version: ~2}\n"}, want: "Chart.yaml: charts/ lacks cilium 1.16.6 (https://helm.cilium.io), b ~2: build the release with \"csctl create\", which packs them"},
		"Library":      {files: map[string]string{"Chart.yaml": chart + "type: library\n"}, want: "Chart.yaml: a library chart cannot be applied"},
		"OldCluster":   {files: map[string]string{"Chart.yaml": chart + "kubeVersion: \">=1.36.0\"\n"}, want: "Chart.yaml: the chart wants Kubernetes >=1.36.0, but the release is for v1.35.4"},
		"BadPackage":   {files: map[string]string{"charts/sub-1.0.0.tgz": "no archive"}, want: "charts/sub-1.0.0.tgz: gzip: invalid header"},
		"ThereTwice":   {files: map[string]string{"charts/a/Chart.yaml": chart, "charts/b/Chart.yaml": chart}, want: "charts: chart x v1 is there twice"},
		"BadIgnore":    {files: map[string]string{".helmignore": "a/**"}, want: ".helmignore: double-star (**) syntax is not supported"},
		"TooMuchText":  {files: map[string]string{"templates/a.yaml": "#{{ repeat 20971510 \"x\" }}\n", "templates/b.yaml": "#{{ repeat 1000 \"x\" }}\n"}, want: "renders to more than 20 MiB"},
		"TooManyLoops": {files: map[string]string{"templates/a.yaml": "{{ range until 100000000 }}{{ end }}"}, want: "templates/a.yaml:1: function until is asked for more than 1000000 items"},
		"TooMuchRandomness": {
			files: map[string]string{"templates/a.yaml": "{{ range until 1000 }}{{ randBytes 60000 }}{{ end }}"},
			want:  "templates/a.yaml:1: the templates generate more than 1024 KiB of random values",
		},
		"TooLongRandomness": {files: map[string]string{"templates/a.yaml": "{{ randAlphaNum 100000000 }}"}, want: "templates/a.yaml:1: function randAlphaNum is asked for more than 65536 items"},
		"TooMuchRepeated":   {files: map[string]string{"templates/a.yaml": "{{ repeat 1000000000 \"xx\" }}"}, want: "templates/a.yaml:1: function repeat is asked for more than 20971520 items"},
		"TooManyObjects": {
			files: map[string]string{"templates/a.yaml": "{{ range until 2001 }}---\n{apiVersion: v1, kind: Secret, metadata: {name: a{{ . }}}}\n{{ end }}"},
			want:  "renders to more than 2000 objects",
		},
		"Schema": {
			files: map[string]string{"values.schema.json": `{"properties": {"secret": {"pattern": "^x$"}, "host": {"type": "integer"}}, "required": ["needed"]}`, "overwrite.yaml": "host: a"},
			want:  `values.schema.json: host: want integer, have string; secret: breaks the rule "pattern"; the values: needed is missing`,
		},
		"SchemaOfADependency": {
			files: map[string]string{
				"charts/sub/Chart.yaml":         "apiVersion: v2\nname: sub\nversion: 1.0.0\n",
				"charts/sub/values.schema.json": `{"additionalProperties": false, "properties": {"global": {}}}`,
				"overwrite.yaml":                "sub: {typo: 1}",
			},
			want: "charts/sub/values.schema.json: the values: typo is not allowed",
		},
		"SchemaIsNoJSON": {files: map[string]string{"values.schema.json": "a: b"}, want: "values.schema.json: not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"Chart.yaml": chart, "values.yaml": "secret: " + secret + "\n"}
			maps.Copy(files, c.files)
			rel := withAddons(t, under("x", files), "x")
			messages := map[string]bool{}
			for range 3 {
				result, err := render.Addon(rel, "x", facts(), nil)
				var invalid *render.InvalidError
				if !errors.As(err, &invalid) {
					t.Fatalf("error is %v, want an InvalidError. Objects: %d", err, len(result.Objects))
				}
				messages[err.Error()] = true
				if !strings.HasPrefix(err.Error(), "addon x of "+tag+": "+c.want) {
					t.Errorf("error is\n%s, want\naddon x of %s: %s. %s", err, tag, c.want, c.why)
				}
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error %q quotes a value. %s", err, c.why)
				}
			}
			if len(messages) != 1 {
				t.Errorf("the message changes from one time to another: %v", messages)
			}
		})
	}
}

// A schema can refer to other documents. A render fetches none: not from the network, not from files.
func TestSchemasReadNothing(t *testing.T) {
	asked := false
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked = true
		_, _ = w.Write([]byte("true"))
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server.Listener = listener
	server.Start()
	defer server.Close()
	file := filepath.Join(t.TempDir(), "canary.json")
	if err := os.WriteFile(file, []byte(`{"enum": ["canary"]}`), 0o600); err != nil {
		t.Fatal(err)
	}

	for name, c := range map[string]struct {
		schema string
		want   string
	}{
		"Network":      {`{"$ref": "` + server.URL + `/x"}`, "the schema refers to " + server.URL + "/x, but a render reads neither network nor files"},
		"File":         {`{"$ref": "file://` + file + `"}`, "the schema refers to file://" + file},
		"RelativeFile": {`{"$ref": "other.json"}`, "the schema refers to file:///other.json"},
		"MetaSchema":   {`{"$schema": "` + server.URL + `/schema"}`, "the schema refers to " + server.URL + "/schema"},
		"Name":         {`{"$ref": "urn:example:unknown"}`, ""},
		"Itself":       {`{"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}`, ""},
		"Standard":     {`{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			rel := withAddons(t, under("x", map[string]string{"Chart.yaml": releasetest.Chart("x", "v1"), "values.schema.json": c.schema}), "x")
			_, err := render.Addon(rel, "x", facts(), nil)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "enum") {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
	if asked {
		t.Error("the schema was fetched from the network")
	}
}

func TestAnAddonWithoutChartIsAnError(t *testing.T) {
	rel := withAddons(t, under("x", map[string]string{"Chart.yaml": releasetest.Chart("x", "v1")}), "x")
	if _, err := render.Addon(rel, "y", facts(), nil); err == nil {
		t.Error("an addon that is not there renders")
	}
}
