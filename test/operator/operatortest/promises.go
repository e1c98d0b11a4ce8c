// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operatortest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// End is what clusters have come to, whatever went wrong on the way there. Check holds it against what the operator
// promises:
//
//   - What is wanted is there: all objects of the release, and what was generated once is what it was.
//   - What is not wanted any more is gone.
//   - Nothing of anybody else's was touched.
//   - No transition was told twice.
//   - No upgrade of Kubernetes went on before its addons were there: World.Goes saw to that on the way.
//   - Nothing is written any more.
//   - The status says what is: for the present generation, with a reason and a message, and of the objects that are there.
//   - All come to the same end as one to which nothing happened.
//
// That they come there at all, and in time, is Await's.
type End struct {
	// Texts are what the ConfigMaps of the addons say. Without any, nothing of the operator is left.
	Texts []string
	// Like is a cluster to which nothing happened. By default it is the first of those that are checked.
	Like *Tenant
	// Told is how often each transition may have been told: once, unless a cluster went to and fro.
	Told int
	// Happened says what happened to a cluster, for the report.
	Happened func(*Tenant) string
}

// Check checks that tenants have come to an end, with an operator that has nothing to do any more.
func (w *World) Check(t testing.TB, o *Operator, tenants []*Tenant, end End) {
	t.Helper()
	if end.Like == nil {
		end.Like = tenants[0]
	}
	states := w.ends(t, o, tenants, end.Like)
	golden := states[end.Like.Namespace]
	wrong := 0
	for _, n := range tenants {
		what := n.Namespace
		if end.Happened != nil {
			what += ": " + end.Happened(n)
		}
		if diff := cmp.Diff(golden, states[n.Namespace]); diff != "" {
			if wrong++; wrong <= 3 {
				t.Errorf("%s: another end (-like %s +it):\n%s", what, end.Like.Namespace, diff)
			}
		}
		n.CheckForeign(t)
		n.CheckEvents(t, max(end.Told, 1))
		n.CheckGenerated(t)
		if end.Texts == nil {
			continue // what is left of it would differ from the golden state
		}
		n.checkTexts(t, what, func(texts []string) bool { return slices.Equal(texts, end.Texts) })
		n.checkStatus(t, what)
	}
	if wrong > 3 {
		t.Errorf("%d of %d came to another end", wrong, len(tenants))
	}
}

// blind is how long an operator may see nothing of a kind whose watch was cut: so long client-go waits at most before it
// watches again, and nobody can tell that it does.
const blind = 45 * time.Second

// ends returns the states that tenants come to rest in, which are like that of one of them if that can be waited for.
func (w *World) ends(t testing.TB, o *Operator, tenants []*Tenant, like *Tenant) map[string]State {
	t.Helper()
	for deadline := time.Now().Add(blind); ; {
		w.AwaitRest(t, o)
		states, err := w.States(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) || !slices.ContainsFunc(tenants, func(n *Tenant) bool {
			return !cmp.Equal(states[like.Namespace], states[n.Namespace])
		}) {
			return states
		}
	}
}

// CheckGenerated checks that what was generated for a tenant is what it was at the last check.
func (n *Tenant) CheckGenerated(t testing.TB) {
	t.Helper()
	now, err := n.Generated(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range now {
		if before, known := n.generated[name]; known && before != value {
			t.Errorf("%s: the generated value of %s has changed", n.Namespace, name)
		}
	}
	if len(now) > 0 {
		n.generated = now
	}
}

// checkTexts checks what the ConfigMaps of the addons say.
func (n *Tenant) checkTexts(t testing.TB, what string, right func(sorted []string) bool) {
	t.Helper()
	texts, err := n.Texts(t.Context())
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if slices.Sort(texts); !right(texts) {
		t.Errorf("%s: the addons of %s say %q", what, n.Namespace, texts)
	}
}

func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// checkStatus checks that the status of what the operator writes about a tenant is about what there is.
func (n *Tenant) checkStatus(t testing.TB, what string) {
	t.Helper()
	ctx := t.Context()
	for _, kind := range []string{v1alpha1.ClusterStackKind, v1alpha1.ClusterStackReleaseKind, v1alpha1.ClusterAddonKind} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
		if err := n.w.Client.List(ctx, list, client.InNamespace(n.Namespace)); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			if problem := dishonest(&o); problem != "" {
				t.Errorf("%s: %s %s: %s", what, kind, o.GetName(), problem)
			}
		}
	}
	addon := &v1alpha1.ClusterAddon{}
	key := client.ObjectKey{Namespace: n.Namespace, Name: v1alpha1.ClusterAddonName(ClusterName)}
	if err := n.w.Client.Get(ctx, key, addon); err != nil {
		t.Fatal(err)
	}
	objects, err := n.labelled(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if counted := addon.Status.Inventory; counted == nil || int(counted.Objects) != objects {
		t.Errorf("%s: the status counts %+v objects, there are %d", what, counted, objects)
	}
}

// dishonest says what is wrong with how the status of an object tells what it tells.
func dishonest(o *unstructured.Unstructured) string {
	if observed, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration"); observed != o.GetGeneration() {
		return fmt.Sprintf("the status is of generation %d, the object of %d", observed, o.GetGeneration())
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	if len(conditions) == 0 {
		return "it has no conditions"
	}
	for _, c := range conditions {
		condition, _ := c.(map[string]any)
		if condition["reason"] == nil || condition["message"] == nil || condition["observedGeneration"] != o.GetGeneration() {
			return fmt.Sprintf("the condition %v is not one of generation %d with a reason and a message", condition, o.GetGeneration())
		}
	}
	return ""
}

// labelled counts the objects of addons in the workload cluster.
func (n *Tenant) labelled(ctx context.Context) (int, error) {
	found := 0
	for _, kind := range []string{"ConfigMap", "Secret", "ServiceAccount"} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Version: corev1.SchemeGroupVersion.Version, Kind: kind})
		if err := n.Workload.List(ctx, list, client.MatchingLabels{v1alpha1.InstanceLabel: v1alpha1.InstanceOwned}); err != nil {
			return 0, err
		}
		for _, o := range list.Items {
			if _, foreign := n.foreign["workload "+o.GetName()]; !foreign {
				found++
			}
		}
	}
	return found, nil
}
