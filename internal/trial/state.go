// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/ledger"
	"github.com/clusterstacks/cluster-stack-operator/internal/observe"
)

// state is how the cluster is at the end of a step.
type state struct {
	inventory map[apply.ID]apply.Entry
	machines  map[types.UID]Machine
}

// tell fills in what the step did, and why it failed if it did.
func (t *trial) tell(ctx context.Context, r *StepResult, failed error) error {
	now, err := t.look(ctx)
	if err != nil {
		return err
	}
	now.since(t.before, r)
	t.before = now
	r.Outcome = Passed
	if r.Unhealthy, err = t.unhealthy(ctx, now); err != nil && failed == nil {
		return err
	}
	if failed != nil {
		r.Outcome, r.Error = Failed, failed.Error()
		r.Problems = t.problems(ctx)
	}
	return nil
}

func (t *trial) look(ctx context.Context) (state, error) {
	s := state{inventory: map[apply.ID]apply.Entry{}, machines: map[types.UID]Machine{}}
	addon := &v1alpha1.ClusterAddon{}
	err := t.story.Client.Get(ctx, client.ObjectKey{Namespace: t.Namespace, Name: v1alpha1.ClusterAddonName(t.cluster.GetName())}, addon)
	if client.IgnoreNotFound(err) != nil {
		return s, err
	}
	if err == nil {
		kind := v1alpha1.GroupVersion.WithKind(v1alpha1.ClusterAddonKind)
		data, err := ledger.New(t.story.Client, t.story.Client, addon, kind, "inventory").Load(ctx)
		if err != nil {
			return s, err
		}
		inventory, err := apply.DecodeInventory(data)
		if err != nil {
			return s, err
		}
		for _, e := range inventory.Entries() {
			s.inventory[e.ID] = e
		}
	}
	machines := &clusterv1.MachineList{}
	if err := t.story.Client.List(ctx, machines, client.InNamespace(t.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: t.cluster.GetName()}); err != nil {
		return s, err
	}
	for i := range machines.Items {
		m := &machines.Items[i]
		role := "control plane"
		if _, is := m.Labels[clusterv1.MachineControlPlaneLabel]; !is {
			role = cmp.Or(m.Labels[clusterv1.ClusterTopologyMachineDeploymentNameLabel], m.Labels[clusterv1.ClusterTopologyMachinePoolNameLabel], "worker")
		}
		s.machines[m.UID] = Machine{Name: m.Name, Role: role, Version: m.Spec.Version}
	}
	return s, nil
}

// since tells what is another than it was before.
func (s state) since(before state, r *StepResult) {
	addons := map[string]int{}
	for _, id := range slices.SortedFunc(maps.Keys(s.inventory), apply.ID.Compare) {
		entry := s.inventory[id]
		addons[entry.Set]++
		switch was, there := before.inventory[id]; {
		case !there:
			r.Added = append(r.Added, id.String())
		case was.Hash != entry.Hash:
			r.Changed = append(r.Changed, id.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(addons)) {
		r.Addons = append(r.Addons, Addon{Name: name, Objects: addons[name]})
	}
	for _, id := range slices.SortedFunc(maps.Keys(before.inventory), apply.ID.Compare) {
		if _, there := s.inventory[id]; !there {
			r.Pruned = append(r.Pruned, id.String())
		}
	}
	for uid, machine := range before.machines {
		if _, there := s.machines[uid]; !there {
			r.Rolled = append(r.Rolled, machine)
		}
	}
	slices.SortFunc(r.Rolled, func(a, b Machine) int { return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name)) })
}

// reader reads objects of the workload cluster.
type reader struct{ client.Reader }

func (r reader) Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(gvk)
	return object, r.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
}

func (t *trial) unhealthy(ctx context.Context, s state) ([]Problem, error) {
	if len(s.inventory) == 0 {
		return nil, nil
	}
	workload, err := t.story.Workload(ctx, t.key())
	if err != nil {
		return nil, err
	}
	objects := make([]observe.Object, 0, len(s.inventory))
	for _, e := range s.inventory {
		objects = append(objects, observe.Object{GroupVersionKind: e.GroupVersionKind(), Namespace: e.Namespace, Name: e.Name})
	}
	found, err := observe.Health(ctx, reader{workload}, objects...)
	if err != nil {
		return nil, err
	}
	var problems []Problem
	for _, u := range found {
		problems = append(problems, Problem{Object: u.String(), Message: fmt.Sprintf("%s: %s", u.Status, u.Message)})
	}
	return problems, nil
}

// problems collects what the objects complain of. What cannot be asked is left out: something has failed already, and
// that may be why.
func (t *trial) problems(ctx context.Context) []Problem {
	var found []Problem
	add := func(kind, name, message string) {
		found = append(found, Problem{Object: kind + " " + name, Message: strings.ReplaceAll(message, "\n", " ")})
	}
	releases, addons := &v1alpha1.ClusterStackReleaseList{}, &v1alpha1.ClusterAddonList{}
	if t.story.Client.List(ctx, releases, client.InNamespace(t.Namespace)) == nil {
		for i := range releases.Items {
			complain(releases.Items[i].Status.Conditions, func(message string) { add("ClusterStackRelease", releases.Items[i].Name, message) })
		}
	}
	if t.story.Client.List(ctx, addons, client.InNamespace(t.Namespace)) == nil {
		for i := range addons.Items {
			addon := &addons.Items[i]
			complain(addon.Status.Conditions, func(message string) { add("ClusterAddon", addon.Name, message) })
			for _, stage := range addon.Status.Stages {
				if stage.Message != "" {
					add("Addon", stage.Name, stage.Message)
				}
			}
			for _, resource := range addon.Status.Resources {
				if resource.Error != "" {
					add(resource.Kind, resource.Name, resource.Error)
				}
			}
		}
	}
	cluster := &clusterv1.Cluster{}
	if t.story.Client.Get(ctx, t.key(), cluster) == nil {
		for _, kind := range []string{clusterv1.ClusterTopologyReconciledCondition, clusterv1.ClusterAvailableCondition} {
			if c := conditions.Get(cluster, kind); c != nil && c.Status == metav1.ConditionFalse && c.Message != "" {
				add("Cluster", cluster.Name, c.Type+": "+c.Message)
			}
		}
	}
	return append(found, t.workloadProblems(ctx)...)
}

func complain(list v1alpha1.Conditions, add func(string)) {
	for _, c := range list {
		if c.Status == metav1.ConditionFalse && c.Type != v1alpha1.ReadyCondition {
			add(fmt.Sprintf("%s: %s: %s", c.Type, c.Reason, c.Message))
		}
	}
}

// workloadProblems are nodes and pods that are not ready.
func (t *trial) workloadProblems(ctx context.Context) []Problem {
	workload, err := t.story.Workload(ctx, t.key())
	if err != nil {
		return nil
	}
	var found []Problem
	nodes, pods := &corev1.NodeList{}, &corev1.PodList{}
	if workload.List(ctx, nodes) == nil {
		for _, node := range nodes.Items {
			if slices.ContainsFunc(node.Spec.Taints, isUninitialized) {
				found = append(found, Problem{Object: "Node " + node.Name, Message: "waits for a cloud controller manager: no pod is ready that tolerates the taint " + uninitialized + " by its name"})
			}
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
					found = append(found, Problem{Object: "Node " + node.Name, Message: c.Reason + ": " + c.Message})
				}
			}
		}
	}
	if workload.List(ctx, pods) == nil {
		for i := range pods.Items {
			if message := podProblem(&pods.Items[i]); message != "" {
				found = append(found, Problem{Object: "Pod " + pods.Items[i].Namespace + "/" + pods.Items[i].Name, Message: message})
			}
		}
	}
	events := &eventsv1.EventList{}
	if workload.List(ctx, events) == nil {
		found = append(found, warnings(events.Items, time.Now())...)
	}
	return found
}

// Of warnings the last are told, of the time that Kubernetes may take to try something again.
const (
	maxWarnings   = 20
	recentWarning = 5 * time.Minute
)

// warnings are what controllers complain of in events, the last of each kind, in the order of the objects. Why a DaemonSet
// or a Job gets no pods stands nowhere else. That a pod finds no node, its conditions say.
func warnings(events []eventsv1.Event, now time.Time) []Problem {
	last := map[string]eventsv1.Event{}
	at := func(e eventsv1.Event) time.Time {
		times := []time.Time{e.EventTime.Time, e.DeprecatedLastTimestamp.Time}
		if e.Series != nil {
			times = append(times, e.Series.LastObservedTime.Time)
		}
		return slices.MaxFunc(times, time.Time.Compare)
	}
	for _, e := range events {
		if e.Type != corev1.EventTypeWarning || e.Reason == "FailedScheduling" || now.Sub(at(e)) > recentWarning {
			continue
		}
		key := strings.Join([]string{e.Regarding.Kind, e.Regarding.Namespace, e.Regarding.Name, e.Reason}, " ")
		if known, is := last[key]; !is || at(known).Before(at(e)) {
			last[key] = e
		}
	}
	keys := slices.SortedFunc(maps.Keys(last), func(a, b string) int { return at(last[b]).Compare(at(last[a])) })
	keys = keys[:min(len(keys), maxWarnings)]
	slices.Sort(keys)
	var found []Problem
	for _, key := range keys {
		e := last[key]
		name := strings.TrimPrefix(e.Regarding.Namespace+"/"+e.Regarding.Name, "/")
		found = append(found, Problem{Object: e.Regarding.Kind + " " + name, Message: fmt.Sprintf("event %s: %s", e.Reason, strings.Join(strings.Fields(e.Note), " "))})
	}
	return found
}

// podProblem says why a pod is not ready, empty if it is, or has done what it was for.
func podProblem(pod *corev1.Pod) string {
	if pod.Status.Phase == corev1.PodSucceeded {
		return ""
	}
	reason := string(pod.Status.Phase)
	for _, c := range pod.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			return ""
		case c.Status == corev1.ConditionFalse && c.Message != "":
			reason = c.Reason + ": " + c.Message
		}
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Waiting != nil && s.State.Waiting.Reason != "" {
			return strings.TrimSuffix(fmt.Sprintf("container %s: %s: %s", s.Name, s.State.Waiting.Reason, s.State.Waiting.Message), ": ")
		}
	}
	return cmp.Or(reason, "not started")
}
