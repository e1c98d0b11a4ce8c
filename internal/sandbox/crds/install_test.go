// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package crds_test

import (
	"os"
	"path/filepath"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// things has two versions that differ; the label names the one that is not stored.
const things = header + `
metadata:
  name: things.infrastructure.cluster.x-k8s.io
  labels: {cluster.x-k8s.io/v1beta1: v1beta1}
spec:
  group: infrastructure.cluster.x-k8s.io
  scope: Namespaced
  names: {kind: Thing, listKind: ThingList, plural: things, singular: thing}
  conversion:
    strategy: Webhook
    webhook: {conversionReviewVersions: [v1], clientConfig: {service: {name: nobody, namespace: nowhere}}}
  versions:
  - name: v1beta1
    served: true
    storage: false
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: string}, older: {type: boolean}}}
  - name: v1beta2
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: string}, newer: {type: boolean}}}
`

// TestInstall: without the webhook, what is written in the version of the contract is kept as a whole, and other
// versions show the fields that they have as well.
func TestInstall(t *testing.T) {
	config := sandboxtest.APIServer(t)
	file := filepath.Join(t.TempDir(), "things.yaml")
	if err := os.WriteFile(file, []byte(things), 0o600); err != nil {
		t.Fatal(err)
	}
	given, err := crds.Read([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	if err := crds.Install(t.Context(), config, given.CRDs); err != nil {
		t.Fatal(err)
	}

	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	in := func(version string) dynamic.ResourceInterface {
		return client.Resource(schema.GroupVersionResource{Group: "infrastructure.cluster.x-k8s.io", Version: version, Resource: "things"}).Namespace("default")
	}
	thing := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "infrastructure.cluster.x-k8s.io/v1beta1", "kind": "Thing", "metadata": map[string]any{"name": "one"},
		"spec": map[string]any{"size": "large", "older": true},
	}}
	if _, err := in("v1beta1").Create(t.Context(), thing, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for version, fields := range map[string][]string{"v1beta1": {"size", "older"}, "v1beta2": {"size"}} {
		got, err := in(version).Get(t.Context(), "one", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range fields {
			if _, found, _ := unstructured.NestedFieldNoCopy(got.Object, "spec", field); !found {
				t.Errorf("read as %s it lacks %s: %v", version, field, got.Object["spec"])
			}
		}
	}
}

// TestInstallLeavesWhatAUserGave: a sandbox that starts again has editions of its own.
func TestInstallLeavesWhatAUserGave(t *testing.T) {
	config := sandboxtest.APIServer(t)
	file := filepath.Join(t.TempDir(), "widgets.yaml")
	content := header + `
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, listKind: WidgetList, plural: widgets, singular: widget}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	given, err := crds.Read([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	client := apiextensionsclient.NewForConfigOrDie(config)
	install := func(edition string, given *apiextensionsv1.CustomResourceDefinition, want string) {
		t.Helper()
		given.Labels = map[string]string{"edition": edition}
		if err := crds.Install(t.Context(), config, []*apiextensionsv1.CustomResourceDefinition{given}); err != nil {
			t.Fatal(err)
		}
		live, err := client.CustomResourceDefinitions().Get(t.Context(), given.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := live.Labels["edition"]; got != want {
			t.Errorf("after the edition %q was installed, %q is there", edition, got)
		}
	}
	own := given.CRDs[0].DeepCopy()
	own.Annotations = nil
	install("own", own, "own")
	install("given", given.CRDs[0], "given")
	install("own", own, "given")
	install("later", given.CRDs[0], "later")
}
