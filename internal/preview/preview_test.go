// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package preview_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/preview"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

const tag = "docker-scs-1-35-v1"

// open opens a release with an addon that generates a password, one that depends on the cluster, and one that does neither.
func open(t *testing.T, change func(map[string]string, fstest.MapFS)) *release.Release {
	t.Helper()
	files := releasetest.Multistage(tag)
	charts := map[string]string{
		"cni/Chart.yaml":            releasetest.Chart("cni", "v1"),
		"cni/overwrite.yaml":        "cluster: {{ .Cluster.metadata.name }}\nclass: {{ .Cluster.spec.topology.class }}\nversion: {{ .Cluster.spec.topology.version }}\nhost: {{ .Cluster.spec.controlPlaneEndpoint.host }}\n",
		"cni/templates/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cni}\ndata: {{ .Values | toJson }}\n",
		"metrics-server/Chart.yaml": releasetest.Chart("metrics-server", "v1"),
		"metrics-server/templates/s.yaml": `apiVersion: v1
kind: Secret
metadata: {name: metrics-server}
stringData: {password: {{ randAlphaNum 20 }}}
`,
	}
	if change != nil {
		change(charts, files)
	}
	files[releasetest.AddonPackage(tag)].Data = releasetest.Archive(charts)
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := release.Open(files, name)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func of(t *testing.T, rel *release.Release, o preview.Options) *preview.Preview {
	t.Helper()
	p, err := preview.Of(t.Context(), rel, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t *testing.T, manifests string) *preview.Cluster {
	t.Helper()
	c := &preview.Cluster{}
	if err := c.ReadCluster([]byte(manifests)); err != nil {
		t.Fatal(err)
	}
	return c
}

// data returns what the ConfigMap of the addon cni has.
func data(t *testing.T, p *preview.Preview) map[string]string {
	t.Helper()
	for _, addon := range p.Addons {
		if addon.Name == "cni" {
			if addon.Err != nil {
				t.Fatal(addon.Err)
			}
			values, _, err := unstructured.NestedStringMap(addon.Objects[0].Object, "data")
			if err != nil {
				t.Fatal(err)
			}
			return values
		}
	}
	t.Fatal("there is no addon cni")
	return nil
}

func TestTheSameReleaseLooksTheSameEachTime(t *testing.T) {
	rel := open(t, nil)
	first, again := of(t, rel, preview.Options{}), of(t, rel, preview.Options{})
	if diff := cmp.Diff(first.Addons, again.Addons); diff != "" {
		t.Error(diff)
	}
	if !slices.ContainsFunc(first.Notes, func(n string) bool { return strings.Contains(n, "metrics-server generates") }) {
		t.Errorf("nobody is told that values are made up: %q", first.Notes)
	}
	if ns := first.Addons[0].Objects[0].GetNamespace(); ns != "kube-system" {
		t.Errorf("an addon's object is in namespace %q", ns)
	}
	var order []string
	for _, addon := range first.Addons {
		order = append(order, addon.Name)
	}
	if diff := cmp.Diff([]string{"cni", "metrics-server"}, order); diff != "" {
		t.Error(diff)
	}
}

func TestAClusterOfBothVersionsIsCompleted(t *testing.T) {
	for name, manifest := range map[string]string{
		"v1beta2": "{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: mine, namespace: ns}, spec: {topology: {classRef: {name: docker-scs-1-35-v0}, version: v1.35.0}}}",
		"v1beta1": "{apiVersion: cluster.x-k8s.io/v1beta1, kind: Cluster, metadata: {name: mine, namespace: ns}, spec: {topology: {class: docker-scs-1-35-v0, version: v1.35.0}}}",
		"InAList": "{apiVersion: v1, kind: List, items: [{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: mine, namespace: ns}, spec: {topology: {classRef: {name: docker-scs-1-35-v0}, version: v1.35.0}}}]}",
	} {
		t.Run(name, func(t *testing.T) {
			p := of(t, open(t, nil), preview.Options{Cluster: read(t, manifest)})
			want := map[string]string{"cluster": "mine", "class": "docker-scs-1-35-v1", "version": "v1.35.4", "host": "192.0.2.10"}
			if diff := cmp.Diff(want, data(t, p)); diff != "" {
				t.Error(diff)
			}
			for _, said := range []string{"uses the class docker-scs-1-35-v0", "has Kubernetes v1.35.0", "no control plane endpoint"} {
				if !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, said) }) {
					t.Errorf("no note says %q: %q", said, p.Notes)
				}
			}
			if ns := p.Class.Objects[0].GetNamespace(); ns != "ns" {
				t.Errorf("the class is in namespace %q", ns)
			}
		})
	}
}

const settings = `
apiVersion: clusterstack.x-k8s.io/v1alpha1
kind: ClusterAddonSettings
metadata: {name: sample, namespace: default}
spec:
  addons:
  - name: cni
    valuesFrom:
    - {kind: ConfigMap, name: values}
    - {kind: Secret, name: secret}
  - name: metrics-server
    disabled: true
---
apiVersion: v1
kind: ConfigMap
metadata: {name: values, namespace: default}
data: {values.yaml: "cluster: ours\nhost: ours"}
`

func TestSettingsOfAClusterCount(t *testing.T) {
	secret := "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: secret, namespace: default}\nstringData: {values.yaml: 'host: later'}\n"
	p := of(t, open(t, nil), preview.Options{Cluster: read(t, settings+secret)})
	got := data(t, p)
	if got["cluster"] != "ours" || got["host"] != "later" || got["version"] != "v1.35.4" {
		t.Errorf("values: %v", got)
	}
	if addon := p.Addons[1]; !addon.Off || len(addon.Objects) != 0 {
		t.Errorf("an addon that is switched off has %d objects", len(addon.Objects))
	}

	p = of(t, open(t, nil), preview.Options{Cluster: read(t, settings)})
	if err := p.Addons[0].Err; err == nil || !strings.Contains(err.Error(), "Secret secret with values is missing") {
		t.Errorf("without the Secret the error is: %v", err)
	}
}

func TestSettingsOfAnotherClusterDoNotCount(t *testing.T) {
	for name, tt := range map[string]struct {
		cluster string
		counts  bool
	}{
		"OfThisOne":          {"name: sample, namespace: default", true},
		"OfThisOneByDefault": {"name: sample", true},
		"OfAnother":          {"name: other, namespace: default", false},
		"InAnotherNamespace": {"name: sample, namespace: other", false},
	} {
		t.Run(name, func(t *testing.T) {
			optional := strings.ReplaceAll(settings, "name: secret}", "name: secret, optional: true}")
			cluster := "\n---\n{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {" + tt.cluster + "}, spec: {topology: {classRef: {name: docker-scs-1-35-v1}, version: v1.35.4}}}"
			p := of(t, open(t, nil), preview.Options{Cluster: read(t, optional+cluster)})
			if off := p.Addons[1].Off; off != tt.counts {
				t.Errorf("an addon that the settings switch off: %t", off)
			}
			if host := data(t, p)["host"]; (host == "ours") != tt.counts {
				t.Errorf("a value of the settings: %s", host)
			}
			if said := slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "count for nothing") }); said == tt.counts {
				t.Errorf("notes: %q", p.Notes)
			}
		})
	}
}

// Settings alone are those of a Cluster that is made up.
func TestAMadeUpClusterIsThatOfTheSettings(t *testing.T) {
	mine := strings.ReplaceAll(settings, "name: sample, namespace: default", "name: mine, namespace: ns")
	mine = strings.ReplaceAll(mine, "name: values, namespace: default", "name: values, namespace: ns")
	mine = strings.ReplaceAll(mine, "name: secret}", "name: secret, optional: true}")
	mine = strings.ReplaceAll(mine, "cluster: ours\\n", "")
	p := of(t, open(t, nil), preview.Options{Cluster: read(t, mine)})
	if got := data(t, p); got["cluster"] != "mine" || got["host"] != "ours" {
		t.Errorf("values: %v", got)
	}
	if ns := p.Class.Objects[0].GetNamespace(); ns != "ns" {
		t.Errorf("the class is in namespace %q", ns)
	}
}

func TestWhatCannotBeShownIsSaid(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(map[string]string, fstest.MapFS)
		ofAddon string
		of      string
		note    string
	}{
		"AddonThatFails": {
			change:  func(charts map[string]string, _ fstest.MapFS) { charts["cni/templates/x.yaml"] = `{{ fail "no" }}` },
			ofAddon: "addon cni of docker-scs-1-35-v1",
		},
		"ChartsThatAreMissing": {
			change: func(charts map[string]string, _ fstest.MapFS) {
				charts["cni/Chart.yaml"] += "dependencies: [{name: other, version: 1.0.0, repository: https://example.com}]\n"
			},
			of: "cluster-addon/cni depends on other, which the release does not bring",
		},
		"ClassWithWhatIsNotAllowed": {note: "the operator applies nothing of the cluster class of docker-scs-1-35-v1"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := preview.Of(t.Context(), open(t, tt.change), preview.Options{})
			if tt.of != "" {
				if err == nil || !strings.Contains(err.Error(), tt.of) {
					t.Fatalf("the error is: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.ofAddon != "" && (p.Addons[0].Err == nil || !strings.Contains(p.Addons[0].Err.Error(), tt.ofAddon) || p.Addons[1].Err != nil) {
				t.Errorf("the errors are: %v, %v", p.Addons[0].Err, p.Addons[1].Err)
			}
			if tt.note != "" && !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, tt.note) }) {
				t.Errorf("the notes are: %q", p.Notes)
			}
		})
	}
}

func TestManifestsOfAClusterAreChecked(t *testing.T) {
	for name, tt := range map[string]struct{ give, want string }{
		"Misspelt":   {"{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: x}, spec: {topologie: {}}}", `topologie`},
		"Twice":      {"{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: x}}\n---\n{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: y}}", "name one"},
		"NotAnOject": {"{kind: Cluster}", "no apiVersion"},
		"TooOld":     {"{apiVersion: cluster.x-k8s.io/v1alpha4, kind: Cluster, metadata: {name: x}}", "v1alpha4 is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := (&preview.Cluster{}).ReadCluster([]byte(tt.give)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is: %v", err)
			}
		})
	}
}
