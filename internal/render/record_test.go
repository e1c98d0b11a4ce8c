// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// secrets returns templates of Secrets, one in each file, by the expression for its value.
func secrets(expressions map[string]string) map[string]string {
	files := map[string]string{"Chart.yaml": "apiVersion: v2\nname: x\nversion: v1\n"}
	for name, expression := range expressions {
		files["templates/"+name+".yaml"] = secret(name, expression)
	}
	return files
}

func secret(name, expression string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\nstringData:\n  value: {{ " + expression + " | toString | quote }}\n"
}

// valuesIn returns the values of all Secrets by name.
func valuesIn(result *render.Result) map[string]string {
	all := map[string]string{}
	for _, object := range result.Objects {
		value, _, _ := unstructured.NestedString(object.Object, "stringData", "value")
		all[object.GetName()] = value
	}
	return all
}

func addonOf(t *testing.T, files map[string]string) *release.Release {
	t.Helper()
	return withAddons(t, under("x", files), "x")
}

func TestGeneratedValuesAreRepeated(t *testing.T) {
	// The arguments do not matter; each function is there once.
	rel := addonOf(t, secrets(map[string]string{
		"ca":            `(genCA "cn" 10).Cert`,
		"ca-key":        `(genCAWithKey "cn" 10 (genPrivateKey "ecdsa")).Cert`,
		"self":          `(genSelfSignedCert "cn" (list "10.0.0.1") (list "example.com") 10).Key`,
		"self-key":      `(genSelfSignedCertWithKey "cn" nil nil 10 (genPrivateKey "ed25519")).Cert`,
		"signed":        `(genSignedCert "cn" nil (list "example.com") 10 (genCA "cn" 10)).Cert`,
		"signed-key":    `(genSignedCertWithKey "cn" nil nil 10 (genCA "cn" 10) (genPrivateKey "ecdsa")).Cert`,
		"bcrypt":        `bcrypt "password"`,
		"htpasswd":      `htpasswd "user" "password"`,
		"aes":           `encryptAES "password" "text"`,
		"alpha-num":     `randAlphaNum 12`,
		"alpha":         `randAlpha 12`,
		"ascii":         `randAscii 12`,
		"numeric":       `randNumeric 12`,
		"bytes":         `randBytes 12`,
		"int":           `randInt 1 1000000000`,
		"shuffle":       `shuffle "a sentence of many letters"`,
		"uuid":          `uuidv4`,
		"now":           `now`,
		"today":         `date "2006-01-02T15:04:05.000000000" nil`,
		"html":          `htmlDate ""`,
		"ago":           `ago (toDate "2006-01-02" "2020-01-01")`,
		"age":           `durationRound (toDate "2006-01-02" "2020-01-01")`,
		"zone":          `dateInZone "2006-01-02T15:04:05.000000000" now "Europe/Berlin"`,
		"keys":          `keys (dict "a" 1 "b" 2 "c" 3 "d" 4 "e" 5)`,
		"values":        `values (dict "a" 1 "b" 2 "c" 3 "d" 4 "e" 5)`,
		"deterministic": `derivePassword 1 "long" "password" "user" "example.com"`,
	}))
	first := mustRender(t, rel, "x", nil)
	if !first.NewValues {
		t.Error("nothing is new in the first render")
	}

	// Restarted, on another replica: the record comes out of a Secret.
	data, err := json.Marshal(first.Record)
	if err != nil {
		t.Fatal(err)
	}
	var stored render.Record
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		again := mustRender(t, rel, "x", stored)
		if again.NewValues {
			t.Error("a repeated render has new values")
		}
		if diff := cmp.Diff(valuesIn(first), valuesIn(again)); diff != "" {
			t.Errorf("repeated values differ:\n%s", diff)
		}
		if diff := cmp.Diff(first.Record, again.Record); diff != "" {
			t.Errorf("repeated records differ:\n%s", diff)
		}
		if len(again.Unused) != 0 {
			t.Errorf("unused: %v", again.Unused)
		}
	}

	// Another cluster shares nothing.
	other := mustRender(t, rel, "x", nil)
	same := map[string]bool{"keys": true, "values": true, "deterministic": true, "html": true, "ago": true, "age": true}
	theirs := valuesIn(other)
	for name, value := range valuesIn(first) {
		if !same[name] && theirs[name] == value {
			t.Errorf("%s is the same in two clusters", name)
		}
	}
}

func TestGeneratedValuesSurviveAnUpgrade(t *testing.T) {
	const password = `randAlphaNum 24`
	const signed = `(genSignedCert "server" nil (list "a.example.com") 365 (genCA "authority" 365)).Cert`
	for name, c := range map[string]struct {
		why     string
		applied map[string]string
		target  map[string]string
		kept    map[string]string // name in the target -> name in the applied release
		changed []string
		unused  int
	}{
		"TemplatesOfOtherThingsCome": {
			why:     "Files are executed in the order of their names: a new one in front must not take another's password.",
			applied: map[string]string{"m": password, "p": password},
			target:  map[string]string{"a": password, "m": password, "p": password, "z": password},
			kept:    map[string]string{"m": "m", "p": "p"},
			changed: []string{"a", "z"},
		},
		"TemplateMoves": {
			applied: map[string]string{"m": password, "p": password},
			target:  map[string]string{"m": password, "q": password},
			kept:    map[string]string{"m": "m", "q": "p"},
			unused:  1,
		},
		"AuthorityIsAskedForByAnotherFile": {
			why:     "Charts make the authority in a helper, whoever calls first; certificates signed by it depend on its content.",
			applied: map[string]string{"server": signed},
			target:  map[string]string{"renamed": signed},
			kept:    map[string]string{"renamed": "server"},
			unused:  2,
		},
		"ArgumentsChange": {
			why:     "A certificate for another name is another certificate.",
			applied: map[string]string{"server": signed},
			target:  map[string]string{"server": strings.ReplaceAll(signed, "a.example.com", "b.example.com")},
			changed: []string{"server"},
			unused:  1,
		},
		"TemplateGoes": {
			applied: map[string]string{"m": password, "p": password},
			target:  map[string]string{"p": password},
			kept:    map[string]string{"p": "p"},
			unused:  1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			applied := mustRender(t, addonOf(t, secrets(c.applied)), "x", nil)
			target := mustRender(t, addonOf(t, secrets(c.target)), "x", applied.Record)
			before, after := valuesIn(applied), valuesIn(target)
			for to, from := range c.kept {
				if after[to] != before[from] {
					t.Errorf("%s is not what %s was. %s", to, from, c.why)
				}
			}
			for _, name := range c.changed {
				if slices.Contains(slices.Collect(maps.Values(before)), after[name]) {
					t.Errorf("%s has a value from before. %s", name, c.why)
				}
			}
			if len(target.Unused) != c.unused {
				t.Errorf("unused: %d, want %d", len(target.Unused), c.unused)
			}
			stored := true
			for key := range target.Record {
				_, known := applied.Record[key]
				stored = stored && known
			}
			if target.NewValues == stored {
				t.Errorf("NewValues is %v, but the record is stored: %v", target.NewValues, stored)
			}

			// Back to the applied release, with all that was ever recorded.
			all := maps.Clone(applied.Record)
			maps.Copy(all, target.Record)
			back := mustRender(t, addonOf(t, secrets(c.applied)), "x", all)
			if diff := cmp.Diff(before, valuesIn(back)); diff != "" {
				t.Errorf("after rolling back:\n%s", diff)
			}
		})
	}
}

// A moved value stands in the record under two names. The old one must not be handed to a call that is
// really new.
func TestAMovedValueIsNotGivenAway(t *testing.T) {
	const password = `randAlphaNum 24`
	first := mustRender(t, addonOf(t, secrets(map[string]string{"old": password})), "x", nil)
	moved := mustRender(t, addonOf(t, secrets(map[string]string{"new": password})), "x", first.Record)
	all := maps.Clone(first.Record)
	maps.Copy(all, moved.Record)
	third := valuesIn(mustRender(t, addonOf(t, secrets(map[string]string{"new": password, "third": password})), "x", all))
	if third["new"] != valuesIn(first)["old"] {
		t.Error("the moved value is lost")
	}
	if third["third"] == third["new"] {
		t.Error("two Secrets have one password")
	}
}

func TestRecordsOfAddonsAreApart(t *testing.T) {
	files := under("x", secrets(map[string]string{"a": "randAlphaNum 24"}))
	maps.Copy(files, under("xx", secrets(map[string]string{"a": "randAlphaNum 24"})))
	rel := withAddons(t, files, "x", "xx")
	x := mustRender(t, rel, "x", nil)
	xx := mustRender(t, rel, "xx", x.Record)
	if valuesIn(x)["a"] == valuesIn(xx)["a"] {
		t.Error("two addons share a password")
	}
	if len(xx.Unused) != 0 {
		t.Errorf("the record of another addon counts as unused: %v", xx.Unused)
	}
}

func TestTheNameOfTheChartDoesNotCount(t *testing.T) {
	// Real stacks name the chart after the release, so its name changes with every minor version.
	chart := func(name string) map[string]string {
		files := secrets(map[string]string{"a": "randAlphaNum 24"})
		files["Chart.yaml"] = "apiVersion: v2\nname: " + name + "\nversion: v1\n"
		return files
	}
	first := mustRender(t, addonOf(t, chart("openstack-scs-1-32-cluster-addon")), "x", nil)
	second := mustRender(t, addonOf(t, chart("openstack-scs-1-33-cluster-addon")), "x", first.Record)
	if second.NewValues || len(second.Unused) > 0 {
		t.Error("the values of a chart with another name are not found")
	}
}

func TestCertificatesFitTogether(t *testing.T) {
	files := secrets(map[string]string{"unused": `"x"`})
	files["templates/_helpers.tpl"] = `{{- define "authority" }}{{ if not .authority }}{{ $_ := set . "authority" (genCA "authority" 365) }}{{ end }}{{ end }}`
	files["templates/certs.yaml"] = `{{- include "authority" . }}
{{- $server := genSignedCert "server" nil (list "example.com") 365 .authority }}
apiVersion: v1
kind: Secret
metadata: {name: certs}
stringData:
  ca: {{ .authority.Cert | quote }}
  cert: {{ $server.Cert | quote }}
`
	rel := addonOf(t, files)
	recorded := mustRender(t, rel, "x", nil).Record
	// Half of the record is lost: what depends on the authority must be made for the one that is kept.
	for key := range recorded {
		if strings.Contains(key, "genSignedCert") {
			delete(recorded, key)
		}
	}
	for _, object := range mustRender(t, rel, "x", recorded).Objects {
		if object.GetName() != "certs" {
			continue
		}
		data, _, _ := unstructured.NestedStringMap(object.Object, "stringData")
		ca, cert := certificate(t, data["ca"]), certificate(t, data["cert"])
		if err := cert.CheckSignatureFrom(ca); err != nil {
			t.Error(err)
		}
	}
}

func certificate(t *testing.T, encoded string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(encoded))
	if block == nil {
		t.Fatalf("no PEM: %q", encoded)
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestADamagedRecordIsAnErrorWithoutItsContent(t *testing.T) {
	rel := addonOf(t, secrets(map[string]string{"a": `(genCA "cn" 10).Cert`}))
	recorded := mustRender(t, rel, "x", nil).Record
	for key := range recorded {
		recorded[key] = "hunter2"
	}
	_, err := render.Addon(rel, "x", facts(), recorded)
	if err == nil || !strings.Contains(err.Error(), "damaged") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error: %v", err)
	}
}

func TestValuesTemplatesAreRecordedToo(t *testing.T) {
	files := secrets(map[string]string{"a": ".Values.a"})
	files["overwrite.yaml"] = "a: {{ randInt 1 1000000000 }}\nb: {{ now }}\n"
	rel := addonOf(t, files)
	first := mustRender(t, rel, "x", nil)
	second := mustRender(t, rel, "x", first.Record)
	if diff := cmp.Diff(valuesIn(first), valuesIn(second)); diff != "" || second.NewValues {
		t.Errorf("a value of the values template differs:\n%s", diff)
	}
}

// Charts without anything generated render to the same bytes each time, whatever maps they go through.
func TestRendersAreDeterministic(t *testing.T) {
	var all strings.Builder
	for i := range 30 {
		fmt.Fprintf(&all, "key%d: {nested: [%d, true, null]}\n", i, i)
	}
	files := secrets(map[string]string{
		"keys":    `keys .Values | join ","`,
		"values":  `values .Values | toJson`,
		"yaml":    `toYaml .Values`,
		"apis":    `.Capabilities.APIVersions | join ","`,
		"printed": `.Values`,
		"files":   `.Files.AsConfig`,
	})
	files["values.yaml"] = all.String()
	for _, sub := range []string{"one", "two", "three", "four"} {
		files["charts/"+sub+"/Chart.yaml"] = "apiVersion: v2\nname: " + sub + "\nversion: v1\n"
		files["charts/"+sub+"/crds/"+sub+".yaml"] = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: " + sub + "}\n"
		files["charts/"+sub+"/templates/same.yaml"] = secret(sub, ".Template.Name")
	}
	rel := addonOf(t, files)
	want := text(t, mustRender(t, rel, "x", nil))
	for range 20 {
		if diff := cmp.Diff(want, text(t, mustRender(t, rel, "x", nil))); diff != "" {
			t.Fatalf("two renders differ:\n%s", diff)
		}
	}
}
