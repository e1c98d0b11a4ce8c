// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// overlapError says that an addon has an object that another addon has, too. Only other charts or values cure it.
type overlapError struct {
	other   string
	objects []apply.ID
}

func (e *overlapError) Error() string {
	var names []string
	for _, id := range e.objects {
		names = append(names, id.String())
	}
	const shown = 5
	if more := len(names) - shown; more > 0 {
		names = append(names[:shown], fmt.Sprintf("and %d more", more))
	}
	cure := "take it out of one of the two charts, or switch one addon off"
	if !slices.ContainsFunc(e.objects, func(id apply.ID) bool { return id.GroupKind() != namespaceKind }) {
		// Many charts bring along the one that they are made for.
		cure = "leave it to the addon whose stage comes first, and take it out of the chart of the other one, which may have a value for that"
	}
	return fmt.Sprintf("addon %s has %s, too; %s", e.other, strings.Join(names, ", "), cure)
}

var namespaceKind = schema.GroupKind{Kind: "Namespace"}

// Permanent reports that only other charts or values cure it.
func (e *overlapError) Permanent() bool { return true }

// alone refuses an addon one of whose objects another one of the given addons has, too. The two would undo each
// other's work for ever, and whoever is deleted first would take it from the other. No object of either is sent: each
// is asked about before it is applied for the first time.
//
// An addon that cannot be rendered is not compared; nothing of it is applied. Neither is one that asks what the
// cluster serves, before it is its turn: what stands before it may define that.
func (w *work) alone(ctx context.Context, addon string, others []string) error {
	mine, err := w.render(ctx, w.release, addon)
	if err != nil {
		return err
	}
	for _, other := range others {
		if other == addon || w.release.Capabilities(other) == release.ClusterCapabilities && w.rendered[rendering{w.release, other}] == nil {
			continue
		}
		theirs, err := w.render(ctx, w.release, other)
		var ours *managementError
		switch {
		case errors.As(err, &ours), ctx.Err() != nil:
			return err
		case err != nil:
			continue // its stage reports it
		}
		both, err := w.inBoth(ctx, objectsOf(mine), objectsOf(theirs))
		if err != nil {
			return err
		}
		if len(both) > 0 {
			return &overlapError{other: other, objects: both}
		}
	}
	return nil
}

func objectsOf(rendered *render.Result) []*unstructured.Unstructured {
	objects := slices.Clone(rendered.Objects)
	for _, hook := range rendered.Hooks {
		objects = append(objects, hook.Object)
	}
	return objects
}

// inBoth returns what is in both lists. Only the cluster knows which objects have a namespace; it is asked about those
// alone of which the names are in both.
func (w *work) inBoth(ctx context.Context, mine, theirs []*unstructured.Unstructured) ([]apply.ID, error) {
	type called struct {
		schema.GroupKind
		name string
	}
	nameOf := func(obj *unstructured.Unstructured) called {
		return called{obj.GroupVersionKind().GroupKind(), obj.GetName()}
	}
	among := func(objects, others []*unstructured.Unstructured) []*unstructured.Unstructured {
		names := map[called]bool{}
		for _, obj := range others {
			names[nameOf(obj)] = true
		}
		return slices.DeleteFunc(slices.Clone(objects), func(obj *unstructured.Unstructured) bool { return !names[nameOf(obj)] })
	}
	mine, theirs = among(mine, theirs), among(theirs, mine)
	if len(mine) == 0 {
		return nil, nil
	}
	ids, err := w.conn.applier.Identify(ctx, mine, render.AddonNamespace)
	if err != nil {
		return nil, err
	}
	known, err := w.conn.applier.Identify(ctx, theirs, render.AddonNamespace)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(id apply.ID) bool { return !slices.Contains(known, id) }), nil
}

// beside are the addons that the cluster has beside those of the stage at hand once the open rollout is through: what
// the lifecycle point applies, and what of the release is there already and is not deleted by it.
func (w *work) beside() []string {
	var addons, deleted []string
	for _, stage := range rollout.Stages(w.release, w.record.Rollout.Point) {
		if stage.Action == release.Apply {
			addons = append(addons, stage.Name)
		} else {
			deleted = append(deleted, stage.Name)
		}
	}
	if w.record.Applied != nil {
		addons = append(addons, w.record.Applied.Addons...)
	}
	has := w.release.Addons()
	addons = slices.DeleteFunc(addons, func(addon string) bool {
		return slices.Contains(deleted, addon) || !slices.Contains(has, addon) || slices.Contains(Off(w.settings), addon)
	})
	slices.Sort(addons)
	return slices.Compact(addons)
}
