// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package admission_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/admission"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}

const (
	v1of35 = "docker-starter-1-35-v1"
	v1of36 = "docker-starter-1-36-v1"
)

// The configurations that we ship, asked by a real API server. All cases share it; each has a namespace of its own.
func TestWebhooks(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	stop := serve(t, c)

	t.Run("VersionFollowsTheClass", func(t *testing.T) {
		n := namespace(t, c)
		cluster := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": clusterv1.GroupVersion.String(), "kind": "Cluster",
			"metadata": map[string]any{"namespace": n, "name": "c"},
			"spec":     map[string]any{"topology": map[string]any{"classRef": map[string]any{"name": v1of35}}},
		}}
		apply := func(class, want string) {
			t.Helper()
			wanted := cluster.DeepCopy()
			_ = unstructured.SetNestedField(wanted.Object, class, "spec", "topology", "classRef", "name")
			if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(wanted), client.FieldOwner("user"), client.ForceOwnership); err != nil {
				t.Fatal(err)
			}
			got := &clusterv1.Cluster{}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(cluster), got); err != nil {
				t.Fatal(err)
			}
			if got.Spec.Topology.Version != want {
				t.Errorf("version is %s after class %s was applied, want %s", got.Spec.Topology.Version, class, want)
			}
		}
		apply(v1of35, "v1.35.4")
		apply(v1of35, "v1.35.4")
		apply(v1of36, "v1.36.3")
	})

	t.Run("Clusters", func(t *testing.T) {
		n := namespace(t, c)
		for name, tc := range map[string]struct {
			class, version, want string
		}{
			"fits":      {v1of35, "v1.35.4", ""},
			"wrong":     {v1of35, "v1.35.5", "is made for Kubernetes v1.35.4"},
			"not-ready": {"docker-starter-1-35-v2", "v", "ClusterStackRelease docker-starter-1-35-v2 in namespace " + n + " is not ready"},
			"unknown":   {"docker-starter-1-35-v3", "v", "there is no ClusterStackRelease docker-starter-1-35-v3"},
			"foreign":   {"quick-start", "v1.35.5", ""},
		} {
			err := c.Create(t.Context(), apitest.Cluster(n, name, tc.class, tc.version))
			if (tc.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", name, err, tc.want)
			}
		}
		if err := c.Create(t.Context(), apitest.PlainCluster(n, "plain")); err != nil {
			t.Errorf("a Cluster without topology: %v", err)
		}
	})

	t.Run("WhatIsInUseStays", func(t *testing.T) {
		classes, users := namespace(t, c), kinds.Namespace(t, c)
		stack := &v1alpha1.ClusterStack{
			ObjectMeta: metav1.ObjectMeta{Namespace: classes, Name: "s"},
			Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "starter", KubernetesVersion: "1.35", NoProvider: true},
		}
		create(t, c, stack)
		rel := &v1alpha1.ClusterStackRelease{}
		get(t, c, classes, v1of35, rel)
		rel.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: v1alpha1.ClusterStackKind, Name: stack.Name, UID: stack.UID}}
		if err := c.Update(t.Context(), rel); err != nil {
			t.Fatal(err)
		}
		cluster := apitest.Cluster(users, "c", v1of35, "v1.35.4")
		cluster.Spec.Topology.ClassRef.Namespace = classes
		cluster.Finalizers = []string{"test.clusterstack.x-k8s.io/keep"}
		create(t, c, cluster)

		for _, obj := range []client.Object{stack, rel} {
			if err := c.Delete(t.Context(), obj); err == nil || !strings.Contains(err.Error(), "release "+v1of35+" is used by Cluster "+users+"/c") {
				t.Errorf("delete %T in use: %v", obj, err)
			}
		}
		// clusterctl deletes here what it has made in another management cluster, releases before the Clusters.
		for _, obj := range []client.Object{stack, rel} {
			moved := client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"annotations": {"`+clusterctlv1.DeleteForMoveAnnotation+`": ""}}}`))
			if err := c.Patch(t.Context(), obj, moved); err != nil {
				t.Fatal(err)
			}
			if err := client.NewDryRunClient(c).Delete(t.Context(), obj); err != nil {
				t.Errorf("delete %T that was moved: %v", obj, err)
			}
			stays := client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"annotations": null}}`))
			if err := c.Patch(t.Context(), obj, stays); err != nil {
				t.Fatal(err)
			}
		}
		other := apitest.ClusterStackRelease(classes, v1of36)
		if err := c.Delete(t.Context(), other); err != nil {
			t.Errorf("delete a release that nobody uses: %v", err)
		}
		// Whoever deletes both, or their namespace, need not wait for one before the other: the finalizer of the release does.
		if err := c.Delete(t.Context(), cluster); err != nil {
			t.Fatal(err)
		}
		if get(t, c, users, cluster.Name, cluster); cluster.DeletionTimestamp == nil {
			t.Fatal("the Cluster is gone at once; the test proves nothing about one that is being deleted")
		}
		if err := c.Delete(t.Context(), stack); err != nil {
			t.Errorf("delete a ClusterStack that is used only by a Cluster that is being deleted: %v", err)
		}
	})

	t.Run("HashInUseStays", func(t *testing.T) {
		n := namespace(t, c)
		stack := &v1alpha1.ClusterStack{
			ObjectMeta: metav1.ObjectMeta{Namespace: n, Name: "s"},
			Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "starter", KubernetesVersion: "1.35", Channel: v1alpha1.ChannelCustom, NoProvider: true},
		}
		create(t, c, stack)
		rel := apitest.ClusterStackRelease(n, "docker-starter-1-35-v0-sha-abc1234")
		rel.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: v1alpha1.ClusterStackKind, Name: stack.Name, UID: stack.UID}}
		create(t, c, rel)
		rel.Status.KubernetesVersion, rel.Status.Ready = "v1.35.4", true
		if err := c.Status().Update(t.Context(), rel); err != nil {
			t.Fatal(err)
		}
		cluster := apitest.Cluster(n, "c", "docker-starter-1-35-v0-sha.abc1234", "")
		create(t, c, cluster)
		for _, obj := range []client.Object{stack, rel} {
			if err := c.Delete(t.Context(), obj); err == nil || !strings.Contains(err.Error(), "release "+rel.Name+" is used by Cluster "+n+"/c") {
				t.Errorf("delete %T in use: %v", obj, err)
			}
		}
		// A class that nobody can read is somebody else's, and takes nothing from this.
		create(t, c, apitest.Cluster(n, "odd", "docker-x", "v1.35.4"))
		if err := c.Delete(t.Context(), rel); err == nil {
			t.Error("a release in use went because of another Cluster's class")
		}
	})

	// The last one, since nobody answers any more.
	t.Run("OperatorIsDown", func(t *testing.T) {
		n := namespace(t, c)
		managed, foreign := apitest.Cluster(n, "managed", v1of35, "v1.35.4"), apitest.Cluster(n, "foreign", "quick-start", "v1.30.0")
		managed.Finalizers = []string{"test.clusterstack.x-k8s.io/keep"}
		create(t, c, managed)
		stop()
		create(t, c, foreign)
		create(t, c, apitest.PlainCluster(n, "plain"))

		changed := managed.DeepCopy()
		changed.Spec.Topology.Version = "v1.35.5"
		if err := c.Update(t.Context(), changed); err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			t.Errorf("another version while nobody can judge it: %v", err)
		}
		for what, change := range map[string]func(*clusterv1.Cluster){
			"metadata": func(c *clusterv1.Cluster) { c.Labels = map[string]string{"a": "b"} },
			"workers": func(c *clusterv1.Cluster) {
				c.Spec.Topology.Workers.MachineDeployments = []clusterv1.MachineDeploymentTopology{{Class: "w", Name: "w"}}
			},
			"paused": func(c *clusterv1.Cluster) { c.Spec.Paused = new(true) },
		} {
			for _, cluster := range []*clusterv1.Cluster{managed, foreign} {
				change(cluster)
				if err := c.Update(t.Context(), cluster); err != nil {
					t.Errorf("%s of Cluster %s: %v", what, cluster.Name, err)
				}
			}
		}
		foreign.Spec.Topology.Version = "v1.31.0"
		if err := c.Update(t.Context(), foreign); err != nil {
			t.Errorf("version of a foreign Cluster: %v", err)
		}
		if err := c.Delete(t.Context(), managed); err != nil {
			t.Errorf("delete: %v", err)
		}
		get(t, c, n, managed.Name, managed)
		managed.Finalizers = nil
		if err := c.Update(t.Context(), managed); err != nil {
			t.Errorf("remove the finalizer: %v", err)
		}
	})
}

// Which Clusters the webhooks are asked about is an expression in YAML. It may let through more than releases can be
// named like, but never less, or a Cluster of ours would go unjudged.
func TestEveryClassOfAReleaseIsJudged(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	serve(t, c)
	n := kinds.Namespace(t, c)
	for _, class := range []string{
		"docker-ferrol-1-27-v1", "openstack-scs2-1-33-v12", "docker-scs-1-30-v0-sha.rwvgrna", "docker-scs-1-30-v0-git.1a2b3c4",
		"docker-scs-1-30-v0-ttl.15", "docker-scs-1-30-v1-alpha.1", "docker-scs-1-30-v1-beta.0", "docker-scs-1-30-v0-custom.abc",
	} {
		err := c.Create(t.Context(), apitest.Cluster(n, strings.NewReplacer(".", "-").Replace(class), class, "v"))
		if err == nil || !strings.Contains(err.Error(), "there is no ClusterStackRelease") {
			t.Errorf("class %s: %v", class, err)
		}
	}
}

// serve runs the webhooks and registers them as an installation does, but for the address. The function ends them.
func serve(t *testing.T, c client.WithWatch) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Request{CommonName: "webhooks", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
	if err == nil {
		err = pair.WriteFiles(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	}
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: dir})
	admission.Register(server, c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Start(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)

	documents := config.Webhooks()
	mutating, validating := &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}
	for i, into := range []client.Object{mutating, validating} {
		if err := yaml.UnmarshalStrict(documents[i], into); err != nil {
			t.Fatal(err)
		}
	}
	reach := func(to *admissionregistrationv1.WebhookClientConfig) {
		url := fmt.Sprintf("https://127.0.0.1:%d%s", port, *to.Service.Path)
		*to = admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca.CertPEM()}
	}
	for i := range mutating.Webhooks {
		reach(&mutating.Webhooks[i].ClientConfig)
	}
	for i := range validating.Webhooks {
		reach(&validating.Webhooks[i].ClientConfig)
	}
	for _, obj := range []client.Object{validating, mutating} {
		create(t, c, obj)
		t.Cleanup(func() {
			if err := c.Delete(context.WithoutCancel(t.Context()), obj); err != nil {
				t.Error(err)
			}
		})
	}
	// The API server learns of them by a watch.
	probe := apitest.Cluster(kinds.Namespace(t, c), "probe", v1of35, "v")
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		err := client.NewDryRunClient(c).Create(ctx, probe.DeepCopy())
		return err != nil && strings.Contains(err.Error(), "there is no ClusterStackRelease"), nil
	}); err != nil {
		t.Fatal("the webhooks are not asked")
	}
	return stop
}

// namespace creates a namespace with three releases, the second of which is not ready.
func namespace(t *testing.T, c client.Client) string {
	t.Helper()
	n := kinds.Namespace(t, c)
	for tag, version := range map[string]string{v1of35: "v1.35.4", "docker-starter-1-35-v2": "", v1of36: "v1.36.3"} {
		rel := apitest.ClusterStackRelease(n, tag)
		create(t, c, rel)
		rel.Status.KubernetesVersion, rel.Status.Ready = version, version != ""
		if err := c.Status().Update(t.Context(), rel); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func create(t *testing.T, c client.Client, obj client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, c client.Client, namespace, name string, into client.Object) {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, into); err != nil {
		t.Fatal(err)
	}
}
