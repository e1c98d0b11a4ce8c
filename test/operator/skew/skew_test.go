// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package skew has the operator meet definitions of its kinds that are not its own: those of the existing operator, and
// those of one that is newer than itself.
package skew

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// world is a management cluster whose definitions change.
type world struct {
	*operatortest.World
	*testing.T
}

// TestDefinitionsOfOthers is the story of a management cluster from the existing operator to ours, by the mistake of going
// halfway back, to one in which ours is the older of two.
func TestDefinitionsOfOthers(t *testing.T) {
	w := &world{operatortest.NewIn(t, sandboxtest.NewAPIServer(t)), t}
	w.PublishLife(t)
	former, ours := w.read("testdata/former.yaml"), w.ours()

	// The existing operator's installation.
	w.apply(former)
	w.delete(settings)
	n := w.Tenant(t)
	n.Create(t, operatortest.First, operatortest.FirstVersion)
	w.formerly(n)
	before := w.objects(n)

	// Ours is started before its definitions are there.
	w.refuses("does not serve the kind ClusterAddonSettings of clusterstack.x-k8s.io/v1alpha1: apply the operator's CustomResourceDefinitions")
	// Or with those that a file has that the existing operator does not.
	w.apply(only(ours, settings))
	w.refuses("drops the field ", ": apply the CustomResourceDefinitions of this operator, or of a newer one")
	if diff := cmp.Diff(before, w.objects(n)); diff != "" {
		t.Errorf("the operator that did not start has changed (-before +after):\n%s", diff)
	}

	// Ours take the place of the former ones. What is stored is what it was.
	w.apply(ours)
	if diff := cmp.Diff(before, w.objects(n)); diff != "" {
		t.Errorf("replacing the definitions has changed (-before +after):\n%s", diff)
	}
	o := w.Live(t, "--sync-period=2s")
	w.Await(t, o, []*operatortest.Tenant{n}, operatortest.Reached(operatortest.First))
	w.atRest(o)
	after := w.objects(n)
	for what := range before {
		if diff := cmp.Diff(kept(before[what]), kept(after[what])); diff != "" {
			t.Errorf("%s: the operator has changed (-before +after):\n%s", what, diff)
		}
	}

	// What only we know is used: a ClusterStack is paused, when a release is published that it would take.
	const published = "docker-paused-1-36-v1"
	w.Publish(t, published, operatortest.Release(t, published, operatortest.Addon{Name: "cni", Templates: operatortest.ConfigMap("cni", "1")}))
	paused := operatortest.Stack("1.36")
	paused.Name, paused.Spec.Name = "paused", "paused"
	paused.Spec.AutoSubscribe, paused.Spec.Paused, paused.Spec.HistoryLimit = true, true, 3
	paused.Spec.Verify = &v1alpha1.Verification{PublicKeys: []string{"-----BEGIN PUBLIC KEY-----\nnobody's\n-----END PUBLIC KEY-----\n"}}
	n.Subscribe(t, paused)
	w.eventually("the ClusterStack is paused", func(ctx context.Context) (bool, error) {
		err := w.Client.Get(ctx, client.ObjectKeyFromObject(paused), paused)
		return paused.Status.Conditions.IsTrue(v1alpha1.PausedCondition), err
	})
	w.atRest(o)

	// Somebody installs the existing operator over it. Ours ends before it acts on what the API server leaves of objects.
	writes := w.Writes()
	w.apply(former)
	w.ends(o, "drops the field ", ": apply the CustomResourceDefinitions of this operator, or of a newer one")
	w.refuses("drops the field ")
	if now := w.Writes(); now != writes {
		t.Errorf("the operator has written %d times with the definitions of the existing one", now-writes)
	}
	w.apply(ours)
	want := paused.Spec
	w.eventually("what the former definitions do not know outlives them", func(ctx context.Context) (bool, error) {
		err := w.Client.Get(ctx, client.ObjectKeyFromObject(paused), paused)
		return cmp.Equal(want, paused.Spec), err
	})
	rel := apitest.ClusterStackRelease(n.Namespace, published)
	if err := w.Client.Get(t.Context(), client.ObjectKeyFromObject(rel), rel); !apierrors.IsNotFound(err) {
		t.Errorf("a ClusterStack that is paused has got its release: %v", err)
	}

	if err := w.Client.Delete(t.Context(), paused); err != nil {
		t.Fatal(err)
	}

	// A newer operator was there, whose definitions stay when it goes, and its fields in the objects.
	newer := w.ours()
	for _, crd := range newer {
		for _, part := range []string{"spec", "status"} {
			if schema, has := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties[part]; has {
				schema.Properties["future"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
			}
		}
	}
	w.apply(newer)
	var objects []*unstructured.Unstructured
	for kind, name := range map[string]string{
		v1alpha1.ClusterStackKind: "starter-1-35", v1alpha1.ClusterStackReleaseKind: operatortest.First,
		v1alpha1.ClusterAddonKind: v1alpha1.ClusterAddonName(operatortest.ClusterName),
	} {
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
		object.SetNamespace(n.Namespace)
		object.SetName(name)
		objects = append(objects, object)
		w.eventually("the newer kind "+kind, func(ctx context.Context) (bool, error) {
			for _, part := range []string{"spec", "status"} {
				patch := client.RawPatch("application/merge-patch+json", []byte(`{"`+part+`": {"future": "kept"}}`))
				var err error
				if part == "spec" {
					err = w.Client.Patch(ctx, object, patch)
				} else {
					err = w.Client.Status().Patch(ctx, object, patch)
				}
				if err != nil {
					return false, err
				}
				if value, _, _ := unstructured.NestedString(object.Object, part, "future"); value != "kept" {
					return false, nil
				}
			}
			return true, nil
		})
	}
	o = w.Live(t, "--sync-period=2s")
	n.Upgrade(t)
	w.Await(t, o, []*operatortest.Tenant{n}, operatortest.Reached(operatortest.Next))
	w.atRest(o)
	for _, object := range objects {
		if err := w.Client.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"spec", "status"} {
			if value, _, _ := unstructured.NestedString(object.Object, part, "future"); value != "kept" {
				t.Errorf("%s %s has lost what a newer operator wrote into its %s", object.GetKind(), object.GetName(), part)
			}
		}
	}
	w.Check(t, o, []*operatortest.Tenant{n}, operatortest.End{Texts: operatortest.NextTexts})
}

// settings is the definition that the existing operator does not have.
const settings = "clusteraddonsettings.clusterstack.x-k8s.io"

func parse(t *testing.T, document []byte) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(document, crd); err != nil {
		t.Fatal(err)
	}
	return crd
}

func (w *world) read(file string) []*apiextensionsv1.CustomResourceDefinition {
	w.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	var found []*apiextensionsv1.CustomResourceDefinition
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		found = append(found, parse(w.T, []byte(document)))
	}
	return found
}

func (w *world) ours() []*apiextensionsv1.CustomResourceDefinition {
	w.Helper()
	var found []*apiextensionsv1.CustomResourceDefinition
	for _, document := range config.CRDs() {
		found = append(found, parse(w.T, document))
	}
	return found
}

func only(definitions []*apiextensionsv1.CustomResourceDefinition, name string) []*apiextensionsv1.CustomResourceDefinition {
	return slices.DeleteFunc(slices.Clone(definitions), func(d *apiextensionsv1.CustomResourceDefinition) bool { return d.Name != name })
}

// apply puts definitions in the place of those that are there, as kubectl replace does, and returns when they are served.
func (w *world) apply(definitions []*apiextensionsv1.CustomResourceDefinition) {
	w.Helper()
	for _, crd := range definitions {
		w.eventually("replace "+crd.Name, func(ctx context.Context) (bool, error) {
			live := &apiextensionsv1.CustomResourceDefinition{}
			err := w.Client.Get(ctx, client.ObjectKeyFromObject(crd), live)
			switch {
			case apierrors.IsNotFound(err):
				err = w.Client.Create(ctx, crd.DeepCopy())
			case err == nil:
				live.Spec = *crd.Spec.DeepCopy()
				live.Labels = maps.Clone(crd.Labels)
				err = w.Client.Update(ctx, live)
			}
			if apierrors.IsConflict(err) { // with what the API server notes in its status
				return false, nil
			}
			return err == nil, err
		})
		w.serves(crd.Spec.Names.Kind, true)
	}
}

func (w *world) delete(name string) {
	w.Helper()
	crd := only(w.ours(), name)[0]
	if err := w.Client.Delete(w.Context(), crd); err != nil {
		w.Fatal(err)
	}
	w.serves(crd.Spec.Names.Kind, false)
}

// serves waits until the API server says of a kind of ours that it serves it, or does not.
func (w *world) serves(kind string, want bool) {
	w.Helper()
	lookups, err := discovery.NewDiscoveryClientForConfig(w.Config)
	if err != nil {
		w.Fatal(err)
	}
	w.eventually("the API server serves "+kind, func(context.Context) (bool, error) {
		list, err := lookups.ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
		return err == nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind }) == want, nil
	})
}

// formerly makes what the existing operator has of a Cluster, in the middle of one of its hooks.
func (w *world) formerly(n *operatortest.Tenant) {
	w.Helper()
	cluster := n.Cluster(w.T)
	stacks := map[string]any{"latestRelease": "docker-starter-1-35-v1 | v1.35.4", "usableVersions": "v1", "summary": []any{map[string]any{"name": "v1", "ready": true, "phase": "done"}}}
	stack := w.former(n, v1alpha1.ClusterStackKind, "starter-1-35", nil, map[string]any{
		"provider": "docker", "name": "starter", "kubernetesVersion": "1.35", "autoSubscribe": false, "noProvider": true, "versions": []any{"v1"},
	}, stacks)
	// What we would refuse.
	w.former(n, v1alpha1.ClusterStackKind, "mixed", nil, map[string]any{
		"provider": "docker", "name": "mixed", "kubernetesVersion": "1.35", "autoSubscribe": false, "versions": []any{"v1", "v0-sha.abc1234"},
	}, stacks)
	w.former(n, v1alpha1.ClusterStackReleaseKind, operatortest.First, func(o *unstructured.Unstructured) {
		o.SetFinalizers([]string{v1alpha1.ClusterStackReleaseFinalizer})
		o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: stack.GetKind(), Name: stack.GetName(), UID: stack.GetUID()}})
	}, map[string]any{}, map[string]any{
		"ready": true, "kubernetesVersion": "v1.35.4",
		"resources": []any{map[string]any{"group": "cluster.x-k8s.io", "version": "v1beta1", "kind": "ClusterClass", "namespace": n.Namespace, "name": operatortest.First, "status": "synced"}},
	})
	w.former(n, v1alpha1.ClusterAddonKind, v1alpha1.ClusterAddonName(cluster.Name), func(o *unstructured.Unstructured) {
		o.SetFinalizers([]string{v1alpha1.ClusterAddonFinalizer})
		o.SetAnnotations(map[string]string{v1alpha1.ClusterAddonStageAnnotation: v1alpha1.ClusterAddonStageCreated})
		o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "cluster.x-k8s.io/v1beta1", Kind: clusterv1.ClusterKind, Name: cluster.Name, UID: cluster.UID}})
	}, map[string]any{
		"clusterRef":   map[string]any{"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster", "name": cluster.Name, "namespace": n.Namespace, "uid": string(cluster.UID)},
		"clusterStack": operatortest.First, "version": "v1", "hook": "AfterControlPlaneInitialized",
	}, map[string]any{
		"ready": false, "stages": []any{map[string]any{"name": "cni", "action": "apply", "phase": "done"}, map[string]any{"name": "metrics", "action": "apply", "phase": "waitingForPreCondition"}},
		"resources": []any{map[string]any{"version": "v1", "kind": "ConfigMap", "namespace": "kube-system", "name": "cni", "status": "synced"}},
	})
}

// former makes an object of the existing operator, with conditions of its form.
func (w *world) former(n *operatortest.Tenant, kind, name string, more func(*unstructured.Unstructured), spec, status map[string]any) *unstructured.Unstructured {
	w.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	object.SetNamespace(n.Namespace)
	object.SetName(name)
	if more != nil {
		more(object)
	}
	// It takes a moment until changed definitions count.
	w.eventually("create "+name, func(ctx context.Context) (bool, error) {
		err := w.Client.Create(ctx, object)
		if apierrors.IsInvalid(err) {
			return false, nil
		}
		return err == nil, err
	})
	status["conditions"] = []any{
		map[string]any{"type": "Ready", "status": "False", "severity": "Info", "reason": "ProcessOngoing", "message": "x", "lastTransitionTime": "2024-05-01T10:00:00Z"},
		map[string]any{"type": "HelmChartFound", "status": "False", "severity": "Error", "reason": "HelmChartMissing", "message": "x", "lastTransitionTime": "2024-05-01T10:00:00Z"},
	}
	object.Object["status"] = status
	if err := w.Client.Status().Update(w.Context(), object); err != nil {
		w.Fatal(err)
	}
	return object
}

// objects are those of our kinds, by kind and name, as they are stored.
func (w *world) objects(n *operatortest.Tenant) map[string]map[string]any {
	w.Helper()
	found := map[string]map[string]any{}
	for _, kind := range []string{v1alpha1.ClusterStackKind, v1alpha1.ClusterStackReleaseKind, v1alpha1.ClusterAddonKind} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
		if err := w.Client.List(w.Context(), list, client.InNamespace(n.Namespace)); err != nil {
			w.Fatal(err)
		}
		for _, item := range list.Items {
			found[kind+" "+item.GetName()] = item.Object
		}
	}
	if len(found) < 4 {
		w.Fatalf("there are %d objects", len(found))
	}
	return found
}

// kept is what the operator keeps of an object that the existing one has made.
func kept(object map[string]any) map[string]any {
	o := (&unstructured.Unstructured{Object: object}).DeepCopy()
	unstructured.RemoveNestedField(o.Object, "spec", "hook") // what a hook comes to is told in status
	return map[string]any{
		"uid": o.GetUID(), "spec": o.Object["spec"], "finalizers": o.GetFinalizers(), "owners": o.GetOwnerReferences(),
		"stage": o.GetAnnotations()[v1alpha1.ClusterAddonStageAnnotation],
	}
}

// refuses starts an operator, which ends with an error that says all of this, and has written nothing.
func (w *world) refuses(says ...string) {
	w.Helper()
	writes := w.Writes()
	w.ends(w.Start(w.T, w.Proxy(w.T, nil)), says...)
	if now := w.Writes(); now != writes {
		w.Errorf("an operator that cannot start has written %d times", now-writes)
	}
}

// ends waits until an operator ends with an error that says all of this.
func (w *world) ends(o *operatortest.Operator, says ...string) {
	w.Helper()
	select {
	case <-o.Done():
	case <-time.After(operatortest.Patience):
		w.Fatalf("the operator goes on, although it should say %q", says)
	}
	for _, text := range says {
		if log := o.Log(w.T); !strings.Contains(log, text) || o.ExitCode() == 0 {
			w.Errorf("the operator ends with exit code %d and says %s, want %q", o.ExitCode(), log, text)
		}
	}
}

// atRest checks that nothing is written while an operator looks at everything again.
func (w *world) atRest(o *operatortest.Operator) {
	w.Helper()
	w.AwaitRest(w.T, o)
	writes := w.Writes()
	<-time.After(5 * time.Second) // more than two rounds of --sync-period
	if now := w.Writes(); now != writes {
		w.Errorf("the operator writes at rest, %d times in 5s", now-writes)
	}
}

func (w *world) eventually(what string, done wait.ConditionWithContextFunc) {
	w.Helper()
	if err := wait.PollUntilContextTimeout(w.Context(), 100*time.Millisecond, operatortest.Patience, true, done); err != nil {
		w.Fatalf("waited in vain: %s: %v", what, err)
	}
}
