// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// A release rests while it is paused, or while everybody is who asks for it.
func TestPausedIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	stacks := map[string]*v1alpha1.ClusterStack{}
	for _, name := range []string{"a", "b"} {
		stacks[name] = &v1alpha1.ClusterStack{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
			Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "starter", KubernetesVersion: "1.35", NoProvider: true, Paused: true},
		}
		w.must(w.Create(t.Context(), stacks[name]))
	}
	w.create(nil)
	obj := w.get()
	obj.Annotations = map[string]string{clusterv1.PausedAnnotation: ""}
	for _, name := range []string{"a", "b"} {
		obj.OwnerReferences = append(obj.OwnerReferences, metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ClusterStack", Name: name, UID: stacks[name].UID})
	}
	w.must(w.Update(t.Context(), obj))

	rests := func(message string) {
		t.Helper()
		obj, _, err := w.run()
		w.must(err)
		if obj.Status.Ready || len(obj.Finalizers) > 0 {
			t.Errorf("a paused release was worked on: ready %t, finalizers %v", obj.Status.Ready, obj.Finalizers)
		}
		is(t, obj, v1alpha1.PausedCondition, v1alpha1.PausedReason, message)
	}
	rests("the ClusterStackRelease is paused")
	obj = w.get()
	obj.Annotations = nil
	w.must(w.Update(t.Context(), obj))
	rests("is paused")

	stacks["a"].Spec.Paused = false
	w.must(w.Update(t.Context(), stacks["a"]))
	obj, _, err := w.run()
	w.must(err)
	if c := obj.Status.Conditions.Get(v1alpha1.PausedCondition); !obj.Status.Ready || c != nil {
		t.Errorf("one ClusterStack wants it: ready %t, condition %+v", obj.Status.Ready, c)
	}
}
