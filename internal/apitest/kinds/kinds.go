// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kinds makes a bare API server of a test serve the kinds that the operator works with: its own,
// and those of Cluster API without webhooks and controllers.
package kinds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
)

// Scheme returns a scheme with the kinds that the operator works with.
func Scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, corev1.AddToScheme, rbacv1.AddToScheme, apiextensionsv1.AddToScheme,
		clusterv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

// installed are the API servers that serve the kinds, by their address.
var installed struct {
	sync.Mutex
	at map[string]bool
}

// Client returns a client without cache for an API server, which serves the kinds afterwards. Cluster
// API's are taken from the manifests of the sandbox.
func Client(t testing.TB, cfg *rest.Config) client.WithWatch {
	t.Helper()
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // tests are not throttled
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: Scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	// Whoever comes while they are installed waits until all are served.
	installed.Lock()
	defer installed.Unlock()
	if installed.at[cfg.Host] {
		// Unless it is another API server, at the address of one that has ended.
		err := c.Get(t.Context(), client.ObjectKey{Name: "clusterstacks." + v1alpha1.GroupVersion.Group}, &apiextensionsv1.CustomResourceDefinition{})
		if err == nil {
			return c
		} else if !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	documents := config.CRDs()
	set, err := binaries.Ensure(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	for _, provider := range []string{"core", "bootstrap-kubeadm", "control-plane-kubeadm", "infrastructure-docker"} {
		files, err := filepath.Glob(filepath.Join(set.Manifests, provider, "crd", "bases", "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no kinds of %s below %s: %v", provider, set.Manifests, err)
		}
		for _, file := range files {
			document, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			documents = append(documents, document)
		}
	}
	if err := install(t.Context(), c, documents); err != nil {
		t.Fatal(err)
	}
	if installed.at == nil {
		installed.at = map[string]bool{}
	}
	installed.at[cfg.Host] = true
	return c
}

// install creates definitions and returns when all of them are served.
func install(ctx context.Context, c client.WithWatch, documents [][]byte) error {
	pending := map[string]bool{}
	for _, document := range documents {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.Unmarshal(bytes.TrimPrefix(document, []byte("---\n")), crd); err != nil {
			return err
		}
		crd.Spec.Conversion = nil // by a webhook that is not there
		if crd.Labels == nil {
			crd.Labels = map[string]string{}
		}
		if crd.Spec.Group != v1alpha1.GroupVersion.Group {
			// As the manifests of Cluster API's providers say which versions fulfil which contract.
			crd.Labels["cluster.x-k8s.io/v1beta1"] = "v1beta1"
			crd.Labels["cluster.x-k8s.io/v1beta2"] = "v1beta2"
		}
		if err := c.Create(ctx, crd); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		pending[crd.Name] = true
	}
	watch, err := c.Watch(ctx, &apiextensionsv1.CustomResourceDefinitionList{})
	if err != nil {
		return err
	}
	defer watch.Stop()
	for len(pending) > 0 {
		event, ok := <-watch.ResultChan()
		if !ok {
			return errors.New("the watch for definitions ended")
		}
		crd, ok := event.Object.(*apiextensionsv1.CustomResourceDefinition)
		if !ok {
			return fmt.Errorf("unexpected event: %w", apierrors.FromObject(event.Object))
		}
		for _, condition := range crd.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				delete(pending, crd.Name)
			}
		}
	}
	return nil
}

// Namespace creates a namespace of its own for a test and returns its name.
func Namespace(t testing.TB, c client.Client) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// Define makes the API server serve a namespaced kind with a status and any fields, such as one of a
// provider integration.
func Define(t testing.TB, c client.WithWatch, group, version, kind string) {
	t.Helper()
	preserve := true
	plural := strings.ToLower(kind) + "s"
	crd := &apiextensionsv1.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiextensionsv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: kind, Plural: plural},
			Scope: apiextensionsv1.NamespaceScoped,
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: version, Served: true, Storage: true,
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
	document, err := yaml.Marshal(crd)
	if err == nil {
		err = install(t.Context(), c, [][]byte{document})
	}
	if err != nil {
		t.Fatal(err)
	}
}
