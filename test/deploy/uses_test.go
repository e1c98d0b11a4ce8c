// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// apart is a namespace with what the starter stack does not use.
const apart = "apart"

// Of each API group that a cluster class may use and that of the starter stack does not, one kind. That of the last one
// comes from no release of Cluster API.
const moreKinds = `
---
apiVersion: addons.cluster.x-k8s.io/v1beta2
kind: ClusterResourceSet
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}
spec:
  clusterSelector: {matchLabels: {nobody: has-it}}
  resources: [{kind: ConfigMap, name: nothing}]
---
apiVersion: ipam.cluster.x-k8s.io/v1beta2
kind: IPAddressClaim
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}
spec:
  poolRef: {apiGroup: ipam.example.com, kind: Pool, name: pool}
---
apiVersion: openstack.k-orc.cloud/v1alpha1
kind: Image
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}
spec:
  resource: {name: image}
`

var classKinds = []schema.GroupVersionKind{
	{Group: "addons.cluster.x-k8s.io", Version: "v1beta2", Kind: "ClusterResourceSet"},
	{Group: "ipam.cluster.x-k8s.io", Version: "v1beta2", Kind: "IPAddressClaim"},
	{Group: "openstack.k-orc.cloud", Version: "v1alpha1", Kind: "Image"},
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "ClusterClass"},
	{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmControlPlaneTemplate"},
	{Group: "bootstrap.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmConfigTemplate"},
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevClusterTemplate"},
}

const (
	providerGroup = "infrastructure.clusterstack.x-k8s.io"
	providerKind  = "DeployClusterStackRelease"
)

// useRights has the operator do, with the rights of an installation, what one cluster of the starter stack that is left in
// peace does not take: a provider integration, classes of all groups, releases that go, a private registry, settings of one
// cluster, and a ClusterAddon that somebody deletes.
func (o *installed) useRights(t *testing.T) {
	c, err := client.NewWithWatch(o.management.Config(), client.Options{Scheme: kinds.Scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	kinds.Define(t, c, "openstack.k-orc.cloud", "v1alpha1", "Image")
	kinds.Define(t, c, providerGroup, "v1alpha1", providerKind)
	kinds.Define(t, c, providerGroup, "v1alpha1", providerKind+"Template")
	must(o.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: apart}}))
	object := func(gvk schema.GroupVersionKind, name string) *unstructured.Unstructured {
		obj := &unstructured.Unstructured{Object: map[string]any{}}
		obj.SetGroupVersionKind(gvk)
		obj.SetNamespace(apart)
		obj.SetName(name)
		return obj
	}
	provider := schema.GroupVersionKind{Group: providerGroup, Version: "v1alpha1", Kind: providerKind}
	template := object(provider.GroupVersion().WithKind(providerKind+"Template"), "template")
	template.Object["spec"] = map[string]any{"template": map[string]any{"spec": map[string]any{"cloud": "ours"}}}
	must(o.Create(t.Context(), template))

	const first, second = "docker-apart-1-35-v1", "docker-apart-1-35-v2"
	for _, tag := range []string{first, second} {
		name, err := release.ParseName(tag)
		must(err)
		files := operatortest.Release(t, tag, operatortest.Addon{Name: "cni", Templates: operatortest.ConfigMap("cni", "1")})
		files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
			"c/Chart.yaml":           releasetest.Chart(name.Prefix()+"-cluster-class", name.Version.String()),
			"c/templates/class.yaml": clustertest.ClassTemplate(t) + moreKinds,
		})}
		aside := filepath.Join(o.releases, "."+tag)
		must(os.CopyFS(aside, files))
		must(os.Rename(aside, filepath.Join(o.releases, tag)))
	}
	stack := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: apart, Name: "apart"},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "apart", KubernetesVersion: "1.35", Versions: []string{"v1", "v2"},
			ProviderRef: &corev1.ObjectReference{APIVersion: template.GetAPIVersion(), Kind: template.GetKind(), Name: template.GetName()},
		},
	}
	must(o.Create(t.Context(), stack))
	for _, tag := range []string{first, second} {
		obj := object(provider, tag)
		await(t, "the provider's object of "+tag, func(ctx context.Context) (bool, error) {
			err := o.Get(ctx, client.ObjectKeyFromObject(obj), obj)
			return err == nil, client.IgnoreNotFound(err)
		})
		must(o.Status().Patch(t.Context(), obj, client.RawPatch(types.MergePatchType, []byte(`{"status": {"ready": true}}`))))
	}
	usable := func(want string) {
		t.Helper()
		await(t, "usable are "+want, func(ctx context.Context) (bool, error) {
			err := o.Get(ctx, client.ObjectKeyFromObject(stack), stack)
			return stack.Status.UsableVersions == want && stack.Status.Conditions.IsTrue(v1alpha1.ReadyCondition), err
		})
	}
	usable("v1, v2")
	for _, kind := range classKinds {
		must(o.Get(t.Context(), client.ObjectKey{Namespace: apart, Name: first}, object(kind, first)))
	}
	must(o.Patch(t.Context(), stack, client.RawPatch(types.MergePatchType, []byte(`{"spec": {"versions": ["v2"]}}`))))
	usable("v2")
	gone(t, o.Client, apitest.ClusterStackRelease(apart, first))
	for _, kind := range classKinds {
		gone(t, o.Client, object(kind, first))
	}

	// A registry that asks for a password answers that it has no such repository only to whoever has it.
	registry := registrytest.Start(t, registrytest.Options{Username: "robot", Password: "correct"})
	must(o.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: apart, Name: "registry"}, StringData: map[string]string{"username": "robot", "password": "correct"},
	}))
	private := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: apart, Name: "private"},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "private", KubernetesVersion: "1.35", AutoSubscribe: true, NoProvider: true,
			Source: &v1alpha1.ReleaseSource{
				OCI:       &v1alpha1.OCISource{Repository: registry.Host + "/stacks", PlainHTTP: true},
				SecretRef: &v1alpha1.LocalReference{Name: "registry"},
			},
		},
	}
	must(o.Create(t.Context(), private))
	await(t, "the registry takes the password", func(ctx context.Context) (bool, error) {
		err := o.Get(ctx, client.ObjectKeyFromObject(private), private)
		synced := private.Status.Conditions.Get(v1alpha1.ReleasesSyncedCondition)
		return synced != nil && strings.Contains(synced.Message, "no such repository"), err
	})

	// Values of one cluster, for which its addons wait.
	settings := &v1alpha1.ClusterAddonSettings{
		ObjectMeta: metav1.ObjectMeta{Namespace: demo.Namespace, Name: demo.Name},
		Spec: v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{{
			Name: "metrics-server", ValuesFrom: []v1alpha1.ValuesReference{{Kind: v1alpha1.ValuesFromConfigMap, Name: "values"}, {Kind: v1alpha1.ValuesFromSecret, Name: "values"}},
		}}},
	}
	must(o.Create(t.Context(), settings))
	addon := &v1alpha1.ClusterAddon{}
	ready := func(what string, is func(*v1alpha1.Condition) bool) {
		t.Helper()
		await(t, what, func(ctx context.Context) (bool, error) {
			err := o.Get(ctx, client.ObjectKey{Namespace: demo.Namespace, Name: v1alpha1.ClusterAddonName(demo.Name)}, addon)
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			condition := addon.Status.Conditions.Get(v1alpha1.ReadyCondition)
			return condition != nil && is(condition), err
		})
	}
	isTrue := func(c *v1alpha1.Condition) bool { return c.Status == metav1.ConditionTrue }
	misses := func(kind string) func(*v1alpha1.Condition) bool {
		return func(c *v1alpha1.Condition) bool {
			return strings.Contains(c.Message, kind+" values with values is missing")
		}
	}
	meta := metav1.ObjectMeta{Namespace: demo.Namespace, Name: "values"}
	ready("the Secret is missing", misses("Secret"))
	must(o.Create(t.Context(), &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{v1alpha1.DefaultValuesKey: "{}"}}))
	ready("the ConfigMap is missing", misses("ConfigMap"))
	must(o.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{v1alpha1.DefaultValuesKey: "{}"}}))
	ready("the addons have their values", isTrue)
	must(o.Delete(t.Context(), settings))

	// Its Secrets are handed to the Cluster, and its successor takes them up.
	ready("the addons are ready", isTrue)
	before := addon.UID
	must(o.Delete(t.Context(), addon))
	ready("a new ClusterAddon", func(c *v1alpha1.Condition) bool { return isTrue(c) && addon.UID != before })

	// What is told a second time is told by the first event, which says how often.
	for range 2 {
		for _, paused := range []bool{true, false} {
			must(o.Patch(t.Context(), stack, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec": {"paused": %t}}`, paused))))
			await(t, fmt.Sprintf("paused is %t", paused), func(ctx context.Context) (bool, error) {
				err := o.Get(ctx, client.ObjectKeyFromObject(stack), stack)
				return stack.Status.Conditions.IsTrue(v1alpha1.PausedCondition) == paused, err
			})
		}
	}

	for _, obj := range []client.Object{stack, private} {
		remove(t, o.Client, obj)
	}
	gone(t, o.Client, apitest.ClusterStackRelease(apart, second))
	for _, kind := range classKinds {
		gone(t, o.Client, object(kind, second))
	}
}
