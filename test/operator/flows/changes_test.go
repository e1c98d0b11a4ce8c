// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// TestReleasesChangeAtTheSource: one is published again with other content, another one goes while the operator loses its
// store. Both are in use.
func TestReleasesChangeAtTheSource(t *testing.T) {
	world := operatortest.New(t)
	first := world.Live(t)
	moved := &flow{T: t, World: world, operator: first, name: "moved"}
	moved.publish("1-35-v1", addon("cni", "1"))
	m := moved.begins([]string{"v1"}, "cni: 1")
	gone := &flow{T: t, World: world, operator: first, name: "gone"}
	gone.publish("1-35-v1", addon("cni", "1"), addon("metrics", "1"))
	gone.publish("1-35-v2", addon("cni", "2"))
	g := gone.begins([]string{"v1", "v2"}, "cni: 1", "metrics: 1")
	leaves := gone.begins([]string{"v1"}, "cni: 1", "metrics: 1")
	first.End()

	// The author has corrected the release under its name. The content that is in use stays; a new version brings the
	// correction, and so does the old one once it was deleted.
	moved.publish("1-35-v1", addon("cni", "corrected"))
	moved.publish("1-35-v2", addon("cni", "2"))
	moved.operator = world.Live(t)
	rel := apitest.ClusterStackRelease(m.Namespace, moved.tag("1-35-v1"))
	moved.eventually("the change is told", func() bool {
		moved.get(rel)
		c := rel.Status.Conditions.Get(v1alpha1.SourceUnchangedCondition)
		return c != nil && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReleaseMovedReason
	})
	if !rel.Status.Ready {
		t.Errorf("the release is not ready any more: %v", rel.Status.Conditions)
	}
	moved.reached(m, moved.class("1-35-v1"), "cni: 1")
	stack := moved.stack("1.35")
	stack.Namespace = m.Namespace
	moved.want(stack, "v1", "v2")
	moved.eventually("the second version is usable", func() bool { moved.get(stack); return stack.Status.UsableVersions == "v1, v2" })
	m.Use(t, moved.class("1-35-v2"), k135)
	moved.reached(m, moved.class("1-35-v2"), "cni: 2")
	if err := world.Client.Delete(t.Context(), rel); err != nil {
		t.Fatal(err)
	}
	moved.eventually("the first version is there again, as it is now", func() bool {
		again := apitest.ClusterStackRelease(m.Namespace, rel.Name)
		return world.Client.Get(t.Context(), client.ObjectKeyFromObject(again), again) == nil && again.UID != rel.UID && again.Status.Ready
	})
	m.Use(t, moved.class("1-35-v1"), k135)
	moved.reached(m, moved.class("1-35-v1"), "cni: corrected")
	moved.deleted(m)
	moved.operator.End()

	// Nobody has the release any more. Clusters stay as they are and are said to be; they can leave it and go, but not
	// come to it.
	if err := os.RemoveAll(filepath.Join(gone.Releases, gone.tag("1-35-v1"))); err != nil {
		t.Fatal(err)
	}
	before := gone.standing(g)
	gone.operator = world.Live(t, "--store-dir="+t.TempDir())
	gone.Await(t, gone.operator, []*operatortest.Tenant{g, leaves}, func(_ *operatortest.Tenant, a *v1alpha1.ClusterAddon) string {
		if c := a.Status.Conditions.Get(v1alpha1.ClusterStackReleaseDownloadedCondition); c == nil || !strings.Contains(c.Message, "cannot be opened at present") {
			return "the loss is not told: " + operatortest.Describe(a)
		}
		return ""
	})
	if diff := cmp.Diff(before, gone.standing(g)); diff != "" {
		t.Errorf("what a lost release has changed (-before +after):\n%s", diff)
	}
	gone.deleted(leaves)
	g.Use(t, gone.class("1-35-v2"), k135)
	gone.reached(g, gone.class("1-35-v2"), "cni: 2")
	g.Use(t, gone.class("1-35-v1"), k135)
	gone.told(g, gone.tag("1-35-v1"))
	g.Use(t, gone.class("1-35-v2"), k135)
	gone.reached(g, gone.class("1-35-v2"), "cni: 2")
	gone.deleted(g)
}

// standing is what is said of the cluster of a tenant and since when, and the versions of the objects in it.
func (f *flow) standing(n *operatortest.Tenant) map[string]string {
	f.Helper()
	found := map[string]string{}
	a := &v1alpha1.ClusterAddon{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: v1alpha1.ClusterAddonName(operatortest.ClusterName)}}
	f.get(a)
	rel := apitest.ClusterStackRelease(n.Namespace, f.tag("1-35-v1"))
	f.get(rel)
	for kind, conditions := range map[string]v1alpha1.Conditions{"ClusterAddon": a.Status.Conditions, "ClusterStackRelease": rel.Status.Conditions} {
		for _, c := range conditions {
			if c.Type != v1alpha1.SourceUnchangedCondition {
				found[kind+" "+c.Type] = fmt.Sprintf("%s since %s", c.Status, c.LastTransitionTime)
			}
		}
	}
	found["ready"] = fmt.Sprint(a.Status.Ready, rel.Status.Ready)
	found["record"] = a.Annotations[v1alpha1.RolloutAnnotation]
	list := &corev1.ConfigMapList{}
	if err := n.Workload.List(f.Context(), list); err != nil {
		f.Fatal(err)
	}
	for name, version := range operatortest.Versions("ConfigMap", list) {
		found[name] = version
	}
	return found
}
