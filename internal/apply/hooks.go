// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Hook is an object that a chart wants to be made at a certain point, and that
// is waited for if it is a Job or a Pod.
type Hook struct {
	Object *unstructured.Unstructured `json:"object"`
	// Events are Helm's names of the points: "pre-install", "post-upgrade"…
	// Tests are not acted on.
	Events []string `json:"events"`
	// Weight orders the hooks of one point, the smallest first.
	Weight int `json:"weight,omitempty"`
	// DeletePolicies are Helm's: "before-hook-creation" (if there are none),
	// "hook-succeeded", "hook-failed".
	DeletePolicies []string `json:"deletePolicies,omitempty"`
}

const (
	// HookAnnotation with [SkipHook] on the Job or Pod of a hook, in the cluster, makes it count as done.
	HookAnnotation = "clusterstack.x-k8s.io/hook"
	// SkipHook is the value of [HookAnnotation].
	SkipHook = "skip"
)

const (
	beforeHookCreation = "before-hook-creation"
	hookSucceeded      = "hook-succeeded"
	hookFailed         = "hook-failed"
)

// failedHook stands in an entry in place of the run, so that the next attempt begins anew.
const failedHook = "failed"

// finishedHook stands there once all hooks of the run are through.
const finishedHook = "finished"

type hook struct {
	*item
	Hook
}

func (h *hook) has(policy string) bool {
	if len(h.DeletePolicies) == 0 {
		return policy == beforeHookCreation
	}
	return slices.Contains(h.DeletePolicies, policy)
}

// runs reports whether the hook is something that ends by itself.
func (h *hook) runs() bool {
	gk := h.id.GroupKind()
	return gk == jobKind || gk == podKind
}

// occasion is what a set of objects goes through, as Helm's events name it.
func occasion(set Set, done progress) string {
	switch {
	case done.Post == "":
		return "install"
	case set.RollBack:
		return "rollback"
	}
	return "upgrade"
}

// due are the hooks of an event, in the order they run.
func due(hooks []*hook, event string) []*hook {
	var due []*hook
	for _, h := range hooks {
		if slices.Contains(h.Events, event) {
			due = append(due, h)
		}
	}
	// Of equal weight, an account comes before the Job that uses it.
	slices.SortStableFunc(due, func(a, b *hook) int {
		return cmp.Or(cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.wave, b.wave), a.id.Compare(b.id))
	})
	return due
}

// haveRun notes that hooks are through. When they are due the next time they run again, also for content that has been
// there before: a release to which a cluster comes back is an upgrade like any other. And so does one that has failed and
// was left out: whoever said so had seen this failure, and not what comes then.
func (r *run) haveRun(hooks []*hook) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range hooks {
		if e, known := r.inv.Get(h.id); known && e.Hook != "" {
			e.Hook = finishedHook
			r.inv.Put(e)
		}
	}
}

// announceHook enters a hook into the inventory, unless an object of an earlier
// run has to go first.
func (r *run) announceHook(h *hook, occasion string) {
	if e, known := r.inv.Get(h.id); !known || e.Origin == Pending {
		r.enter(h.item, occasion)
	}
}

// runHooks makes one hook after the other and waits for each. The first that
// fails, or takes longer than we wait, ends it; the latter is a [*WaitingError].
// The run names it in the inventory: the same object can be a hook of several.
func (r *run) runHooks(ctx context.Context, hooks []*hook, run string) error {
	for _, h := range hooks {
		err := r.runHook(ctx, h, run)
		if err == nil {
			continue
		}
		if waiting := (*WaitingError)(nil); errors.As(err, &waiting) {
			return waiting
		}
		if errors.Is(err, errHookFailed) {
			r.hookHasFailed(ctx, h)
			err = fmt.Errorf("hook %s: %w; it is run again, or left out once it is annotated with %s=%s", h.id, err, HookAnnotation, SkipHook)
		} else {
			err = fmt.Errorf("hook %s: %w", h.id, err)
		}
		r.fail(h.id, err)
		return err
	}
	// Only now: a later hook may have needed an earlier one.
	for _, h := range hooks {
		if h.has(hookSucceeded) {
			if err := r.removeHook(ctx, h); err != nil {
				r.fail(h.id, err)
			}
		}
	}
	return nil
}

func (r *run) fail(id ID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Failed = append(r.report.Failed, Failure{ID: id, Err: err})
}

var (
	errHookFailed = errors.New("it has failed")
	// errPatience is why a wait ends that is taken up again. That the API server did not answer is another reason.
	errPatience = errors.New("it is waited for later")
)

func (r *run) runHook(ctx context.Context, h *hook, run string) error {
	if h.absence != nil {
		return h.absence
	}
	r.identifyHook(ctx, h)
	e, known := r.inv.Get(h.id)
	underway := known && e.Hook == run && e.Origin.Ours() && e.UID != ""
	if known && e.Hook == failedHook && r.skipped(ctx, h, e) {
		return nil
	}
	// A Job that has run never runs again, so one of an earlier run always goes.
	if known && !underway && e.Origin.Ours() && (h.has(beforeHookCreation) || h.runs()) {
		if err := r.removeHook(ctx, h); err != nil {
			return err
		}
	}
	if !underway {
		r.mu.Lock()
		r.enter(h.item, run)
		err := r.save(ctx)
		r.mu.Unlock()
		if err != nil {
			return err
		}
		failed, conflicted := len(r.report.Failed), len(r.report.Conflicts)
		r.send(ctx, h.item)
		switch {
		case len(r.report.Failed) > failed:
			err := r.report.Failed[failed].Err
			r.report.Failed = r.report.Failed[:failed] // The caller tells it, as a hook's.
			return err
		case len(r.report.Conflicts) > conflicted:
			c := r.report.Conflicts[conflicted]
			return fmt.Errorf("%q manages %v", c.Manager, c.Fields)
		}
		r.checkpoint(ctx)
		if r.stopped != nil {
			return r.stopped
		}
		if e, _ = r.inv.Get(h.id); h.runs() && !e.Origin.Ours() {
			return &RequestError{Code: http.StatusConflict,
				Text: "an object of that name exists that is not of this cluster stack; delete or rename it"}
		}
	}
	if !h.runs() {
		return nil
	}
	patient := ctx
	if r.patience > 0 {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeoutCause(ctx, r.patience, errPatience)
		defer cancel()
	}
	err := r.await(patient, h.resource, h.id, "", hookState)
	switch {
	case errors.Is(err, errGone):
		return fmt.Errorf("%w: %w", errHookFailed, err)
	case err != nil && !errors.Is(err, errHookFailed) && patient.Err() != nil && ctx.Err() == nil:
		return &WaitingError{ID: h.id, Version: h.resource.Version}
	}
	return err
}

// identifyHook finds out about a Job or Pod that was sent without an answer. It
// is taken for one that has failed: of which release it is cannot be told.
func (r *run) identifyHook(ctx context.Context, h *hook) {
	e, known := r.inv.Get(h.id)
	if !known || e.Origin != Pending || r.fresh[h.id] || !h.runs() {
		return
	}
	if live, failure := r.head(ctx, h.resource, h.id); failure == nil && soleManager(live.ManagedFields, r.manager) {
		e.Origin, e.UID, e.Hook = Created, live.UID, failedHook
		r.inv.Put(e)
	}
}

// skipped reports whether somebody has said, on the failed hook itself, that it is to be left out.
func (r *run) skipped(ctx context.Context, h *hook, e Entry) bool {
	live, failure := r.head(ctx, h.resource, h.id)
	return failure == nil && live.UID == e.UID && live.Annotations[HookAnnotation] == SkipHook
}

// hookState tells whether a Job or Pod has ended.
func hookState(obj *unstructured.Unstructured) (bool, error) {
	if obj.GetAnnotations()[HookAnnotation] == SkipHook {
		return true, nil
	}
	if obj.GetKind() == podKind.Kind {
		switch phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase"); phase {
		case "Succeeded":
			return true, nil
		case "Failed":
			reason, _, _ := unstructured.NestedString(obj.Object, "status", "reason")
			return false, fmt.Errorf("%w: %s", errHookFailed, cmp.Or(oneLine(reason), "its Pod has failed"))
		}
		return false, nil
	}
	if condition(obj, "Complete")["status"] == "True" {
		return true, nil
	}
	if c := condition(obj, "Failed"); c["status"] == "True" {
		return false, fmt.Errorf("%w: %s", errHookFailed, oneLine(fmt.Sprint(c["reason"])))
	}
	return false, nil
}

// hookHasFailed records that the next attempt has to make the hook anew.
func (r *run) hookHasFailed(ctx context.Context, h *hook) {
	if h.has(hookFailed) {
		// If this does not work the object is still in the inventory, and the next attempt removes it.
		_ = r.removeHook(ctx, h)
	}
	if e, known := r.inv.Get(h.id); known {
		e.Hook = failedHook
		r.inv.Put(e)
	}
}

// removeHook deletes what an earlier hook made, waits until it is gone, and forgets it.
func (r *run) removeHook(ctx context.Context, h *hook) error {
	e, known := r.inv.Get(h.id)
	if !known || !e.Origin.Ours() {
		return nil
	}
	live, failure := r.head(ctx, h.resource, h.id)
	if failure == nil && live.UID == e.UID {
		if failure = r.remove(ctx, h.resource, h.id, e.UID); failure == nil {
			failure = r.awaitGone(ctx, h.item, e.UID, live.ResourceVersion)
		}
	}
	if failure != nil && !failure.notFound() {
		return failure
	}
	r.mu.Lock()
	r.inv.Delete(h.id)
	r.fresh[h.id] = false
	r.mu.Unlock()
	r.checkpoint(ctx)
	return nil
}

// deleteHooks resolves those of the hooks that run when a set goes, as they were
// kept in the inventory: the chart may be gone by then.
func (r *run) deleteHooks(ctx context.Context, stored []Hook, event string) ([]*hook, error) {
	var all []*unstructured.Unstructured
	for _, h := range stored {
		all = append(all, h.Object)
	}
	var hooks []*hook
	for _, h := range stored {
		if !slices.Contains(h.Events, event) {
			continue
		}
		resolved, err := r.resolve(ctx, []*unstructured.Unstructured{h.Object}, all, h.Object.GetNamespace())
		if err != nil {
			return nil, err
		}
		hooks = append(hooks, &hook{item: resolved[0], Hook: h})
	}
	return due(hooks, event), nil
}

// ofDeletion are the hooks that have to be known when the set goes.
func (p *plan) ofDeletion() []Hook {
	var kept []Hook
	for _, h := range p.hooks {
		if slices.Contains(h.Events, preDelete) || slices.Contains(h.Events, postDelete) {
			kept = append(kept, Hook{Object: h.object, Events: h.Events, Weight: h.Weight, DeletePolicies: h.DeletePolicies})
		}
	}
	return kept
}

const (
	preDelete  = "pre-delete"
	postDelete = "post-delete"
)
