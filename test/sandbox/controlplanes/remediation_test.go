// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplanes

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestRemediation switches off a worker and one of three control plane machines. Their kubelets are silent then, the
// real controller manager notices, with the times that it has by default, and the health checks of the Cluster have
// both machines replaced. Etcd keeps its quorum and what it knows.
func TestRemediation(t *testing.T) {
	t.Parallel()
	s := create(t, "remediated", 3, 2, newer, checkHealth)
	remember := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "remember"}, Data: map[string]string{"me": "yes"}}
	if err := s.workload.Create(t.Context(), remember); err != nil {
		t.Fatal(err)
	}

	dead := []string{s.controlPlaneMachines(t)[0], s.workers(t)[0]}
	begin := time.Now()
	s.switchOff(t, dead)
	clustertest.Await(t, s.workload, patience, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && (c.Status == corev1.ConditionUnknown) != slices.Contains(dead, n.Name) {
					return fmt.Errorf("node %s has Ready=%s: %s", n.Name, c.Status, c.Message)
				}
			}
		}
		return nil
	})
	t.Logf("silent kubelets were noticed after %s", took(begin))
	s.machines(t, func(machines []clusterv1.Machine) error {
		for _, m := range machines {
			if slices.Contains(dead, m.Name) {
				return fmt.Errorf("machine %s is still there", m.Name)
			}
		}
		return nil
	})
	t.Logf("dead machines were gone after %s", took(begin))
	s.await(t, 3, newer)
	t.Logf("replaced after %s", took(begin))
	s.verify(t, newer)
	if err := s.workload.Get(t.Context(), client.ObjectKeyFromObject(remember), remember); err != nil || remember.Data["me"] != "yes" {
		t.Errorf("what the cluster knew is lost: %v, %v", remember.Data, err)
	}
	s.delete(t)
}

// checkHealth has machines replaced whose kubelet is silent. A Node that only waits for something is left alone.
func checkHealth(topology *clusterv1.Topology) {
	silent := []clusterv1.UnhealthyNodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, TimeoutSeconds: ptr.To[int32](5)}}
	topology.ControlPlane.HealthCheck.Enabled = ptr.To(true)
	topology.ControlPlane.HealthCheck.Checks.UnhealthyNodeConditions = silent
	for i := range topology.Workers.MachineDeployments {
		check := &topology.Workers.MachineDeployments[i].HealthCheck
		check.Enabled = ptr.To(true)
		check.Checks.UnhealthyNodeConditions = silent
	}
}

// switchOff lets machines die, as csctl sandbox fail does.
func (s *subject) switchOff(t *testing.T, machines []string) {
	t.Helper()
	err := s.mgmt.Create(t.Context(), &failure.Failure{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: "switched-off"},
		Spec:       failure.Spec{ClusterName: s.Name, Type: failure.MachineDead, Machines: &failure.Machines{Names: machines}},
	})
	if err != nil {
		t.Fatal(err)
	}
}
