// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
)

var server = webhookServer{address: "127.64.0.1:20000", caBundle: []byte("ca")}

const providerFiles = `
-- default/kustomization.yaml --
namespace: capi-system
namePrefix: capi-
labels:
- includeSelectors: true
  pairs:
    cluster.x-k8s.io/provider: cluster-api
-- crd/kustomization.yaml --
labels:
- pairs:
    cluster.x-k8s.io/v1beta2: v1beta2
resources:
- bases/clusters.yaml
- bases/reports.yaml
-- crd/bases/clusters.yaml --
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusters.cluster.x-k8s.io
spec:
  versions: [{name: v1beta1}, {name: v1beta2}]
-- crd/bases/reports.yaml --
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: reports.cluster.x-k8s.io
spec:
  versions: [{name: v1beta2}]
-- crd/bases/forgotten.yaml --
kind: CustomResourceDefinition
metadata:
  name: forgotten.cluster.x-k8s.io
-- webhook/manifests.yaml --
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  name: mutating-webhook-configuration
webhooks:
- name: default.cluster.cluster.x-k8s.io
  clientConfig:
    service: {name: webhook-service, namespace: system, path: /mutate-cluster}
  failurePolicy: Fail
`

func TestReadProvider(t *testing.T) {
	dir := unpack(t, providerFiles)
	got, err := readProvider(dir, &server)
	if err != nil {
		t.Fatal(err)
	}
	if got.namespace != "capi-system" {
		t.Errorf("namespace %q", got.namespace)
	}
	var names []string
	for _, crd := range got.crds {
		names = append(names, crd.Name)
		want := map[string]string{"cluster.x-k8s.io/v1beta2": "v1beta2", "cluster.x-k8s.io/provider": "cluster-api"}
		if diff := cmp.Diff(want, crd.Labels); diff != "" {
			t.Errorf("labels of %s: %s", crd.Name, diff)
		}
	}
	if diff := cmp.Diff([]string{"clusters.cluster.x-k8s.io", "reports.cluster.x-k8s.io"}, names); diff != "" {
		t.Errorf("only what the kustomization lists is installed: %s", diff)
	}
	conversion := got.crds[0].Spec.Conversion
	if conversion.Strategy != apiextensionsv1.WebhookConverter || *conversion.Webhook.ClientConfig.URL != "https://127.64.0.1:20000/convert" || string(conversion.Webhook.ClientConfig.CABundle) != "ca" {
		t.Errorf("a kind of two versions is converted by its manager, got %+v", conversion)
	}
	if s := got.crds[1].Spec.Conversion.Strategy; s != apiextensionsv1.NoneConverter {
		t.Errorf("a kind of one version needs no conversion, got %s", s)
	}

	want := []*unstructured.Unstructured{{Object: map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1",
		"kind":       "MutatingWebhookConfiguration",
		"metadata": map[string]any{
			"name":   "capi-mutating-webhook-configuration",
			"labels": map[string]any{"cluster.x-k8s.io/provider": "cluster-api"},
		},
		"webhooks": []any{map[string]any{
			"name":          "default.cluster.cluster.x-k8s.io",
			"failurePolicy": "Fail",
			"clientConfig": map[string]any{
				"url":      "https://127.64.0.1:20000/mutate-cluster",
				"caBundle": base64.StdEncoding.EncodeToString([]byte("ca")),
			},
		}},
	}}}
	if diff := cmp.Diff(want, got.webhooks); diff != "" {
		t.Error(diff)
	}
}

func TestReadProviderWithoutManager(t *testing.T) {
	got, err := readProvider(unpack(t, providerFiles), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.webhooks) != 0 {
		t.Error("webhooks that nobody serves")
	}
	if s := got.crds[0].Spec.Conversion.Strategy; s != apiextensionsv1.NoneConverter {
		t.Errorf("conversion that nobody serves: %s", s)
	}
}

// TestRealProviders reads what the programs come with: the names decide in which order webhooks are called.
func TestRealProviders(t *testing.T) {
	programs, err := binaries.Ensure(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, provider := range []string{"core", "bootstrap-kubeadm", "control-plane-kubeadm"} {
		p, err := readProvider(filepath.Join(programs.Manifests, provider), &server)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range p.webhooks {
			names = append(names, w.GetName())
		}
	}
	want := []string{
		"capi-mutating-webhook-configuration", "capi-validating-webhook-configuration",
		"capi-kubeadm-bootstrap-mutating-webhook-configuration", "capi-kubeadm-bootstrap-validating-webhook-configuration",
		"capi-kubeadm-control-plane-mutating-webhook-configuration", "capi-kubeadm-control-plane-validating-webhook-configuration",
	}
	slices.Sort(names)
	slices.Sort(want)
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

// unpack writes files from the text format of txtar.
func unpack(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range strings.Split("\n"+text, "\n-- ")[1:] {
		name, content, _ := strings.Cut(part, " --\n")
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
