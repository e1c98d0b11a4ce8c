// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package story walks the main job as a user would and tells what happens meanwhile: a release of a
// cluster stack becomes a ClusterClass, a Cluster that uses it comes up with its addons, and goes through
// upgrades. The quickstart tells it to people, the end-to-end tests tell it to themselves.
//
// It only applies objects and looks at the API; bringing up a management cluster and building releases is
// the caller's.
package story

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// look is how often the story looks at the cluster again.
const look = 250 * time.Millisecond

// Story is one walk through the main job in one management cluster.
type Story struct {
	Client client.Client
	Report *Report
	// Seen, if set, is told the nodes and pods of a workload cluster each time that they were looked at, and may change
	// them. Its error counts as if the cluster could not be reached: it is looked at again.
	Seen func(ctx context.Context, workload client.Client, nodes []corev1.Node, pods []corev1.Pod) error

	workloads map[client.ObjectKey]client.Client
	told      map[types.UID]bool // events
}

// New connects to the management cluster.
func New(config *rest.Config, report *Report) (*Story, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, clusterv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	config = rest.CopyConfig(config)
	config.WarningHandler = rest.NoWarnings{} // the story is not about deprecations
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	return &Story{Client: c, Report: report, workloads: map[client.ObjectKey]client.Client{}, told: map[types.UID]bool{}}, nil
}

// Apply applies the manifests of a file as a user does with kubectl.
func (s *Story) Apply(ctx context.Context, files fs.FS, name string) error {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return err
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := s.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("story"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s: %s %s: %w", name, object.GetKind(), object.GetName(), err)
		}
		s.Report.Say("applied %s %s", object.GetKind(), object.GetName())
	}
}

// Watch looks again and again, says what changed, and returns when done holds. It gives up after limit, or when ctx
// ends, with what it saw last.
func (s *Story) Watch(ctx context.Context, limit time.Duration, facts func(context.Context) (Facts, bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, NotThere(limit))
	defer cancel()
	var last Facts
	var lastErr error
	for {
		now, done, err := facts(ctx)
		if ctx.Err() == nil { // else the look was cut off, which says nothing
			lastErr = err
		}
		if err == nil {
			for _, line := range changes(last, now) {
				s.Report.Say("%s", line)
			}
			if last = now; done {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return context.Cause(ctx)
			}
			why := context.Cause(ctx)
			if len(last) > 0 {
				why = fmt.Errorf("%w; last seen: %s", why, strings.Join(changes(nil, last), "; "))
			}
			if lastErr != nil {
				why = fmt.Errorf("%w: %w", why, lastErr)
			}
			return why
		case <-time.After(look):
		}
	}
}

// NotThere is the error of what was waited for in vain. Who gives a context a deadline gives it as the cause.
func NotThere(limit time.Duration) error { return fmt.Errorf("not there after %s", limit) }

// Released waits until a release is there for use: the ClusterStackRelease is ready and its class exists. It gives up at
// the deadline of ctx, and after three minutes where that has none.
func (s *Story) Released(ctx context.Context, namespace, release, class string) error {
	limit := 3 * time.Minute
	if deadline, is := ctx.Deadline(); is {
		limit = time.Until(deadline) + time.Second // it is ctx that ends
	}
	return s.Watch(ctx, limit, func(ctx context.Context) (Facts, bool, error) {
		facts := Facts{}
		cskr := &v1alpha1.ClusterStackRelease{}
		err := s.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: release}, cskr)
		if client.IgnoreNotFound(err) != nil {
			return nil, false, err
		}
		if err == nil {
			facts["ClusterStackRelease "+release] = ready(cskr.GetConditions(), cskr.Status.Ready)
			if cskr.Status.Digest != "" {
				facts["Release "+release] = fmt.Sprintf("%s from %s", cskr.Status.Digest, cskr.Status.Source)
			}
		}
		clusterClass := &clusterv1.ClusterClass{}
		err = s.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: class}, clusterClass)
		if client.IgnoreNotFound(err) != nil {
			return nil, false, err
		}
		if err != nil {
			return facts, false, nil
		}
		reconciled := conditions.IsTrue(clusterClass, clusterv1.ClusterClassVariablesReadyCondition)
		facts["ClusterClass "+class] = "applied"
		if reconciled {
			facts["ClusterClass "+class] = "applied, variables ready"
		}
		return facts, cskr.Status.Ready && reconciled, nil
	})
}

// Goal is what a cluster shall be when a walk ends.
type Goal struct {
	Class   string // of its topology
	Version string // of Kubernetes, on every node
	Nodes   int
}

// Reached waits until a cluster is what the goal says, with its addons, and tells how it came about.
func (s *Story) Reached(ctx context.Context, cluster client.ObjectKey, goal Goal, limit time.Duration) error {
	return s.Watch(ctx, limit, func(ctx context.Context) (Facts, bool, error) {
		return s.see(ctx, cluster, goal)
	})
}

func (s *Story) see(ctx context.Context, key client.ObjectKey, goal Goal) (Facts, bool, error) {
	facts := Facts{}
	cluster := &clusterv1.Cluster{}
	if err := s.Client.Get(ctx, key, cluster); err != nil {
		return nil, false, err
	}
	if err := s.tellEvents(ctx, key); err != nil {
		return nil, false, err
	}
	available := conditions.IsTrue(cluster, clusterv1.ClusterAvailableCondition)
	facts["Cluster"] = clusterState(cluster)
	topology := conditions.Get(cluster, clusterv1.ClusterTopologyReconciledCondition)
	if topology != nil && topology.Reason == clusterv1.ClusterTopologyReconciledClusterUpgradingReason {
		facts["Cluster upgrade"] = firstLine(topology.Message)
	}
	// Only when Cluster API has looked at this generation are the objects below what the user asked for.
	settled := topology != nil && topology.Status == metav1.ConditionTrue && topology.ObservedGeneration == cluster.Generation
	rolled, err := s.seeRollouts(ctx, cluster, facts)
	if err != nil {
		return nil, false, err
	}

	machines := &clusterv1.MachineList{}
	if err := s.Client.List(ctx, machines, client.InNamespace(key.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: key.Name}); err != nil {
		return nil, false, err
	}
	upToDate := len(machines.Items) == goal.Nodes
	for i := range machines.Items {
		machine := &machines.Items[i]
		role := "worker"
		if _, ok := machine.Labels[clusterv1.MachineControlPlaneLabel]; ok {
			role = "control plane"
		}
		fact := fmt.Sprintf("%s %s, %s", role, machine.Spec.Version, cmp.Or(machine.Status.Phase, "created"))
		if deleting := conditions.Get(machine, clusterv1.MachineDeletingCondition); deleting != nil && deleting.Status == metav1.ConditionTrue {
			// The message lists every pod, and has times in it, so the same would be told again and again.
			fact += " (" + words(deleting.Reason) + ")"
		}
		facts["Machine "+machine.Name] = fact
		upToDate = upToDate && machine.Spec.Version == goal.Version && conditions.IsTrue(machine, clusterv1.MachineUpToDateCondition)
	}

	addonsDone, err := s.seeAddons(ctx, key, goal, facts)
	if err != nil {
		return nil, false, err
	}
	nodesReady, podsReady, err := s.seeWorkload(ctx, key, goal, facts)
	if err != nil {
		// The API server of the workload cluster comes, and goes for a moment when its machine is replaced.
		facts["API server of "+key.Name] = "not reachable"
	} else if _, connected := facts["Nodes"]; connected {
		facts["API server of "+key.Name] = "reachable"
	}
	return facts, err == nil && available && settled && rolled && upToDate && addonsDone && nodesReady && podsReady, nil
}

// seeRollouts looks at the control plane and the groups of workers: has everything that they ask for come about?
func (s *Story) seeRollouts(ctx context.Context, cluster *clusterv1.Cluster, facts Facts) (done bool, err error) {
	ref := cluster.Spec.ControlPlaneRef
	if !ref.IsDefined() {
		return false, nil
	}
	mapping, err := s.Client.RESTMapper().RESTMapping(schema.GroupKind{Group: ref.APIGroup, Kind: ref.Kind})
	if err != nil {
		return false, err
	}
	plane := &unstructured.Unstructured{}
	plane.SetGroupVersionKind(mapping.GroupVersionKind)
	if err := s.Client.Get(ctx, client.ObjectKey{Namespace: cluster.Namespace, Name: ref.Name}, plane); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	version, _, err := unstructured.NestedString(plane.Object, "spec", "version")
	if err != nil {
		return false, err
	}
	facts["Control plane"] = "Cluster API asks for " + version
	done = rolledOut(plane.Object)

	workers := &clusterv1.MachineDeploymentList{}
	if err := s.Client.List(ctx, workers, client.InNamespace(cluster.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: cluster.Name}); err != nil {
		return false, err
	}
	for i := range workers.Items {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&workers.Items[i])
		if err != nil {
			return false, err
		}
		done = done && rolledOut(object)
	}
	return done, nil
}

// words writes a reason, such as DrainingNode, as a person does: "draining node".
func words(reason string) string {
	var text strings.Builder
	for i, r := range reason {
		if unicode.IsUpper(r) && i > 0 {
			text.WriteByte(' ')
		}
		text.WriteRune(unicode.ToLower(r))
	}
	return text.String()
}

// rolledOut says whether a control plane or a group of workers has just the machines that it asks for, by the
// fields of Cluster API's contract.
func rolledOut(object map[string]any) bool {
	number := func(path ...string) int64 {
		n, _, err := unstructured.NestedInt64(object, path...)
		if err != nil {
			return -1
		}
		return n
	}
	wanted := number("spec", "replicas")
	return number("status", "observedGeneration") == number("metadata", "generation") &&
		number("status", "replicas") == wanted && number("status", "upToDateReplicas") == wanted && number("status", "availableReplicas") == wanted
}

// tellEvents says what the operator reported of a cluster since the last look.
func (s *Story) tellEvents(ctx context.Context, key client.ObjectKey) error {
	list := &eventsv1.EventList{}
	if err := s.Client.List(ctx, list, client.InNamespace(key.Namespace)); err != nil {
		return err
	}
	slices.SortFunc(list.Items, func(a, b eventsv1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
	for _, e := range list.Items {
		rollout := e.Reason == v1alpha1.RolloutStartedReason || e.Reason == v1alpha1.RolloutFinishedReason
		if !rollout || e.Regarding.Kind != "Cluster" || e.Regarding.Name != key.Name || s.told[e.UID] {
			continue
		}
		s.told[e.UID] = true
		s.Report.Say("Event: %s: %s", e.Reason, e.Note)
	}
	return nil
}

func (s *Story) seeAddons(ctx context.Context, key client.ObjectKey, goal Goal, facts Facts) (bool, error) {
	addon := &v1alpha1.ClusterAddon{}
	err := s.Client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: "cluster-addon-" + key.Name}, addon)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	facts["ClusterAddon"] = ready(addon.GetConditions(), addon.Status.Ready)
	for _, stage := range addon.Status.Stages {
		facts["Addon "+stage.Name] = string(stage.Phase)
	}
	return addon.Status.Ready && addon.Spec.ClusterStack == goal.Class, nil
}

func (s *Story) seeWorkload(ctx context.Context, key client.ObjectKey, goal Goal, facts Facts) (nodesReady, podsReady bool, err error) {
	workload, err := s.Workload(ctx, key)
	if apierrors.IsNotFound(err) {
		return false, false, nil // not yet
	}
	if err != nil {
		return false, false, err
	}
	nodes := &corev1.NodeList{}
	if err := workload.List(ctx, nodes); err != nil {
		return false, false, err
	}
	nodesReady = len(nodes.Items) == goal.Nodes
	up := 0
	for _, node := range nodes.Items {
		isReady := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if isReady {
			up++
		}
		nodesReady = nodesReady && isReady && node.Status.NodeInfo.KubeletVersion == goal.Version
	}
	facts["Nodes"] = fmt.Sprintf("%d of %d ready", up, len(nodes.Items))
	pods := &corev1.PodList{}
	if err := workload.List(ctx, pods); err != nil {
		return false, false, err
	}
	running, done := countPods(pods.Items)
	told := fmt.Sprintf("%d of %d ready", running, len(pods.Items)-done)
	if done > 0 {
		told += fmt.Sprintf(", %d done", done)
	}
	facts["Pods"] = told
	if s.Seen != nil {
		if err := s.Seen(ctx, workload, nodes.Items, pods.Items); err != nil {
			return false, false, err
		}
	}
	return nodesReady, running > 0 && running+done == len(pods.Items), nil
}

// countPods counts pods that are ready, and those that are done: a pod of a Job has ended, and is never ready again.
func countPods(pods []corev1.Pod) (ready, done int) {
	for _, pod := range pods {
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			done++
		case slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}):
			ready++
		}
	}
	return ready, done
}

// Workload connects to a workload cluster by the kubeconfig that Cluster API made.
func (s *Story) Workload(ctx context.Context, key client.ObjectKey) (client.Client, error) {
	if c, ok := s.workloads[key]; ok {
		return c, nil
	}
	secret := &corev1.Secret{}
	if err := s.Client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name + "-kubeconfig"}, secret); err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["value"])
	if err != nil {
		return nil, err
	}
	config.Timeout = 5 * time.Second
	config.WarningHandler = rest.NoWarnings{}
	c, err := client.New(config, client.Options{Scheme: s.Client.Scheme()})
	if err != nil {
		return nil, err
	}
	s.workloads[key] = c
	return c, nil
}

// Upgrade sets class and version of a cluster's topology in one edit.
func (s *Story) Upgrade(ctx context.Context, key client.ObjectKey, class, version string) error {
	cluster := &clusterv1.Cluster{}
	if err := s.Client.Get(ctx, key, cluster); err != nil {
		return err
	}
	before := cluster.DeepCopy()
	cluster.Spec.Topology.ClassRef.Name = class
	cluster.Spec.Topology.Version = version
	if err := s.Client.Patch(ctx, cluster, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("change the topology of Cluster %s: %w", key, err)
	}
	s.Report.Say("Cluster %s: class %s, version %s", key.Name, class, version)
	return nil
}

// Delete deletes a cluster and waits until nothing is left of it.
func (s *Story) Delete(ctx context.Context, key client.ObjectKey) error {
	cluster := &clusterv1.Cluster{}
	cluster.Namespace, cluster.Name = key.Namespace, key.Name
	if err := s.Client.Delete(ctx, cluster); err != nil {
		return err
	}
	delete(s.workloads, key)
	return s.Watch(ctx, 3*time.Minute, func(ctx context.Context) (Facts, bool, error) {
		err := s.Client.Get(ctx, key, cluster)
		if apierrors.IsNotFound(err) {
			return Facts{}, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		return Facts{"Cluster": clusterState(cluster)}, false, nil
	})
}

func clusterState(cluster *clusterv1.Cluster) string {
	words := []string{cmp.Or(cluster.Status.Phase, "created")}
	if conditions.IsTrue(cluster, clusterv1.ClusterControlPlaneInitializedCondition) {
		words = append(words, "control plane initialized")
	}
	if conditions.IsTrue(cluster, clusterv1.ClusterAvailableCondition) {
		words = append(words, "available")
	}
	if conditions.IsTrue(cluster, clusterv1.ClusterRollingOutCondition) {
		words = append(words, "rolling out")
	}
	return strings.Join(words, ", ")
}

// ready puts the Ready condition in words.
func ready(list v1alpha1.Conditions, isReady bool) string {
	if isReady {
		return "ready"
	}
	for _, c := range list {
		if c.Type == "Ready" {
			return strings.TrimSuffix(fmt.Sprintf("not ready, %s: %s", c.Reason, firstLine(c.Message)), ": ")
		}
	}
	return "not ready"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
