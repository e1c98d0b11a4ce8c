// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddons,verbs=get;patch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases,verbs=get;list;watch

const (
	// deadline bounds an answer. Cluster API waits for ten seconds.
	deadline = 5 * time.Second
	// retryAfter is for how long Cluster API keeps an answer to wait, in seconds. It does not ask earlier,
	// whatever happens.
	retryAfter = 5
)

// Hooks are the handlers. They keep no state and may be called at the same time.
type Hooks struct {
	client client.Writer
	reader client.Reader
	live   client.Reader
}

// BeforeClusterUpgrade holds an upgrade until the addons for it are proven to be in the cluster.
func (h *Hooks) BeforeClusterUpgrade(ctx context.Context, request *Request, response *runtimehooksv1.BeforeClusterUpgradeResponse) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	response.SetStatus(runtimehooksv1.ResponseStatusSuccess)
	hold := h.hold(ctx, release.BeforeClusterUpgrade, request)
	log(ctx, request).V(4).Info("Answered", "hook", release.BeforeClusterUpgrade, "hold", hold)
	if hold != "" {
		response.SetMessage(hold)
		response.SetRetryAfterSeconds(retryAfter)
	}
}

// AfterControlPlaneInitialized wakes the controller. It holds nothing: Cluster API does not wait here, and the
// controller sees for itself when a control plane is initialized.
func (h *Hooks) AfterControlPlaneInitialized(ctx context.Context, request *Request, response *runtimehooksv1.AfterControlPlaneInitializedResponse) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	response.SetStatus(runtimehooksv1.ResponseStatusSuccess)
	class := request.Cluster.class()
	if _, err := release.ParseClassName(class.Name); err != nil {
		return
	}
	addon, err := h.addon(ctx, request)
	if err != nil || !awake(addon) {
		return
	}
	if err := h.wake(ctx, addon, rollout.Ask{
		Namespace: class.Namespace, Class: class.Name, Point: release.AfterControlPlaneInitialized,
		To: request.Cluster.Spec.Topology.Version, Cluster: string(request.Cluster.Metadata.UID),
	}); err != nil {
		log(ctx, request).Info("The controller could not be told that the control plane is initialized; it will see for itself", "cause", err.Error())
	}
}

// awake tells whether a ClusterAddon has never had a rollout, so that there is something to wake the controller for.
func awake(addon *v1alpha1.ClusterAddon) bool {
	record, err := rollout.ParseRecord(addon.Annotations[v1alpha1.RolloutAnnotation])
	return err == nil && record.Rollout == nil
}

// AfterClusterUpgrade lets Cluster API go on: no addon is rolled out at this point.
func (h *Hooks) AfterClusterUpgrade(_ context.Context, _ *Request, response *runtimehooksv1.AfterClusterUpgradeResponse) {
	response.SetStatus(runtimehooksv1.ResponseStatusSuccess)
}

// hold says what Cluster API has to wait for at a lifecycle point, and nothing if it may go on. What it says
// depends on what is recorded only: Cluster API writes it into the status of the Cluster, and a text that
// changes each time would keep it writing.
func (h *Hooks) hold(ctx context.Context, point release.Point, request *Request) string {
	class := request.Cluster.class()
	name, err := release.ParseClassName(class.Name)
	if err != nil {
		return "" // no topology, or a class that is not a cluster stack's
	}
	key := types.NamespacedName{Namespace: class.Namespace, Name: name.String()}
	digest, known, err := fixed(ctx, h.reader, key)
	if err != nil {
		return fmt.Sprintf("ClusterStackRelease %s cannot be read", name)
	}
	addon, err := h.addon(ctx, request)
	if apierrors.IsNotFound(err) && !known {
		// It seems only to look like one of ours. A cache may be behind, and to let an upgrade go is final.
		switch _, known, err := fixed(ctx, h.live, key); {
		case err != nil:
			return fmt.Sprintf("ClusterStackRelease %s cannot be read", name)
		case !known:
			return ""
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("waiting for ClusterAddon %s to be created", v1alpha1.ClusterAddonName(request.Cluster.Metadata.Name))
	case err != nil:
		return fmt.Sprintf("ClusterAddon %s cannot be read", v1alpha1.ClusterAddonName(request.Cluster.Metadata.Name))
	}
	record, err := rollout.ParseRecord(addon.Annotations[v1alpha1.RolloutAnnotation])
	if err != nil {
		return fmt.Sprintf("the annotation %s of ClusterAddon %s cannot be read; remove it to have the addons rolled out anew",
			v1alpha1.RolloutAnnotation, addon.Name)
	}
	ask := rollout.Ask{
		Namespace: class.Namespace, Class: class.Name, Point: point,
		From: request.FromKubernetesVersion, To: request.ToKubernetesVersion, Cluster: string(request.Cluster.Metadata.UID),
	}
	// A ClusterAddon that is going takes its proof along, and a release that was corrected under the same name
	// is not the one that was proven.
	if addon.DeletionTimestamp.IsZero() && record.Proves(ask) && (digest == "" || digest == record.Rollout.Digest) {
		return ""
	}
	if open := record.Open(); open == nil || open.About() != ask {
		if err := h.wake(ctx, addon, ask); err != nil {
			return fmt.Sprintf("ClusterAddon %s cannot be written", addon.Name)
		}
	}
	return waitingFor(addon, record, name, ask)
}

// fixed tells whether there is a ClusterStackRelease of that name, and the digest that is fixed in it, if any.
func fixed(ctx context.Context, reader client.Reader, key types.NamespacedName) (digest string, known bool, err error) {
	rel := &v1alpha1.ClusterStackRelease{}
	err = reader.Get(ctx, key, rel)
	return rel.Status.Digest, err == nil, client.IgnoreNotFound(err)
}

func (h *Hooks) addon(ctx context.Context, request *Request) (*v1alpha1.ClusterAddon, error) {
	addon := &v1alpha1.ClusterAddon{}
	key := types.NamespacedName{Namespace: request.Cluster.Metadata.Namespace, Name: v1alpha1.ClusterAddonName(request.Cluster.Metadata.Name)}
	if err := h.live.Get(ctx, key, addon); err != nil {
		return nil, err
	}
	return addon, nil
}

// wake writes down what was asked for, unless it stands there already. The controller watches it.
func (h *Hooks) wake(ctx context.Context, addon *v1alpha1.ClusterAddon, ask rollout.Ask) error {
	if addon.Annotations[v1alpha1.LifecyclePointAnnotation] == ask.String() {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		// Never the ClusterAddon of another Cluster that has the name meanwhile.
		"uid":         addon.UID,
		"annotations": map[string]string{v1alpha1.LifecyclePointAnnotation: ask.String()},
	}})
	if err != nil {
		return errors.New("the patch cannot be written as JSON")
	}
	target := &v1alpha1.ClusterAddon{}
	target.Namespace, target.Name = addon.Namespace, addon.Name
	return h.client.Patch(ctx, target, client.RawPatch(types.MergePatchType, patch))
}

// waitingFor says what a rollout waits for.
func waitingFor(addon *v1alpha1.ClusterAddon, record rollout.Record, name release.Name, ask rollout.Ask) string {
	text := fmt.Sprintf("waiting for the addons of %s before Kubernetes %s", name, ask.To)
	if c := addon.Status.Conditions.Get(v1alpha1.PausedCondition); c != nil && c.Status == "True" {
		return text + ": " + c.Message
	}
	if open := record.Open(); open == nil || open.Class != ask.Class || open.Namespace != ask.Namespace || open.To != ask.To {
		// What the conditions say is about another rollout, unless the release itself is what is missing, or
		// does not fit so that there will be no rollout.
		for _, conditionType := range []string{v1alpha1.ClusterReadyCondition, v1alpha1.ClusterStackReleaseDownloadedCondition} {
			if c := addon.Status.Conditions.Get(conditionType); c != nil && c.Status == "False" {
				return text + ": " + c.Message
			}
		}
		if c := addon.Status.Conditions.Get(v1alpha1.HelmChartAppliedCondition); c != nil && c.Reason == v1alpha1.VersionMismatchReason {
			return text + ": " + c.Message
		}
		return text
	}
	for _, conditionType := range []string{v1alpha1.ClusterReadyCondition, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.HelmChartAppliedCondition} {
		if c := addon.Status.Conditions.Get(conditionType); c != nil && c.Status == "False" {
			return text + ": " + c.Message
		}
	}
	return text
}

func log(ctx context.Context, request *Request) klog.Logger {
	m := request.Cluster.Metadata
	return ctrl.LoggerFrom(ctx).WithValues("Cluster", klog.KRef(m.Namespace, m.Name))
}
