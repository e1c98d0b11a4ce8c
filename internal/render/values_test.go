// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

func TestValues(t *testing.T) {
	t.Setenv("HOME", "/canary")
	for name, c := range map[string]struct {
		why     string
		text    string
		cluster func(map[string]any)
		want    map[string]any
		err     string
	}{
		"Plain": {
			text: "a: {{ .Cluster.metadata.name }}\n",
			want: map[string]any{"a": "my-cluster"},
		},
		"StringUnderValues": {
			text: "values: |\n  a: {{ .Cluster.metadata.name }}\n  b:\n    c: 1\n",
			want: map[string]any{"a": "my-cluster", "b": map[string]any{"c": 1.0}},
		},
		"MapUnderValues": {
			why:  "Only a string there is a file; a chart may have a value of this name.",
			text: "values:\n  a: 1\n",
			want: map[string]any{"values": map[string]any{"a": 1.0}},
		},
		"Empty":           {text: "", want: map[string]any{}},
		"OnlyComments":    {text: "# nothing\n{{/* at all */}}\n", want: map[string]any{}},
		"EmptyStringForm": {text: "values: ''\n", want: map[string]any{}},
		"KeyTwice": {
			why:  "Helm takes the last one, and nobody notices.",
			text: "a: 1\nb:\n  c: 1\n  d: 1\n  c: 2\n",
			err:  "values template: its output is not a map in YAML: line 5: a key stands twice in its map",
		},
		"KeyTwiceInString": {text: "values: |\n  a: 1\n  a: 1\n", err: "line 2: a key stands twice in its map"},
		"KeyInTwoDocuments": {
			why:  "As in Helm, the later document wins.",
			text: "a: {b: 1, c: 1}\n---\na: {b: 2}\n---\n",
			want: map[string]any{"a": map[string]any{"b": 2.0, "c": 1.0}},
		},
		"NoMap":            {text: "- a\n", err: "its output is not a map in YAML"},
		"TooManyDocuments": {text: "{{ range until 101 }}a: 1\n---\n{{ end }}", err: "more than 100 documents"},
		"TooManyKeys":      {text: "a: [{{ range until 100001 }}1, {{ end }}]", err: "more than 100000 keys and values"},
		"TooDeep":          {text: "a: {{ repeat 300 \"[\" }}{{ repeat 300 \"]\" }}", err: "more than 200 deep"},
		"MissingField": {
			why:  "As it has always been; a chart may test for it.",
			text: "a: {{ .Cluster.spec.nothing }}\nb: {{ .InfraCluster }}\n",
			want: map[string]any{"a": "<no value>", "b": "<no value>"},
		},
		"NameThatIsANumber": {
			why:     "Unquoted, it has always become a number.",
			text:    "a: {{ .Cluster.metadata.name }}\nb: {{ .Cluster.metadata.name | quote }}\n",
			cluster: func(c map[string]any) { metadata(c)["name"] = "123" },
			want:    map[string]any{"a": 123.0, "b": "123"},
		},
		"Index": {
			text: "a: {{ index .Cluster.spec.clusterNetwork.pods.cidrBlocks 0 }}\n",
			want: map[string]any{"a": "192.168.0.0/16"},
		},
		"ConditionOnText": {
			why:  "Decisions of a template stand on the real text.",
			text: "{{ if contains \":\" (index .Cluster.spec.clusterNetwork.pods.cidrBlocks 1) }}ipv6: {enabled: true}{{ end }}\n",
			want: map[string]any{"ipv6": map[string]any{"enabled": true}},
		},
		"VariablesOfTheTopology": {
			text: "{{ range .Cluster.spec.topology.variables }}{{ if eq .name \"mode\" }}mode: {{ .value | quote }}{{ end }}{{ end }}\n",
			cluster: func(c map[string]any) {
				spec(c)["topology"] = map[string]any{"variables": []any{
					map[string]any{"name": "other", "value": "x: y"}, map[string]any{"name": "mode", "value": "a: b # c"},
				}}
			},
			want: map[string]any{"mode": "a: b # c"},
		},
		"VariableOfTheTopologyAsJSON": {
			why:  "The template decides by one field and prints another one that is a map.",
			text: "{{ range .Cluster.spec.topology.variables }}{{ if eq .name \"proxy\" }}proxy: {{ .value | toJson }}{{ end }}{{ end }}\n",
			cluster: func(c map[string]any) {
				spec(c)["topology"] = map[string]any{"variables": []any{
					map[string]any{"name": "other", "value": "x: y"}, map[string]any{"name": "proxy", "value": map[string]any{"http": "http://proxy:3128", "no": []any{"a, b"}}},
				}}
			},
			want: map[string]any{"proxy": map[string]any{"http": "http://proxy:3128", "no": []any{"a, b"}}},
		},
		"VariableOfTheTopologyOfManyLines": {
			text: "{{ range .Cluster.spec.topology.variables }}{{ if eq .name \"ca\" }}ca: |\n{{ .value | indent 2 }}{{ end }}{{ end }}\n",
			cluster: func(c map[string]any) {
				spec(c)["topology"] = map[string]any{"variables": []any{map[string]any{"name": "ca", "value": "-----BEGIN\nabc=\n-----END"}}}
			},
			want: map[string]any{"ca": "-----BEGIN\nabc=\n-----END\n"},
		},
		"ListsAsJSON": {
			text: "a: {{ .Cluster.spec.clusterNetwork.pods.cidrBlocks | toJson }}\n",
			want: map[string]any{"a": []any{"192.168.0.0/16", "fd00:10::/48"}},
		},
		"ListsJoined": {
			text: "a: [{{ join \", \" .Cluster.spec.clusterNetwork.pods.cidrBlocks }}]\n",
			want: map[string]any{"a": []any{"192.168.0.0/16", "fd00:10::/48"}},
		},
		"KeysOfAnnotations": {
			text:    "a:\n{{- range $k, $v := .Cluster.metadata.annotations }}\n  {{ $k }}: {{ $v | quote }}\n{{- end }}\n",
			cluster: func(c map[string]any) { metadata(c)["annotations"] = map[string]any{"example.com/x": "y: z"} },
			want:    map[string]any{"a": map[string]any{"example.com/x": "y: z"}},
		},
		"Arithmetic": {
			text: "a: {{ add .Cluster.spec.controlPlaneEndpoint.port 1 }}\n{{ if gt .Cluster.spec.controlPlaneEndpoint.port 1000 }}b: true{{ end }}\n",
			want: map[string]any{"a": 6444.0, "b": true},
		},
		"TextOfTheTemplateItself": {
			text: "{{ $nl := \"\\n\" }}{{ \"a: 1\" }}{{ $nl }}{{ printf \"b: %s\" .Cluster.metadata.name }}\n",
			want: map[string]any{"a": 1.0, "b": "my-cluster"},
		},

		"AddsAKey": {
			text:    "network:\n  cidr: {{ .Cluster.metadata.annotations.cidr }}\n",
			cluster: annotate("10.0.0.0/8\nrbac:\n  clusterAdmin: true"),
			err:     "text in a field of the Cluster, its control plane or its infrastructure changes the shape of the values below",
		},
		"AddsAKeyInTheMapItself": {
			text:    "network:\n  deep:\n    cidr: {{ .Cluster.metadata.annotations.cidr }}\n",
			cluster: annotate("10.0.0.0/8\n    admin: true"),
			err:     "changes the shape of the values",
		},
		"AddsAListItem": {
			text:    "cidrs: [{{ .Cluster.metadata.annotations.cidr }}]\n",
			cluster: annotate("10.0.0.0/8, 0.0.0.0/0"),
			err:     "changes the shape of the values",
		},
		"BecomesAMap": {
			text:    "cidr: {{ .Cluster.metadata.annotations.cidr }}\n",
			cluster: annotate("{admin: true}"),
			err:     "changes the shape of the values",
		},
		"LeavesItsQuotes": {
			text:    "a: {b: \"{{ .Cluster.metadata.annotations.cidr }}\"}\n",
			cluster: annotate(`x", admin: "true`),
			err:     `below "a"`,
		},
		"HidesWhatFollows": {
			text:    "a: {b: {{ .Cluster.metadata.annotations.cidr }}, c: 1}\n",
			cluster: annotate("x} #"),
			err:     "changes the shape of the values",
		},
		"ReplacesTheValues": {
			text:    "cidr: {{ .Cluster.metadata.annotations.cidr }}\n",
			cluster: annotate("x\nvalues: 'admin: true'"),
			err:     "changes the shape of the values",
		},
		"DecodesToAKey": {
			why:     "Encoded text looks harmless where it is read.",
			text:    "cidr: {{ .Cluster.metadata.annotations.cidr | b64dec }}\n",
			cluster: annotate("eAphZG1pbjogdHJ1ZQ=="),
			err:     "changes the shape of the values",
		},
		"StartsADocument": {
			text:    "cidr: {{ .Cluster.metadata.annotations.cidr }}\n",
			cluster: annotate("x\n---\nadmin: true"),
			err:     "changes the shape of the values",
		},
		"InTheStringForm": {
			text:    "values: |\n  cidr: {{ .Cluster.metadata.annotations.cidr }}\n",
			cluster: annotate("x\n  admin: true"),
			err:     "changes the shape of the values",
		},
		"InAVariable": {
			text:    "{{ $x := .Cluster.metadata.annotations.cidr }}{{ with $x }}cidr: {{ . }}{{ end }}\n",
			cluster: annotate("x\nadmin: true"),
			err:     "changes the shape of the values",
		},
		"InADefinition": {
			text:    "{{ define \"x\" }}cidr: {{ . }}{{ end }}{{ template \"x\" .Cluster.metadata.annotations.cidr }}\n",
			cluster: annotate("x\nadmin: true"),
			err:     "changes the shape of the values",
		},
		"BesideADecision": {
			text: "{{ range .Cluster.spec.topology.variables }}{{ if eq .name \"a\" }}a: {{ .value }}{{ end }}{{ end }}\n",
			cluster: func(c map[string]any) {
				spec(c)["topology"] = map[string]any{"variables": []any{map[string]any{"name": "a", "value": "{admin: true}"}}}
			},
			err: "changes the shape of the values",
		},
		"DecodesToAKeyBesideADecision": {
			text:    "{{ if eq .Cluster.metadata.name \"my-cluster\" }}cidr: {{ .Cluster.metadata.annotations.cidr | b64dec }}{{ end }}\n",
			cluster: annotate("eAphZG1pbjogdHJ1ZSAg"),
			err:     "changes the shape of the values",
		},
		"InAKeyOfAnObject": {
			why:  "Variables of a topology can be objects with any keys.",
			text: "a:\n{{- range $k, $v := (index .Cluster.spec.topology.variables 0).value }}\n  {{ $k }}: {{ $v }}\n{{- end }}\n",
			cluster: func(c map[string]any) {
				spec(c)["topology"] = map[string]any{"variables": []any{map[string]any{"value": map[string]any{"x: 1\nadmin": "true"}}}}
			},
			err: "changes the shape of the values",
		},

		"Environment":         {text: "a: {{ env \"HOME\" }}\n", err: `function "env" does not exist here: it would hand out the operator's environment`},
		"ExpandedEnvironment": {text: "{{ if false }}{{ expandenv \"$HOME\" }}{{ end }}\n", err: `function "expandenv" does not exist here`},
		"NameServer":          {text: "\n\na: {{ getHostByName \"example.com\" }}\n", err: `values template:3: function "getHostByName" does not exist here: a render has no network`},
		"UnknownFunction":     {text: "a: {{ toYaml .Cluster }}\n", err: `values template:1: function "toYaml" does not exist`},
		"SyntaxError":         {text: "a: 1\nb: {{ if }}\n", err: "values template:2: "},
		"List":                {text: "- a\n", err: "not a map in YAML"},
		"NotYAML":             {text: "a: {{ .Cluster.metadata.annotations.cidr }}\n", cluster: annotate("*hunter2"), err: "not a map in YAML"},
		"TooLong":             {text: "a: {{ repeat 2000000 \"x\" }}\n", err: "its output is longer than 1024 KiB"},
		"Endless":             {text: "{{ range until 2000 }}{{ range until 2000 }}x{{ end }}{{ end }}\n", err: "its output is longer than 1024 KiB"},
		"TooManyNumbers":      {text: "{{ until 100000000 }}\n", err: "function until is asked for more than 1000000 items"},
		"IndexOfNothing":      {text: "a: {{ index .Cluster.metadata.x 0 }}\n", err: "values template:1: index of untyped nil (at <index .Cluster.metadata.x 0>)"},
		"Fail":                {text: "{{ fail (printf \"no %s\" .Cluster.metadata.annotations.cidr) }}\n", cluster: annotate("hunter2"), err: "function fail failed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts()
			if c.cluster != nil {
				c.cluster(f.Cluster)
			}
			got, err := render.Values([]byte(c.text), f)
			if c.err != "" {
				var invalid *render.InvalidError
				if !errors.As(err, &invalid) || !invalid.Permanent() {
					t.Fatalf("error is %v, want a permanent one; values %v. %s", err, got, c.why)
				}
				if !strings.Contains(err.Error(), c.err) {
					t.Errorf("error is %q, want %q in it", err, c.err)
				}
				for _, secret := range []string{"hunter2", "admin", "canary"} {
					if strings.Contains(strings.ToLower(err.Error()), secret) {
						t.Errorf("error %q quotes what stands in a value", err)
					}
				}
				return
			}
			if err != nil {
				t.Fatalf("%v. %s", err, c.why)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("values (-want +got): %s\n%s", c.why, diff)
			}
		})
	}
}

func TestValuesAreWholeNumbersAfterJSON(t *testing.T) {
	data := []byte(`{"Cluster": {"spec": {"port": 12345678, "ratio": 0.5}}}`)
	var f render.Facts
	if err := f.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	got, err := render.Values([]byte("a: \"{{ .Cluster.spec.port }} {{ .Cluster.spec.ratio }}\""), f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"a": "12345678 0.5"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTemplatesDoNotChangeTheFacts(t *testing.T) {
	f := facts()
	text := `{{ $_ := set .Cluster.metadata "name" "spoilt" }}a: {{ .Cluster.metadata.name }}`
	got, err := render.Values([]byte(text), f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"a": "spoilt"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(facts(), f); diff != "" {
		t.Errorf("the facts have changed:\n%s", diff)
	}
}

func metadata(cluster map[string]any) map[string]any { return cluster["metadata"].(map[string]any) }
func spec(cluster map[string]any) map[string]any     { return cluster["spec"].(map[string]any) }

func annotate(text string) func(map[string]any) {
	return func(c map[string]any) { metadata(c)["annotations"] = map[string]any{"cidr": text} }
}

// fuzzed is a values template with a field in every place that a careful or careless author may put one.
const fuzzed = `
plain: {{ .Cluster.metadata.name }}
quoted: {{ .Cluster.metadata.namespace | quote }}
double: "{{ .Cluster.metadata.labels.a }}"
single: '{{ .Cluster.metadata.labels.b }}'
flow: [{{ .Cluster.metadata.annotations.a }}, {x: {{ .Cluster.metadata.annotations.b }}}]
url: https://{{ .Cluster.spec.controlPlaneEndpoint.host }}:{{ .Cluster.spec.controlPlaneEndpoint.port }}/path
block: |
  {{ .ControlPlane.spec.version }}
  more
json: {{ .InfraCluster.spec | toJson }}
encoded: {{ .Cluster.metadata.annotations.c | b64dec }}
deep:
  list:
  - {{ .Cluster.metadata.annotations.d }}
  - name: {{ .Cluster.spec.topology.class }}
    {{ with .Cluster.metadata.annotations.e }}with: {{ . }}{{ end }}
`

// FuzzValues puts text into fields of a cluster. Whatever it is, the values keep their keys, or the
// template is refused.
func FuzzValues(f *testing.F) {
	for _, seed := range []string{
		"", "x", "10.0.0.0/8\nrbac:\n  clusterAdmin: true", "{a: b}", "[a, b]", "*a", "&a b", "x: y", "x #", "'", `"`, "\\", "\t",
		"|", ">", "---", "...", "- a", "? a", "!!map {}", "%", "@", "`", "x\n  y: z", "\u2028", "\x00", "null", "~", "<<", "1e3", "a,b",
		"eAphZG1pbjogdHJ1ZQ==", "values: x", "{{ .x }}", "x\n---\ny: z", "}, admin: {", "]", "\r", "\ufeff",
	} {
		for at := range 10 {
			f.Add(seed, "harmless", at)
		}
	}
	place := func(text []string) render.Facts {
		return render.Facts{
			Cluster: map[string]any{
				"metadata": map[string]any{
					"name": text[0], "namespace": text[1],
					"labels":      map[string]any{"a": text[2], "b": text[3]},
					"annotations": map[string]any{"a": text[4], "b": text[5], "c": text[6], "d": text[7], "e": "x" + text[8]},
				},
				"spec": map[string]any{
					"controlPlaneEndpoint": map[string]any{"host": text[9], "port": int64(6443)},
					"topology":             map[string]any{"class": text[10]},
				},
			},
			ControlPlane: map[string]any{"spec": map[string]any{"version": text[11]}},
			InfraCluster: map[string]any{"spec": map[string]any{"x": text[12], "list": []any{text[13]}}},
		}
	}
	const fields, encodedField = 14, 6
	fill := func(text string) []string {
		all := make([]string, fields)
		for i := range all {
			all[i] = text
		}
		all[encodedField] = base64.StdEncoding.EncodeToString([]byte(text))
		return all
	}
	harmless, err := render.Values([]byte(fuzzed), place(fill("harmless")))
	if err != nil {
		f.Fatal(err)
	}
	want := keysOf("", harmless)

	f.Fuzz(func(t *testing.T, one, other string, at int) {
		text := fill("harmless")
		text[uint(at)%fields] = one
		text[uint(at/fields)%fields] = other
		values, err := render.Values([]byte(fuzzed), place(text))
		if err != nil {
			var invalid *render.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if diff := cmp.Diff(want, keysOf("", values)); diff != "" {
			t.Errorf("the values have other keys:\n%s", diff)
		}
	})
}

// keysOf returns the paths of all maps, lists and scalars.
func keysOf(path string, value any) []string {
	switch value := value.(type) {
	case map[string]any:
		all := []string{path + " {}"}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			all = append(all, keysOf(path+"/"+key, value[key])...)
		}
		return all
	case []any:
		all := []string{path + " []"}
		for i := range value {
			all = append(all, keysOf(fmt.Sprintf("%s/%d", path, i), value[i])...)
		}
		return all
	default:
		return []string{path}
	}
}
