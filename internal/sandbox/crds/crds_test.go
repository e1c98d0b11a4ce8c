// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package crds_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
)

const (
	header  = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
	names   = "  names: {kind: OpenStackCluster, plural: openstackclusters}\n"
	infra   = header + "metadata:\n  name: openstackclusters.infrastructure.cluster.x-k8s.io\n  labels: {cluster.x-k8s.io/v1beta1: v1beta1}\nspec:\n  group: infrastructure.cluster.x-k8s.io\n" + names
	bare    = header + "metadata:\n  name: openstackclusters.infrastructure.cluster.x-k8s.io\nspec:\n  group: infrastructure.cluster.x-k8s.io\n" + names
	foreign = header + "metadata:\n  name: images.openstack.k-orc.cloud\nspec:\n  group: openstack.k-orc.cloud\n"
)

func TestRead(t *testing.T) {
	infraName, foreignName := "openstackclusters.infrastructure.cluster.x-k8s.io", "images.openstack.k-orc.cloud"
	for name, tc := range map[string]struct {
		why      string
		files    map[string]string
		path     string
		want     []string
		label    string   // what cluster.x-k8s.io/v1beta1 is on the first
		warnings []string // what each must contain
		err      string
	}{
		"File": {files: map[string]string{"a.yaml": infra}, path: "a.yaml", want: []string{infraName}, label: "v1beta1"},
		"FolderWithFolders": {
			files: map[string]string{"x/a.yaml": infra, "x/y/b.yml": foreign, "x/readme.md": "no YAML: [\n"}, path: "x",
			want: []string{infraName, foreignName}, label: "v1beta1",
		},
		"ComponentsOfARelease": {
			why:   "clusterctl fills in variables; the CRDs have none.",
			files: map[string]string{"a.yaml": "---\nkind: Deployment\nspec: {{ $x }}\n---\n# nothing\n---\n" + infra}, path: "a.yaml",
			want: []string{infraName}, label: "v1beta1", warnings: []string{"left out: 1"},
		},
		"ListOfKubectl": {
			files: map[string]string{"a.json": `{"kind": "List", "items": [{"kind": "CustomResourceDefinition", "metadata": {"name": "a"}}, {"kind": "Secret"}]}`}, path: "a.json",
			want: []string{"a"}, warnings: []string{"left out: 1"},
		},
		"FolderOfAProvider": {
			why:   "The labels of the contract are in the kustomization, not in the generated files.",
			files: map[string]string{"crd/kustomization.yaml": "labels: [{pairs: {cluster.x-k8s.io/v1beta1: v1alpha7_v1beta1}}]\nresources: [bases/a.yaml]\npatches: [{path: patches/p.yaml}]\n", "crd/bases/a.yaml": bare, "crd/bases/b.yaml": foreign, "crd/patches/p.yaml": bare}, path: "crd",
			want: []string{infraName}, label: "v1alpha7_v1beta1",
		},
		"OlderKustomization": {
			files: map[string]string{"config/crd/kustomization.yaml": "commonLabels: {cluster.x-k8s.io/v1beta1: v1beta1}\nresources: [bases]\n", "config/crd/bases/a.yaml": bare}, path: "config",
			want: []string{infraName}, label: "v1beta1",
		},
		"KustomizationThatPointsElsewhere": {
			files: map[string]string{"crd/kustomization.yaml": "resources: [../a.yaml]\n", "a.yaml": infra}, path: "crd",
			err: "names the resource ../a.yaml",
		},
		"KustomizationsInACircle": {
			files: map[string]string{"a/kustomization.yaml": "resources: [../b]\n", "b/kustomization.yaml": "resources: [../a]\n"}, path: ".",
			err: "b/kustomization.yaml leads back to the folder a",
		},
		"Archive": {
			files: map[string]string{"crds.tar.gz": archive(t, map[string]string{"provider/crd/kustomization.yaml": "labels: [{pairs: {cluster.x-k8s.io/v1beta1: v1beta1}}]\nresources: [a.yaml]\n", "provider/crd/a.yaml": bare})}, path: "crds.tar.gz",
			want: []string{infraName}, label: "v1beta1",
		},
		"ArchiveThatLeavesItsFolder": {files: map[string]string{"crds.tgz": archive(t, map[string]string{"../a.yaml": infra})}, path: "crds.tgz", err: "escapes"},
		"NoArchive":                  {files: map[string]string{"crds.tgz": infra}, path: "crds.tgz", err: "crds.tgz: gzip"},
		"NoContract": {
			why:   "Without the label Cluster API cannot resolve references, and says so only in a log.",
			files: map[string]string{"a.yaml": bare}, path: "a.yaml",
			want: []string{infraName}, warnings: []string{"no label cluster.x-k8s.io/v1beta1"},
		},
		"Twice": {
			why:   "A folder and a file that replaces one of it.",
			files: map[string]string{"x/a.yaml": bare, "x/b.yaml": infra}, path: "x",
			want: []string{infraName}, label: "v1beta1", warnings: []string{"no label"},
		},
		"NothingThere": {files: map[string]string{"a.yaml": "kind: Secret\n"}, path: "a.yaml", err: "a.yaml has none"},
		"Empty":        {files: map[string]string{"x/readme.md": ""}, path: "x", err: "x has none"},
		"BrokenCRD":    {files: map[string]string{"a.yaml": "kind: CustomResourceDefinition\n  x: [\n"}, path: "a.yaml", err: "a.yaml"},
		"NoSuchFile":   {files: map[string]string{"a.yaml": infra}, path: "b.yaml", err: "b.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range tc.files {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := crds.Read([]string{filepath.Join(dir, tc.path)})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, crd := range got.CRDs {
				found = append(found, crd.Name)
			}
			if diff := cmp.Diff(tc.want, found); diff != "" {
				t.Errorf("%s. %s", diff, tc.why)
			}
			if label := got.CRDs[0].Labels["cluster.x-k8s.io/v1beta1"]; label != tc.label {
				t.Errorf("label %q, want %q. %s", label, tc.label, tc.why)
			}
			if len(got.Warnings) != len(tc.warnings) {
				t.Fatalf("warnings %q, want %q. %s", got.Warnings, tc.warnings, tc.why)
			}
			for i, w := range tc.warnings {
				if !strings.Contains(got.Warnings[i], w) {
					t.Errorf("warning %q lacks %q", got.Warnings[i], w)
				}
			}
		})
	}
}

// TestConversion: nobody serves a provider's webhook.
func TestConversion(t *testing.T) {
	const (
		spec      = "{openAPIV3Schema: {type: object, properties: {spec: {type: object}}}}"
		described = "{openAPIV3Schema: {type: object, description: of a kind, properties: {spec: {type: object, description: of it}}}}"
		other     = "{openAPIV3Schema: {type: object, properties: {spec: {type: string}, description: {type: string}}}}"
	)
	for name, tc := range map[string]struct {
		why      string
		versions string
		stored   string
		warning  string
	}{
		"OneVersion": {versions: "{name: v1beta1, served: true, storage: true, schema: " + spec + "}", stored: "v1beta1"},
		"VersionsThatAgree": {
			why:      "What is written in one can be read in the other.",
			versions: "{name: v1alpha7, served: true, schema: " + described + "}, {name: v1beta1, served: true, storage: true, schema: " + spec + "}",
			stored:   "v1beta1",
		},
		"VersionsThatDiffer": {
			versions: "{name: v1alpha7, served: true, schema: " + other + "}, {name: v1beta1, served: true, storage: true, schema: " + spec + "}",
			stored:   "v1beta1", warning: "write objects of openstackclusters as v1beta1",
		},
		"VersionsThatAreNotServed": {
			versions: "{name: v1alpha7, served: false, schema: " + other + "}, {name: v1beta1, served: true, storage: true, schema: " + spec + "}",
			stored:   "v1beta1",
		},
		"AnotherVersionIsStored": {
			why:      "Cluster API and the simulator use the version that the label names: fields that only it has must be kept.",
			versions: "{name: v1beta1, served: true, schema: " + spec + "}, {name: v1beta2, served: true, storage: true, schema: " + other + "}",
			stored:   "v1beta1", warning: "write objects of openstackclusters as v1beta1",
		},
		"ContractVersionIsNotServed": {
			versions: "{name: v1beta1, served: false, schema: " + spec + "}, {name: v1beta2, served: true, storage: true, schema: " + other + "}",
			stored:   "v1beta2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "crd.yaml")
			content := infra + "  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1]}}\n  versions: [" + tc.versions + "]\n"
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := crds.Read([]string{file})
			if err != nil {
				t.Fatal(err)
			}
			crd := got.CRDs[0]
			if c := crd.Spec.Conversion; c.Strategy != apiextensionsv1.NoneConverter || c.Webhook != nil {
				t.Errorf("converted by %+v", c)
			}
			var stored []string
			for _, v := range crd.Spec.Versions {
				if v.Storage {
					stored = append(stored, v.Name)
				}
			}
			if diff := cmp.Diff([]string{tc.stored}, stored); diff != "" {
				t.Errorf("stored: %s. %s", diff, tc.why)
			}
			switch warnings := strings.Join(got.Warnings, "\n"); {
			case tc.warning == "" && warnings != "":
				t.Errorf("warned: %s. %s", warnings, tc.why)
			case !strings.Contains(warnings, tc.warning):
				t.Errorf("warnings %q lack %q", warnings, tc.warning)
			}
		})
	}
}

func TestLastOfEach(t *testing.T) {
	crd := func(name, label string) *apiextensionsv1.CustomResourceDefinition {
		return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"edition": label}}}
	}
	got := crds.LastOfEach([]*apiextensionsv1.CustomResourceDefinition{crd("a", "default"), crd("b", "default"), crd("a", "user's")})
	want := []*apiextensionsv1.CustomResourceDefinition{crd("a", "user's"), crd("b", "default")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// archive packs files as the content of a .tar.gz.
func archive(t *testing.T, files map[string]string) string {
	t.Helper()
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	writer := tar.NewWriter(compressed)
	for name, content := range files {
		if err := writer.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}
