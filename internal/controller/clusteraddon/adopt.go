// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

// adopt takes a cluster over whose addons the existing operator has brought. That operator writes the finished
// release into spec.clusterStack, keeps no record, and applies under another name. What it has applied becomes ours
// by its managed fields alone: no object is changed, and what its charts have generated is learnt from the cluster
// and not generated anew. Afterwards the cluster is one that has that release, and whatever its user wants next is
// an ordinary rollout.
//
// Where nothing is found that the existing operator applied, all is as without it.
func (w *work) adopt(ctx context.Context, inventoryExists bool) error {
	if w.record.Applied != nil || w.record.Rollout != nil ||
		w.addon.Spec.ClusterStack == "" && w.addon.Spec.Hook == "" || inventoryExists && !underAdoption(w.inventory) {
		return nil
	}
	former, digest, err := w.formerRelease(ctx)
	if err != nil {
		return err
	}
	releases := []*release.Release{w.release}
	if former != nil && former.Name != w.release.Name {
		// An upgrade may have been under way; what both have is the former's.
		releases = []*release.Release{former, w.release}
	}
	for _, rel := range releases {
		for _, addon := range rel.Addons() {
			if err := w.takeOver(ctx, rel, addon); err != nil {
				return fmt.Errorf("take over addon %s of %s: %w", addon, rel.Name, err)
			}
		}
	}
	if former == nil || w.inventory.Len() == 0 {
		return nil
	}
	record := rollout.Record{Applied: &rollout.Applied{
		Release: rollout.Release{Namespace: w.cluster.GetClassKey().Namespace, Class: former.Name.ClassName(), Digest: digest},
		Version: former.Metadata.Kubernetes,
		Addons:  former.Addons(),
		Pruned:  true,
	}}
	// What it was rendered with is not known. So everything is sent once, which changes nothing that is as it should be.
	if err := w.save(ctx, record, func() { w.addon.Spec.Hook = "" }); err != nil {
		return fmt.Errorf("save what was taken over: %w", err)
	}
	ctrl.LoggerFrom(ctx).Info("Took a cluster over from the existing operator", "release", former.Name, "objects", w.inventory.Len())
	w.tell(v1alpha1.TakenOverReason, fmt.Sprintf("took over %d objects of the addons of %s", w.inventory.Len(), former.Name))
	return nil
}

// underAdoption reports whether the inventory is one of a take-over, which may not have come to its end.
func underAdoption(inv *apply.Inventory) bool {
	return slices.ContainsFunc(inv.Entries(), func(e apply.Entry) bool { return e.Origin == apply.Adopting || e.Origin == apply.Adopted })
}

// formerRelease opens the release that the existing operator has finished last, nil when there is none or it
// cannot be had any more. What only that one had can then not be told from what is somebody else's.
func (w *work) formerRelease(ctx context.Context) (*release.Release, string, error) {
	name, err := release.ParseClassName(w.addon.Spec.ClusterStack)
	if err != nil {
		return nil, "", nil //nolint:nilerr // not finished once, or nothing that we know
	}
	if name == w.release.Name {
		return w.release, w.digest, nil
	}
	rel, digest, err := w.releases.Open(ctx, w.cluster.GetClassKey().Namespace, name)
	if errors.Is(err, source.ErrNotFound) || err != nil && step.Permanent(err) {
		ctrl.LoggerFrom(ctx).Error(err, "The release that the existing operator applied cannot be opened; what only it had stays in the cluster", "release", name)
		return nil, "", nil
	}
	if err != nil {
		return nil, "", step.Because(v1alpha1.FetchFailedReason, fmt.Errorf("open the release that was applied before: %w", err))
	}
	return rel, digest, nil
}

// takeOver makes the objects of one addon ours.
func (w *work) takeOver(ctx context.Context, rel *release.Release, addon string) error {
	if err := w.learn(ctx, rel, addon); err != nil {
		return err
	}
	rendered, err := w.render(ctx, rel, addon)
	if err != nil && !step.Permanent(err) {
		return err
	}
	if err != nil {
		return nil // its stage reports that
	}
	_, err = w.conn.applier.TakeOver(ctx, Set(addon, rendered), w.inventory, w.journal)
	return err
}

// learn records what the charts of an addon have generated for this cluster under the existing operator.
func (w *work) learn(ctx context.Context, rel *release.Release, addon string) error {
	if err := w.loadGenerated(ctx); err != nil {
		return err
	}
	in, err := render.AddonInput(rel, addon, w.facts, w.recorded)
	if err != nil {
		return nil //nolint:nilerr // its stage reports that
	}
	var broken error
	learnt, err := render.Recover(in, func(in render.Input) (*render.Result, error) {
		var result *render.Result
		result, broken = w.renderPatiently(ctx, in)
		return result, broken
	}, func(namespace, name string) (map[string][]byte, bool, error) {
		return w.liveSecret(ctx, namespace, name)
	})
	if errors.Is(broken, errCrowded) {
		return broken // what is not learnt would be generated anew
	}
	if broken != nil {
		return nil //nolint:nilerr // its stage reports that, too
	}
	if err != nil {
		return err
	}
	recorded := maps.Clone(w.recorded)
	maps.Copy(recorded, learnt)
	return w.saveGenerated(ctx, recorded)
}

// liveSecret reads the data of a Secret in the cluster. It is the only place where the content of one is read.
func (w *work) liveSecret(ctx context.Context, namespace, name string) (data map[string][]byte, found bool, err error) {
	obj, err := w.conn.applier.Get(ctx, schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read Secret %s/%s of the cluster: %w", namespace, name, err)
	}
	encoded, _, _ := unstructured.NestedStringMap(obj.Object, "data")
	data = map[string][]byte{}
	for key, text := range encoded {
		if data[key], err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, false, fmt.Errorf("read Secret %s/%s of the cluster: its data are not in base64", namespace, name)
		}
	}
	return data, true, nil
}
