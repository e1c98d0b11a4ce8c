// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// report fills in the parts of the status that people look at.
func (w *work) report() {
	status := &w.addon.Status
	if applied := w.record.Applied; applied != nil {
		status.AppliedRelease = addonRelease(tagOf(applied.Class), applied.Digest, applied.Version)
	}
	w.count()
	if w.record.Rollout != nil && w.record.Rollout.Release == w.target() {
		status.Stages = w.stages()
	}
	if w.failed == nil && w.gate == nil {
		status.Resources = nil
	}
	w.remember()
}

// count tells how many objects the inventory has.
func (w *work) count() {
	if w.inventory == nil {
		return
	}
	objects, shared := w.inventory.Counts()
	w.addon.Status.Inventory = &v1alpha1.InventorySummary{Objects: int32(objects), Shared: int32(shared)} //nolint:gosec // a cluster has fewer
}

// historyLimit is how many rollouts the status remembers.
const historyLimit = 10

// remember enters the rollout of the record into the history when it has brought a release. It looks at the record
// only, so it makes up for an end that was not told.
func (w *work) remember() {
	last := w.record.Rollout
	if last == nil || !last.Finished || w.addon.Status.AppliedRelease == nil {
		return
	}
	history := w.addon.Status.History
	brought := *w.addon.Status.AppliedRelease
	if len(history) > 0 && history[0].Release == brought && history[0].Result == v1alpha1.RolloutCompleted {
		return
	}
	w.enter(brought, v1alpha1.RolloutCompleted)
}

// enter puts a rollout that has just ended on top of the history.
func (w *work) enter(brought v1alpha1.AddonRelease, result v1alpha1.RolloutResult) {
	now := metav1.NewTime(w.options.Clock.Now().Truncate(time.Second))
	entry := v1alpha1.RolloutHistory{Release: brought, Result: result, EndTime: &now}
	if w.began != nil {
		began := metav1.NewTime(w.began.Truncate(time.Second))
		entry.StartTime = &began
	}
	history := append([]v1alpha1.RolloutHistory{entry}, w.addon.Status.History...)
	w.addon.Status.History = history[:min(len(history), historyLimit)]
}

// tagOf returns the name of the release of a class.
func tagOf(class string) string {
	if parsed, err := release.ParseClassName(class); err == nil {
		return parsed.String()
	}
	return class
}

func addonRelease(name, digest, kubernetes string) *v1alpha1.AddonRelease {
	return &v1alpha1.AddonRelease{Name: name, Digest: digest, KubernetesVersion: kubernetes}
}

// stages tells how far each stage of the rollout got.
func (w *work) stages() []v1alpha1.StageStatus {
	current := w.record.Rollout
	var stages []v1alpha1.StageStatus
	for _, stage := range rollout.Stages(w.release, current.Point) {
		status := v1alpha1.StageStatus{Name: stage.Name, Action: string(stage.Action), Phase: v1alpha1.StagePhasePending}
		p := w.progress[stage.Name]
		switch {
		case stage.Action == release.Apply && slices.Contains(Off(w.settings), stage.Name):
			status.Phase, status.Message = v1alpha1.StagePhaseDone, "switched off by ClusterAddonSettings"
		case current.Finished || slices.Contains(current.Done, stage.Name):
			status.Phase = v1alpha1.StagePhaseDone
		case p.Work == rollout.Good:
			status.Phase = v1alpha1.StagePhaseWaitingForPostCondition
		case p.Work == rollout.Bad:
			status.Phase = v1alpha1.StagePhaseApplyingOrDeleting
		case p.Pre == rollout.Bad:
			status.Phase = v1alpha1.StagePhaseWaitingForPreCondition
		}
		if w.gate != nil && w.gate.stage == stage.Name {
			status.Message = "waits for " + w.gate.waiting
		}
		for _, f := range w.failures {
			if f.stage == stage.Name {
				status.Message = f.err.Error()
			}
		}
		stages = append(stages, status)
	}
	return stages
}

// resources lists the objects that could not be applied or deleted.
func (w *work) resources(report apply.Report) {
	list := slices.DeleteFunc(slices.Clone(w.addon.Status.Resources), func(r v1alpha1.Resource) bool {
		return slices.ContainsFunc(slices.Concat(report.Applied, report.Unchanged, report.Pruned), func(id apply.ID) bool { return names(r, id) }) ||
			slices.ContainsFunc(report.Failed, func(f apply.Failure) bool { return names(r, f.ID) }) ||
			slices.ContainsFunc(report.Conflicts, func(c apply.Conflict) bool { return names(r, c.ID) })
	})
	for _, f := range report.Failed {
		list = append(list, w.resource(f.ID, f.Err.Error()))
	}
	for _, c := range report.Conflicts {
		text := c.Manager + " manages " + strings.Join(c.Fields, ", ")
		// One object may be in conflict with several managers.
		if i := slices.IndexFunc(list, func(r v1alpha1.Resource) bool { return names(r, c.ID) }); i >= 0 {
			list[i].Error += "; " + text
			continue
		}
		list = append(list, w.resource(c.ID, text))
	}
	slices.SortFunc(list, func(a, b v1alpha1.Resource) int { return resourceID(a).Compare(resourceID(b)) })
	w.addon.Status.Resources = list
}

func (w *work) resource(id apply.ID, text string) v1alpha1.Resource {
	entry, _ := w.inventory.Get(id)
	return v1alpha1.Resource{
		Group: id.Group, Version: entry.Version, Kind: id.Kind, Namespace: id.Namespace, Name: id.Name,
		Status: v1alpha1.ResourceStatusNotSynced, Error: w.values.hidden(text),
	}
}

func resourceID(r v1alpha1.Resource) apply.ID {
	return apply.ID{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
}

func names(r v1alpha1.Resource, id apply.ID) bool { return resourceID(r) == id }
