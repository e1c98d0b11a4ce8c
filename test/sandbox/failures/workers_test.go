// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package failures

import (
	"errors"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/kubelet"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestWorkersAndPods rehearses in one cluster what goes wrong with workers, pods, and the infrastructure.
func TestWorkersAndPods(t *testing.T) {
	t.Parallel()
	pool := func(name string) client.MatchingLabels {
		return client.MatchingLabels{clusterv1.ClusterTopologyMachineDeploymentNameLabel: name}
	}
	of := func(name string) *failure.Machines {
		return &failure.Machines{Selector: &metav1.LabelSelector{MatchLabels: pool(name)}}
	}
	const delay = 15 * time.Second
	cluster := clustertest.NewCluster(types.NamespacedName{Namespace: "workers", Name: "workers"}, version, 1, 2)
	for _, name := range []string{"missing", "late"} {
		cluster.Spec.Topology.Workers.MachineDeployments = append(cluster.Spec.Topology.Workers.MachineDeployments,
			clusterv1.MachineDeploymentTopology{Class: clustertest.Workers, Name: name, Replicas: ptr.To(int32(1))})
	}
	s := begin(t, cluster,
		failure.Failure{ObjectMeta: metav1.ObjectMeta{Name: "missing"}, Spec: failure.Spec{Type: failure.MachineMissing, Machines: of("missing")}},
		failure.Failure{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Spec: failure.Spec{Type: failure.NodeMissing, Machines: of("late"), Delay: &metav1.Duration{Duration: delay}}},
	)
	first := s.machine(t, pool("md-0"), "", says(clusterv1.MachineNodeReadyCondition, metav1.ConditionTrue, ""))
	var second *clusterv1.Machine
	for _, name := range s.machines(t, false) {
		if m := s.machine(t, nil, name, func(*clusterv1.Machine) error { return nil }); name != first.Name && m.Labels[clusterv1.ClusterTopologyMachineDeploymentNameLabel] == "md-0" {
			second = s.machine(t, nil, name, says(clusterv1.MachineNodeReadyCondition, metav1.ConditionTrue, ""))
		}
	}
	if second == nil {
		t.Fatal("there is no second worker")
	}

	t.Run("MachineMissing", func(t *testing.T) {
		t.Parallel()
		m := s.machine(t, pool("missing"), "", says(clusterv1.MachineInfrastructureReadyCondition, metav1.ConditionFalse, "NotMade"))
		if m.Status.Phase != string(clusterv1.MachinePhaseProvisioning) {
			t.Errorf("Machine %s is %s", m.Name, m.Status.Phase)
		}
		s.active(t, "missing", failure.ReasonHits)
		if err := s.management.Delete(t.Context(), &failure.Failure{ObjectMeta: metav1.ObjectMeta{Namespace: s.cluster.Namespace, Name: "missing"}}); err != nil {
			t.Fatal(err)
		}
		s.machine(t, nil, m.Name, says(clusterv1.MachineNodeReadyCondition, metav1.ConditionTrue, ""))
	})

	t.Run("NodeLate", func(t *testing.T) {
		t.Parallel()
		m := s.machine(t, pool("late"), "", says(clusterv1.MachineNodeReadyCondition, metav1.ConditionTrue, ""))
		node := s.node(t, m.Name, isNode(corev1.ConditionTrue))
		due := conditions.Get(m, clusterv1.MachineBootstrapConfigReadyCondition).LastTransitionTime
		// Both times are without fractions of a second.
		if late := node.CreationTimestamp.Sub(due.Time); late < delay-time.Second {
			t.Errorf("the Node came %s after it was due, want %s", late, delay)
		}
	})

	t.Run("MachineDead", func(t *testing.T) {
		t.Parallel()
		before := s.node(t, first.Name, isNode(corev1.ConditionTrue))
		resident := s.create(t, "resident", first.Name)
		s.pod(t, isPod(corev1.PodRunning, true, ""), resident)
		heal := s.rehearse(t, "dead", failure.Spec{Type: failure.MachineDead, Machines: &failure.Machines{Names: []string{first.Name}}})
		s.active(t, "dead", failure.ReasonHits)
		s.node(t, first.Name, isNode(corev1.ConditionUnknown))
		s.machine(t, nil, first.Name, says(clusterv1.MachineNodeReadyCondition, metav1.ConditionUnknown, ""))
		s.pod(t, isPod(corev1.PodRunning, false, ""), resident) // nobody knows better than that it ran
		heal()
		after := s.node(t, first.Name, isNode(corev1.ConditionTrue))
		if after.UID != before.UID || after.Status.NodeInfo.BootID == before.Status.NodeInfo.BootID {
			t.Errorf("it is another Node (%t), or has not booted (%s)", after.UID != before.UID, after.Status.NodeInfo.BootID)
		}
		s.machine(t, nil, first.Name, says(clusterv1.MachineNodeReadyCondition, metav1.ConditionTrue, ""))
		s.pod(t, func(p *corev1.Pod) error {
			if c := p.Status.ContainerStatuses[0]; c.RestartCount != 1 || c.State.Running == nil {
				return fmt.Errorf("its container has not been started again: %+v", c)
			}
			return isPod(corev1.PodRunning, true, "")(p)
		}, resident)
	})

	t.Run("InfraMachineError", func(t *testing.T) {
		t.Parallel()
		heal := s.rehearse(t, "quota", failure.Spec{
			Type: failure.InfraMachineError, Reason: "QuotaExceeded", Message: "no more volumes",
			Machines: &failure.Machines{Names: []string{second.Name}},
		})
		m := s.machine(t, nil, second.Name, says(clusterv1.MachineInfrastructureReadyCondition, metav1.ConditionFalse, "QuotaExceeded"))
		if c := conditions.Get(m, clusterv1.MachineInfrastructureReadyCondition); c.Message != "no more volumes" {
			t.Errorf("the message is %q", c.Message)
		}
		heal()
		s.machine(t, nil, second.Name, says(clusterv1.MachineInfrastructureReadyCondition, metav1.ConditionTrue, ""))
	})

	t.Run("InfraClusterError", func(t *testing.T) {
		t.Parallel()
		s.rehearse(t, "network", failure.Spec{Type: failure.InfraClusterError, Reason: "NetworkDown"})
		s.management.AwaitCluster(t, limit, s.cluster, func(c *clusterv1.Cluster) error {
			if condition := conditions.Get(c, clusterv1.ClusterInfrastructureReadyCondition); condition.Reason != "NetworkDown" {
				return fmt.Errorf("%+v", condition)
			}
			return nil
		})
		s.endsIn(t, "network", 3*time.Second)
		s.management.AwaitCluster(t, limit, s.cluster, clustertest.Holds(clusterv1.ClusterInfrastructureReadyCondition))
		s.active(t, "network", failure.ReasonEnded)
	})

	t.Run("Pods", func(t *testing.T) {
		t.Parallel()
		pods(t, s, second.Name) // on a machine that nobody switches off
	})
}

// create makes a pod on a machine, and gives what to find it by.
func (s stage) create(t *testing.T, name, machine string, changes ...func(*corev1.Pod)) client.ListOption {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName:   machine,
			Containers: []corev1.Container{{Name: "main", Image: "example.com/app:1"}},
		},
	}
	for _, change := range changes {
		change(pod)
	}
	if err := s.workload.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return client.MatchingLabels{"app": name}
}

func pods(t *testing.T, s stage, machine string) {
	for _, c := range []struct {
		kind       failure.Type
		annotation kubelet.FaultKind
		broken     func(*corev1.Pod) error
	}{
		{failure.PodNotReady, kubelet.NotReady, isPod(corev1.PodRunning, false, "")},
		{failure.PodCrashLoop, kubelet.CrashLoop, isPod(corev1.PodRunning, false, "CrashLoopBackOff")},
		{failure.PodImagePull, kubelet.ImagePull, isPod(corev1.PodPending, false, "ImagePullBackOff")},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			name := string(c.annotation)
			heal := s.rehearse(t, name, failure.Spec{
				Type: c.kind, Pods: &failure.Pods{Namespace: metav1.NamespaceDefault, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
			})
			s.active(t, name, failure.ReasonNothingToHit)
			pod := s.create(t, name, machine)
			s.pod(t, c.broken, pod)
			s.active(t, name, failure.ReasonHits)
			heal()
			s.pod(t, isPod(corev1.PodRunning, true, ""), pod)
		})
		t.Run(string(c.kind)+"ByAnnotation", func(t *testing.T) {
			t.Parallel()
			pod := s.create(t, "annotated-"+string(c.annotation), machine, func(p *corev1.Pod) {
				p.Annotations = map[string]string{kubelet.FaultAnnotation: string(c.annotation)}
			})
			s.pod(t, c.broken, pod)
		})
	}
	t.Run("Job", func(t *testing.T) {
		t.Parallel()
		job := &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "fails"},
			Spec: batchv1.JobSpec{
				BackoffLimit: ptr.To(int32(1)),
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{kubelet.FaultAnnotation: string(kubelet.CrashLoop)}},
					Spec: corev1.PodSpec{
						RestartPolicy: corev1.RestartPolicyNever, NodeName: machine,
						Containers: []corev1.Container{{Name: "main", Image: "example.com/job:1"}},
					},
				},
			},
		}
		if err := s.workload.Create(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		clustertest.Await(t, s.workload, limit, &batchv1.JobList{}, func(jobs *batchv1.JobList) error {
			for _, j := range jobs.Items {
				for _, c := range j.Status.Conditions {
					if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue && c.Reason == batchv1.JobReasonBackoffLimitExceeded && j.Status.Failed == 2 {
						return nil
					}
				}
			}
			return errors.New("the Job has not failed")
		})
	})
}
