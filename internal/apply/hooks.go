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
	Object *unstructured.Unstructured
	// Events are Helm's names of the points: "pre-install", "post-upgrade"…
	// Only those of install and upgrade are acted on.
	Events []string
	// Weight orders the hooks of one point, the smallest first.
	Weight int
	// DeletePolicies are Helm's: "before-hook-creation" (if there are none),
	// "hook-succeeded", "hook-failed".
	DeletePolicies []string
}

const (
	beforeHookCreation = "before-hook-creation"
	hookSucceeded      = "hook-succeeded"
	hookFailed         = "hook-failed"
)

// failedHook stands in an entry in place of the run, so that the next attempt begins anew.
const failedHook = "failed"

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

// due are the hooks before ("pre") or after ("post") the objects, in the order they run.
func (p *plan) due(side string, done progress) []*hook {
	event := side + "-install"
	if done.Post != "" {
		event = side + "-upgrade"
	}
	var due []*hook
	for _, h := range p.hooks {
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

// announceHook enters a hook into the inventory, unless an object of an earlier
// run has to go first.
func (r *run) announceHook(h *hook, content string) {
	if e, known := r.inv.Get(h.id); !known || e.Origin == Pending {
		r.enter(h.item, content)
	}
}

// runHooks makes one hook after the other and waits for each; the first that
// fails, or takes longer than we wait, stops the run.
func (r *run) runHooks(ctx context.Context, hooks []*hook, content string) {
	for _, h := range hooks {
		err := r.runHook(ctx, h, content)
		if err == nil {
			continue
		}
		if waiting := (*WaitingError)(nil); errors.As(err, &waiting) {
			r.mu.Lock()
			r.stop(waiting)
			r.mu.Unlock()
			return
		}
		if errors.Is(err, errHookFailed) {
			r.hookHasFailed(ctx, h)
		}
		err = fmt.Errorf("hook %s: %w", h.id, err)
		r.mu.Lock()
		r.report.Failed = append(r.report.Failed, Failure{ID: h.id, Err: err})
		r.stop(err)
		r.mu.Unlock()
		return
	}
	// Only now: a later hook may have needed an earlier one.
	for _, h := range hooks {
		if h.has(hookSucceeded) {
			if err := r.removeHook(ctx, h); err != nil {
				r.mu.Lock()
				r.report.Failed = append(r.report.Failed, Failure{ID: h.id, Err: err})
				r.mu.Unlock()
			}
		}
	}
}

var errHookFailed = errors.New("it has failed")

func (r *run) runHook(ctx context.Context, h *hook, content string) error {
	if h.absence != nil {
		return h.absence
	}
	r.identifyHook(ctx, h)
	e, known := r.inv.Get(h.id)
	underway := known && e.Hook == content && e.Origin.Ours() && e.UID != ""
	// A Job that has run never runs again, so one of an earlier run always goes.
	if known && !underway && e.Origin.Ours() && (h.has(beforeHookCreation) || h.runs()) {
		if err := r.removeHook(ctx, h); err != nil {
			return err
		}
	}
	if !underway {
		r.mu.Lock()
		r.enter(h.item, content)
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
		patient, cancel = context.WithTimeout(ctx, r.patience)
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

// hookState tells whether a Job or Pod has ended.
func hookState(obj *unstructured.Unstructured) (bool, error) {
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
			err := r.await(ctx, h.resource, h.id, live.ResourceVersion, func(obj *unstructured.Unstructured) (bool, error) {
				return obj.GetUID() != e.UID, nil
			})
			if err != nil && !errors.Is(err, errGone) {
				return err
			}
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
