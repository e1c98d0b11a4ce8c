// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/observe"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/workload"
)

// evaluateGate evaluates the condition before or after a stage. What makes that impossible is noted as a
// failure of the stage, which then holds up those behind it as an unmet condition does.
func (w *work) evaluateGate(ctx context.Context, move rollout.Evaluate) {
	condition, reason := move.Stage.PostCondition, v1alpha1.WaitingForPostConditionReason
	if move.Before {
		condition, reason = move.Stage.PreCondition, v1alpha1.WaitingForPreConditionReason
	}
	result := rollout.Bad
	defer func() {
		w.note(move.Stage.Name, func(p *rollout.Progress) {
			if move.Before {
				p.Pre = result
			} else {
				p.Post = result
			}
		})
	}()
	fail := func(reason string, err error) {
		w.failures = append(w.failures, failure{stage: move.Stage.Name, reason: reason, err: err, gate: true})
	}
	compiled, err := observe.CompileGate(condition)
	if err != nil {
		fail(v1alpha1.ParsingClusterAddonConfigFailedReason, err)
		return
	}
	awaited := len(w.awaited)
	w.awaited = append(w.awaited, compiled.Objects()...)
	verdict, err := compiled.Eval(ctx, w.conn.applier)
	var malformed *observe.GateError
	switch {
	case errors.As(err, &malformed):
		fail(v1alpha1.ParsingClusterAddonConfigFailedReason, err)
	case err != nil:
		fail(reason, err)
	case !verdict.Met:
		w.gate = &gate{stage: move.Stage.Name, reason: reason, waiting: verdict.Waiting}
	default:
		result = rollout.Good
		w.awaited = w.awaited[:awaited]
	}
}

// checkHealth looks whether the objects of a stage are healthy.
func (w *work) checkHealth(ctx context.Context, stage release.Stage) {
	result := rollout.Bad
	defer func() { w.note(stage.Name, func(p *rollout.Progress) { p.Health = result }) }()
	var objects []observe.Object
	for _, entry := range w.inventory.Entries() {
		if entry.Set == stage.Name && entry.Hook == "" && entry.Hash != "" {
			objects = append(objects, observe.Object{GroupVersionKind: entry.GroupVersionKind(), Namespace: entry.Namespace, Name: entry.Name})
		}
	}
	unhealthy, err := observe.Health(ctx, w.conn.applier, objects...)
	if err != nil {
		w.awaited = append(w.awaited, objects...)
		w.failures = append(w.failures, failure{stage: stage.Name, reason: v1alpha1.StageNotHealthyReason, err: err, gate: true})
		return
	}
	if len(unhealthy) == 0 {
		result = rollout.Good
		return
	}
	var names []string
	for _, u := range unhealthy {
		w.awaited = append(w.awaited, u.Object)
		names = append(names, fmt.Sprintf("%s (%s)", u.Object, u.Status))
	}
	w.gate = &gate{stage: stage.Name, reason: v1alpha1.StageNotHealthyReason, waiting: "healthy objects: " + strings.Join(names, ", ")}
}

// watch wakes this ClusterAddon when one of the objects changes that the stages wait for, and no others any more. A new
// watch begins with what is there, so what has changed since it was read wakes it, too. It is a help: gates are polled
// as well.
func (w *work) watch(ctx context.Context) {
	key := w.clusterKey()
	names := map[string]bool{}
	var kinds []schema.GroupVersionKind
	for _, o := range w.awaited {
		names[watched(o.GroupVersionKind, o.Namespace, o.Name)] = true
		kinds = append(kinds, o.GroupVersionKind)
	}
	waiting := &w.waiting // what is watched shall not keep the pass in memory
	waiting.set(key, names)
	w.observe(ctx, forGates, kinds, func(kind schema.GroupVersionKind, obj metav1.Object, _ bool) bool {
		return waiting.has(key, watched(kind, obj.GetNamespace(), obj.GetName()))
	})
}

// What objects of a cluster are watched for.
const (
	forGates = "gates"
	forDrift = "drift"
)

// unwatch ends all watches in the cluster of a ClusterAddon that is left alone.
func (w *work) unwatch(ctx context.Context) {
	if w.cluster == nil {
		return // its connection ends with it
	}
	w.waiting.set(w.clusterKey(), nil)
	w.observe(ctx, forGates, nil, nil)
	w.observe(ctx, forDrift, nil, nil)
}

// observe makes these the kinds that are watched for a purpose, as far as the cluster serves them.
func (w *work) observe(ctx context.Context, purpose string, kinds []schema.GroupVersionKind, changed workload.Changed) {
	served := map[schema.GroupVersionKind]string{}
	var err error
	if len(kinds) > 0 {
		served, err = w.conn.applier.Watchable(ctx, kinds)
	}
	if err == nil {
		err = w.clusters.Watch(w.cluster, purpose, apply.FieldManager, served, changed)
	}
	if err != nil && !errors.Is(err, workload.ErrNotConnected) {
		ctrl.LoggerFrom(ctx).V(2).Info("Objects cannot be watched, looking at them regularly", "purpose", purpose, "cause", err.Error())
	}
}

func watched(gvk schema.GroupVersionKind, namespace, name string) string {
	return gvk.String() + " " + namespace + "/" + name
}
