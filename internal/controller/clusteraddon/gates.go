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
	"sigs.k8s.io/cluster-api/controllers/clustercache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/observe"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
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
	// Watched before it is read, so that no change is missed in between.
	w.watch(ctx, compiled.Objects())
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
		w.watch(ctx, nil)
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
		w.failures = append(w.failures, failure{stage: stage.Name, reason: v1alpha1.StageNotHealthyReason, err: err, gate: true})
		return
	}
	if len(unhealthy) > 0 {
		objects = nil
		for _, u := range unhealthy {
			objects = append(objects, u.Object)
		}
		w.watch(ctx, objects)
		// Once more, now that they are watched: they may have become healthy in between.
		if unhealthy, err = observe.Health(ctx, w.conn.applier, objects...); err != nil {
			w.failures = append(w.failures, failure{stage: stage.Name, reason: v1alpha1.StageNotHealthyReason, err: err, gate: true})
			return
		}
	}
	if len(unhealthy) == 0 {
		result = rollout.Good
		w.watch(ctx, nil)
		return
	}
	var names []string
	for _, u := range unhealthy {
		names = append(names, fmt.Sprintf("%s (%s)", u.Object, u.Status))
	}
	w.gate = &gate{stage: stage.Name, reason: v1alpha1.StageNotHealthyReason, waiting: "healthy objects: " + strings.Join(names, ", ")}
}

// watch wakes this ClusterAddon when one of the objects changes, and no others any more. It is a help: gates
// are polled too.
func (w *work) watch(ctx context.Context, objects []observe.Object) {
	key := w.clusterKey()
	names := map[string]bool{}
	for _, o := range objects {
		names[watched(o.GroupVersionKind, o.Namespace, o.Name)] = true
	}
	w.waiting.set(key, names)
	if w.watcher == nil {
		return
	}
	wake := OfCluster(ctx, w.cluster)
	kinds := map[schema.GroupVersionKind]bool{}
	for _, o := range objects {
		gvk := o.GroupVersionKind
		if kinds[gvk] {
			continue
		}
		kinds[gvk] = true
		kind := &metav1.PartialObjectMetadata{}
		kind.SetGroupVersionKind(gvk)
		err := w.clusters.Watch(ctx, key, clustercache.NewWatcher(clustercache.WatcherOptions{
			Name:    "clusteraddon-" + gvk.String(),
			Watcher: w.watcher,
			Kind:    kind,
			EventHandler: handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
				return wake
			}),
			Predicates: []predicate.TypedPredicate[client.Object]{predicate.NewPredicateFuncs(func(obj client.Object) bool {
				return w.waiting.has(key, watched(gvk, obj.GetNamespace(), obj.GetName()))
			})},
		}))
		if err != nil {
			ctrl.LoggerFrom(ctx).V(2).Info("Objects that a stage waits for cannot be watched, polling them", "kind", gvk, "cause", err.Error())
		}
	}
}

func watched(gvk schema.GroupVersionKind, namespace, name string) string {
	return gvk.String() + " " + namespace + "/" + name
}
