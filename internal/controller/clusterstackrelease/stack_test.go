// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestWhatOfAClusterStackWakesItsReleases(t *testing.T) {
	before := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "scs"},
		Spec:       v1alpha1.ClusterStackSpec{Source: &v1alpha1.ReleaseSource{OCI: &v1alpha1.OCISource{Repository: "r.example.org/stacks"}}},
	}
	for name, tt := range map[string]struct {
		change func(*v1alpha1.ClusterStack)
		want   bool
	}{
		"nothing":          {func(*v1alpha1.ClusterStack) {}, false},
		"its status":       {func(s *v1alpha1.ClusterStack) { s.Status.UsableVersions = "v1" }, false},
		"its versions":     {func(s *v1alpha1.ClusterStack) { s.Spec.Versions = []string{"v1"} }, false},
		"that it rests":    {func(s *v1alpha1.ClusterStack) { s.Spec.Paused = true }, true},
		"the annotation":   {func(s *v1alpha1.ClusterStack) { s.Annotations = map[string]string{clusterv1.PausedAnnotation: ""} }, true},
		"its source":       {func(s *v1alpha1.ClusterStack) { s.Spec.Source.OCI.Repository = "r.example.org/others" }, true},
		"its Secret":       {func(s *v1alpha1.ClusterStack) { s.Spec.Source.SecretRef = &v1alpha1.LocalReference{Name: "creds"} }, true},
		"whom it trusts":   {func(s *v1alpha1.ClusterStack) { s.Spec.Verify = &v1alpha1.Verification{PublicKeys: []string{"key"}} }, true},
		"no source at all": {func(s *v1alpha1.ClusterStack) { s.Spec.Source = nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			after := before.DeepCopy()
			tt.change(after)
			if got := stackChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != tt.want {
				t.Errorf("wakes: %t, want %t", got, tt.want)
			}
		})
	}
}

// Whom a ClusterStack trusts may stand in a ConfigMap, which changes without it.
func TestATrustedRootWakesTheReleasesThatItIsFor(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	ns := kinds.Namespace(t, c)
	for name, root := range map[string]string{"one": "root", "other": "other", "nobody": ""} {
		stack := &v1alpha1.ClusterStack{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "scs", KubernetesVersion: "1.35", NoProvider: true},
		}
		if root != "" {
			stack.Spec.Verify = &v1alpha1.Verification{TrustedRootRef: &v1alpha1.LocalReference{Name: root}}
		}
		if err := c.Create(t.Context(), stack); err != nil {
			t.Fatal(err)
		}
		release := &v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "docker-scs-1-35-v" + strconv.Itoa(len(name)), OwnerReferences: []metav1.OwnerReference{
			{APIVersion: v1alpha1.GroupVersion.String(), Kind: v1alpha1.ClusterStackKind, Name: name, UID: stack.UID},
		}}}
		if err := c.Create(t.Context(), release); client.IgnoreAlreadyExists(err) != nil {
			t.Fatal(err)
		}
	}
	r := &Reconciler{client: c}
	got := r.ofTrustedRoot(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "root"}})
	if len(got) != 1 || got[0].Name != "docker-scs-1-35-v3" {
		t.Errorf("woken: %v", got)
	}
	if got := r.ofTrustedRoot(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "root"}}); len(got) > 0 {
		t.Errorf("of another namespace: %v", got)
	}
}
