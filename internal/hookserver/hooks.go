// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddons,verbs=get;patch
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

const (
	// deadline bounds an answer. Cluster API waits for ten seconds.
	deadline = 5 * time.Second
	// retryAfter is for how long Cluster API keeps an answer to wait, in seconds. It does not ask earlier,
	// whatever happens.
	retryAfter = 5
)

// hooks gives the answers. It keeps no state and may be called at the same time.
type hooks struct {
	client   client.Writer
	reader   client.Reader
	live     client.Reader
	recorder events.EventRecorder
	clock    clock.PassiveClock
}

// decision is what an answer comes to.
type decision string

const (
	// foreign lets a Cluster go on that is none of ours.
	foreign decision = "foreign"
	// proceed lets one of ours go on, because what there is to do is done.
	proceed decision = "proceed"
	// wait makes Cluster API ask again.
	wait decision = "wait"
	// skipped lets a Cluster go on because its user says so.
	skipped decision = "skipped"
	// expired lets a Cluster go on because it has waited for long enough.
	expired decision = "expired"
)

// handler returns the handler of a hook whose answer Cluster API waits for.
func handler[R runtimehooksv1.RetryResponseObject](h *hooks, point release.Point) func(context.Context, *Request, R) {
	return func(ctx context.Context, request *Request, response R) {
		d, message := h.answer(ctx, point, request)
		response.SetStatus(runtimehooksv1.ResponseStatusSuccess)
		if d == wait {
			response.SetMessage(message)
			response.SetRetryAfterSeconds(retryAfter)
		}
	}
}

// wakeUp is the handler of AfterControlPlaneInitialized. It holds nothing: Cluster API does not wait here, and the
// controller sees for itself when a control plane is initialized.
func (h *hooks) wakeUp(ctx context.Context, request *Request, response *runtimehooksv1.AfterControlPlaneInitializedResponse) {
	h.answer(ctx, release.AfterControlPlaneInitialized, request)
	response.SetStatus(runtimehooksv1.ResponseStatusSuccess)
}

// answer decides what to answer, and says what Cluster API has to wait for. What it says depends on what is
// recorded only: Cluster API writes it into the status of the Cluster, and a text that changes each time would
// keep it writing.
func (h *hooks) answer(ctx context.Context, point release.Point, request *Request) (decision, string) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	begin := h.clock.Now()
	d, message := h.decide(ctx, point, request)
	observe(point, d, h.clock.Since(begin))
	m := request.Cluster.Metadata
	ctrl.LoggerFrom(ctx).V(4).Info("Answered", "Cluster", klog.KRef(m.Namespace, m.Name), "hook", point, "decision", d, "message", message)
	return d, message
}

func (h *hooks) decide(ctx context.Context, point release.Point, request *Request) (decision, string) {
	class := request.Cluster.class()
	name, err := release.ParseClassName(class.Name)
	if err != nil {
		return foreign, "" // no topology, or a class that is not a cluster stack's
	}
	if annotation := v1alpha1.SkipHookAnnotation(string(point)); request.Cluster.Metadata.Annotations[annotation] != nil {
		h.tell(request, v1alpha1.HookSkippedReason, fmt.Sprintf("%s: not waited for, because of annotation %s", point, annotation))
		return skipped, ""
	}
	key := types.NamespacedName{Namespace: class.Namespace, Name: name.String()}
	switch point {
	case release.BeforeClusterCreate:
		return h.create(ctx, key)
	case release.AfterControlPlaneInitialized:
		return h.initialized(ctx, request)
	case release.BeforeClusterDelete:
		return h.deletion(ctx, request, name)
	case release.BeforeClusterUpgrade, release.BeforeControlPlaneUpgrade, release.AfterControlPlaneUpgrade,
		release.BeforeWorkersUpgrade, release.AfterWorkersUpgrade, release.AfterClusterUpgrade:
	}
	return h.upgrade(ctx, point, request, name, key)
}

// create answers before anything of a Cluster is created: its release has to be ready, node images and all.
func (h *hooks) create(ctx context.Context, key types.NamespacedName) (decision, string) {
	rel := &v1alpha1.ClusterStackRelease{}
	// What is ready in a cache may not be so any more.
	switch err := h.live.Get(ctx, key, rel); {
	case apierrors.IsNotFound(err):
		return foreign, "" // it only looks like one of ours
	case err != nil:
		return wait, fmt.Sprintf("ClusterStackRelease %s cannot be read", key.Name)
	case rel.Status.Ready && rel.DeletionTimestamp.IsZero():
		return proceed, ""
	}
	return wait, fmt.Sprintf("waiting for ClusterStackRelease %s to be ready", key.Name) + because(rel.Status.Conditions.Get(v1alpha1.ReadyCondition))
}

// initialized wakes the controller, unless it has seen for itself that the control plane is initialized.
func (h *hooks) initialized(ctx context.Context, request *Request) (decision, string) {
	addon, err := h.addon(ctx, request)
	if err != nil {
		return proceed, ""
	}
	record, err := rollout.ParseRecord(addon.Annotations[v1alpha1.RolloutAnnotation])
	if err != nil || record.Rollout != nil {
		return proceed, ""
	}
	if err := h.wake(ctx, addon, h.ask(release.AfterControlPlaneInitialized, request)); err != nil {
		ctrl.LoggerFrom(ctx).Info("The controller could not be told that the control plane is initialized; it will see for itself", "cause", err.Error())
	}
	return proceed, ""
}

// deletion answers before a Cluster is deleted. It waits only for what the release asks for, and not for long: a
// Cluster has to go, whatever becomes of its addons.
func (h *hooks) deletion(ctx context.Context, request *Request, name release.Name) (decision, string) {
	since := request.Cluster.Metadata.DeletionTimestamp
	if since.IsZero() || h.clock.Since(since.Time) >= v1alpha1.FarewellTimeout {
		if !since.IsZero() {
			h.tell(request, v1alpha1.HookExpiredReason, fmt.Sprintf("%s: not waited for any longer than %s", release.BeforeClusterDelete, v1alpha1.FarewellTimeout))
		}
		return expired, ""
	}
	addon, err := h.addon(ctx, request)
	if apierrors.IsNotFound(err) {
		return proceed, ""
	}
	if err != nil {
		return wait, fmt.Sprintf("ClusterAddon %s cannot be read", v1alpha1.ClusterAddonName(request.Cluster.Metadata.Name))
	}
	record, err := rollout.ParseRecord(addon.Annotations[v1alpha1.RolloutAnnotation])
	if err != nil || !record.Farewell() {
		return proceed, ""
	}
	ask := h.ask(release.BeforeClusterDelete, request)
	ask.To = record.Applied.Version
	if ask.Class != record.Applied.Class || ask.Namespace != record.Applied.Namespace || record.Proves(ask) {
		return proceed, ""
	}
	// The controller sees a Cluster that is deleted; it needs no waking.
	return wait, waitingFor(addon, record, name, ask)
}

// upgrade answers at a point of an upgrade.
func (h *hooks) upgrade(ctx context.Context, point release.Point, request *Request, name release.Name, key types.NamespacedName) (decision, string) {
	unreadable := fmt.Sprintf("ClusterStackRelease %s cannot be read", name)
	addon, err := h.addon(ctx, request)
	if apierrors.IsNotFound(err) {
		// Perhaps it only looks like one of ours. A cache may be behind, and to let an upgrade go is final.
		_, known, err := fixed(ctx, h.reader, key)
		if err == nil && !known {
			_, known, err = fixed(ctx, h.live, key)
		}
		switch {
		case err != nil:
			return wait, unreadable
		case !known:
			return foreign, ""
		}
		return wait, fmt.Sprintf("waiting for ClusterAddon %s to be created", v1alpha1.ClusterAddonName(request.Cluster.Metadata.Name))
	}
	if err != nil {
		return wait, fmt.Sprintf("ClusterAddon %s cannot be read", v1alpha1.ClusterAddonName(request.Cluster.Metadata.Name))
	}
	record, err := rollout.ParseRecord(addon.Annotations[v1alpha1.RolloutAnnotation])
	if err != nil {
		return wait, fmt.Sprintf("the annotation %s of ClusterAddon %s cannot be read; remove it to have the addons rolled out anew",
			v1alpha1.RolloutAnnotation, addon.Name)
	}
	ask := h.ask(point, request)
	// A ClusterAddon that is going takes its proof along.
	if addon.DeletionTimestamp.IsZero() && (record.Proves(ask) || record.Idle(ask)) {
		// A release that was corrected under the same name is not the one that was proven, and a cache may not know yet.
		switch digest, _, err := fixed(ctx, h.live, key); {
		case err != nil:
			return wait, unreadable
		case digest == "" || digest == record.Applied.Digest:
			return proceed, ""
		}
	}
	if open := record.Open(); open == nil || open.About() != ask {
		if err := h.wake(ctx, addon, ask); err != nil {
			return wait, fmt.Sprintf("ClusterAddon %s cannot be written", addon.Name)
		}
	}
	return wait, waitingFor(addon, record, name, ask)
}

func (h *hooks) ask(point release.Point, request *Request) rollout.Ask {
	class := request.Cluster.class()
	to := request.ToKubernetesVersion
	if to == "" {
		to = request.KubernetesVersion
	}
	ask := rollout.NewAsk(point, request.Cluster.Spec.Topology.Version, request.FromKubernetesVersion, to)
	ask.Namespace, ask.Class, ask.Cluster = class.Namespace, class.Name, string(request.Cluster.Metadata.UID)
	return ask
}

// fixed tells whether there is a ClusterStackRelease of that name, and the digest that is fixed in it, if any.
func fixed(ctx context.Context, reader client.Reader, key types.NamespacedName) (digest string, known bool, err error) {
	rel := &v1alpha1.ClusterStackRelease{}
	err = reader.Get(ctx, key, rel)
	return rel.Status.Digest, err == nil, client.IgnoreNotFound(err)
}

func (h *hooks) addon(ctx context.Context, request *Request) (*v1alpha1.ClusterAddon, error) {
	addon := &v1alpha1.ClusterAddon{}
	key := types.NamespacedName{Namespace: request.Cluster.Metadata.Namespace, Name: v1alpha1.ClusterAddonName(request.Cluster.Metadata.Name)}
	if err := h.live.Get(ctx, key, addon); err != nil {
		return nil, err
	}
	return addon, nil
}

// wake writes down what was asked for, unless it stands there already. The controller watches it.
func (h *hooks) wake(ctx context.Context, addon *v1alpha1.ClusterAddon, ask rollout.Ask) error {
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

// tell records an event on the Cluster.
func (h *hooks) tell(request *Request, reason, message string) {
	if h.recorder == nil {
		return
	}
	m := request.Cluster.Metadata
	h.recorder.Eventf(&corev1.ObjectReference{
		APIVersion: request.Cluster.APIVersion, Kind: "Cluster", Namespace: m.Namespace, Name: m.Name, UID: m.UID,
	}, nil, corev1.EventTypeWarning, reason, reason, "%s", message)
}

// waitingFor says what a rollout waits for.
func waitingFor(addon *v1alpha1.ClusterAddon, record rollout.Record, name release.Name, ask rollout.Ask) string {
	text := fmt.Sprintf("waiting for the addons of %s", name)
	switch {
	case ask.Point == release.BeforeClusterUpgrade:
		text += " before Kubernetes " + ask.To
	case ask.Hop != "":
		text += fmt.Sprintf(" for %s, Kubernetes %s", ask.Point, ask.Hop)
	default:
		text += fmt.Sprintf(" for %s", ask.Point)
	}
	conditions := addon.Status.Conditions
	if c := conditions.Get(v1alpha1.PausedCondition); c != nil && c.Status == "True" {
		return text + because(c)
	}
	types := []string{v1alpha1.ClusterReadyCondition, v1alpha1.ClusterStackReleaseDownloadedCondition}
	if open := record.Open(); open != nil && open.Class == ask.Class && open.Namespace == ask.Namespace && open.To == ask.To {
		types = append(types, v1alpha1.HelmChartAppliedCondition)
	}
	// Otherwise what the conditions say is about another rollout, unless the release itself is what is missing, or
	// does not fit so that there will be no rollout.
	for _, conditionType := range types {
		if c := conditions.Get(conditionType); c != nil && c.Status == "False" {
			return text + because(c)
		}
	}
	if c := conditions.Get(v1alpha1.HelmChartAppliedCondition); c != nil && c.Reason == v1alpha1.VersionMismatchReason {
		return text + because(c)
	}
	return text
}

func because(c *v1alpha1.Condition) string {
	if c == nil || c.Message == "" {
		return ""
	}
	return ": " + c.Message
}
