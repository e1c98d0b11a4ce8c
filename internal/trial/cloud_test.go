// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNodesAreInitializedOnlyByAPodThatIsThereForIt(t *testing.T) {
	byName := []corev1.Toleration{{Key: uninitialized, Operator: corev1.TolerationOpExists}}
	fresh := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{
		{Key: uninitialized, Value: "true", Effect: corev1.TaintEffectNoSchedule},
		{Key: "mine", Effect: corev1.TaintEffectNoSchedule},
	}}}
	known := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "known"}, Spec: corev1.NodeSpec{Taints: fresh.Spec.Taints[1:]}}
	for name, tt := range map[string]struct {
		tolerations []corev1.Toleration
		ready       corev1.ConditionStatus
		want        bool
	}{
		"Ready":          {byName, corev1.ConditionTrue, true},
		"NotReady":       {byName, corev1.ConditionFalse, false},
		"ToleratesAll":   {[]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, corev1.ConditionTrue, false},
		"ToleratesOther": {[]corev1.Toleration{{Key: "other", Operator: corev1.TolerationOpExists}}, corev1.ConditionTrue, false},
	} {
		t.Run(name, func(t *testing.T) {
			pod := corev1.Pod{Spec: corev1.PodSpec{Tolerations: tt.tolerations}}
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: tt.ready}}
			got := toInitialize([]corev1.Node{fresh, known}, []corev1.Pod{pod})
			if tt.want != (len(got) == 1 && got[0].Name == "fresh") || !tt.want && len(got) > 0 {
				t.Errorf("got %v", got)
			}
		})
	}
}
