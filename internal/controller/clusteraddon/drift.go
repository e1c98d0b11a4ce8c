// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

// calm is how long a change that a watch reports waits after the last comparison. Somebody who undoes every
// correction at once shall not keep us busy.
const calm = 10 * time.Second

// policy says what is done about an object that drifted: what the object says, or else its addon's settings, or
// else the cluster's.
func (w *work) policy(d apply.Drifted) v1alpha1.DriftPolicy {
	policies := []v1alpha1.DriftPolicy{v1alpha1.DriftPolicy(d.Policy)}
	if w.settings != nil {
		for _, addon := range w.settings.Spec.Addons {
			if addon.Name == d.Set {
				policies = append(policies, addon.Drift)
			}
		}
		policies = append(policies, w.settings.Spec.Drift)
	}
	for _, policy := range policies {
		switch policy {
		case v1alpha1.DriftCorrect, v1alpha1.DriftWarn, v1alpha1.DriftIgnore:
			return policy
		}
	}
	return v1alpha1.DriftCorrect
}

// doubtful are the objects that are to be sent even if nothing about them has changed on our side.
func (w *work) doubtful(c apply.Comparison) []apply.ID {
	ids := slices.Clone(c.Unknown)
	for _, d := range c.Drifted {
		if w.policy(d) == v1alpha1.DriftCorrect {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

func not(ids []apply.ID) func(apply.ID) bool {
	return func(id apply.ID) bool { return !slices.Contains(ids, id) }
}

// correctDrift applies again what somebody has changed or deleted, and notes what is only to be told.
func (w *work) correctDrift(ctx context.Context) error {
	drift, unknown := w.conn.applier.Drift(ctx, w.inventory)
	if unknown != nil && len(drift.Unknown) == 0 {
		return fmt.Errorf("compare the cluster with the inventory: %w", unknown)
	}
	sets := map[string][]string{}
	var told []string
	for _, d := range drift.Drifted {
		if !slices.Contains(w.record.Applied.Addons, d.Set) {
			continue
		}
		policy := w.policy(d)
		driftFound.WithLabelValues(string(policy)).Inc()
		switch policy {
		case v1alpha1.DriftCorrect:
			sets[d.Set] = append(sets[d.Set], d.String())
		case v1alpha1.DriftWarn:
			told = append(told, fmt.Sprintf("%s of addon %s: %s", d.ID, d.Set, d.How))
		case v1alpha1.DriftIgnore:
		}
	}
	var errs []error
	for _, addon := range slices.Sorted(maps.Keys(sets)) {
		rendered, err := w.render(ctx, w.release, addon)
		if err == nil {
			err = w.apply(ctx, addon, rendered, not(w.doubtful(drift)), false)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("addon %s: %w", addon, err))
			continue
		}
		driftCorrected.Add(float64(len(sets[addon])))
		w.tell(v1alpha1.DriftCorrectedReason,
			fmt.Sprintf("addon %s: applied again what was changed or deleted: %s", addon, strings.Join(sets[addon], ", ")))
	}
	w.conn.hasDrifted(told)
	if unknown != nil {
		// The other kinds are as they should be; an addon's own API may be down for long.
		errs = append(errs, fmt.Errorf("compare the cluster with the inventory: %w", unknown))
	}
	if len(errs) > 0 {
		return step.Because(v1alpha1.FailedToApplyObjectsReason, joined(errs))
	}
	if len(w.leftovers()) > 0 {
		_, err := w.pruneInventory(ctx, w.record.Applied.Addons, w.record.Applied.Behind)
		return err
	}
	return nil
}

// reportDrift tells of changes that are not to be corrected.
func (w *work) reportDrift(context.Context) (step.Outcome, error) {
	told, compared := w.conn.drifted()
	if !compared {
		// After a restart nothing was compared yet. What was told before that stands until it is.
		if stored := w.addon.Status.Conditions.Get(v1alpha1.InSyncCondition); stored != nil && stored.Reason == v1alpha1.DriftedReason {
			return step.Wait(stored.Reason, "%s", stored.Message), nil
		}
	}
	if len(told) == 0 {
		return step.Done().Saying("nobody has changed objects of the addons"), nil
	}
	const shown = 10
	more := ""
	if len(told) > shown {
		told, more = told[:shown], fmt.Sprintf("; and %d more", len(told)-shown)
	}
	return step.Wait(v1alpha1.DriftedReason, "%s%s", strings.Join(told, "; "), more), nil
}

// guard watches the objects of the addons where the settings ask for it, so that a change of them is seen at once.
func (w *work) guard(ctx context.Context) {
	// What is watched shall not keep the pass in memory.
	conn, now := w.conn, w.options.Clock.Now
	if w.settings == nil || !w.settings.Spec.Watch {
		conn.guard(nil)
		w.observe(ctx, forDrift, nil, nil)
		return
	}
	entries := map[string]apply.Entry{}
	var kinds []schema.GroupVersionKind
	for _, e := range w.inventory.Entries() {
		if e.Hash == "" || e.Hook != "" || e.Expires {
			continue
		}
		gvk := e.GroupVersionKind()
		kinds = append(kinds, gvk)
		entries[watched(gvk, e.Namespace, e.Name)] = e
	}
	if conn.guard(entries) {
		// A watch tells what is there when it begins, and not what has been deleted by then.
		conn.recheckSoon(now(), calm)
	}
	w.observe(ctx, forDrift, kinds, func(kind schema.GroupVersionKind, obj metav1.Object, gone bool) bool {
		e, guarded := conn.guarded(watched(kind, obj.GetNamespace(), obj.GetName()))
		if !guarded || !gone && !conn.applier.Changed(e, obj) {
			return false
		}
		conn.recheckSoon(now(), calm)
		return true
	})
}
