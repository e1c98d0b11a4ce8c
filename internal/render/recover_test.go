// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/base64"
	"errors"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// secretsOf are the Secrets of a render as a cluster has them.
func secretsOf(t *testing.T, result *render.Result) map[string]map[string][]byte {
	t.Helper()
	all := map[string]map[string][]byte{}
	for _, object := range result.Objects {
		if object.GetKind() != "Secret" {
			continue
		}
		data := map[string][]byte{}
		encoded, _, _ := unstructured.NestedStringMap(object.Object, "data")
		for key, value := range encoded {
			decoded, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				t.Fatal(err)
			}
			data[key] = decoded
		}
		plain, _, _ := unstructured.NestedStringMap(object.Object, "stringData")
		for key, value := range plain {
			data[key] = []byte(value)
		}
		namespace := object.GetNamespace()
		if namespace == "" {
			namespace = render.AddonNamespace
		}
		all[namespace+"/"+object.GetName()] = data
	}
	return all
}

func recoverRecord(t *testing.T, rel *release.Release, addon string, recorded render.Record, live map[string]map[string][]byte) render.Record {
	t.Helper()
	in, err := render.AddonInput(rel, addon, facts(), recorded)
	if err != nil {
		t.Fatal(err)
	}
	record, err := render.Recover(in, render.Input.Render, func(namespace, name string) (map[string][]byte, bool, error) {
		data, found := live[namespace+"/"+name]
		return data, found, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// Cilium makes an authority and signs two certificates with it. A cluster that has them from somebody else
// keeps them.
func TestCertificatesOfCiliumAreRecovered(t *testing.T) {
	rel := cilium(t)
	live := secretsOf(t, mustRender(t, rel, "cni", nil))
	if len(live) == 0 {
		t.Fatal("no secrets")
	}
	again := mustRender(t, rel, "cni", recoverRecord(t, rel, "cni", nil, live))
	if diff := cmp.Diff(live, secretsOf(t, again)); diff != "" {
		t.Errorf("Secrets change at take-over:\n%s", diff)
	}
}

func TestGeneratedValuesAreRecovered(t *testing.T) {
	const ca = `{{ $ca := genCA "ca" 10 }}{{ $server := genSignedCert "server" nil (list "server") 10 $ca }}`
	manifest := func(data string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n" + data
	}
	for name, c := range map[string]struct {
		why      string
		template string
		// spoil changes what the cluster has.
		spoil func(map[string][]byte)
		// kept are the keys that stay as they are in the cluster.
		kept map[string]bool
	}{
		"Password":   {template: manifest(`data: {a: {{ randAlphaNum 20 | b64enc }}}`), kept: map[string]bool{"a": true}},
		"StringData": {template: manifest(`stringData: {a: {{ randAlphaNum 20 | quote }}}`), kept: map[string]bool{"a": true}},
		"InText": {
			template: manifest(`stringData: {a: "user=root password={{ randAlphaNum 20 }} other={{ randAlphaNum 20 }};"}`),
			kept:     map[string]bool{"a": true},
		},
		"InTextAsBase64": {template: manifest(`stringData: {a: "auth: {{ randAlphaNum 20 | b64enc }}"}`), kept: map[string]bool{"a": true}},
		"Hash":           {template: manifest(`stringData: {a: {{ htpasswd "u" "p" | quote }}, b: {{ bcrypt "p" | quote }}}`), kept: map[string]bool{"a": true, "b": true}},
		"Key":            {template: manifest(`data: {a: {{ genPrivateKey "ecdsa" | b64enc }}}`), kept: map[string]bool{"a": true}},
		"Chain": {
			template: ca + manifest(`data: {ca: {{ $ca.Cert | b64enc }}, caKey: {{ $ca.Key | b64enc }}, a: {{ $server.Cert | b64enc }}, b: {{ $server.Key | b64enc }}}`),
			kept:     map[string]bool{"ca": true, "caKey": true, "a": true, "b": true},
		},
		"AuthorityWithoutKey": {
			why:      "Nothing could be signed with it any more: all are made anew and fit together.",
			template: ca + manifest(`data: {ca: {{ $ca.Cert | b64enc }}, a: {{ $server.Cert | b64enc }}, b: {{ $server.Key | b64enc }}}`),
			kept:     map[string]bool{},
		},
		"KeyOfAnotherCertificate": {
			template: `{{ $one := genCA "a" 10 }}` + manifest(`data: {a: {{ $one.Cert | b64enc }}, b: {{ $one.Key | b64enc }}}`),
			spoil:    func(data map[string][]byte) { data["b"] = []byte("a key") },
			kept:     map[string]bool{},
		},
		"AnotherForm": {
			why:      "A release before wrote it differently.",
			template: manifest(`stringData: {a: "password={{ randAlphaNum 20 }}", b: {{ randAlphaNum 21 | quote }}}`),
			spoil:    func(data map[string][]byte) { data["a"] = []byte("pw: geheim") },
			kept:     map[string]bool{"b": true},
		},
		"Missing":     {template: manifest(`stringData: {a: {{ randAlphaNum 20 | quote }}}`), spoil: func(data map[string][]byte) { clear(data) }, kept: map[string]bool{}},
		"Number":      {template: manifest(`stringData: {a: "{{ randInt 0 1000000 }}"}`), kept: map[string]bool{"a": true}},
		"ShortInText": {why: "It cannot be told from what stands around it.", template: manifest(`stringData: {a: "a1b2c3{{ randNumeric 3 }}4"}`), kept: map[string]bool{}},
	} {
		t.Run(name, func(t *testing.T) {
			rel := addonOf(t, map[string]string{"Chart.yaml": "apiVersion: v2\nname: x\nversion: v1\n", "templates/a.yaml": c.template})
			live := secretsOf(t, mustRender(t, rel, "x", nil))
			if c.spoil != nil {
				c.spoil(live["kube-system/s"])
			}
			record := recoverRecord(t, rel, "x", nil, live)
			again := secretsOf(t, mustRender(t, rel, "x", record))["kube-system/s"]
			for key, value := range again {
				if same := string(value) == string(live["kube-system/s"][key]); same != c.kept[key] {
					t.Errorf("%s is kept: %v, want %v. %s", key, same, c.kept[key], c.why)
				}
			}
			if diff := cmp.Diff(record, recoverRecord(t, rel, "x", record, nil)); diff != "" {
				t.Errorf("what is recorded does not stay:\n%s", diff)
			}
		})
	}
}

func TestRecoveringFailsWithTheCluster(t *testing.T) {
	rel := addonOf(t, secrets(map[string]string{"a": "randAlphaNum 24"}))
	in, err := render.AddonInput(rel, "x", facts(), nil)
	if err != nil {
		t.Fatal(err)
	}
	timeout := errors.New("timeout")
	if _, err := render.Recover(in, render.Input.Render, func(string, string) (map[string][]byte, bool, error) { return nil, false, timeout }); !errors.Is(err, timeout) {
		t.Errorf("error: %v", err)
	}
	if _, err := render.Recover(in, func(render.Input) (*render.Result, error) { return nil, timeout }, nil); !errors.Is(err, timeout) {
		t.Errorf("error: %v", err)
	}
	recorded := done(t)(in.Render()).Record
	in.Recorded = maps.Clone(recorded)
	if record, err := render.Recover(in, render.Input.Render, func(string, string) (map[string][]byte, bool, error) { return nil, false, nil }); err != nil || !cmp.Equal(record, recorded) {
		t.Errorf("record %v, error %v", record, err)
	}
}
