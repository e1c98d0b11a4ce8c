// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package failures proves that what a Failure breaks is told truthfully by Machines, Nodes and pods, and that all is
// well again once it is gone.
package failures

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	version = "v1.36.3"
	limit   = 5 * time.Minute
)

// stage is a cluster in which failures are rehearsed.
type stage struct {
	management *clustertest.Management
	cluster    types.NamespacedName
	workload   client.WithWatch
}

// rehearse creates a Failure and gives what ends it.
func (s stage) rehearse(t *testing.T, name string, spec failure.Spec) (heal func()) {
	t.Helper()
	spec.ClusterName = s.cluster.Name
	f := &failure.Failure{ObjectMeta: metav1.ObjectMeta{Namespace: s.cluster.Namespace, Name: name}, Spec: spec}
	if err := s.management.Create(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := s.management.Delete(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
}

// endsIn has a Failure that was seen end by itself, a while from now: however long it took to be seen.
func (s stage) endsIn(t *testing.T, name string, while time.Duration) {
	t.Helper()
	f := &failure.Failure{}
	if err := s.management.Get(t.Context(), types.NamespacedName{Namespace: s.cluster.Namespace, Name: name}, f); err != nil {
		t.Fatal(err)
	}
	before := f.DeepCopy()
	f.Spec.Duration = &metav1.Duration{Duration: time.Since(f.CreationTimestamp.Time).Round(time.Second) + while}
	if err := s.management.Patch(t.Context(), f, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// active waits until a Failure says that it hits something, or that it does not, for the reason given.
func (s stage) active(t *testing.T, name, reason string) {
	t.Helper()
	clustertest.Await(t, s.management, limit, &failure.FailureList{}, func(list *failure.FailureList) error {
		for _, f := range list.Items {
			if f.Name != name {
				continue
			}
			if c := meta.FindStatusCondition(f.Status.Conditions, failure.Active); c == nil || c.Reason != reason {
				return fmt.Errorf("%s is %+v", &f, c)
			}
			return nil
		}
		return fmt.Errorf("there is no Failure %s", name)
	}, client.InNamespace(s.cluster.Namespace))
}

// machine waits until a Machine is as wanted.
func (s stage) machine(t *testing.T, labels client.MatchingLabels, name string, wanted func(*clusterv1.Machine) error) *clusterv1.Machine {
	t.Helper()
	var found *clusterv1.Machine
	clustertest.Await(t, s.management, limit, &clusterv1.MachineList{}, func(list *clusterv1.MachineList) error {
		for i := range list.Items {
			if found = &list.Items[i]; name == "" || found.Name == name {
				return wanted(found)
			}
		}
		return fmt.Errorf("there is no Machine %s with %v", name, labels)
	}, client.InNamespace(s.cluster.Namespace), labels)
	return found
}

// node waits until a Node is as wanted.
func (s stage) node(t *testing.T, name string, wanted func(*corev1.Node) error) *corev1.Node {
	t.Helper()
	list := clustertest.Await(t, s.workload, limit, &corev1.NodeList{}, func(list *corev1.NodeList) error {
		if len(list.Items) == 0 {
			return fmt.Errorf("there is no Node %s", name)
		}
		return wanted(&list.Items[0])
	}, client.MatchingFields{"metadata.name": name})
	return &list.Items[0]
}

// pod waits until one pod is as wanted.
func (s stage) pod(t *testing.T, wanted func(*corev1.Pod) error, opts ...client.ListOption) {
	t.Helper()
	clustertest.Await(t, s.workload, limit, &corev1.PodList{}, func(list *corev1.PodList) error {
		if len(list.Items) != 1 {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		return wanted(&list.Items[0])
	}, opts...)
}

// staticPod waits until the mirror of a static pod is as wanted.
func (s stage) staticPod(t *testing.T, program, machine string, wanted func(*corev1.Pod) error) {
	t.Helper()
	s.pod(t, wanted, client.InNamespace(metav1.NamespaceSystem), client.MatchingFields{"metadata.name": program + "-" + machine})
}

// says wants a condition of a Machine.
func says(condition string, status metav1.ConditionStatus, reason string) func(*clusterv1.Machine) error {
	return func(m *clusterv1.Machine) error {
		c := conditions.Get(m, condition)
		if c == nil || c.Status != status || reason != "" && c.Reason != reason {
			return fmt.Errorf("Machine %s has %s: %+v, want %s %s", m.Name, condition, c, status, reason)
		}
		return nil
	}
}

// isNode wants the condition Ready of a Node.
func isNode(status corev1.ConditionStatus) func(*corev1.Node) error {
	return func(n *corev1.Node) error {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == status {
				return nil
			}
		}
		return fmt.Errorf("Node %s is not Ready=%s: %+v", n.Name, status, n.Status.Conditions)
	}
}

// isPod wants a phase of a pod, whether it is ready, and what its first container waits for, if it waits.
func isPod(phase corev1.PodPhase, ready bool, waiting string) func(*corev1.Pod) error {
	return func(p *corev1.Pod) error {
		isReady := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		waits := ""
		if len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil {
			waits = p.Status.ContainerStatuses[0].State.Waiting.Reason
		}
		if p.Status.Phase != phase || isReady != ready || waits != waiting {
			return fmt.Errorf("pod %s is %s, ready: %t, waits: %q; want %s, %t, %q", p.Name, p.Status.Phase, isReady, waits, phase, ready, waiting)
		}
		return nil
	}
}

// begin creates a cluster whose machines are as told.
func begin(t *testing.T, cluster *clusterv1.Cluster, failures ...failure.Failure) stage {
	t.Helper()
	s := stage{management: clustertest.New(t, sandboxtest.Management(t)), cluster: client.ObjectKeyFromObject(cluster)}
	s.management.Namespace(t, s.cluster.Namespace)
	clustertest.CreateClass(t, s.management, s.cluster.Namespace)
	for i := range failures {
		s.rehearse(t, failures[i].Name, failures[i].Spec)
	}
	if err := s.management.Create(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	s.workload = s.management.Workload(t, limit, s.cluster)
	clustertest.InstallNetwork(t, s.workload)
	return s
}

// machines gives the names of a cluster's Machines.
func (s stage) machines(t *testing.T, controlPlane bool) []string {
	t.Helper()
	var list clusterv1.MachineList
	if err := s.management.List(t.Context(), &list, client.InNamespace(s.cluster.Namespace)); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		if util.IsControlPlaneMachine(&list.Items[i]) == controlPlane {
			names = append(names, list.Items[i].Name)
		}
	}
	slices.Sort(names)
	return names
}
