// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package trial tries a cluster stack in a management cluster where the operator runs: it creates a cluster from a
// release, moves it from release to release, and tells what happened at each step.
//
// Which releases there are, and the management cluster, are the caller's. It has to be one for trials: what is made in
// it is left as it is.
package trial

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/story"
)

// Step is one move of the cluster: the first step creates it, each other one upgrades it.
type Step struct {
	// Release that the cluster comes to. The operator has to find it where it looks for releases.
	Release release.Name
	// Kubernetes is the version of that release, such as "v1.35.4".
	Kubernetes string
}

// Options say what to try.
type Options struct {
	// Stack is "<provider>-<name>-<major>-<minor>", for the result.
	Stack string
	// Namespace that all is made in.
	Namespace string
	// Objects are applied before the first step, and the Cluster among them in it. Its class and version are those of the
	// step, whatever it says itself.
	Objects []*unstructured.Unstructured
	Steps   []Step
	// Limit is how long a step may take.
	Limit time.Duration
	// Report is told what happens.
	Report *story.Report
	// Told, if set, is given what is known whenever a step begins.
	Told func(Result)
}

// Run walks the steps until one fails. What the stack is to blame for is in the result; the error is about the management
// cluster, the input, or that ctx has ended. The result then has what is known, and at which step that was.
func Run(ctx context.Context, config *rest.Config, o Options) (Result, error) {
	result := Untried(o.Stack, o.Steps)
	err := run(ctx, config, o, &result)
	if err != nil {
		result.Break(err)
	}
	return result, err
}

// tellPatience bounds the time that it takes to find out what a step did, also after ctx has ended.
const tellPatience = 30 * time.Second

func run(ctx context.Context, config *rest.Config, o Options, result *Result) error {
	s, err := story.New(config, o.Report)
	if err != nil {
		return err
	}
	s.Seen = initialize
	t := &trial{Options: o, story: s}
	if err := t.prepare(ctx); err != nil {
		return err
	}
	for i, step := range o.Steps {
		r := &result.Steps[i]
		if o.Told != nil {
			o.Told(result.Unfinished())
		}
		o.Report.Chapter(r.Name)
		o.Report.Say("this may take %s", o.Limit)
		begin := time.Now()
		failed := t.walk(ctx, i, step)
		r.Seconds = time.Since(begin).Seconds()
		result.Seconds += r.Seconds
		telling, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), tellPatience, fmt.Errorf("the management cluster does not answer within %s", tellPatience))
		err := t.tell(telling, r, failed)
		if err != nil && telling.Err() != nil {
			err = context.Cause(telling)
		}
		if err != nil && failed != nil {
			err = fmt.Errorf("%w; and what came of the step cannot be told: %w", failed, err)
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			r.Outcome = Error
			return context.Cause(ctx)
		case err != nil:
			r.Outcome = Error
			return err
		case r.Outcome != Passed:
			return nil
		}
	}
	result.Passed = true
	return nil
}

type trial struct {
	Options
	story   *story.Story
	cluster *unstructured.Unstructured
	// before is how the cluster was at the end of the step before.
	before state
}

func (t *trial) key() client.ObjectKey { return client.ObjectKeyFromObject(t.cluster) }

// title is what is known of a step before it is tried.
func title(steps []Step, i int) StepResult {
	r := StepResult{Release: steps[i].Release.String(), Kubernetes: steps[i].Kubernetes, Outcome: Skipped}
	if i == 0 {
		r.Name = "create a cluster from " + r.Release
		return r
	}
	r.From = steps[i-1].Release.String()
	r.Name = fmt.Sprintf("upgrade from %s to %s", r.From, r.Release)
	return r
}

// Cluster returns the one Cluster among the objects. All are in the namespace of the trial, or in one that is among them.
func (o Options) Cluster() (*unstructured.Unstructured, error) {
	var cluster *unstructured.Unstructured
	namespaces := map[string]bool{"": true, o.Namespace: true, metav1.NamespaceDefault: true}
	for _, object := range o.Objects {
		if object.GetAPIVersion() == "v1" && object.GetKind() == "Namespace" {
			namespaces[object.GetName()] = true
		}
	}
	for _, object := range o.Objects {
		switch {
		case !isCluster(object) && !namespaces[object.GetNamespace()]:
			return nil, fmt.Errorf("%s %s is in the namespace %s: leave that out, what the Cluster of a trial needs is made in %s", object.GetKind(), object.GetName(), object.GetNamespace(), o.Namespace)
		case !isCluster(object):
		case cluster != nil:
			return nil, fmt.Errorf("there are two Clusters, %s and %s: a trial is that of one", cluster.GetName(), object.GetName())
		case object.GetNamespace() != "" && object.GetNamespace() != o.Namespace:
			return nil, fmt.Errorf("Cluster %s is in the namespace %s: leave that out, the Cluster of a trial is made in %s", object.GetName(), object.GetNamespace(), o.Namespace)
		default:
			cluster = object
		}
	}
	if cluster == nil {
		return nil, errors.New("there is no Cluster to try the stack with")
	}
	return cluster, nil
}

func isCluster(object *unstructured.Unstructured) bool {
	return object.GroupVersionKind().Group == clusterv1.GroupVersion.Group && object.GetKind() == clusterv1.ClusterKind
}

// prepare makes the namespace and what the Cluster needs in it.
func (t *trial) prepare(ctx context.Context) error {
	cluster, err := t.Cluster()
	if err != nil {
		return err
	}
	t.cluster = cluster.DeepCopy()
	t.cluster.SetNamespace(t.Namespace)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: t.Namespace}}
	if err := t.story.Client.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", t.Namespace, err)
	}
	for _, object := range t.Objects {
		if isCluster(object) {
			continue
		}
		object = object.DeepCopy()
		if namespaced, err := t.story.Client.IsObjectNamespaced(object); err == nil && namespaced && object.GetNamespace() == "" {
			object.SetNamespace(t.Namespace)
		}
		if err := t.apply(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) apply(ctx context.Context, object *unstructured.Unstructured) error {
	err := t.story.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("csctl-test"), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return nil
}

// walk takes one step. The error says why it did not come to its end.
func (t *trial) walk(ctx context.Context, i int, step Step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, t.Limit, story.NotThere(t.Limit))
	defer cancel()
	if err := t.subscribe(ctx, step.Release); err != nil {
		return err
	}
	if err := t.story.Released(ctx, t.Namespace, step.Release.String(), step.Release.ClassName()); err != nil {
		return fmt.Errorf("the release does not become ready: %w", err)
	}
	if i == 0 {
		if err := withClass(t.cluster, step); err != nil {
			return err
		}
		if err := t.apply(ctx, t.cluster); err != nil {
			return err
		}
	} else if err := t.story.Upgrade(ctx, t.key(), step.Release.ClassName(), step.Kubernetes); err != nil {
		return err
	}
	nodes, err := t.nodes(ctx)
	if err != nil {
		return err
	}
	goal := story.Goal{Class: step.Release.ClassName(), Version: step.Kubernetes, Nodes: nodes}
	return t.story.Reached(ctx, t.key(), goal, t.Limit+time.Second) // it is ctx that ends
}

// subscribe asks the operator for a release. One ClusterStack is that of all releases of one channel for one minor of
// Kubernetes.
func (t *trial) subscribe(ctx context.Context, name release.Name) error {
	channel := name.Version.Channel
	switch channel {
	case "":
		channel = string(v1alpha1.ChannelStable)
	case string(v1alpha1.ChannelBeta):
	default:
		channel = string(v1alpha1.ChannelCustom)
	}
	stack := &v1alpha1.ClusterStack{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: name.Prefix() + "-" + channel}}
	wanted := v1alpha1.ClusterStackSpec{
		Provider: name.Provider, Name: name.Stack, KubernetesVersion: name.Kubernetes,
		Channel: v1alpha1.Channel(channel), Versions: []string{name.Version.String()}, NoProvider: true,
	}
	err := t.story.Client.Get(ctx, client.ObjectKeyFromObject(stack), stack)
	if apierrors.IsNotFound(err) {
		stack.Spec = wanted
		return t.story.Client.Create(ctx, stack)
	}
	if err != nil {
		return err
	}
	before := stack.DeepCopy()
	stack.Spec.Versions = append(stack.Spec.Versions, name.Version.String())
	return t.story.Client.Patch(ctx, stack, client.MergeFrom(before))
}

// withClass puts the class and the version of a step into a Cluster of either API version.
func withClass(cluster *unstructured.Unstructured, step Step) error {
	class := []string{"spec", "topology", "classRef", "name"}
	if cluster.GroupVersionKind().Version == "v1beta1" {
		class = []string{"spec", "topology", "class"}
	}
	if err := unstructured.SetNestedField(cluster.Object, step.Release.ClassName(), class...); err != nil {
		return fmt.Errorf("Cluster %s: %w", cluster.GetName(), err)
	}
	if err := unstructured.SetNestedField(cluster.Object, step.Kubernetes, "spec", "topology", "version"); err != nil {
		return fmt.Errorf("Cluster %s: %w", cluster.GetName(), err)
	}
	return nil
}

// nodes is how many machines the Cluster asks for.
func (t *trial) nodes(ctx context.Context) (int, error) {
	cluster := &clusterv1.Cluster{}
	if err := t.story.Client.Get(ctx, t.key(), cluster); err != nil {
		return 0, err
	}
	count := func(replicas *int32) int {
		if replicas == nil {
			return 1
		}
		return int(*replicas)
	}
	nodes := count(cluster.Spec.Topology.ControlPlane.Replicas)
	for _, d := range cluster.Spec.Topology.Workers.MachineDeployments {
		nodes += count(d.Replicas)
	}
	for _, p := range cluster.Spec.Topology.Workers.MachinePools {
		nodes += count(p.Replicas)
	}
	return nodes, nil
}
