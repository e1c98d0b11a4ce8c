// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusterstack"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// offers is a lister whose answer a test sets.
type offers struct{ listing releases.Listing }

func (o *offers) Listing(context.Context, *v1alpha1.ClusterStack) releases.Listing { return o.listing }

func (o *offers) set(t *testing.T, tags ...string) {
	t.Helper()
	o.listing = releases.Listing{Asked: true}
	for _, tag := range tags {
		name, err := release.ParseName(tag)
		if err != nil {
			t.Fatal(err)
		}
		o.listing.Offers = append(o.listing.Offers, source.Offer{Name: name})
	}
}

// publish adds a release that was published on that day.
func (o *offers) publish(t *testing.T, day int, tag string) {
	t.Helper()
	before := o.listing.Offers
	o.set(t, tag)
	o.listing.Offers[0].Published = time.Date(2026, 1, day, 0, 0, 0, 1, time.UTC)
	o.listing.Offers = append(before, o.listing.Offers...)
}

// world is a namespace of an API server with a reconciler of its own.
type world struct {
	*testing.T
	client.WithWatch
	namespace string
	offers    *offers
	reconcile *clusterstack.Reconciler
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, WithWatch: kinds.Client(t, sandboxtest.APIServer(t)), offers: &offers{}}
	w.namespace = kinds.Namespace(t, w)
	w.reconcile = clusterstack.New(w, w, w.offers, events.NewFakeRecorder(1000), clusterstack.Options{})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// create makes a ClusterStack docker-starter for Kubernetes 1.35.
func (w *world) create(name string, change func(*v1alpha1.ClusterStackSpec)) {
	w.Helper()
	stack := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "starter", KubernetesVersion: "1.35", Channel: v1alpha1.ChannelStable, AutoSubscribe: true, NoProvider: true},
	}
	if change != nil {
		change(&stack.Spec)
	}
	w.must(w.Create(w.Context(), stack))
}

func (w *world) get(name string) *v1alpha1.ClusterStack {
	w.Helper()
	stack := &v1alpha1.ClusterStack{}
	w.must(w.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, stack))
	return stack
}

// run reconciles once and returns what came of it.
func (w *world) run(name string) *v1alpha1.ClusterStack {
	w.Helper()
	_, err := w.reconcile.Reconcile(w.Context(), w.get(name))
	w.must(err)
	return w.get(name)
}

// releases are those in the namespace, by tag.
func (w *world) releases() map[string]*v1alpha1.ClusterStackRelease {
	w.Helper()
	list := &v1alpha1.ClusterStackReleaseList{}
	w.must(w.List(w.Context(), list, client.InNamespace(w.namespace)))
	found := map[string]*v1alpha1.ClusterStackRelease{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	return found
}

func (w *world) wantReleases(tags ...string) {
	w.Helper()
	got := []string{}
	for tag := range w.releases() {
		got = append(got, tag)
	}
	slices.Sort(got)
	if diff := cmp.Diff(append([]string{}, tags...), got); diff != "" {
		w.Errorf("releases (-want +got):\n%s", diff)
	}
}

// finish says that a release is ready, as its controller would.
func (w *world) finish(tag string) {
	w.Helper()
	rel := w.releases()[tag]
	rel.Status.Ready, rel.Status.KubernetesVersion = true, "v1.35.4"
	w.must(w.Status().Update(w.Context(), rel))
}

// use makes a Cluster use a class of w's namespace from a namespace of its own.
func (w *world) use(class string) *clusterv1.Cluster {
	w.Helper()
	cluster := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: kinds.Namespace(w, w), Name: "far"},
		Spec: clusterv1.ClusterSpec{Topology: clusterv1.Topology{
			ClassRef: clusterv1.ClusterClassRef{Name: class, Namespace: w.namespace}, Version: "v1.35.4",
		}},
	}
	w.must(w.Create(w.Context(), cluster))
	return cluster
}

func is(t *testing.T, stack *v1alpha1.ClusterStack, condition string, status metav1.ConditionStatus, reason, message string) {
	t.Helper()
	c := stack.Status.Conditions.Get(condition)
	if c == nil || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, message) {
		t.Errorf("condition %s is %+v, want %s, the reason %s and %q in the message", condition, c, status, reason, message)
	}
}

const (
	v1 = "docker-starter-1-35-v1"
	v2 = "docker-starter-1-35-v2"
)

func TestSubscriptionFollowsTheNewest(t *testing.T) {
	w := newWorld(t)
	w.create("s", nil)
	stack := w.run("s")
	is(t, stack, v1alpha1.ReleasesSyncedCondition, "False", v1alpha1.WaitingReason, "not been asked")
	w.wantReleases()

	w.offers.set(t, v1, "docker-starter-1-36-v9", "docker-other-1-35-v9")
	stack = w.run("s")
	w.wantReleases(v1)
	is(t, stack, v1alpha1.ReleasesSyncedCondition, "True", v1alpha1.DoneReason, v1)
	is(t, stack, v1alpha1.ReadyCondition, "False", v1alpha1.NoReleaseReadyReason, v1)
	owner := w.releases()[v1].OwnerReferences
	if want := []metav1.OwnerReference{{APIVersion: "clusterstack.x-k8s.io/v1alpha1", Kind: "ClusterStack", Name: "s", UID: stack.UID}}; !cmp.Equal(want, owner) {
		t.Errorf("owners are %+v, want %+v", owner, want)
	}

	w.finish(v1)
	stack = w.run("s")
	is(t, stack, v1alpha1.ReadyCondition, "True", v1alpha1.DoneReason, "")
	want := v1alpha1.ClusterStackStatus{
		LatestRelease: "docker-starter-1-35-v1 | v1.35.4", UsableVersions: "v1", ObservedGeneration: 1,
		Summary: []v1alpha1.ClusterStackReleaseSummary{{Name: "v1", Ready: true, Phase: "done"}}, Conditions: stack.Status.Conditions,
	}
	if diff := cmp.Diff(want, stack.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}

	// A Cluster of another namespace uses the first release while the second one arrives.
	cluster := w.use("docker-starter-1-35-v1")
	w.offers.set(t, v1, v2)
	w.run("s")
	w.finish(v2)
	stack = w.run("s")
	w.wantReleases(v1, v2)
	if got := stack.Status.UsableVersions; got != "v1, v2" {
		t.Errorf("usable are %q", got)
	}
	before := w.get("s").ResourceVersion
	w.run("s")
	if got := w.get("s").ResourceVersion; got != before {
		t.Error("at rest something was written")
	}

	w.must(w.Delete(t.Context(), cluster))
	stack = w.run("s")
	w.wantReleases(v2)
	if got := stack.Status.LatestRelease; got != "docker-starter-1-35-v2 | v1.35.4" {
		t.Errorf("latest is %q", got)
	}

	// What is no longer true is taken back.
	rel := w.releases()[v2]
	rel.Status.Ready = false
	w.must(w.Status().Update(t.Context(), rel))
	stack = w.run("s")
	if stack.Status.UsableVersions != "" || stack.Status.LatestRelease != "" {
		t.Errorf("usable %q, latest %q although nothing is ready", stack.Status.UsableVersions, stack.Status.LatestRelease)
	}
	is(t, stack, v1alpha1.ClusterStackReleaseAvailableCondition, "False", v1alpha1.NoReleaseReadyReason, v2)
}

func TestFailedListingChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.offers.set(t, v1)
	w.create("s", nil)
	w.run("s")
	w.finish(v1)
	w.offers.set(t, v1, v2)
	w.run("s")
	w.wantReleases(v1, v2)

	w.offers.listing = releases.Listing{Asked: true, Err: errors.New("connection refused")}
	stack := w.run("s")
	w.wantReleases(v1, v2)
	is(t, stack, v1alpha1.ReleasesSyncedCondition, "False", v1alpha1.FailedToSyncReason, "connection refused")
	is(t, stack, v1alpha1.AssetsClientAPIAvailableCondition, "True", v1alpha1.DoneReason, "can be used")
	is(t, stack, v1alpha1.ReadyCondition, "True", v1alpha1.DoneReason, "")

	// That is told apart from a source that nobody could ask.
	for _, err := range []error{fmt.Errorf("%w: 401", source.ErrUnauthorized), &releases.UnusableError{Err: errors.New("no certificate in ca.crt")}} {
		w.offers.listing.Err = err
		stack = w.run("s")
		w.wantReleases(v1, v2)
		is(t, stack, v1alpha1.AssetsClientAPIAvailableCondition, "False", v1alpha1.FailedCreateAssetsClientReason, err.Error())
		is(t, stack, v1alpha1.ReleasesSyncedCondition, "False", v1alpha1.FailedToSyncReason, err.Error())
		is(t, stack, v1alpha1.ReadyCondition, "True", v1alpha1.DoneReason, "")
	}

	// Nor is anything claimed of one whose credentials could not be read.
	w.offers.listing.Err = &releases.UnreadError{Err: errors.New("get Secret creds: the server is currently unable to handle the request")}
	stack = w.run("s")
	is(t, stack, v1alpha1.AssetsClientAPIAvailableCondition, "False", v1alpha1.WaitingReason, "it is not known whether the source can be used: get Secret creds: ")
	is(t, stack, v1alpha1.ReadyCondition, "True", v1alpha1.DoneReason, "")
}

func TestRestartWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.offers.set(t, v1)
	w.create("s", nil)
	w.run("s")
	w.finish(v1)
	before := w.run("s").ResourceVersion
	w.offers.listing = releases.Listing{}
	w.run("s")
	w.offers.set(t, v1)
	if after := w.run("s").ResourceVersion; after != before {
		t.Error("the ClusterStack was written, and so its events told again, because the operator was started")
	}
}

func TestVersionsWithDots(t *testing.T) {
	const sha = "docker-starter-1-35-v0-sha-abc1234"
	w := newWorld(t)
	w.create("s", func(s *v1alpha1.ClusterStackSpec) {
		s.Channel, s.AutoSubscribe, s.Versions = v1alpha1.ChannelCustom, false, []string{"v0-sha.abc1234"}
	})
	w.run("s")
	w.finish(sha)
	stack := w.run("s")
	if diff := cmp.Diff([]v1alpha1.ClusterStackReleaseSummary{{Name: "v0-sha-abc1234", Ready: true, Phase: "done"}}, stack.Status.Summary); diff != "" {
		t.Error(diff)
	}
	if stack.Status.UsableVersions != "v0-sha.abc1234" || stack.Status.LatestRelease != "docker-starter-1-35-v0-sha.abc1234 | v1.35.4" {
		t.Errorf("usable %q, latest %q", stack.Status.UsableVersions, stack.Status.LatestRelease)
	}

	// Nobody asks for it any more, but a Cluster uses the class, whose name has a dot.
	w.use("docker-starter-1-35-v0-sha.abc1234")
	stack.Spec.Versions = []string{"v1"}
	w.must(w.Update(t.Context(), stack))
	w.run("s")
	w.finish(v1)
	w.run("s")
	w.wantReleases(sha, v1)
}

func TestAddonsInUseKeepTheirRelease(t *testing.T) {
	w := newWorld(t)
	w.create("s", func(s *v1alpha1.ClusterStackSpec) { s.AutoSubscribe, s.Versions = false, []string{"v1", "v2"} })
	w.run("s")
	w.finish(v1)
	w.finish(v2)
	// The Cluster has moved to v2, its addons have not yet: it may have to go back.
	cluster := w.use(v2)
	addon := &v1alpha1.ClusterAddon{
		ObjectMeta: metav1.ObjectMeta{Namespace: cluster.Namespace, Name: v1alpha1.ClusterAddonName(cluster.Name)},
		Spec: v1alpha1.ClusterAddonSpec{
			ClusterRef:   &corev1.ObjectReference{Kind: "Cluster", Name: cluster.Name, Namespace: cluster.Namespace},
			ClusterStack: v1, Version: "v1",
		},
	}
	w.must(w.Create(t.Context(), addon))
	stack := w.get("s")
	stack.Spec.Versions = []string{"v2"}
	w.must(w.Update(t.Context(), stack))
	w.run("s")
	w.wantReleases(v1, v2)

	// It goes to a class of its own namespace, and what it has is still from this one.
	cluster.Spec.Topology.ClassRef.Namespace = ""
	w.must(w.Update(t.Context(), cluster))
	addon.Annotations = map[string]string{v1alpha1.RolloutAnnotation: `{"applied": {"namespace": "` + w.namespace + `", "class": "` + v1 + `"}}`}
	w.must(w.Update(t.Context(), addon))
	w.run("s")
	w.wantReleases(v1, v2)

	// To a class that is none of ours it goes without its addons.
	cluster.Spec.Topology.ClassRef.Name = "quick-start"
	w.must(w.Update(t.Context(), cluster))
	w.run("s")
	w.wantReleases(v2)
}

func TestTwoClusterStacksShareARelease(t *testing.T) {
	w := newWorld(t)
	w.offers.set(t, v1)
	w.create("a", nil)
	w.create("b", func(s *v1alpha1.ClusterStackSpec) { s.AutoSubscribe, s.Versions = false, []string{"v1"} })
	w.run("a")
	w.run("b")
	if got := len(w.releases()[v1].OwnerReferences); got != 2 {
		t.Errorf("the release has %d owners, want both", got)
	}
	if got := w.run("b").Status.Summary; len(got) != 1 {
		t.Errorf("the second ClusterStack shows %v", got)
	}
	w.offers.set(t, v2)
	w.run("a")
	w.finish(v2)
	w.run("a")
	rel := w.releases()[v1]
	if rel == nil || len(rel.OwnerReferences) != 1 || rel.OwnerReferences[0].Name != "b" {
		t.Errorf("the release that the other one still wants: %v", rel)
	}
}

// Each write of a release wakes all ClusterStacks that own it, so two that undid one another's writes would
// never rest.
func TestFirstClusterStackDecidesOnTheProvider(t *testing.T) {
	const group = "infrastructure.clusterstack.x-k8s.io"
	w := newWorld(t)
	kinds.Define(t, w, group, "v1alpha1", "TestClusterStackRelease")
	kinds.Define(t, w, group, "v1alpha1", "TestClusterStackReleaseTemplate")
	template := &unstructured.Unstructured{}
	w.must(json.Unmarshal(fmt.Appendf(nil, `{"apiVersion": "%s/v1alpha1", "kind": "TestClusterStackReleaseTemplate", "metadata": {"name": "t", "namespace": %q},
		"spec": {"template": {"spec": {}}}}`, group, w.namespace), template))
	w.must(w.Create(t.Context(), template))
	w.offers.set(t, v1)
	w.create("a", func(s *v1alpha1.ClusterStackSpec) {
		s.NoProvider = false
		s.ProviderRef = &corev1.ObjectReference{APIVersion: group + "/v1alpha1", Kind: "TestClusterStackReleaseTemplate", Name: "t"}
	})
	w.create("b", nil)
	for _, name := range []string{"a", "b"} {
		stack := w.get(name)
		stack.Labels = map[string]string{"team": name, clusterv1.WatchLabel: name}
		w.must(w.Update(t.Context(), stack))
		w.run(name)
	}
	before := w.releases()[v1]
	if before.Spec.ProviderRef == nil || before.Labels[clusterv1.WatchLabel] != "a" {
		t.Errorf("the second ClusterStack decides: provider %v, labels %v", before.Spec.ProviderRef, before.Labels)
	}
	w.run("a")
	w.run("b")
	if got := w.releases()[v1].ResourceVersion; got != before.ResourceVersion {
		t.Error("at rest the release was written")
	}
}

// Somebody has made a ClusterStack anew, or restored it from a backup: its releases must not be collected
// as garbage of the one before.
func TestReleaseOfAnEarlierClusterStackOfThisName(t *testing.T) {
	w := newWorld(t)
	w.offers.set(t, v1)
	w.create("s", nil)
	w.run("s")
	rel := w.releases()[v1]
	rel.OwnerReferences[0].UID = "00000000-0000-0000-0000-000000000000"
	w.must(w.Update(t.Context(), rel))
	stack := w.run("s")
	if refs := w.releases()[v1].OwnerReferences; len(refs) != 1 || refs[0].UID != stack.UID {
		t.Errorf("owners are %+v, want the ClusterStack that there is", refs)
	}
}

func TestInvalidSpecIsReported(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		minor, version string
		want           string
	}{
		"minor":     {"1.07", "", "docker-starter-1-07-v1"},
		"uppercase": {"1.35", "v0-custom.ABC_d", "ABC_d"}, // no object can be called so
		"word":      {"1.35", "v1-stable.3", "v1-stable.3"},
	} {
		w.create(name, func(s *v1alpha1.ClusterStackSpec) {
			s.KubernetesVersion, s.AutoSubscribe = tc.minor, false
			if tc.version != "" {
				s.Channel, s.Versions = v1alpha1.ChannelCustom, []string{"v0-sha.abc1234", tc.version}
			}
		})
		if _, err := w.reconcile.Reconcile(t.Context(), w.get(name)); err == nil {
			t.Errorf("%s: want an error for the log", name)
		}
		is(t, w.get(name), v1alpha1.ReadyCondition, "False", "InvalidSpec", tc.want)
	}
	w.wantReleases()
}

func TestProvider(t *testing.T) {
	const group = "infrastructure.clusterstack.x-k8s.io"
	w := newWorld(t)
	kinds.Define(t, w, group, "v1alpha1", "TestClusterStackRelease")
	kinds.Define(t, w, group, "v1alpha1", "TestClusterStackReleaseTemplate")
	w.offers.set(t, v1)
	w.create("s", func(s *v1alpha1.ClusterStackSpec) {
		s.NoProvider = false
		s.ProviderRef = &corev1.ObjectReference{APIVersion: group + "/v1alpha1", Kind: "TestClusterStackReleaseTemplate", Name: "t"}
	})
	stack := w.get("s")
	stack.Labels = map[string]string{"team": "red"}
	stack.Annotations = map[string]string{"note": "x", corev1.LastAppliedConfigAnnotation: "{}"}
	w.must(w.Update(t.Context(), stack))

	if _, err := w.reconcile.Reconcile(t.Context(), w.get("s")); err == nil {
		t.Error("a missing template must be tried again")
	}
	is(t, w.get("s"), v1alpha1.ReadyCondition, "False", v1alpha1.ProviderTemplateNotFoundReason, "TestClusterStackReleaseTemplate t")
	w.wantReleases()

	template := &unstructured.Unstructured{}
	w.must(json.Unmarshal(fmt.Appendf(nil, `{"apiVersion": "%s/v1alpha1", "kind": "TestClusterStackReleaseTemplate", "metadata": {"name": "t", "namespace": %q},
		"spec": {"template": {"metadata": {"labels": {"from": "template"}}, "spec": {"identityRef": {"kind": "Secret", "name": "openstack"}}}}}`, group, w.namespace), template))
	w.must(w.Create(t.Context(), template))
	w.run("s")

	provider := func() *unstructured.Unstructured {
		obj := &unstructured.Unstructured{}
		obj.SetAPIVersion(group + "/v1alpha1")
		obj.SetKind("TestClusterStackRelease")
		w.must(w.Get(t.Context(), client.ObjectKey{Namespace: w.namespace, Name: v1}, obj))
		return obj
	}
	obj := provider()
	if diff := cmp.Diff(map[string]any{"identityRef": map[string]any{"kind": "Secret", "name": "openstack"}}, obj.Object["spec"]); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"team": "red", "from": "template"}, obj.GetLabels()); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"note": "x"}, obj.GetAnnotations()); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	want := &corev1.ObjectReference{APIVersion: group + "/v1alpha1", Kind: "TestClusterStackRelease", Namespace: w.namespace, Name: v1, UID: obj.GetUID()}
	if diff := cmp.Diff(want, w.releases()[v1].Spec.ProviderRef); diff != "" {
		t.Errorf("providerRef (-want +got):\n%s", diff)
	}
	before := provider().GetResourceVersion()
	w.run("s")
	if got := provider().GetResourceVersion(); got != before {
		t.Error("at rest the provider's object was written")
	}

	// Later changes arrive, of the template and of the choice to have a provider at all.
	w.must(unstructured.SetNestedField(template.Object, "other", "spec", "template", "spec", "identityRef", "name"))
	w.must(w.Update(t.Context(), template))
	w.run("s")
	if got, _, _ := unstructured.NestedString(provider().Object, "spec", "identityRef", "name"); got != "other" {
		t.Errorf("identityRef.name is %q", got)
	}
	stack = w.get("s")
	stack.Spec.NoProvider = true
	w.must(w.Update(t.Context(), stack))
	w.run("s")
	if ref := w.releases()[v1].Spec.ProviderRef; ref != nil {
		t.Errorf("providerRef is still %v", ref)
	}
}

func TestPausedIsLeftAlone(t *testing.T) {
	for name, set := range map[string]func(stack *v1alpha1.ClusterStack, paused bool){
		"BySpec": func(stack *v1alpha1.ClusterStack, paused bool) { stack.Spec.Paused = paused },
		"ByAnnotation": func(stack *v1alpha1.ClusterStack, paused bool) {
			stack.Annotations = nil
			if paused {
				stack.Annotations = map[string]string{clusterv1.PausedAnnotation: ""}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.offers.set(t, v1)
			w.create("s", nil)
			w.run("s")
			w.finish(v1)
			before := w.run("s")
			pause := func(paused bool) *v1alpha1.ClusterStack {
				stack := w.get("s")
				set(stack, paused)
				w.must(w.Update(t.Context(), stack))
				return w.run("s")
			}

			w.offers.set(t, v1, v2)
			stack := pause(true)
			w.wantReleases(v1)
			is(t, stack, v1alpha1.PausedCondition, "True", v1alpha1.PausedReason, "paused")
			is(t, stack, v1alpha1.ReadyCondition, "True", v1alpha1.DoneReason, "")
			if diff := cmp.Diff(before.Status.Summary, stack.Status.Summary); diff != "" {
				t.Errorf("summary (-before +after):\n%s", diff)
			}
			if again := w.run("s"); again.ResourceVersion != stack.ResourceVersion {
				t.Error("a paused ClusterStack was written twice")
			}

			stack = pause(false)
			w.wantReleases(v1, v2)
			if c := stack.Status.Conditions.Get(v1alpha1.PausedCondition); c != nil {
				t.Errorf("condition %+v, though it is paused no longer", c)
			}
		})
	}
}

func TestDeletedIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.offers.set(t, v1)
	w.create("s", nil)
	stack := w.get("s")
	stack.Finalizers = []string{"example.com/hold"}
	w.must(w.Update(t.Context(), stack))
	w.must(w.Delete(t.Context(), stack))
	w.run("s")
	w.wantReleases()
	stack = w.get("s")
	stack.Finalizers = nil
	w.must(w.Update(t.Context(), stack))
}

// What clusterctl takes to another management cluster, and so deletes here, is not made anew: neither a moment before the
// ClusterStack goes, nor because its releases went.
func TestMovedAwayIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.offers.set(t, v1)
	w.create("s", nil)
	stack := w.get("s")
	stack.Annotations = map[string]string{clusterctlv1.DeleteForMoveAnnotation: ""}
	w.must(w.Update(t.Context(), stack))
	w.run("s")
	w.wantReleases()
	stays := releases.Stays()
	for name, passes := range map[string]bool{
		"Updated": stays.Update(event.UpdateEvent{ObjectOld: w.get("s"), ObjectNew: stack}),
		"Deleted": stays.Delete(event.DeleteEvent{Object: stack}),
	} {
		if passes {
			t.Errorf("%s: an event about what is moved away wakes somebody", name)
		}
	}
}

// Somebody shows an old list of releases, or takes the newest one away.
func TestSourceGoesBack(t *testing.T) {
	const v3 = "docker-starter-1-35-v3"
	w := newWorld(t)
	w.offers.set(t, v1, v2, v3)
	w.create("s", nil)
	w.run("s")
	w.finish(v3)
	w.run("s")

	w.offers.set(t, v1, v2)
	stack := w.run("s")
	w.wantReleases(v3)
	is(t, stack, v1alpha1.ReleasesSyncedCondition, "False", v1alpha1.SourceRollbackReason, "the newest release at the source is "+v2+", which is older than "+v3)
	is(t, stack, v1alpha1.ReadyCondition, "True", v1alpha1.DoneReason, "")
	if got := w.run("s"); got.ResourceVersion != stack.ResourceVersion {
		t.Error("at rest something was written")
	}

	// Nothing of it is kept in status, which does not travel to another management cluster.
	stack.Status = v1alpha1.ClusterStackStatus{}
	w.must(w.Status().Update(t.Context(), stack))
	is(t, w.run("s"), v1alpha1.ReleasesSyncedCondition, "False", v1alpha1.SourceRollbackReason, v3)

	w.offers.set(t)
	is(t, w.run("s"), v1alpha1.ReleasesSyncedCondition, "False", v1alpha1.SourceRollbackReason, "the source no longer has any release of the channel stable")
	w.wantReleases(v3)

	// The cure that the message names.
	w.offers.set(t, v1, v2)
	w.must(w.Delete(t.Context(), w.releases()[v3]))
	is(t, w.run("s"), v1alpha1.ReleasesSyncedCondition, "True", v1alpha1.DoneReason, v2)
	w.wantReleases(v2)
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	w.create("s", func(s *v1alpha1.ClusterStackSpec) { s.HistoryLimit = 1 })
	for _, newest := range []string{"v1", "v2", "v3"} {
		w.offers.set(t, "docker-starter-1-35-"+newest)
		w.run("s")
		w.finish("docker-starter-1-35-" + newest)
		w.run("s")
	}
	w.wantReleases(v2, "docker-starter-1-35-v3")

	stack := w.get("s")
	stack.Spec.HistoryLimit = 0
	w.must(w.Update(t.Context(), stack))
	w.run("s")
	w.wantReleases("docker-starter-1-35-v3")
}

// Content has no order, so its day of publication counts, also after the source has forgotten it.
func TestHashesByPublication(t *testing.T) {
	const first, second = "docker-starter-1-35-v0-sha-zzz", "docker-starter-1-35-v0-sha-aaa"
	w := newWorld(t)
	w.create("s", func(s *v1alpha1.ClusterStackSpec) { s.Channel, s.HistoryLimit = v1alpha1.ChannelCustom, 5 })
	w.offers.publish(t, 1, first)
	w.run("s")
	w.finish(first)
	w.offers.publish(t, 2, second)
	w.run("s")
	w.finish(second)
	stack := w.run("s")
	w.wantReleases(second, first)
	if want := "docker-starter-1-35-v0-sha.aaa | v1.35.4"; stack.Status.LatestRelease != want || stack.Status.UsableVersions != "v0-sha.zzz, v0-sha.aaa" {
		t.Errorf("latest %q, usable %q; want %q, and older ones first", stack.Status.LatestRelease, stack.Status.UsableVersions, want)
	}

	w.offers.listing.Offers = w.offers.listing.Offers[:1] // the second is gone
	is(t, w.run("s"), v1alpha1.ReleasesSyncedCondition, "False", v1alpha1.SourceRollbackReason, second)
	w.wantReleases(second, first)
}

// The operator may do more than whoever writes a ClusterStack.
func TestProviderOfAForeignGroup(t *testing.T) {
	w := newWorld(t)
	w.offers.set(t, v1)
	w.create("s", func(s *v1alpha1.ClusterStackSpec) {
		s.NoProvider = false
		s.ProviderRef = &corev1.ObjectReference{APIVersion: "example.com/v1", Kind: "SecretTemplate", Name: "t"}
	})
	if _, err := w.reconcile.Reconcile(t.Context(), w.get("s")); err == nil {
		t.Error("want an error for the log")
	}
	is(t, w.get("s"), v1alpha1.ReadyCondition, "False", v1alpha1.InvalidSpecReason, `"example.com" is not one of a provider integration; allowed by --provider-api-groups: infrastructure.clusterstack.x-k8s.io`)
	w.wantReleases()
}

// The cache does not know yet that a release was made a moment ago: that is no error, and it is told once.
func TestReleaseThatTheCacheDoesNotKnowYet(t *testing.T) {
	w := newWorld(t)
	recorder := events.NewFakeRecorder(1000)
	behind := interceptor.NewClient(w.WithWatch, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, is := list.(*v1alpha1.ClusterStackReleaseList); is {
				return nil
			}
			return c.List(ctx, list, opts...)
		},
	})
	w.reconcile = clusterstack.New(behind, w, w.offers, recorder, clusterstack.Options{})
	only := func(spec *v1alpha1.ClusterStackSpec) { spec.AutoSubscribe, spec.Versions = false, []string{"v1"} }
	w.create("mine", only)
	w.create("other", only)
	const tag = "docker-starter-1-35-v1"
	for range 2 {
		w.run("mine")
		w.wantReleases(tag)
	}
	if owners := w.releases()[tag].OwnerReferences; len(owners) != 1 || owners[0].Name != "mine" {
		t.Errorf("the owners are %v", owners)
	}
	// What somebody else has made is adopted, as ever.
	stack := w.run("other")
	if owners := w.releases()[tag].OwnerReferences; len(owners) != 2 || owners[1].Name != "other" {
		t.Errorf("the owners are %v", owners)
	}
	if c := stack.Status.Conditions.Get(v1alpha1.ClusterStackReleasesSyncedCondition); c == nil || c.Status != metav1.ConditionTrue {
		t.Errorf("the condition is %+v", c)
	}
	created := 0
	for len(recorder.Events) > 0 {
		if strings.Contains(<-recorder.Events, v1alpha1.ClusterStackReleaseCreatedReason) {
			created++
		}
	}
	if created != 1 {
		t.Errorf("it is told %d times that the release was created", created)
	}
}
