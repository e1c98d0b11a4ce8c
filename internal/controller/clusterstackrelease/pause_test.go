// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

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

// While clusterctl moves a class it is paused. Until it has brought the inventory, too, its objects must not be taken for
// somebody else's, which would stay when the release goes.
func TestReleaseOfAPausedClassIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	class := w.class()
	class.SetAnnotations(map[string]string{clusterv1.PausedAnnotation: ""})
	w.must(w.Update(t.Context(), class))
	w.must(w.Delete(t.Context(), w.template()))

	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.PausedCondition, v1alpha1.PausedReason, "the ClusterClass "+class.GetName()+" is paused")
	if w.template() != nil {
		t.Error("an object of a paused class was made again")
	}
	class = w.class()
	class.SetAnnotations(nil)
	w.must(w.Update(t.Context(), class))
	if obj, _, err = w.run(); err != nil || !obj.Status.Ready || w.template() == nil {
		t.Errorf("the class is paused no longer: ready %t, %v", obj.Status.Ready, err)
	}
}

// What clusterctl deletes here is in another management cluster by then. clusterctl removes the finalizer, too.
func TestReleaseThatIsMovedAwayKeepsItsClass(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	obj, _, err := w.run()
	w.must(err)
	obj.Annotations[clusterctlv1.DeleteForMoveAnnotation] = ""
	w.must(w.Update(t.Context(), obj))
	w.must(w.Delete(t.Context(), obj))
	if obj, _, err = w.run(); err != nil || len(obj.Finalizers) == 0 || w.class() == nil || w.template() == nil {
		t.Errorf("a release that is moved away was taken out: finalizers %v, class %v, %v", obj.Finalizers, w.class() != nil, err)
	}
	obj.Finalizers = nil
	w.must(w.Update(t.Context(), obj))
}
