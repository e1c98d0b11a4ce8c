// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/external"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/ledger"
	"github.com/clusterstacks/cluster-stack-operator/internal/observe"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
	"github.com/clusterstacks/cluster-stack-operator/internal/workload"
)

// work is one reconciliation of one ClusterAddon.
type work struct {
	*Reconciler
	addon *v1alpha1.ClusterAddon

	// Set by load.
	cluster *clusterv1.Cluster // nil when it is gone
	paused  bool
	// settings are what the users of the Cluster say about its addons, nil if nothing.
	settings *v1alpha1.ClusterAddonSettings
	record   rollout.Record
	asked    *rollout.Ask

	// turn is what the pass works on.
	turn *turn
	// crowded says that a render was given up that had waited for long. Others would wait as long.
	crowded bool
	// recorder records the events of this pass.
	recorder events.EventRecorder

	// conn is set by reachCluster.
	conn *connection

	// Set by openRelease. The release is nil when it is in place and cannot be opened.
	release *release.Release
	digest  string

	// Set by gather.
	facts     render.Facts
	values    *userValues
	inputs    string
	inventory *apply.Inventory
	journal   *journal
	unsaved   bool // the journal lacks what came of a stage
	lost      bool
	generated *ledger.Ledger // nil until a render needs it
	recorded  render.Record

	// What came of this pass.
	progress map[string]rollout.Progress
	rendered map[rendering]*render.Result
	// unrendered are why addons cannot be rendered. A second try in the same pass would take as long, and end alike.
	unrendered map[rendering]error
	failures   []failure
	gate       *gate
	// awaited are the objects that stages wait for.
	awaited  []observe.Object
	began    *time.Time // when a rollout was opened, if in this pass
	starting string     // what is to be told of that once it is written down
	ran      bool
	applied  step.Outcome
	failed   error
}

// failure is a stage that failed, and why.
type failure struct {
	stage  string
	reason string
	err    error
	// gate says that it was a condition of the stage that could not be evaluated.
	gate bool
}

// gate is a condition, the health, or a hook's Job of a stage that is waited for.
type gate struct {
	stage  string
	reason string
	// waiting says for what.
	waiting string
}

// situation returns the facts that the next move depends on.
func (w *work) situation() rollout.Situation {
	s := rollout.Situation{
		Record:        w.record,
		Asked:         w.asked,
		InventoryLost: w.lost,
		Inputs:        w.inputs,
		Off:           Off(w.settings),
		Progress:      w.progress,
		Cluster:       rollout.Cluster{Paused: w.paused, Dismissed: !w.addon.DeletionTimestamp.IsZero()},
	}
	if w.cluster != nil {
		_, ours := releases.UsedBy(w.cluster)
		s.Cluster.UID = string(w.cluster.UID)
		s.Cluster.Deleting = !w.cluster.DeletionTimestamp.IsZero()
		s.Cluster.MayGo = s.Cluster.Deleting && w.farewellLeft() == 0
		s.Cluster.Ours = ours
		s.Cluster.Initialized = initialized(w.cluster)
		s.Cluster.Version = w.cluster.Spec.Topology.Version
		s.Cluster.ControlPlane, s.Cluster.Workers, s.Cluster.NoWorkers = machines(w.cluster)
	}
	if w.release != nil {
		s.Target = &rollout.Target{Release: w.target(), Kubernetes: w.release.Metadata.Kubernetes, Lists: w.release}
	}
	return s
}

func (w *work) target() rollout.Release {
	return rollout.Release{Namespace: w.cluster.GetClassKey().Namespace, Class: w.release.Name.ClassName(), Digest: w.digest}
}

func (w *work) clusterKey() client.ObjectKey { return client.ObjectKeyFromObject(w.cluster) }

// initialized tells whether the control plane of a Cluster has answered once.
func initialized(cluster *clusterv1.Cluster) bool {
	done := cluster.Status.Initialization.ControlPlaneInitialized
	return done != nil && *done || conditions.IsTrue(cluster, clusterv1.ClusterControlPlaneInitializedCondition)
}

// machines returns what Cluster API says about the versions of the control plane and the workers of a Cluster, and
// whether it has no workers.
func machines(cluster *clusterv1.Cluster) (controlPlane, workers rollout.Machines, none bool) {
	if status := cluster.Status.ControlPlane; status != nil {
		controlPlane = rollout.Machines{Versions: versions(status.Versions), Plan: plan(status.UpgradePlan)}
	}
	if status := cluster.Status.Workers; status != nil {
		workers = rollout.Machines{Versions: versions(status.Versions), Plan: plan(status.UpgradePlan)}
		none = len(status.Versions) == 0 && ptr.Deref(status.DesiredReplicas, -1) == 0
	}
	topology := cluster.Spec.Topology.Workers
	none = none || len(topology.MachineDeployments)+len(topology.MachinePools) == 0
	return controlPlane, workers, none
}

func versions(status []clusterv1.StatusVersion) []string {
	var versions []string
	for _, v := range status {
		versions = append(versions, v.Version)
	}
	return versions
}

func plan(status []clusterv1.StatusUpgradePlanVersion) []string {
	var versions []string
	for _, v := range status {
		versions = append(versions, v.Version)
	}
	return versions
}

// farewellLeft returns how long a Cluster that is being deleted still waits for what its release wants done before,
// 0 when it does not: its user does not want to wait, Cluster API was told to go on, or the time is over.
func (w *work) farewellLeft() time.Duration {
	_, told := w.cluster.Annotations[runtimev1.OkToDeleteAnnotation]
	_, skipped := w.cluster.Annotations[v1alpha1.SkipHookAnnotation(string(release.BeforeClusterDelete))]
	if told || skipped {
		return 0
	}
	end := w.cluster.DeletionTimestamp.Add(v1alpha1.FarewellTimeout)
	return max(0, end.Sub(w.options.Clock.Now()))
}

// patiently bounds how long a step holds up the deletion of the Cluster.
func (w *work) patiently(o step.Outcome) step.Outcome {
	if w.cluster.DeletionTimestamp.IsZero() {
		return o
	}
	return o.LookAgain(min(w.options.GatePoll, w.farewellLeft()) + time.Second)
}

// untried tells that nobody has tried yet to connect to a cluster whose API server can be there.
func (w *work) untried() bool {
	provisioned := w.cluster.Status.Initialization.InfrastructureProvisioned
	if !initialized(w.cluster) || provisioned == nil || !*provisioned {
		return false
	}
	return !w.clusters.Tried(w.cluster)
}

// reachCluster waits until the control plane can be talked to.
func (w *work) reachCluster(ctx context.Context) (step.Outcome, error) {
	w.addon.Status.Ready = false // said again once all steps are done
	if await, is := rollout.Next(w.situation()).(rollout.Await); is && await.Reason == rollout.ControlPlane {
		return step.Wait(v1alpha1.ControlPlaneNotReadyReason, "the control plane of the Cluster is not initialized"), nil
	}
	config, err := w.clusters.Config(w.cluster)
	if errors.Is(err, workload.ErrNotConnected) {
		// Whoever makes the connection tells us.
		w.connections.drop(w.clusterKey())
		return w.patiently(step.Wait(v1alpha1.ControlPlaneNotReadyReason, "%v", err)), nil
	}
	if err != nil {
		return step.Outcome{}, step.Because(v1alpha1.ControlPlaneNotReadyReason, fmt.Errorf("connect to the cluster: %w", err))
	}
	now := w.options.Clock.Now()
	if w.conn, err = w.connections.to(w.clusterKey(), config, now.Add(first(w.options.Recheck))); err != nil {
		return step.Outcome{}, step.Because(v1alpha1.ControlPlaneNotReadyReason, err)
	}
	if !w.conn.answers(ctx, w.turn) {
		return w.silent(), nil
	}
	return step.Done().Saying("the API server of the cluster answers"), nil
}

// silent waits for an API server that has left a request unanswered. Whoever makes another connection tells us.
func (w *work) silent() step.Outcome {
	return w.patiently(step.Wait(v1alpha1.ControlPlaneNotReadyReason, "%v", errSilent).LookAgain(w.conn.left() + time.Second))
}

// openRelease opens the release that the Cluster uses.
func (w *work) openRelease(ctx context.Context) (step.Outcome, error) {
	key, _ := releases.UsedBy(w.cluster)
	again := w.patiently(step.Outcome{}.LookAgain(w.options.Recheck))
	rel, digest, err := w.releases.Open(ctx, key.Namespace, key.Name)
	if err != nil && !releases.Refused(err) && !releases.Moved(err) && !step.Permanent(err) && w.inPlace(ctx, key) {
		// The store was lost, and the source cannot be asked, has not answered yet, or no longer has the release. That
		// changes nothing about what is in the cluster.
		if releases.Pending(err) {
			return w.asBefore(v1alpha1.ClusterStackReleaseDownloadedCondition, key.Name.String()).LookAgain(pendingRecheck), nil
		}
		return step.Done().Saying("%s is in place; it cannot be opened at present: %v", key.Name, err).LookAgain(min(w.options.Recheck, reopen)), nil
	}
	w.addon.Status.TargetRelease = &v1alpha1.AddonRelease{Name: key.Name.String()}
	switch {
	case releases.Pending(err):
		return step.Wait(v1alpha1.ReleaseAssetsNotDownloadedYetReason, "%v", err).LookAgain(pendingRecheck), nil
	case releases.Refused(err):
		return w.patiently(step.Wait(v1alpha1.VerificationFailedReason, "%v", err).LookAgain(w.options.Recheck)), nil
	case errors.Is(err, source.ErrNotFound):
		return w.patiently(step.Wait(v1alpha1.NotPublishedReason, "%v", err).LookAgain(w.options.Recheck)), nil
	case releases.Moved(err):
		return again, step.Because(v1alpha1.ReleaseMovedReason, err)
	case err != nil && step.Permanent(err):
		return again, step.Because(v1alpha1.IssueWithReleaseAssetsReason, err)
	case err != nil:
		return step.Outcome{}, step.Because(v1alpha1.FetchFailedReason, err)
	}
	w.release, w.digest = rel, digest
	w.addon.Status.TargetRelease = addonRelease(key.Name.String(), digest, rel.Metadata.Kubernetes)
	return step.Done().Saying("%s", strings.Join(append([]string{key.Name.String()}, rel.Warnings...), "; ")), nil
}

// pendingRecheck is how often a fetch is asked after. Whoever fetches wakes the ClusterStackRelease only.
const pendingRecheck = 2 * time.Second

// reopen is how often a release is asked for that is in place and cannot be opened.
const reopen = time.Minute

// inPlace tells whether the cluster has the addons of the release that it uses, and nothing is under way or asked for,
// as far as that can be known without the release.
func (w *work) inPlace(ctx context.Context, key releases.Key) bool {
	applied := w.record.Applied
	if applied == nil || !applied.Pruned || w.record.Open() != nil || !w.cluster.DeletionTimestamp.IsZero() ||
		applied.Namespace != key.Namespace || applied.Class != key.Name.ClassName() || applied.Version != w.cluster.Spec.Topology.Version ||
		w.asked != nil && !w.record.Proves(*w.asked) && !w.record.Idle(*w.asked) {
		return false
	}
	isOff := func(addon string) bool { return slices.Contains(Off(w.settings), addon) }
	if slices.ContainsFunc(slices.Concat(applied.Addons, applied.Behind), isOff) ||
		slices.ContainsFunc(applied.Off, func(addon string) bool { return !isOff(addon) }) {
		return false // an addon was switched off or on, which takes the release
	}
	rel := &v1alpha1.ClusterStackRelease{}
	err := w.client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name.String()}, rel)
	return err == nil && releases.PinOf(rel).Digest == applied.Digest
}

// asBefore is the outcome of a step that could not look at anything and knows of no change: what was said when it
// was done last stands.
func (w *work) asBefore(conditionType, otherwise string) step.Outcome {
	if stored := w.addon.Status.Conditions.Get(conditionType); stored != nil && stored.Status == metav1.ConditionTrue {
		return step.Done().Saying("%s", stored.Message)
	}
	return step.Done().Saying("%s", otherwise)
}

// evaluate runs the stages, and reports whether a condition of one is waited for.
func (w *work) evaluate(ctx context.Context) (step.Outcome, error) {
	if w.release == nil {
		return w.asBefore(v1alpha1.EvaluatedCELCondition, "no stage waits for a condition"), nil
	}
	w.run(ctx)
	if w.gate != nil && w.gate.reason != v1alpha1.ObjectsApplyingOngoingReason {
		return step.Wait(w.gate.reason, "stage %s waits for %s", w.gate.stage, w.gate.waiting), nil
	}
	for _, f := range w.failures {
		if f.gate {
			return step.Wait(f.reason, "stage %s: %v", f.stage, f.err), nil // retried by the next step
		}
	}
	return step.Done().Saying("no stage waits for a condition"), nil
}

// advance reports what came of the stages.
func (w *work) advance(ctx context.Context) (step.Outcome, error) {
	if w.release == nil {
		return w.asBefore(v1alpha1.HelmChartAppliedCondition, "the addons of the release are in place"), nil
	}
	w.run(ctx)
	return w.applied, w.failed
}

// run makes moves until there is none to make, once.
func (w *work) run(ctx context.Context) {
	if w.ran {
		return
	}
	w.ran = true
	ctx, end := w.conn.begin(ctx, w.turn)
	defer end()
	if w.failed = w.gather(ctx); w.failed == nil {
		w.applied, w.failed = w.moves(ctx)
		if err := w.saveInventory(ctx); err != nil && !errors.Is(w.failed, w.journal.failed) {
			w.failed = errors.Join(w.failed, err)
		}
		w.watch(ctx)
	}
	if errors.Is(w.failed, errCrowded) {
		w.applied, w.failed = w.awaitsTurn(), nil
	}
	if w.conn.lost() {
		w.failures, w.gate, w.failed = nil, nil, nil
		w.applied = w.silent()
	}
	w.report()
}

// saveInventory saves what became of the stages of this pass, whatever has ended it. The stages announce what they
// are about to do by themselves, and with that what came of those before.
func (w *work) saveInventory(ctx context.Context) error {
	if !w.unsaved {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	if err := w.journal.Save(ctx, w.inventory); err != nil {
		return fmt.Errorf("save the inventory: %w", err)
	}
	w.unsaved = false
	return nil
}

// saveTimeout bounds the save that ends a pass, also of an operator that is told to stop.
const saveTimeout = 10 * time.Second

// gather loads what the moves start from.
func (w *work) gather(ctx context.Context) error {
	controlPlane, err := w.referred(ctx, w.cluster.Spec.ControlPlaneRef)
	if err != nil {
		return err
	}
	infraCluster, err := w.referred(ctx, w.cluster.Spec.InfrastructureRef)
	if err != nil {
		return err
	}
	if w.facts, err = render.ClusterFacts(w.cluster, controlPlane, infraCluster); err != nil {
		return err
	}
	if w.values, err = readValues(ctx, w.live, w.settings); err != nil {
		return err
	}
	if w.inputs, err = w.identifyInputs(ctx); err != nil {
		return err
	}
	w.inputs += w.values.id
	w.facts.Values = w.values.of

	w.journal = &journal{Ledger: ledger.New(w.client, w.live, w.addon, addonKind, "inventory")}
	data, err := w.journal.Load(ctx)
	if err != nil {
		return fmt.Errorf("load the inventory: %w", err)
	}
	if w.inventory, err = apply.DecodeInventory(data); err != nil {
		return fmt.Errorf("load the inventory: %w", err)
	}
	if err := w.adopt(ctx, data != nil); err != nil {
		return err
	}
	open := w.record.Open()
	w.lost = data == nil && w.inventory.Len() == 0 && (w.record.Applied != nil || open != nil && len(open.Done) > 0)
	return nil
}

// referred reads an object that the Cluster refers to, nil if it refers to none.
func (w *work) referred(ctx context.Context, ref clusterv1.ContractVersionedObjectReference) (*unstructured.Unstructured, error) {
	if !ref.IsDefined() {
		return nil, nil //nolint:nilnil // templates then see none
	}
	obj, err := external.GetObjectFromContractVersionedRef(ctx, w.client, ref, w.cluster.Namespace)
	if err != nil {
		return nil, fmt.Errorf("get %s %s of the Cluster: %w", ref.Kind, ref.Name, err)
	}
	return obj, nil
}

// moves carries out one move after the other.
func (w *work) moves(ctx context.Context) (step.Outcome, error) {
	for {
		if ctx.Err() != nil {
			return step.Outcome{}, ctx.Err()
		}
		var err error
		switch move := rollout.Next(w.situation()).(type) {
		case rollout.Begin:
			err = w.begin(ctx, move)
		case rollout.Evaluate:
			w.evaluateGate(ctx, move)
		case rollout.Apply:
			err = w.applyStage(ctx, move.Stage)
		case rollout.Delete:
			err = w.deleteStage(ctx, move.Stage)
		case rollout.CheckHealth:
			w.checkHealth(ctx, move.Stage)
		case rollout.Finish:
			err = w.finish(ctx, move)
		case rollout.Refresh:
			err = w.refresh(ctx, move)
		case rollout.Await:
			outcome, err := w.await(ctx, move)
			return w.patiently(outcome), err
		case rollout.LetGo:
			// The farewell is over; the next run lets go.
			return step.Done().Saying("nothing is left to be done before the Cluster is deleted").LookAgain(time.Millisecond), nil
		case rollout.Prune, rollout.Rest:
			return step.Done().Saying("has the addons of %s", w.release.Name), nil
		default:
			err = fmt.Errorf("the Cluster changed during the reconciliation: %T", move)
		}
		if err != nil {
			return step.Outcome{}, err
		}
	}
}

// prune deletes what earlier releases had and this one has not, and keeps a cluster at rest as it is.
func (w *work) prune(ctx context.Context) (step.Outcome, error) {
	if !w.cluster.DeletionTimestamp.IsZero() {
		return step.Done().Saying("the Cluster is being deleted as a whole"), nil
	}
	if w.release == nil {
		w.addon.Status.Ready = true
		return w.asBefore(v1alpha1.LeftoversPrunedCondition, "nothing is left of earlier releases"), nil
	}
	ctx, end := w.conn.begin(ctx, w.turn)
	defer end()
	outcome, err := w.tidy(ctx)
	w.count() // again: now without what was pruned
	if w.conn.lost() {
		return w.silent(), nil
	}
	if errors.Is(err, errCrowded) {
		return w.awaitsTurn(), nil
	}
	return outcome, err
}

// tidy does the work of prune.
func (w *work) tidy(ctx context.Context) (step.Outcome, error) {
	if move, due := rollout.Next(w.situation()).(rollout.Prune); due {
		if err := w.pruneAddons(ctx, move); err != nil {
			return step.Outcome{}, err
		}
	}
	if w.conn.untilRecheck(w.options.Clock.Now()) == 0 {
		reported := w.conn.changes()
		if err := w.correctDrift(ctx); err != nil {
			return step.Outcome{}, err
		}
		w.conn.recheckAfter(w.options.Clock.Now(), spread(w.options.Recheck), reported, calm)
	}
	w.guard(ctx)
	message := "nothing is left of earlier releases"
	if left := w.leftovers(); len(left) > 0 {
		message = "left of earlier releases: " + strings.Join(left, ", ") + "; deleted once nothing is in the way"
	}
	w.addon.Status.Ready = true
	// Asked once more a moment after it is due, so that it is due then.
	return step.Done().Saying("%s", message).LookAgain(w.conn.untilRecheck(w.options.Clock.Now()) + time.Second), nil
}

// leave reports a Cluster that uses no cluster stack any more.
func (w *work) leave(ctx context.Context) (step.Outcome, error) {
	w.unwatch(ctx)
	w.addon.Status.Ready = false
	return step.Wait(v1alpha1.NotAClusterStackReason, "the Cluster uses no release of a cluster stack; its addons are left as they are"), nil
}

// letGo lets the ClusterAddon go. When it goes alone, because somebody deleted it while its Cluster stays,
// what it remembers is left to the Cluster: the ClusterAddon that is made in its place takes it up, knows
// what is in the cluster, and generates no key anew.
func (w *work) letGo(ctx context.Context) error {
	if w.cluster != nil && w.cluster.DeletionTimestamp.IsZero() {
		if err := w.bequeath(ctx); err != nil {
			return err
		}
	}
	w.unwatch(ctx)
	w.connections.drop(client.ObjectKey{Namespace: w.addon.Namespace, Name: clusterName(w.addon)})
	w.waiting.set(client.ObjectKey{Namespace: w.addon.Namespace, Name: clusterName(w.addon)}, nil)
	err := step.Patch(ctx, w.client, w.addon, func() {
		w.addon.Finalizers = slices.DeleteFunc(w.addon.Finalizers, func(f string) bool { return f == v1alpha1.ClusterAddonFinalizer })
	})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove finalizer: %w", err)
	}
	return nil
}
