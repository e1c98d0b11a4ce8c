// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
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
