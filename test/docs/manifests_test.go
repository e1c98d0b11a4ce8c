// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// snippet is YAML that the documentation shows.
type snippet struct {
	// where it stands, for messages.
	where string
	text  string
}

// snippets returns the files and the blocks with YAML below docs.
func snippets(t *testing.T) []snippet {
	t.Helper()
	var found []snippet
	err := fs.WalkDir(os.DirFS(root), "docs", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		found = append(found, snippet{where: name, text: string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages(t, "docs/") {
		blocks, _ := blocks(p.text)
		for _, b := range blocks {
			if b.language == "yaml" {
				found = append(found, snippet{where: fmt.Sprintf("%s:%d", p.path, b.line), text: b.text})
			}
		}
	}
	return found
}

// file returns the name that a snippet gives in its first line, as the comment "# metadata.yaml", or "".
func (s snippet) file() string {
	first, _, _ := strings.Cut(s.text, "\n")
	name, named := strings.CutPrefix(first, "# ")
	if !named || strings.Contains(name, " ") || path.Ext(name) != ".yaml" {
		return ""
	}
	return name
}

// TestManifests has a management cluster with Cluster API accept, without storing them, all Kubernetes
// objects that the documentation shows.
func TestManifests(t *testing.T) {
	config := sandboxtest.Management(t).Config()
	config.WarningHandler = rest.NoWarnings{} // that the class of a Cluster is not there is known
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range snippets(t) {
		if s.file() != "" {
			continue
		}
		t.Run(s.where, func(t *testing.T) {
			for _, object := range objects(t, s.text) {
				// The namespace has to be there even for what is not stored.
				namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: object.GetNamespace()}}
				if err := c.Create(t.Context(), namespace); namespace.Name != "" && err != nil && !apierrors.IsAlreadyExists(err) {
					t.Fatal(err)
				}
				err := c.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
				if err != nil && !apierrors.IsAlreadyExists(err) {
					t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
				}
			}
		})
	}
}

// objects reads the documents of a manifest. A key that stands twice is an error.
func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var found []*unstructured.Unstructured
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		object := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(bytes.TrimPrefix(document, []byte("---\n")), &object.Object); err != nil {
			t.Fatal(err)
		}
		if object.GetAPIVersion() == "" || object.GetKind() == "" {
			t.Fatal("is neither a Kubernetes object nor says in its first line which file it shows, such as # metadata.yaml")
		}
		found = append(found, object)
	}
	if len(found) == 0 {
		t.Fatal("shows no object")
	}
	return found
}

// TestFiles gives the files of stacks and releases that the documentation shows to the code that reads them.
func TestFiles(t *testing.T) {
	readers := map[string]func(*testing.T, []byte) error{
		"Chart.yaml":             readChart,
		"csctl.yaml":             readSettings,
		"metadata.yaml":          readInRelease(release.MetadataFile),
		"clusteraddon.yaml":      readInRelease(release.StagesFile),
		"overwrite.yaml":         readValuesTemplate,
		release.LegacyValuesFile: readValuesTemplate,
	}
	for _, s := range snippets(t) {
		if s.file() == "" {
			continue
		}
		t.Run(s.where, func(t *testing.T) {
			read := readers[s.file()]
			if read == nil {
				t.Fatalf("nothing is known that reads %s", s.file())
			}
			if err := read(t, []byte(s.text)); err != nil {
				t.Error(err)
			}
		})
	}
}

func readChart(_ *testing.T, data []byte) error { return yaml.UnmarshalStrict(data, &chart.Metadata{}) }

func readSettings(_ *testing.T, data []byte) error {
	if err := yaml.UnmarshalStrict(data, &map[string]any{}); err != nil {
		return err
	}
	_, err := build.Read(fstest.MapFS{"stack/csctl.yaml": {Data: data}}, "stack")
	return err
}

// readInRelease opens a release with one of its files replaced. What a release says in its warnings a
// page must not do.
func readInRelease(file string) func(*testing.T, []byte) error {
	return func(t *testing.T, data []byte) error {
		const tag = "docker-starter-1-35-v2"
		name, err := release.ParseName(tag)
		if err != nil {
			return err
		}
		files := releasetest.Multistage(tag)
		files[file] = &fstest.MapFile{Data: data}
		rel, err := release.Open(files, name)
		if err != nil {
			return err
		}
		for _, warning := range rel.Warnings {
			t.Error(warning)
		}
		return nil
	}
}

// readValuesTemplate makes values for the cluster of the tutorial.
func readValuesTemplate(_ *testing.T, template []byte) error {
	data, err := os.ReadFile(filepath.Join(root, "docs", "tutorial", "quickstart", "cluster.yaml"))
	if err != nil {
		return err
	}
	cluster := &clusterv1.Cluster{}
	if err := yaml.UnmarshalStrict(data, cluster); err != nil {
		return err
	}
	cluster.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: "203.0.113.10", Port: 6443}
	facts, err := render.ClusterFacts(cluster, nil, nil)
	if err != nil {
		return err
	}
	values, err := render.Values(template, facts)
	if err == nil && strings.Contains(fmt.Sprint(values), "<no value>") {
		err = fmt.Errorf("uses a field that the cluster of the tutorial has not: %v", values)
	}
	return err
}
