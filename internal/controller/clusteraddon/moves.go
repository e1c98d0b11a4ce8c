// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
	"github.com/clusterstacks/cluster-stack-operator/internal/ledger"
	"github.com/clusterstacks/cluster-stack-operator/internal/observe"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

var addonKind = v1alpha1.GroupVersion.WithKind(v1alpha1.ClusterAddonKind)

// stageTimeout bounds one stage in one pass. What was applied by then is not sent again by the next one.
const stageTimeout = 2 * time.Minute

// journal is the inventory in its Secret.
type journal struct {
	*ledger.Ledger
	// failed is why it could not be saved. What the Secret has now is then not known until the next pass loads it.
	failed error
}

// Save writes the inventory. It implements apply.Journal. An error is that of the management cluster, and of no addon.
func (j *journal) Save(ctx context.Context, inv *apply.Inventory) error {
	if j.failed != nil {
		return j.failed
	}
	data, err := inv.Encode()
	if err == nil {
		err = j.Ledger.Save(ctx, data)
	}
	if err != nil {
		j.failed = &managementError{err}
	}
	return j.failed
}

// begin opens a rollout: one write, which voids the proof of the one before it. The first rollout has none before it;
// it is written down, and told of, with what comes of it.
func (w *work) begin(ctx context.Context, move rollout.Begin) error {
	replaced := w.record.Open()
	first := w.record.Applied == nil && w.record.Rollout == nil
	if first {
		w.record = move.Record
	} else if err := w.save(ctx, move.Record, func() { w.addon.Spec.Hook = "" }); err != nil {
		return fmt.Errorf("open the rollout: %w", err)
	}
	if left := replaced; left != nil && left.Release != move.Record.Rollout.Release {
		w.enter(v1alpha1.AddonRelease{Name: tagOf(left.Class), Digest: left.Digest, KubernetesVersion: left.To}, v1alpha1.RolloutSuperseded)
	}
	now := w.options.Clock.Now()
	w.began = &now
	w.progress = map[string]rollout.Progress{}
	w.failures = nil
	// Also for a passage that was compared for before: that may be long ago.
	w.conn.wasCompared(rollout.Passage{}, now)
	opened := move.Record.Rollout
	ctrl.LoggerFrom(ctx).Info("Rollout started", "release", w.release.Name, "lifecyclePoint", opened.Point,
		"from", opened.From, "to", opened.To, "hop", opened.Hop, "late", opened.Late, "inventoryRebuilt", opened.Rebuilt)
	message := fmt.Sprintf("rolling out the addons of %s", w.release.Name)
	switch {
	case opened.Late:
		message += fmt.Sprintf(" for %s, late: Cluster API has gone on to Kubernetes %s already", opened.Point, cmp.Or(opened.Hop, opened.To))
	case opened.Hop != "":
		message += fmt.Sprintf(" for %s, Kubernetes %s", opened.Point, opened.Hop)
	case opened.Point == release.AfterClusterUpgrade, opened.Point == release.BeforeClusterDelete:
		message += fmt.Sprintf(" for %s", opened.Point)
	case opened.From != "" && opened.From != opened.To:
		message += fmt.Sprintf(", before Kubernetes goes from %s to %s", opened.From, opened.To)
	}
	if w.starting = message; !first {
		w.tellStart()
	}
	return nil
}

// tellStart tells that a rollout has begun, once that is written down: it would be told again otherwise.
func (w *work) tellStart() {
	if w.starting != "" {
		w.tell(v1alpha1.RolloutStartedReason, w.starting)
	}
	w.starting = ""
}

// finish writes the proof, and what is applied now, in one write.
func (w *work) finish(ctx context.Context, move rollout.Finish) error {
	// Also without a single object: that there is an inventory says that nothing was forgotten.
	if err := w.journal.Save(ctx, w.inventory); err != nil {
		return fmt.Errorf("save the inventory: %w", err)
	}
	stage := v1alpha1.ClusterAddonStageCreated
	if w.record.Applied != nil {
		stage = v1alpha1.ClusterAddonStageUpgraded
	}
	if applied := move.Record.Applied; !move.Record.Rollout.Rebuilt {
		// Mostly nothing is left of an earlier release, and to write that down now saves another write.
		keep, err := w.keeps(ctx, applied.Addons, applied.Behind)
		applied.Pruned = err == nil && !w.inventory.Prunable(keep)
	}
	answered := w.asked != nil && (move.Record.Proves(*w.asked) || !rollout.Holds(w.asked.Point))
	err := w.save(ctx, move.Record, func() {
		w.addon.Annotations[v1alpha1.ClusterAddonStageAnnotation] = stage
		if answered {
			delete(w.addon.Annotations, v1alpha1.LifecyclePointAnnotation)
		}
		w.addon.Spec.ClusterStack = w.release.Name.ClassName()
		w.addon.Spec.Version = w.release.Metadata.ClusterAddon.Dashed()
		w.addon.Spec.Hook = ""
	})
	if err != nil {
		return fmt.Errorf("finish the rollout: %w", err)
	}
	if answered {
		w.asked = nil
	}
	ctrl.LoggerFrom(ctx).Info("Rollout finished", "release", w.release.Name, "addons", move.Record.Applied.Addons)
	w.tell(v1alpha1.RolloutFinishedReason, fmt.Sprintf("the cluster has the addons of %s", w.release.Name))
	return nil
}

// await ends the pass.
func (w *work) await(ctx context.Context, move rollout.Await) (step.Outcome, error) {
	if err := w.save(ctx, move.Record, nil); err != nil {
		return step.Outcome{}, fmt.Errorf("save how far the rollout got: %w", err)
	}
	w.tellStart()
	if len(w.failures) > 0 {
		// Of several reasons the first is told, and of several errors all.
		errs := make([]error, 0, len(w.failures))
		for _, f := range w.failures {
			errs = append(errs, fmt.Errorf("stage %s: %w", f.stage, f.err))
		}
		again := w.options.Recheck
		if w.gate != nil {
			again = w.options.GatePoll // of another stage
		}
		return step.Outcome{}.LookAgain(spread(again)), step.Because(w.failures[0].reason, joined(errs))
	}
	if w.gate != nil {
		return step.Wait(w.gate.reason, "stage %s waits for %s", w.gate.stage, w.gate.waiting).LookAgain(spread(w.options.GatePoll)), nil
	}
	if move.Reason == rollout.Version {
		return step.Wait(v1alpha1.VersionMismatchReason, "%s", move.Message), nil
	}
	return step.Outcome{}, fmt.Errorf("nothing is known about what stage %s waits for", move.Stage)
}

// joined is like errors.Join, in one line.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return &joinedError{errs}
}

type joinedError struct{ errs []error }

func (e *joinedError) Error() string {
	texts := make([]string, 0, len(e.errs))
	for _, err := range e.errs {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}

func (e *joinedError) Unwrap() []error { return e.errs }

// save writes the record, and what change changes with it, in one write. The inventory comes first: a stage that is done
// is not applied again, so that what became of its objects could not be found out any more.
func (w *work) save(ctx context.Context, record rollout.Record, change func()) error {
	if err := w.saveInventory(ctx); err != nil {
		return err
	}
	err := step.Patch(ctx, w.client, w.addon, func() {
		if w.addon.Annotations == nil {
			w.addon.Annotations = map[string]string{}
		}
		if record.Applied != nil || record.Rollout != nil {
			w.addon.Annotations[v1alpha1.RolloutAnnotation] = record.String()
		}
		if change != nil {
			change()
		}
	})
	if err != nil {
		return err
	}
	w.record = record
	w.addon.Status.ObservedGeneration = w.addon.Generation // which this write may have raised
	return nil
}

// noteLimit is what the API server takes as the text of an event, in bytes; it refuses a longer one.
const noteLimit = 1024

// tell records an event on the ClusterAddon and on its Cluster.
func (w *work) tell(reason, message string) {
	if cut := " …"; len(message) > noteLimit {
		message = strings.ToValidUTF8(message[:noteLimit-len(cut)], "") + cut
	}
	w.recorder.Eventf(w.addon, nil, corev1.EventTypeNormal, reason, reason, "%s", message)
	w.recorder.Eventf(w.cluster, w.addon, corev1.EventTypeNormal, reason, reason, "%s", message)
}

func (w *work) note(stage string, change func(*rollout.Progress)) {
	p := w.progress[stage]
	change(&p)
	w.progress[stage] = p
}

// applyStage applies the addon of a stage. An error that the addon is to blame for is noted and holds up nobody
// else; one of the management cluster ends the pass.
func (w *work) applyStage(ctx context.Context, stage release.Stage) error {
	result := rollout.Bad
	defer func() { w.note(stage.Name, func(p *rollout.Progress) { p.Work = result }) }()

	if err := w.rebuild(ctx); err != nil {
		return err
	}
	rendered, err := w.render(ctx, w.release, stage.Name)
	if err != nil {
		return w.blame(stage.Name, w.renderReason(stage.Name), err)
	}
	if err := w.alone(ctx, stage.Name, w.beside()); err != nil {
		return w.blame(stage.Name, applyReason(err), err)
	}
	verified, err := w.verified(ctx)
	if err != nil {
		return err
	}
	err = w.apply(ctx, stage.Name, rendered, verified, true)
	if w.awaitsHook(stage.Name, err) {
		return nil
	}
	if err != nil {
		return w.blame(stage.Name, applyReason(err), err)
	}
	result = rollout.Good
	return nil
}

// awaitsHook reports whether a Job or Pod of the stage's chart is waited for, and has us woken at its end.
func (w *work) awaitsHook(stage string, err error) bool {
	var hook *apply.WaitingError
	if !errors.As(err, &hook) {
		return false
	}
	job := observe.Object{
		GroupVersionKind: hook.GroupKind().WithVersion(hook.Version), Namespace: hook.Namespace, Name: hook.Name,
	}
	w.awaited = append(w.awaited, job)
	w.gate = &gate{stage: stage, reason: v1alpha1.ObjectsApplyingOngoingReason, waiting: fmt.Sprintf("the end of the chart's %s", job)}
	return true
}

// managementError is an error that says nothing about an addon.
type managementError struct{ err error }

func (e *managementError) Error() string { return e.err.Error() }
func (e *managementError) Unwrap() error { return e.err }

// blame notes an error of a stage, unless it is none of the stage's. One that only has to wait for its turn is waited for.
func (w *work) blame(stage, reason string, err error) error {
	var ours *managementError
	if errors.As(err, &ours) {
		return err
	}
	if errors.Is(err, errCrowded) {
		w.gate = &gate{stage: stage, reason: v1alpha1.ObjectsApplyingOngoingReason, waiting: "a turn to render its chart: others of this namespace take long"}
		return nil
	}
	w.failures = append(w.failures, failure{stage: stage, reason: reason, err: err})
	return nil
}

func applyReason(err error) string {
	var incomplete *apply.IncompleteError
	var overlap *overlapError
	if errors.As(err, &overlap) || errors.As(err, &incomplete) && len(incomplete.Conflicts) > 0 {
		return v1alpha1.ConflictReason
	}
	var request *apply.RequestError
	if errors.As(err, &request) && request.Immutable() {
		return v1alpha1.ImmutableFieldChangedReason
	}
	return v1alpha1.FailedToApplyObjectsReason
}

// apply sends the objects of an addon. With unsaved, what came of it is in memory only.
func (w *work) apply(ctx context.Context, addon string, rendered *render.Result, verified func(apply.ID) bool, unsaved bool) error {
	ctx, cancel := context.WithTimeout(ctx, stageTimeout)
	defer cancel()
	set := Set(addon, rendered)
	set.RollBack, set.Verified, set.Unsaved = w.rollsBack(), verified, unsaved
	began := w.options.Clock.Now()
	report, err := w.conn.applier.Apply(ctx, set, w.inventory, w.journal)
	observeApply(addon, w.options.Clock.Since(began), err)
	w.unsaved = w.unsaved || report.Unsaved
	w.resources(report)
	return w.values.hide(err)
}

// renderReason returns why an addon cannot be rendered.
func (w *work) renderReason(addon string) string {
	if w.values.missing[addon] != nil {
		return v1alpha1.ValuesNotFoundReason
	}
	return v1alpha1.RenderFailedReason
}

// rollsBack reports whether the cluster goes from a release to an earlier one.
func (w *work) rollsBack() bool {
	if w.record.Applied == nil {
		return false
	}
	applied, err := release.ParseClassName(w.record.Applied.Class)
	if err != nil || applied.Prefix() != w.release.Name.Prefix() {
		return false
	}
	order, comparable := w.release.Name.Version.Compare(applied.Version)
	return comparable && order < 0
}

// Set returns what is applied of a rendered addon.
func Set(addon string, rendered *render.Result) apply.Set {
	return apply.Set{Name: addon, Objects: rendered.Objects, Hooks: hooks(rendered.Hooks), Namespace: render.AddonNamespace}
}

func hooks(rendered []render.Hook) []apply.Hook {
	var hooks []apply.Hook
	for _, h := range rendered {
		hooks = append(hooks, apply.Hook{Object: h.Object, Events: h.Events, Weight: h.Weight, DeletePolicies: h.DeletePolicies})
	}
	return hooks
}

// verified tells which objects of the inventory are known to be as they were applied last. The cluster is asked
// when a rollout begins and, while that lasts, as often as one at rest, and not at all about an empty inventory.
func (w *work) verified(ctx context.Context) (func(apply.ID) bool, error) {
	passage := w.record.Rollout.Passage
	if !w.conn.needsComparison(passage, w.options.Clock.Now(), w.options.Recheck) {
		return func(apply.ID) bool { return true }, nil
	}
	drift, err := w.conn.applier.Drift(ctx, w.inventory)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// What is not known is sent.
		ctrl.LoggerFrom(ctx).Info("The cluster cannot be compared with the inventory in full", "cause", err.Error())
		if len(drift.Unknown) == 0 {
			return nil, nil //nolint:nilnil // nothing is known
		}
	}
	var sent []string
	for _, stage := range rollout.Stages(w.release, w.record.Rollout.Point) {
		if stage.Action == release.Apply && !slices.Contains(w.record.Rollout.Done, stage.Name) {
			sent = append(sent, stage.Name)
		}
	}
	doubtful := slices.DeleteFunc(w.doubtful(drift), func(id apply.ID) bool {
		// What this rollout does not send would be in doubt for good, and neither compared nor corrected any more.
		entry, _ := w.inventory.Get(id)
		return !slices.Contains(sent, entry.Set)
	})
	for _, id := range doubtful {
		// It stays in doubt until it was sent.
		entry, _ := w.inventory.Get(id)
		entry.Hash = ""
		w.inventory.Put(entry)
	}
	if len(doubtful) > 0 {
		// The doubt has to outlive this pass: the next one does not compare again.
		if err := w.journal.Save(ctx, w.inventory); err != nil {
			return nil, fmt.Errorf("save the inventory: %w", err)
		}
	}
	w.conn.wasCompared(passage, w.options.Clock.Now())
	return func(apply.ID) bool { return true }, nil
}

// render renders an addon, once in a pass, and saves what it generated before anybody can apply it.
func (w *work) render(ctx context.Context, rel *release.Release, addon string) (*render.Result, error) {
	key := rendering{rel, addon}
	if known := w.rendered[key]; known != nil {
		return known, nil
	}
	if err := w.unrendered[key]; err != nil {
		return nil, err
	}
	if err := w.values.missing[addon]; err != nil {
		return nil, err
	}
	if err := w.loadGenerated(ctx); err != nil {
		return nil, err
	}
	in, err := render.AddonInput(rel, addon, w.facts, w.recorded)
	if err != nil {
		return nil, err
	}
	if rel.Capabilities(addon) == release.ClusterCapabilities {
		if in.APIVersions, err = w.conn.applier.APIVersions(ctx); err != nil {
			return nil, fmt.Errorf("render addon %s: %w", addon, err)
		}
	}
	result, err := w.renderPatiently(ctx, in)
	if err != nil {
		err = w.values.hide(err)
		w.unrendered[key] = err
		return nil, err
	}
	if result.NewValues {
		// What this render did not use stays: the release that used it may be rendered again.
		recorded := maps.Clone(w.recorded)
		maps.Copy(recorded, result.Record)
		if err := w.saveGenerated(ctx, recorded); err != nil {
			return nil, err
		}
	}
	w.rendered[key] = result
	return result, nil
}

// rendering is of an addon of a release as it was opened: two that have one name may have different contents.
type rendering struct {
	release *release.Release
	addon   string
}

// loadGenerated loads what the charts have generated for this cluster, once.
func (w *work) loadGenerated(ctx context.Context) error {
	if w.generated != nil {
		return nil
	}
	generated := ledger.New(w.client, w.live, w.addon, addonKind, "generated")
	data, err := generated.Load(ctx)
	if err != nil {
		return &managementError{fmt.Errorf("load the generated values: %w", err)}
	}
	w.recorded = render.Record{}
	if data != nil {
		if err := json.Unmarshal(data, &w.recorded); err != nil {
			return &managementError{errors.New("load the generated values: they are damaged; restore the Secret " +
				w.addon.Name + "-generated, or delete it to have keys and passwords generated anew")}
		}
	}
	w.generated = generated
	return nil
}

// saveGenerated saves what the charts have generated, if it is not what is saved already.
func (w *work) saveGenerated(ctx context.Context, recorded render.Record) error {
	if maps.Equal(recorded, w.recorded) {
		return nil
	}
	data, err := json.Marshal(recorded)
	if err != nil {
		return &managementError{errors.New("save the generated values: they cannot be written as JSON")}
	}
	if err := w.generated.Save(ctx, data); err != nil {
		return &managementError{fmt.Errorf("save the generated values: %w", err)}
	}
	w.recorded = recorded
	return nil
}

// rebuild makes up for an inventory that was lost: it enters what the releases on both sides of the rollout
// render as objects that may be ours. Applying them finds out.
func (w *work) rebuild(ctx context.Context) error {
	if !w.lost {
		return nil
	}
	suspect := func(rel *release.Release, addons []string) error {
		for _, addon := range addons {
			rendered, err := w.render(ctx, rel, addon)
			if err != nil && !step.Permanent(err) {
				return err // another try may tell which objects these are
			}
			if err != nil {
				continue // its stage reports that
			}
			ids, err := w.conn.applier.Identify(ctx, rendered.Objects, render.AddonNamespace)
			if err != nil {
				return fmt.Errorf("rebuild the inventory: addon %s: %w", addon, err)
			}
			w.inventory.Suspect(addon, ids)
		}
		return nil
	}
	if applied := w.record.Applied; applied != nil {
		name, err := release.ParseClassName(applied.Class)
		var rel *release.Release
		if err == nil {
			rel, _, err = w.releases.OpenPinned(ctx, applied.Namespace, name, applied.Digest)
		}
		if err != nil {
			// What only that release had can then not be known to be ours, and stays.
			ctrl.LoggerFrom(ctx).Error(err, "The applied release cannot be opened to rebuild the inventory")
		} else if err := suspect(rel, applied.Addons); err != nil {
			return err
		}
	}
	var addons []string
	for _, stage := range rollout.Stages(w.release, w.record.Rollout.Point) {
		if stage.Action == release.Apply {
			addons = append(addons, stage.Name)
		}
	}
	if err := suspect(w.release, addons); err != nil {
		return err
	}
	if err := w.journal.Save(ctx, w.inventory); err != nil {
		return fmt.Errorf("save the inventory: %w", err)
	}
	w.lost = false
	return nil
}

// deleteStage deletes the objects of an addon. The inventory knows them; the chart may be gone.
func (w *work) deleteStage(ctx context.Context, stage release.Stage) error {
	result := rollout.Bad
	defer func() { w.note(stage.Name, func(p *rollout.Progress) { p.Work = result }) }()
	if err := w.rebuild(ctx); err != nil {
		return err
	}
	keep := func(id apply.ID) bool {
		entry, _ := w.inventory.Get(id)
		return entry.Set != stage.Name
	}
	report, err := w.conn.applier.Prune(ctx, w.inventory, keep, w.journal)
	w.resources(report)
	if w.awaitsHook(stage.Name, err) {
		return nil
	}
	if err != nil {
		return w.blame(stage.Name, v1alpha1.FailedToDeleteObjectsReason, err)
	}
	result = rollout.Good
	return nil
}

// refresh applies the addons of a cluster at rest again, with other values.
func (w *work) refresh(ctx context.Context, move rollout.Refresh) error {
	drift, err := w.conn.applier.Drift(ctx, w.inventory)
	if err != nil && len(drift.Unknown) == 0 {
		return fmt.Errorf("compare the cluster with the inventory: %w", err)
	}
	var errs []error
	for _, addon := range move.Addons {
		rendered, err := w.render(ctx, w.release, addon)
		if err == nil {
			err = w.alone(ctx, addon, move.Addons)
		}
		if err == nil {
			err = w.apply(ctx, addon, rendered, not(w.doubtful(drift)), false)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("addon %s: %w", addon, err))
		}
	}
	if len(errs) > 0 {
		if len(w.values.missing) > 0 {
			return joined(errs) // which have their reasons
		}
		return step.Because(v1alpha1.FailedToApplyObjectsReason, joined(errs))
	}
	return w.save(ctx, move.Record, nil)
}

// leftovers are the objects of the inventory that are not wanted any more and could not be deleted when they
// were to be.
func (w *work) leftovers() []string {
	var left []string
	for _, e := range w.inventory.Entries() {
		if e.Hook == "" && !slices.Contains(w.record.Applied.Behind, e.Set) && (e.Hash == "" || !slices.Contains(w.record.Applied.Addons, e.Set)) {
			left = append(left, e.String())
		}
	}
	return left
}

// pruneAddons deletes what the addons of the cluster do not have, and tells what was kept all the same.
func (w *work) pruneAddons(ctx context.Context, move rollout.Prune) error {
	var kept []string
	if !move.Nothing {
		var err error
		if kept, err = w.pruneInventory(ctx, move.Addons, move.Behind); err != nil {
			return err
		}
	}
	if err := w.save(ctx, move.Record, nil); err != nil {
		return fmt.Errorf("save that the leftovers were dealt with: %w", err)
	}
	if len(kept) > 0 {
		// Once, because not all of it stays in the inventory.
		w.tell(v1alpha1.LeftoversKeptReason, "kept of earlier releases: "+strings.Join(kept, "; "))
	}
	return nil
}

// pruneInventory deletes what the addons do not have, but nothing of those behind, and returns what was kept and why.
func (w *work) pruneInventory(ctx context.Context, addons, behind []string) ([]string, error) {
	keep, err := w.keeps(ctx, addons, behind)
	if err != nil {
		return nil, err
	}
	report, err := w.conn.applier.Prune(ctx, w.inventory, keep, w.journal)
	w.resources(report)
	if err != nil {
		return nil, step.Because(v1alpha1.FailedToDeleteObjectsReason, err)
	}
	var kept []string
	for _, k := range report.Kept {
		kept = append(kept, fmt.Sprintf("%s, because %s", k.ID, k.Reason))
	}
	return kept, nil
}

// keeps tells which objects of the inventory the addons have, or are of those behind.
func (w *work) keeps(ctx context.Context, addons, behind []string) (func(apply.ID) bool, error) {
	wanted, hooked := map[apply.ID]bool{}, map[apply.ID]bool{}
	note := func(set map[apply.ID]bool, objects []*unstructured.Unstructured) error {
		ids, err := w.conn.applier.Identify(ctx, objects, render.AddonNamespace)
		for _, id := range ids {
			set[id] = true
		}
		return err
	}
	for _, addon := range addons {
		rendered, err := w.render(ctx, w.release, addon)
		if err != nil {
			return nil, step.Because(v1alpha1.RenderFailedReason, fmt.Errorf("addon %s: %w", addon, err))
		}
		var made []*unstructured.Unstructured
		for _, hook := range rendered.Hooks {
			made = append(made, hook.Object)
		}
		if err := errors.Join(note(wanted, rendered.Objects), note(hooked, made)); err != nil {
			return nil, fmt.Errorf("addon %s: %w", addon, err)
		}
	}
	return func(id apply.ID) bool {
		entry, _ := w.inventory.Get(id)
		// An object that only hooks of the chart make now is not kept for having been an ordinary one.
		return wanted[id] || slices.Contains(behind, entry.Set) || hooked[id] && entry.Hook != ""
	}, nil
}

// identifyInputs identifies the values that the addons of the release are rendered with. What a template generates by
// chance is left out: it differs each time, and is replayed when it is rendered.
func (w *work) identifyInputs(ctx context.Context) (string, error) {
	facts, err := json.Marshal(w.facts)
	if err != nil {
		return "", fmt.Errorf("write the facts of the Cluster as JSON: %w", err)
	}
	// At rest nothing has to be rendered to know that nothing has changed.
	of := sha256.Sum256(fmt.Appendf(nil, "%v\n%s", w.target(), facts))
	if known, is := w.conn.inputsOf(of); is {
		return known, nil
	}
	hash := sha256.New()
	for _, addon := range w.release.Addons() {
		in, has, err := render.ValuesInput(w.release, addon, w.facts)
		if err != nil || !has {
			continue // its stage reports what is wrong
		}
		result, err := w.renderPatiently(ctx, in)
		switch {
		case err == nil:
			fmt.Fprintf(hash, "%s\n%s\n", addon, render.ValuesDigest(result))
		case step.Permanent(err):
			fmt.Fprintf(hash, "%s\n%v\n", addon, err) // its stage reports it
		default:
			return "", step.Because(v1alpha1.RenderFailedReason, fmt.Errorf("make the values of addon %s: %w", addon, err))
		}
	}
	inputs := hex.EncodeToString(hash.Sum(nil)[:8])
	w.conn.hasInputs(of, inputs)
	return inputs, nil
}

// renderPatiently renders. While that takes long, as it does where charts wait for one another that overstay, others
// have the turn; at once, if rendering itself took long the last time. Where too many wait like that, it is given up
// before it is begun, and the error is errCrowded.
func (w *work) renderPatiently(ctx context.Context, in render.Input) (*render.Result, error) {
	ctx, giveUp := context.WithCancelCause(fair.With(ctx, w.addon.Namespace))
	defer giveUp(nil)
	if (w.crowded || w.conn.rendersSlowly(in.Subject)) && !w.turn.stepAside() {
		return nil, fmt.Errorf("render %s: %w", in.Subject, errCrowded)
	}
	var begun atomic.Bool
	aside := time.AfterFunc(longRender, func() {
		// One that has a worker would have to be done again from the beginning, and the worker sees to its end.
		if !w.turn.stepAside() && !begun.Load() {
			giveUp(errCrowded)
		}
	})
	defer aside.Stop()
	var slow *time.Timer // nil as long as it has no worker
	ctx = fair.OnTurn(ctx, func() {
		begun.Store(true)
		slow = time.AfterFunc(longRender, func() { w.conn.hasRendered(in.Subject, true) })
	})
	result, err := w.options.Render(ctx, in)
	if slow != nil && slow.Stop() {
		w.conn.hasRendered(in.Subject, false)
	}
	if err != nil && errors.Is(context.Cause(ctx), errCrowded) {
		w.crowded = true
		return nil, fmt.Errorf("render %s: %w", in.Subject, errCrowded)
	}
	return result, err
}

// awaitsTurn is the outcome of a pass that could not render.
func (w *work) awaitsTurn() step.Outcome {
	return w.patiently(step.Wait(v1alpha1.ObjectsApplyingOngoingReason, "%v", errCrowded).LookAgain(spread(w.options.GatePoll)))
}

// bequeath makes the Cluster the owner of the Secrets that the ClusterAddon owns.
func (w *work) bequeath(ctx context.Context) error {
	secrets := &corev1.SecretList{}
	err := w.live.List(ctx, secrets, client.InNamespace(w.addon.Namespace), client.MatchingFields{"type": string(ledger.SecretType)})
	if err != nil {
		return fmt.Errorf("list Secrets: %w", err)
	}
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		if !slices.ContainsFunc(secret.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == w.addon.UID }) {
			continue
		}
		before := secret.DeepCopy()
		secret.OwnerReferences = []metav1.OwnerReference{ownerReference(w.cluster)}
		if err := w.client.Patch(ctx, secret, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("leave Secret %s to the Cluster: %w", secret.Name, err)
		}
	}
	return nil
}
