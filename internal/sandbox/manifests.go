// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// contractLabel is the start of the labels by which Cluster API finds out which version of a kind
// follows which contract.
const contractLabel = "cluster.x-k8s.io/v1"

// providerManifests are the parts of a provider's config folder that a sandbox needs, as kustomize would
// put them out: with the prefix on names and the labels.
type providerManifests struct {
	namespace string
	crds      []*apiextensionsv1.CustomResourceDefinition
	webhooks  []*unstructured.Unstructured
}

// webhookServer is where a manager serves admission and conversion.
type webhookServer struct {
	address  string // host:port
	caBundle []byte
}

// kustomization is what is read of a kustomization.yaml: the providers of Cluster API use no more in the
// parts that a sandbox needs.
type kustomization struct {
	Namespace  string   `json:"namespace"`
	NamePrefix string   `json:"namePrefix"`
	Resources  []string `json:"resources"`
	Labels     []struct {
		Pairs map[string]string `json:"pairs"`
	} `json:"labels"`
}

func readKustomization(dir string) (kustomization, error) {
	var k kustomization
	file := filepath.Join(dir, "kustomization.yaml")
	raw, err := os.ReadFile(file)
	if err != nil {
		return k, err
	}
	if err := yaml.Unmarshal(raw, &k); err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

func (k kustomization) label(o interface {
	GetLabels() map[string]string
	SetLabels(map[string]string)
}) {
	labels := maps.Clone(o.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	for _, l := range k.Labels {
		maps.Copy(labels, l.Pairs)
	}
	o.SetLabels(labels)
}

// readProvider reads the config folder of a provider. Without a server, for a provider whose manager does
// not run, there are no webhook configurations and no conversion.
func readProvider(dir string, server *webhookServer) (providerManifests, error) {
	top, err := readKustomization(filepath.Join(dir, "default"))
	if err != nil {
		return providerManifests{}, err
	}
	crdDir := filepath.Join(dir, "crd")
	crdKustomization, err := readKustomization(crdDir)
	if err != nil {
		return providerManifests{}, err
	}
	m := providerManifests{namespace: top.Namespace}
	for _, r := range crdKustomization.Resources {
		crds, _, err := readCRDs(filepath.Join(crdDir, r))
		if err != nil {
			return providerManifests{}, err
		}
		for _, crd := range crds {
			crdKustomization.label(crd)
			top.label(crd)
			convertThrough(crd, server)
			m.crds = append(m.crds, crd)
		}
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
func webhookConfigurations(raw []byte, top kustomization, server webhookServer) ([]*unstructured.Unstructured, error) {
	objects, err := decode(raw)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		o.SetName(top.NamePrefix + o.GetName())
		top.label(o)
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

// userCRDs reads CustomResourceDefinitions from files and folders. Other objects are left out and counted,
// so that the component files of a provider's release can be given as they are. Conversion by a webhook is
// switched off: nobody serves it here.
func userCRDs(paths []string) (crds []*apiextensionsv1.CustomResourceDefinition, warnings []string, err error) {
	for _, path := range paths {
		found, others, err := readCRDs(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read CustomResourceDefinitions: %w", err)
		}
		if len(found) == 0 {
			return nil, nil, fmt.Errorf("read CustomResourceDefinitions: %s has none", path)
		}
		if others > 0 {
			warnings = append(warnings, fmt.Sprintf("%s: left out %d objects that are no CustomResourceDefinitions", path, others))
		}
		for _, crd := range found {
			if c := crd.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.WebhookConverter {
				convertThrough(crd, nil)
			}
			if !hasContract(crd) {
				warnings = append(warnings, fmt.Sprintf("%s: CustomResourceDefinition %s has no label %sbeta1 or %sbeta2; Cluster API does not find objects of this kind by reference", path, crd.Name, contractLabel, contractLabel))
			}
			crds = append(crds, crd)
		}
	}
	return crds, warnings, nil
}

// lastOfEach leaves one CustomResourceDefinition of each name: a user may bring another edition of a kind
// that is there by default.
func lastOfEach(crds []*apiextensionsv1.CustomResourceDefinition) []*apiextensionsv1.CustomResourceDefinition {
	index := map[string]int{}
	var result []*apiextensionsv1.CustomResourceDefinition
	for _, crd := range crds {
		if i, ok := index[crd.Name]; ok {
			result[i] = crd
			continue
		}
		index[crd.Name] = len(result)
		result = append(result, crd)
	}
	return result
}

func hasContract(crd *apiextensionsv1.CustomResourceDefinition) bool {
	for l := range crd.Labels {
		if strings.HasPrefix(l, contractLabel) {
			return true
		}
	}
	// Only the kinds of providers follow a contract.
	return !strings.HasSuffix(crd.Spec.Group, ".cluster.x-k8s.io")
}

// readCRDs reads a file, or the .yaml, .yml and .json files below a folder.
func readCRDs(path string) (crds []*apiextensionsv1.CustomResourceDefinition, others int, err error) {
	err = filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if file != path && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file)) {
			return nil
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		docs, err := documents(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, doc := range docs {
			var crd apiextensionsv1.CustomResourceDefinition
			if !isCRD(doc) {
				others++
				continue
			}
			if err := yaml.Unmarshal(doc, &crd); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			crds = append(crds, &crd)
		}
		return nil
	})
	return crds, others, err
}

// isCRD tells whether a document is a CustomResourceDefinition. The other documents of a component file may
// be templates that are no YAML before their variables are filled in; those are none.
func isCRD(doc []byte) bool {
	var meta struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal(doc, &meta); err != nil {
		return bytes.Contains(doc, []byte("kind: CustomResourceDefinition")) // for the caller to fail on
	}
	return meta.Kind == "CustomResourceDefinition"
}

// decode splits YAML documents into objects.
func decode(raw []byte) ([]*unstructured.Unstructured, error) {
	docs, err := documents(raw)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, doc := range docs {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// documents splits a YAML stream, leaving out empty ones.
func documents(raw []byte) ([][]byte, error) {
	var docs [][]byte
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		if hasContent(doc) {
			docs = append(docs, doc)
		}
	}
}

// hasContent tells a document from one of comments and blank lines only.
func hasContent(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return true
		}
	}
	return false
}
