// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestNodesAreInitializedOnlyByAPodThatIsThereForIt(t *testing.T) {
	byName := []corev1.Toleration{{Key: uninitialized, Operator: corev1.TolerationOpExists}}
	for name, tt := range map[string]struct {
		tolerations []corev1.Toleration
		ready       corev1.ConditionStatus
		want        int // taints that are left
	}{
		"Ready":          {byName, corev1.ConditionTrue, 1},
		"NotReady":       {byName, corev1.ConditionFalse, 2},
		"ToleratesAll":   {[]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, corev1.ConditionTrue, 2},
		"ToleratesOther": {[]corev1.Toleration{{Key: "other", Operator: corev1.TolerationOpExists}}, corev1.ConditionTrue, 2},
	} {
		t.Run(name, func(t *testing.T) {
			node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{
				{Key: uninitialized, Value: "true", Effect: corev1.TaintEffectNoSchedule},
				{Key: "mine", Effect: corev1.TaintEffectNoSchedule},
			}}}
			c := fake.NewClientBuilder().WithObjects(&node).Build()
			nodes := &corev1.NodeList{}
			if err := c.List(t.Context(), nodes); err != nil {
				t.Fatal(err)
			}
			pod := corev1.Pod{Spec: corev1.PodSpec{Tolerations: tt.tolerations}}
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: tt.ready}}
			if err := initialize(t.Context(), c, nodes.Items, []corev1.Pod{pod}); err != nil {
				t.Fatal(err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(&node), &node); err != nil {
				t.Fatal(err)
			}
			if len(node.Spec.Taints) != tt.want {
				t.Errorf("taints %v are left, want %d", node.Spec.Taints, tt.want)
			}
		})
	}
}
