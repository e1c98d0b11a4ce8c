// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
)

// providerManifests are the parts of a provider's config folder that a sandbox needs, as kustomize would
// put them out: with the prefix on names and the labels.
type providerManifests struct {
	installedProvider
	crds     []*apiextensionsv1.CustomResourceDefinition
	webhooks []*unstructured.Unstructured
}

// installedProvider is who a provider is: its label, such as bootstrap-kubeadm, and its namespace.
type installedProvider struct{ label, namespace string }

// webhookServer is where a manager serves admission and conversion.
type webhookServer struct {
	address  string // host:port
	caBundle []byte
}

// readProvider reads the config folder of a provider. Without a server, for a provider whose manager does
// not run, there are no webhook configurations and no conversion.
func readProvider(dir string, server *webhookServer) (providerManifests, error) {
	files := os.DirFS(dir)
	top, err := crds.ReadKustomization(files, "default")
	if err != nil {
		return providerManifests{}, fmt.Errorf("%s: %w", dir, err)
	}
	var labelled metav1.ObjectMeta
	top.Label(&labelled)
	m := providerManifests{installedProvider: installedProvider{label: labelled.Labels[clusterv1.ProviderNameLabel], namespace: top.Namespace}}
	if m.crds, err = crds.ReadFolder(files, "crd"); err != nil {
		return providerManifests{}, fmt.Errorf("%s: %w", dir, err)
	}
	for _, crd := range m.crds {
		top.Label(crd)
		convertThrough(crd, server)
	}
	if server == nil {
		return m, nil
	}
	file := filepath.Join(dir, "webhook", "manifests.yaml")
	raw, err := os.ReadFile(file)
	if err != nil {
		return providerManifests{}, err
	}
	m.webhooks, err = webhookConfigurations(raw, top, *server)
	if err != nil {
		return providerManifests{}, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// convertThrough has a kind converted between its versions by a manager, or not at all: then objects must
// be written and read in the version that is stored.
func convertThrough(crd *apiextensionsv1.CustomResourceDefinition, server *webhookServer) {
	if server == nil || len(crd.Spec.Versions) < 2 {
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
		return
	}
	url := "https://" + server.address + "/convert"
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook: &apiextensionsv1.WebhookConversion{
			ConversionReviewVersions: []string{"v1"},
			ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: &url, CABundle: server.caBundle},
		},
	}
}

// webhookConfigurations gives the configurations the names that they have in a real installation: the API
// server calls webhooks in the order of these names, and so must a sandbox. Services become URLs, since
// there is no network of pods.
func webhookConfigurations(raw []byte, top crds.Kustomization, server webhookServer) ([]*unstructured.Unstructured, error) {
	objects, err := decode(raw)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		o.SetName(top.NamePrefix + o.GetName())
		top.Label(o)
		webhooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.GetName(), err)
		}
		for _, w := range webhooks {
			webhook, ok := w.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("%s: a webhook is no object", o.GetName())
			}
			path, found, err := unstructured.NestedString(webhook, "clientConfig", "service", "path")
			if err != nil || !found {
				return nil, errors.Join(fmt.Errorf("%s: webhook %v has no service path", o.GetName(), webhook["name"]), err)
			}
			webhook["clientConfig"] = map[string]any{
				"url": "https://" + server.address + path,
				// As the decoder of the API server wants bytes.
				"caBundle": base64.StdEncoding.EncodeToString(server.caBundle),
			}
		}
		if err := unstructured.SetNestedSlice(o.Object, webhooks, "webhooks"); err != nil {
			return nil, fmt.Errorf("%s: %w", o.GetName(), err)
		}
	}
	return objects, nil
}

// decode splits a YAML stream into objects.
func decode(raw []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case len(o.Object) > 0: // more than comments
			objects = append(objects, o)
		}
	}
}
