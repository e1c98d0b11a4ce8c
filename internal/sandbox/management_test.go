// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	runtimecatalog "sigs.k8s.io/cluster-api/api/runtime/catalog"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/cluster-api/exp/runtime/server"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// TestMain lets the test binary stand in for the operator: the sandbox starts it with the operator's flags.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "--kubeconfig=") {
		if err := operate(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	sandboxtest.Main(m)
}

// operate serves what the sandbox expects of the operator: readyz, and a hook server that is discovered.
func operate(args []string) error {
	flags := pflag.NewFlagSet("operator", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true // it is told more than it needs
	health := flags.String("health-addr", "", "")
	host := flags.String("hook-bind-address", "", "")
	port := flags.Int("hook-port", 0, "")
	certs := flags.String("hook-cert-dir", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	catalog := runtimecatalog.New()
	if err := runtimehooksv1.AddToCatalog(catalog); err != nil {
		return err
	}
	hooks, err := server.New(server.Options{Catalog: catalog, Host: *host, Port: *port, CertDir: *certs})
	if err != nil {
		return err
	}
	if err := hooks.AddExtensionHandler(server.ExtensionHandler{
		Hook: runtimehooksv1.BeforeClusterUpgrade, Name: "before-cluster-upgrade",
		HandlerFunc: func(_ context.Context, _ *runtimehooksv1.BeforeClusterUpgradeRequest, response *runtimehooksv1.BeforeClusterUpgradeResponse) {
			response.SetStatus(runtimehooksv1.ResponseStatusSuccess)
		},
	}); err != nil {
		return err
	}
	ready := &http.Server{Addr: *health, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	failed := make(chan error, 2)
	go func() { failed <- ready.ListenAndServe() }()
	go func() { failed <- hooks.Start(ctx) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ready.Close()
	}
}

// TestManagement tries what makes the management cluster a real one.
func TestManagement(t *testing.T) {
	instance := sandboxtest.Management(t, sandboxtest.WithOperator(os.Args[0], t.TempDir()))
	client, err := dynamic.NewForConfig(instance.Config())
	if err != nil {
		t.Fatal(err)
	}
	kube, err := kubernetes.NewForConfig(instance.Config())
	if err != nil {
		t.Fatal(err)
	}

	t.Run("VersionsAreThoseOfTheModules", func(t *testing.T) {
		v, err := kube.Discovery().ServerVersion()
		if err != nil {
			t.Fatal(err)
		}
		if v.GitVersion != "v1.36.3" || v.Minor != "36" {
			t.Errorf("got %+v", v)
		}
	})

	clusters := client.Resource(schema.GroupVersionResource{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "clusters"})

	t.Run("WebhooksOfClusterAPIRefuse", func(t *testing.T) {
		bad := cluster("bad")
		if err := unstructured.SetNestedField(bad.Object, "no-version", "spec", "topology", "version"); err != nil {
			t.Fatal(err)
		}
		_, err := clusters.Namespace("default").Create(t.Context(), bad, metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "version must be a valid semantic version") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("ClustersAreConverted", func(t *testing.T) {
		if _, err := clusters.Namespace("default").Create(t.Context(), cluster("converted"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remove(t, clusters.Namespace("default"), "converted") })
		old := client.Resource(schema.GroupVersionResource{Group: "cluster.x-k8s.io", Version: "v1beta1", Resource: "clusters"})
		got, err := old.Namespace("default").Get(t.Context(), "converted", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if class, _, _ := unstructured.NestedString(got.Object, "spec", "topology", "class"); class != "none" {
			t.Errorf("a v1beta1 Cluster names its class in spec.topology.class; got %v", got.Object["spec"])
		}
	})

	t.Run("WhatAnOwnerLeavesIsCollected", func(t *testing.T) {
		configMaps := kube.CoreV1().ConfigMaps("default")
		owner, err := configMaps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secrets := kube.CoreV1().Secrets("default")
		if _, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Name:            "owned",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}},
		}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		watch, err := secrets.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=owned"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		if err := configMaps.Delete(t.Context(), owner.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for e := range watch.ResultChan() {
			if e.Type == "DELETED" {
				return
			}
		}
		t.Error("the secret is still there")
	})

	t.Run("NamespacesGo", func(t *testing.T) {
		namespaces := kube.CoreV1().Namespaces()
		if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "short-lived"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		watch, err := namespaces.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=short-lived"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		if err := namespaces.Delete(t.Context(), "short-lived", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for e := range watch.ResultChan() {
			if e.Type == "DELETED" {
				return
			}
		}
		t.Error("the namespace is still there")
	})

	t.Run("HooksOfTheOperatorAreDiscovered", func(t *testing.T) {
		extensions := client.Resource(runtimev1.GroupVersion.WithResource("extensionconfigs"))
		got, err := extensions.Get(t.Context(), "cso-hook-server-extensionconfig", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		handlers, _, _ := unstructured.NestedSlice(got.Object, "status", "handlers")
		var names []string
		for _, h := range handlers {
			names = append(names, h.(map[string]any)["name"].(string))
		}
		if diff := cmp.Diff([]string{"before-cluster-upgrade.cso-hook-server-extensionconfig"}, names); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("AProgramRunsBesideIt", func(t *testing.T) {
		var p *process.Process
		t.Run("UntilTheTestEnds", func(t *testing.T) {
			p = instance.Run(t, "program", "/bin/sh", "-c", "exec sleep 600")
			if err := p.Err(); err != nil {
				t.Error(err)
			}
		})
		<-p.Done()
	})

	t.Run("TheOperatorHasTheRightsOfItsRoleAndNoOthers", func(t *testing.T) {
		config, err := clientcmd.BuildConfigFromFlags("", instance.Dir()+"/operator/kubeconfig")
		if err != nil {
			t.Fatal(err)
		}
		operator, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		for verb, want := range map[string]bool{"list": true, "deletecollection": false} {
			review, err := operator.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: verb, Group: "cluster.x-k8s.io", Resource: "clusters",
				}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed != want {
				t.Errorf("%s clusters: allowed %t, want %t", verb, review.Status.Allowed, want)
			}
		}
	})
}

// cluster is a Cluster of a class that does not exist, so that nothing is made for it.
func cluster(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cluster.x-k8s.io/v1beta2",
		"kind":       "Cluster",
		"metadata":   map[string]any{"name": name},
		"spec": map[string]any{"topology": map[string]any{
			"classRef": map[string]any{"name": "none"},
			"version":  "v1.36.3",
		}},
	}}
}

func remove(t *testing.T, resource dynamic.ResourceInterface, name string) {
	t.Helper()
	if err := resource.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}
