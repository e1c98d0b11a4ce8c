// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// uninitialized is the taint of nodes that a cloud controller manager has not seen yet.
const uninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

// initialize does what a cloud controller manager does first, since pods run nothing: it takes the taint away from nodes.
func initialize(ctx context.Context, workload client.Client, nodes []corev1.Node, pods []corev1.Pod) error {
	for _, node := range toInitialize(nodes, pods) {
		before := node.DeepCopy()
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, isUninitialized)
		// Others take their taints away, too, and a list of taints is replaced as a whole.
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		if err := workload.Patch(ctx, node, patch); err != nil {
			return err
		}
	}
	return nil
}

// toInitialize returns the nodes with the taint, if a cloud controller manager would run. That is a pod which is ready and
// tolerates this very taint by its name; what tolerates all taints, such as a network, is none.
func toInitialize(nodes []corev1.Node, pods []corev1.Pod) []*corev1.Node {
	if !slices.ContainsFunc(pods, isCloudController) {
		return nil
	}
	var tainted []*corev1.Node
	for i := range nodes {
		if slices.ContainsFunc(nodes[i].Spec.Taints, isUninitialized) {
			tainted = append(tainted, &nodes[i])
		}
	}
	return tainted
}

func isUninitialized(taint corev1.Taint) bool { return taint.Key == uninitialized }

func isCloudController(pod corev1.Pod) bool {
	return podProblem(&pod) == "" && slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == uninitialized })
}
