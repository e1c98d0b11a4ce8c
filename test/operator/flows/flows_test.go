// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package flows walks through what people do with cluster stacks, each against the real operator. Cluster API is played
// by the test; where it matters what it does itself there is package clusterapi.
package flows

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const k135, k136 = "v1.35.4", "v1.36.4"

// flow is one test with a world that it shares with others.
type flow struct {
	*testing.T
	*operatortest.World
	operator *operatortest.Operator
	name     string // of its cluster stack, which no other test has
}

// TestFlows has one operator for all flows, which go on at the same time.
func TestFlows(t *testing.T) {
	world := operatortest.New(t)
	early := &flow{T: t, World: world, name: "early"}
	early.publish("1-35-v1", addon("cni", "1"))
	existing := early.Tenant(t)
	existing.Subscribe(t, early.stack("1.35", "v1"))
	existing.Create(t, early.class("1-35-v1"), k135)
	operator := world.Live(t)
	for name, run := range map[string]func(*flow){
		"ClustersFromBeforeTheOperator": func(f *flow) {
			f.reached(existing, early.class("1-35-v1"), "cni: 1")
		},
		"CreateUpgradeAndRollBack":   (*flow).createUpgradeAndRollBack,
		"KubernetesUpgrade":          (*flow).kubernetesUpgrade,
		"FaultyReleaseIsCorrected":   (*flow).faultyReleaseIsCorrected,
		"FlippedBackInTheMiddle":     (*flow).flippedBackInTheMiddle,
		"TwoClusterStacksOneRelease": (*flow).twoClusterStacksOneRelease,
		"ReleaseGoneAtTheSource":     (*flow).releaseGoneAtTheSource,
		"ForeignClusters":            (*flow).foreignClusters,
		"Provider":                   (*flow).provider,
		"ClassOfAnotherNamespace":    (*flow).classOfAnotherNamespace,
		"CustomVersion":              (*flow).customVersion,
		"DeletedWhileItWaits":        (*flow).deletedWhileItWaits,
		"DeletedInTheMiddleOfAStage": (*flow).deletedInTheMiddleOfAStage,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(&flow{T: t, World: world, operator: operator, name: strings.ToLower(name)})
		})
	}
}

func addon(name, text string) operatortest.Addon {
	return operatortest.Addon{Name: name, Templates: object(name, text)}
}

func object(name, text string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  text: \"" + text + "\"\n"
}

func (f *flow) tag(version string) string { return "docker-" + f.name + "-" + version }

func (f *flow) class(version string) string {
	f.Helper()
	name, err := release.ParseName(f.tag(version))
	if err != nil {
		f.Fatal(err)
	}
	return name.ClassName()
}

func (f *flow) publish(version string, addons ...operatortest.Addon) {
	f.Helper()
	f.Publish(f.T, f.tag(version), operatortest.Release(f.T, f.tag(version), addons...))
}

func (f *flow) stack(minor string, versions ...string) *v1alpha1.ClusterStack {
	stack := operatortest.Stack(minor, versions...)
	stack.Name, stack.Spec.Name = f.name+"-"+strings.ReplaceAll(minor, ".", "-"), f.name
	return stack
}

// begins is a tenant whose Cluster has the addons of a first release.
func (f *flow) begins(versions []string, addons ...string) *operatortest.Tenant {
	f.Helper()
	n := f.Tenant(f.T)
	n.Subscribe(f.T, f.stack("1.35", versions...))
	n.Create(f.T, f.class("1-35-v1"), k135)
	f.reached(n, f.class("1-35-v1"), addons...)
	return n
}

// reached waits until a cluster has the addons of a class, and checks that it has just their objects.
func (f *flow) reached(n *operatortest.Tenant, class string, want ...string) {
	f.Helper()
	f.Await(f.T, f.operator, []*operatortest.Tenant{n}, operatortest.Reached(class))
	texts, err := n.Texts(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	slices.Sort(texts)
	if diff := cmp.Diff(want, texts); diff != "" {
		f.Errorf("objects of %s (-want +got):\n%s", class, diff)
	}
	n.CheckForeign(f.T)
}

// told waits until the ClusterAddon says all of some texts in its condition Ready.
func (f *flow) told(n *operatortest.Tenant, texts ...string) {
	f.Helper()
	f.Await(f.T, f.operator, []*operatortest.Tenant{n}, func(_ *operatortest.Tenant, addon *v1alpha1.ClusterAddon) string {
		if addon == nil {
			return "there is no ClusterAddon"
		}
		ready := addon.Status.Conditions.Get(v1alpha1.ReadyCondition)
		if ready == nil || ready.Status != "False" {
			return operatortest.Describe(addon)
		}
		for _, text := range texts {
			if !strings.Contains(ready.Message, text) {
				return fmt.Sprintf("%q is not told: %s", text, operatortest.Describe(addon))
			}
		}
		return ""
	})
}

func (f *flow) uid(n *operatortest.Tenant, name string) string {
	f.Helper()
	cm := &corev1.ConfigMap{}
	if err := n.Workload.Get(f.Context(), client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: name}, cm); err != nil {
		f.Fatal(err)
	}
	return string(cm.UID)
}

// The second version of the stack adds an addon, removes one, and renames one, whose objects stay the same ones. Going
// back is the same the other way round.
func (f *flow) createUpgradeAndRollBack() {
	f.publish("1-35-v1", addon("cni", "1"), addon("metrics", "1"), operatortest.Addon{Name: "dns", Templates: object("coredns", "1")})
	f.publish("1-35-v2", addon("cni", "2"), addon("csi", "2"), operatortest.Addon{Name: "names", Templates: object("coredns", "2")})
	n := f.begins([]string{"v1", "v2"}, "cni: 1", "coredns: 1", "metrics: 1")
	renamed := f.uid(n, "coredns")
	n.Use(f.T, f.class("1-35-v2"), k135)
	f.reached(n, f.class("1-35-v2"), "cni: 2", "coredns: 2", "csi: 2")
	n.Use(f.T, f.class("1-35-v1"), k135)
	f.reached(n, f.class("1-35-v1"), "cni: 1", "coredns: 1", "metrics: 1")
	if now := f.uid(n, "coredns"); now != renamed {
		f.Error("the object of an addon that was renamed is another one")
	}
}

func (f *flow) kubernetesUpgrade() {
	f.publish("1-35-v1", addon("cni", "1"))
	f.publish("1-36-v1", addon("cni", "2"))
	n := f.begins([]string{"v1"}, "cni: 1")
	n.Subscribe(f.T, f.stack("1.36", "v1"))
	n.Use(f.T, f.class("1-36-v1"), k136)
	f.reached(n, f.class("1-36-v1"), "cni: 2")
}

// The addons of a release cannot be rendered: the upgrade is held, and what runs goes on. The next release gets it going.
func (f *flow) faultyReleaseIsCorrected() {
	f.publish("1-35-v1", addon("cni", "1"))
	f.publish("1-36-v1", operatortest.Addon{Name: "cni", Templates: `{{ fail "the author has forgotten something" }}`}, addon("metrics", "2"))
	n := f.begins([]string{"v1"}, "cni: 1")
	n.Subscribe(f.T, f.stack("1.36", "v1", "v2"))
	n.Use(f.T, f.class("1-36-v1"), k136)
	f.told(n, "stage cni", "the author has forgotten something")
	if !n.Held() {
		f.Error("the upgrade goes on without an addon")
	}
	f.publish("1-36-v2", addon("cni", "3"))
	n.Use(f.T, f.class("1-36-v2"), k136)
	f.reached(n, f.class("1-36-v2"), "cni: 3")
}

// A user takes an upgrade back that is held, and wants it again later.
func (f *flow) flippedBackInTheMiddle() {
	f.publish("1-35-v1", addon("cni", "1"))
	waits := addon("csi", "2")
	waits.Stage = `, waitForPreCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: gate, namespace: kube-system}], conditions: o.data.open == "yes"}`
	f.publish("1-36-v1", addon("cni", "2"), waits)
	n := f.begins([]string{"v1"}, "cni: 1")
	n.Subscribe(f.T, f.stack("1.36", "v1"))
	n.Use(f.T, f.class("1-36-v1"), k136)
	f.told(n, "stage csi waits for", "gate")
	if !n.Held() {
		f.Error("the upgrade goes on although a stage waits")
	}
	n.Use(f.T, f.class("1-35-v1"), k135)
	f.reached(n, f.class("1-35-v1"), "cni: 1")

	gate := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "gate"}, Data: map[string]string{"open": "yes"}}
	if err := n.Workload.Create(f.Context(), gate); err != nil {
		f.Fatal(err)
	}
	n.Use(f.T, f.class("1-36-v1"), k136)
	f.reached(n, f.class("1-36-v1"), "cni: 2", "csi: 2")
}

// Two ClusterStacks want the same release. When one of them goes, the release stays for the other.
func (f *flow) twoClusterStacksOneRelease() {
	f.publish("1-35-v1", addon("cni", "1"))
	n := f.Tenant(f.T)
	first, second := f.stack("1.35", "v1"), f.stack("1.35", "v1")
	second.Name += "-too"
	n.Subscribe(f.T, first)
	n.Subscribe(f.T, second)
	usable := func(stack *v1alpha1.ClusterStack) {
		f.Helper()
		f.eventually("ClusterStack "+stack.Name+" is ready", func() bool {
			f.get(stack)
			return stack.Status.Conditions.IsTrue(v1alpha1.ReadyCondition) && stack.Status.UsableVersions == "v1"
		})
	}
	usable(first)
	usable(second)
	rel := apitest.ClusterStackRelease(n.Namespace, f.tag("1-35-v1"))
	f.get(rel)
	uid := rel.UID
	if err := f.Client.Delete(f.Context(), first); err != nil {
		f.Fatal(err)
	}
	if err := n.Garbage(f.Context()); err != nil {
		f.Fatal(err)
	}
	if f.get(rel); rel.UID != uid || rel.DeletionTimestamp != nil {
		f.Error("the release went with one of the ClusterStacks that want it")
	}
	usable(second)
}

// A release that is in use goes at the source; clusters use it, go to it and come from it all the same.
func (f *flow) releaseGoneAtTheSource() {
	f.publish("1-35-v1", addon("cni", "1"), addon("metrics", "1"))
	f.publish("1-35-v2", addon("cni", "2"))
	n := f.begins([]string{"v1", "v2"}, "cni: 1", "metrics: 1")
	rel := apitest.ClusterStackRelease(n.Namespace, f.tag("1-35-v2"))
	f.eventually("the second release is ready", func() bool { f.get(rel); return rel.Status.Ready })
	for _, version := range []string{"1-35-v1", "1-35-v2"} {
		if err := os.RemoveAll(filepath.Join(f.Releases, f.tag(version))); err != nil {
			f.Fatal(err)
		}
	}
	n.Use(f.T, f.class("1-35-v2"), k135)
	f.reached(n, f.class("1-35-v2"), "cni: 2")
	n.Use(f.T, f.class("1-35-v1"), k135)
	f.reached(n, f.class("1-35-v1"), "cni: 1", "metrics: 1")
	if f.get(rel); !rel.Status.Ready {
		f.Errorf("the release is not ready any more: %v", rel.Status.Conditions)
	}
}

// Clusters that use no cluster stack are never touched, and never held.
func (f *flow) foreignClusters() {
	n := f.Tenant(f.T)
	plain := apitest.PlainCluster(n.Namespace, "plain")
	foreign := apitest.Cluster(n.Namespace, "foreign", "quick-start", k135)
	alike := apitest.Cluster(n.Namespace, "alike", "docker-nobody-1-35-v1", k135)
	before := map[string]string{}
	for _, cluster := range []*clusterv1.Cluster{plain, foreign, alike} {
		if err := f.Client.Create(f.Context(), cluster); err != nil {
			f.Fatal(err)
		}
		apitest.Initialize(cluster)
		if err := f.Client.Status().Update(f.Context(), cluster); err != nil {
			f.Fatal(err)
		}
		before[cluster.Name] = cluster.ResourceVersion
	}
	// By the time that a Cluster of ours, which was made later, has its addons, these have been seen.
	f.publish("1-35-v1", addon("cni", "1"))
	f.begins([]string{"v1"}, "cni: 1")
	for _, cluster := range []*clusterv1.Cluster{plain, foreign, alike} {
		hold, err := f.operator.AskFor(f.Context(), cluster, k135, k136)
		if err != nil || hold != "" {
			f.Errorf("Cluster %s is held: %q, %v", cluster.Name, hold, err)
		}
		if f.get(cluster); cluster.ResourceVersion != before[cluster.Name] {
			f.Errorf("Cluster %s was touched", cluster.Name)
		}
	}
	addons := &v1alpha1.ClusterAddonList{}
	if err := f.Client.List(f.Context(), addons, client.InNamespace(n.Namespace)); err != nil || len(addons.Items) > 0 {
		f.Errorf("%d ClusterAddons, %v", len(addons.Items), err)
	}
}

// The object of a provider integration becomes ready later.
func (f *flow) provider() {
	const group = "infrastructure.clusterstack.x-k8s.io"
	kinds.Define(f.T, f.Client, group, "v1alpha1", "FlowClusterStackRelease")
	kinds.Define(f.T, f.Client, group, "v1alpha1", "FlowClusterStackReleaseTemplate")
	f.publish("1-35-v1", addon("cni", "1"))
	n := f.Tenant(f.T)
	template := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"cloud": "ours"}}}}}
	template.SetAPIVersion(group + "/v1alpha1")
	template.SetKind("FlowClusterStackReleaseTemplate")
	template.SetNamespace(n.Namespace)
	template.SetName("t")
	if err := f.Client.Create(f.Context(), template); err != nil {
		f.Fatal(err)
	}
	stack := f.stack("1.35", "v1")
	stack.Spec.NoProvider = false
	stack.Spec.ProviderRef = &corev1.ObjectReference{APIVersion: group + "/v1alpha1", Kind: template.GetKind(), Name: "t"}
	n.Subscribe(f.T, stack)
	n.Create(f.T, f.class("1-35-v1"), k135)

	rel := apitest.ClusterStackRelease(n.Namespace, f.tag("1-35-v1"))
	f.eventually("the release waits for its provider", func() bool {
		if client.IgnoreNotFound(f.Client.Get(f.Context(), client.ObjectKeyFromObject(rel), rel)) != nil {
			return false
		}
		c := rel.Status.Conditions.Get(v1alpha1.ProviderClusterStackReleaseReadyCondition)
		return c != nil && c.Status == "False" && strings.Contains(c.Message, "is not ready")
	})
	object := &unstructured.Unstructured{}
	object.SetAPIVersion(group + "/v1alpha1")
	object.SetKind("FlowClusterStackRelease")
	object.SetNamespace(n.Namespace)
	object.SetName(rel.Name)
	if err := f.Client.Status().Patch(f.Context(), object, client.RawPatch(types.MergePatchType, []byte(`{"status": {"ready": true}}`))); err != nil {
		f.Fatal(err)
	}
	f.reached(n, f.class("1-35-v1"), "cni: 1")
	f.eventually("the release is ready", func() bool { f.get(rel); return rel.Status.Ready })
}

// A platform team has the classes in a namespace of its own. The release that a Cluster of another one uses stays.
func (f *flow) classOfAnotherNamespace() {
	f.publish("1-35-v1", addon("cni", "1"))
	f.publish("1-35-v2", addon("cni", "2"))
	platform, team := f.Tenant(f.T), f.Tenant(f.T)
	stack := f.stack("1.35", "v1")
	platform.Subscribe(f.T, stack)
	team.CreateIn(f.T, platform.Namespace, f.class("1-35-v1"), k135)
	f.reached(team, f.class("1-35-v1"), "cni: 1")

	f.want(stack, "v2")
	f.eventually("both releases are usable", func() bool { f.get(stack); return stack.Status.UsableVersions == "v1, v2" })
	team.Use(f.T, f.class("1-35-v2"), k135)
	f.reached(team, f.class("1-35-v2"), "cni: 2")
	f.eventually("the release that nobody uses any more is gone", func() bool { f.get(stack); return stack.Status.UsableVersions == "v2" })
}

func (f *flow) customVersion() {
	f.publish("1-35-v0-sha-abcdef0", addon("cni", "1"))
	n := f.Tenant(f.T)
	stack := f.stack("1.35", "v0-sha.abcdef0")
	stack.Spec.Channel = v1alpha1.ChannelCustom
	n.Subscribe(f.T, stack)
	n.Create(f.T, f.class("1-35-v0-sha-abcdef0"), k135)
	f.reached(n, f.class("1-35-v0-sha-abcdef0"), "cni: 1")
}

// A Cluster goes while a stage of it waits, and everything with it.
func (f *flow) deletedWhileItWaits() {
	waits := addon("cni", "1")
	waits.Stage = `, waitForPreCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: never, namespace: kube-system}], conditions: o.data.open == "yes"}`
	f.publish("1-35-v1", waits)
	n := f.Tenant(f.T)
	n.Subscribe(f.T, f.stack("1.35", "v1"))
	n.Create(f.T, f.class("1-35-v1"), k135)
	f.told(n, "stage cni waits for", "never")
	f.deleted(n)
}

// A Cluster goes while its API server leaves the second of three objects unanswered.
func (f *flow) deletedInTheMiddleOfAStage() {
	f.publish("1-35-v1", addon("cni", "1"), addon("csi", "1"), addon("metrics", "1"))
	n := f.Tenant(f.T)
	reached := make(chan struct{})
	hang := func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || !strings.HasPrefix(r.URL.Path, "/clusters/"+n.Namespace+"/") || !strings.HasSuffix(r.URL.Path, "/csi") {
			return false
		}
		select {
		case reached <- struct{}{}:
		case <-r.Context().Done():
		}
		<-r.Context().Done()
		return true
	}
	f.Harm.Store(&hang)
	defer f.Harm.Store(nil)
	n.Subscribe(f.T, f.stack("1.35", "v1"))
	n.Create(f.T, f.class("1-35-v1"), k135)
	select {
	case <-reached:
	case <-time.After(operatortest.Patience):
		f.Fatal("the addons do not come to the second object")
	}
	f.deleted(n)
}

// deleted deletes the Cluster of a tenant and all else, and waits until nothing of it is left.
func (f *flow) deleted(n *operatortest.Tenant) {
	f.Helper()
	n.Delete(f.T)
	f.eventually("nothing is left", func() bool {
		left, err := n.Collect(f.Context())
		if err != nil {
			f.Log(err)
		}
		return err == nil && len(left) == 0
	})
	n.CheckForeign(f.T)
}

// want edits the versions that a ClusterStack names, into whose status the operator writes at the same time.
func (f *flow) want(stack *v1alpha1.ClusterStack, versions ...string) {
	f.Helper()
	before := stack.DeepCopy()
	stack.Spec.Versions = versions
	if err := f.Client.Patch(f.Context(), stack, client.MergeFrom(before)); err != nil {
		f.Fatal(err)
	}
}

func (f *flow) get(obj client.Object) {
	f.Helper()
	if err := f.Client.Get(f.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
		f.Fatal(err)
	}
}

// eventually looks again and again until something holds.
func (f *flow) eventually(what string, holds func() bool) {
	f.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(operatortest.Patience)
	for !holds() {
		select {
		case <-deadline:
			f.Fatalf("waited in vain until %s", what)
		case <-f.operator.Done():
			f.Fatalf("the operator ended by itself: %v", f.operator.Err())
		case <-tick.C:
		}
	}
}
