// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// agent is an addon with pods and with a key that is generated where it is rendered.
const agent = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent, annotations: {lifecycle.test/release: one}}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: "agent:v1"}]}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {key: '{{ randAlphaNum 40 }}'}
`

var (
	deployments = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	secrets     = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
)

// A cluster of Cluster API has been made and equipped by the existing operator, when ours arrives in its place. Nothing
// changes by that, and the next upgrade is an ordinary one. What ours has written, the other one can read when it comes
// back.
func TestTakesOverFromTheExistingOperator(t *testing.T) {
	f := begin(t, "former", nil)
	next := strings.Replace(agent, ", annotations: {lifecycle.test/release: one}", "", 1)
	f.publish("1-35-v1", always("name: agent, action: apply", "name: old, action: apply"), addon{"agent", agent}, addon{"old", object("old", "1")})
	f.publish("1-35-v2", always("name: agent, action: apply", "name: young, action: apply"), addon{"agent", next}, addon{"young", object("young", "2")})
	rel := f.formerly("1-35-v1")
	before := f.equipment(rel)

	f.arrive("1-35-v1", rel)
	a := f.reached(f.class("1-35-v1"))
	if diff := cmp.Diff(before, f.equipment(rel)); diff != "" {
		t.Errorf("the take-over has changed (-before +after):\n%s", diff)
	}
	if got := a.Status.Inventory; got == nil || got.Objects != 3 || got.Shared != 0 {
		t.Errorf("the inventory is %+v, want three objects of ours", got)
	}
	if diff := cmp.Diff([]string{"apps/v1"}, applied(f.live(deployments, "agent"))); diff != "" {
		t.Errorf("the operator does not manage the Deployment (-want +got):\n%s", diff)
	}

	f.use(f.class("1-35-v2"), older)
	a = f.reached(f.class("1-35-v2"))
	deployment := f.live(deployments, "agent")
	if deployment.GetAnnotations()["lifecycle.test/release"] != "" {
		t.Error("what the release does not have is still there")
	}
	if diff := cmp.Diff(before["Deployment agent"], identity(deployment)); diff != "" {
		t.Errorf("the upgrade has restarted pods (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(before["Secret key"], identity(f.live(secrets, "key"))); diff != "" {
		t.Errorf("the upgrade has generated a key anew (-before +after):\n%s", diff)
	}
	if err := f.workload().Get(t.Context(), client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "old"}, &corev1.ConfigMap{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the object of an addon that the release does not have is still there: %v", err)
	}
	f.readable(a)
}

// formerly makes the Cluster as it is under the existing operator: class and addons were applied by kubectl, and nobody
// keeps a record. Without a ClusterStackRelease the Cluster is none of ours.
func (f *flow) formerly(version string) *release.Release {
	f.Helper()
	name := f.release(version)
	rel, err := release.Open(os.DirFS(filepath.Join(f.releases, name.String())), name)
	if err != nil {
		f.Fatal(err)
	}
	class, err := render.ClassInput(rel, f.name).Render()
	if err != nil {
		f.Fatal(err)
	}
	f.apply(f, f.name, class.Objects)
	f.create(f.class(version), older, 1, 0)
	workload := f.workload()
	facts, err := render.ClusterFacts(f.cluster(), nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, addon := range rel.Addons() {
		result, err := render.Addon(rel, addon, facts, nil)
		if err != nil {
			f.Fatal(err)
		}
		f.apply(workload, render.AddonNamespace, result.Objects)
	}
	return rel
}

// apply applies objects as the existing operator does.
func (f *flow) apply(c client.Client, namespace string, objects []*unstructured.Unstructured) {
	f.Helper()
	for _, obj := range objects {
		obj.SetNamespace(namespace)
		if err := c.Apply(f.Context(), client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("kubectl"), client.ForceOwnership); err != nil {
			f.Fatal(err)
		}
	}
}

// arrive puts the objects of the existing operator into the hands of ours.
func (f *flow) arrive(version string, rel *release.Release) {
	f.Helper()
	tag, cluster := f.tag(version), f.cluster()
	// Its owner reference is in the version that the existing operator knows.
	ref := corev1.ObjectReference{APIVersion: "cluster.x-k8s.io/v1beta1", Kind: clusterv1.ClusterKind, Namespace: f.name, Name: cluster.Name, UID: cluster.UID}
	if err := f.Create(f.Context(), &v1alpha1.ClusterAddon{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: f.name, Name: v1alpha1.ClusterAddonName(cluster.Name),
			Finalizers:      []string{v1alpha1.ClusterAddonFinalizer},
			Annotations:     map[string]string{v1alpha1.ClusterAddonStageAnnotation: v1alpha1.ClusterAddonStageCreated},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name, UID: ref.UID}},
		},
		Spec: v1alpha1.ClusterAddonSpec{ClusterRef: &ref, ClusterStack: f.class(version), Version: f.release(version).Version.Dashed()},
	}); err != nil {
		f.Fatal(err)
	}
	// Nobody looks at the release before it is whole.
	obj := apitest.ClusterStackRelease(f.name, tag)
	obj.Finalizers = []string{v1alpha1.ClusterStackReleaseFinalizer}
	obj.Annotations = map[string]string{clusterv1.PausedAnnotation: ""}
	if err := f.Create(f.Context(), obj); err != nil {
		f.Fatal(err)
	}
	class, err := render.ClassInput(rel, f.name).Render()
	if err != nil {
		f.Fatal(err)
	}
	before := obj.DeepCopy()
	obj.Status.Ready, obj.Status.KubernetesVersion = true, older
	for _, o := range class.Objects {
		gvk := o.GroupVersionKind()
		obj.Status.Resources = append(obj.Status.Resources, v1alpha1.Resource{
			Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: f.name, Name: o.GetName(), Status: v1alpha1.ResourceStatusSynced,
		})
	}
	if err := f.Status().Patch(f.Context(), obj, client.MergeFrom(before)); err != nil {
		f.Fatal(err)
	}
	stack := operatortest.Stack("1.35", "v1", "v2")
	stack.Namespace, stack.Spec.Name = f.name, f.name
	if err := f.Create(f.Context(), stack); err != nil {
		f.Fatal(err)
	}
	f.annotate(obj, clusterv1.PausedAnnotation, "")
}

// equipment is what a take-over must not change: which objects there are, what is in them, and whether their pods would
// be made anew.
func (f *flow) equipment(rel *release.Release) map[string]any {
	f.Helper()
	found := map[string]any{
		"Deployment agent": identity(f.live(deployments, "agent")),
		"Secret key":       identity(f.live(secrets, "key")),
		"ConfigMap old":    identity(f.live(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "old")),
	}
	class := &clusterv1.ClusterClass{}
	if err := f.Get(f.Context(), client.ObjectKey{Namespace: f.name, Name: rel.Name.ClassName()}, class); err != nil {
		f.Fatal(err)
	}
	found["ClusterClass"] = []any{class.UID, class.Generation, class.Spec}
	return found
}

// identity is what stays of an object that nobody replaces, and whose pods nobody restarts.
func identity(obj *unstructured.Unstructured) map[string]any {
	template, _, _ := unstructured.NestedMap(obj.Object, "spec", "template")
	return map[string]any{"uid": obj.GetUID(), "labels": obj.GetLabels(), "data": obj.Object["data"], "template": template}
}

// readable checks that the existing operator can read what ours has written: names, forms of versions, and words of
// which it knows only some.
func (f *flow) readable(a *v1alpha1.ClusterAddon) {
	f.Helper()
	oneOf := func(what, is string, known ...string) {
		f.Helper()
		if !slices.Contains(known, is) {
			f.Errorf("%s is %q, of which the existing operator knows nothing", what, is)
		}
	}
	oneOf("spec.clusterStack", a.Spec.ClusterStack, "docker-former-1-35-v2")
	oneOf("spec.version", a.Spec.Version, "v2")
	oneOf("spec.hook", a.Spec.Hook, "")
	oneOf("annotation "+v1alpha1.ClusterAddonStageAnnotation, a.Annotations[v1alpha1.ClusterAddonStageAnnotation], "created", "upgraded")
	oneOf("finalizers", strings.Join(a.Finalizers, ","), "clusteraddon.clusterstack.x-k8s.io")
	if !a.Status.Ready || !a.Status.Conditions.IsTrue("HelmChartApplied") {
		f.Error("the existing operator would take the cluster for one that waits for its addons")
	}
	for _, stage := range a.Status.Stages {
		oneOf("phase of stage "+stage.Name, string(stage.Phase), "", "Pending", "waitingForPreCondition", "applyingOrDeleting", "waitingForPostCondition", "done")
		oneOf("action of stage "+stage.Name, stage.Action, "apply", "delete")
	}
	f.eventually("the ClusterStack is ready", func() error {
		stack := &v1alpha1.ClusterStack{}
		if err := f.Get(f.Context(), client.ObjectKey{Namespace: f.name, Name: "starter-1-35"}, stack); err != nil {
			return err
		}
		if stack.Status.UsableVersions != "v1, v2" {
			return fmt.Errorf("usable versions are %q", stack.Status.UsableVersions)
		}
		if latest := stack.Status.LatestRelease; !regexp.MustCompile(`^docker-former-1-35-v\d+ \| v\d+\.\d+\.\d+$`).MatchString(latest) {
			f.Errorf("status.latestRelease is %q", latest)
		}
		for _, summary := range stack.Status.Summary {
			oneOf("phase of "+summary.Name, string(summary.Phase), "", "downloading release assets", "provider-specific work", "applying objects", "done")
		}
		return nil
	})
	list := &v1alpha1.ClusterStackReleaseList{}
	if err := f.List(f.Context(), list, client.InNamespace(f.name)); err != nil {
		f.Fatal(err)
	}
	for _, rel := range list.Items {
		oneOf("ClusterStackRelease", rel.Name, "docker-former-1-35-v1", "docker-former-1-35-v2")
		oneOf("finalizers", strings.Join(rel.Finalizers, ","), "clusterstackrelease.clusterstack.x-k8s.io")
		oneOf("status.kubernetesVersion", rel.Status.KubernetesVersion, older)
		for _, resource := range rel.Status.Resources {
			oneOf("status of "+resource.Kind, string(resource.Status), "synced", "not-synced")
		}
		if !rel.Status.Ready || len(rel.Status.Resources) == 0 {
			f.Errorf("the existing operator would apply release %s again", rel.Name)
		}
	}
}
