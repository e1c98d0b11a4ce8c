// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
	"github.com/clusterstacks/cluster-stack-operator/internal/ledger"
	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// work is one reconciliation of one ClusterStackRelease.
type work struct {
	*Reconciler
	obj *v1alpha1.ClusterStackRelease
	// applier applies as the manager of this release.
	applier *apply.Applier
	// wasReady is what the status said before.
	wasReady bool
	// reported is what the conditions of that status are about. It was written together with them.
	reported releases.Pinned
	// origin, release and pinned are set by open. The release is nil when it is in place and cannot be opened.
	origin  releases.Origin
	release *release.Release
	pinned  releases.Pinned
	// set and wanted, the objects in it, are set by apply.
	set    apply.Set
	wanted []apply.ID
	// inventory and journal are set by load.
	inventory *apply.Inventory
	journal   journal
}

// open gets the release and fixes its digest, so that nothing else is ever taken for it.
func (w *work) open(ctx context.Context) (step.Outcome, error) {
	name, err := release.ParseName(w.obj.Name)
	if err != nil {
		return step.Outcome{}, step.Because(v1alpha1.IssueWithReleaseAssetsReason, &finalError{err})
	}
	w.origin, _, err = w.releases.Origin(ctx, w.obj.Namespace, name)
	if err != nil {
		return step.Outcome{}, err
	}
	from := w.origin.Location
	// What the source has to offer cannot be watched.
	poll := cmp.Or(w.options.Poll, w.origin.Poll)
	again := step.Outcome{}.LookAgain(poll)
	opened, err := w.releases.OpenFrom(ctx, w.origin, name, releases.PinOf(w.obj).For(from))
	var space *store.SpaceError
	if err != nil && w.wasReady && !releases.Refused(err) && !releases.Moved(err) && !step.Permanent(err) {
		// The store was lost, and the source cannot be asked or has not answered yet. That changes nothing about
		// what Clusters use already.
		return step.Done().Saying("in place; it cannot be opened at present: %v", err).LookAgain(min(poll, reopen)), nil
	}
	switch {
	case releases.Pending(err):
		// The end of the fetch wakes us; should that get lost, we ask.
		return step.Wait(v1alpha1.ReleaseAssetsNotDownloadedYetReason, "%v", err).LookAgain(pendingRecheck), nil
	case releases.Refused(err):
		w.obj.Status.Verification = nil
		return step.Wait(v1alpha1.VerificationFailedReason, "%v", err).LookAgain(poll), nil
	case errors.As(err, &space):
		return again, step.Because(v1alpha1.StoreFullReason, err)
	case errors.Is(err, source.ErrNotFound):
		return step.Wait(v1alpha1.NotPublishedReason, "%v", err).LookAgain(poll), nil
	case releases.Moved(err):
		return again, step.Because(v1alpha1.ReleaseMovedReason, &finalError{err})
	case err != nil && step.Permanent(err):
		return again, step.Because(v1alpha1.IssueWithReleaseAssetsReason, err)
	case err != nil:
		return step.Outcome{}, step.Because(v1alpha1.FetchFailedReason, err)
	}
	if err := w.pin(ctx, opened.Pinned); err != nil {
		return step.Outcome{}, fmt.Errorf("fix the digest: %w", err)
	}
	w.release = opened.Release
	w.pinned = opened.Pinned
	w.obj.Status.KubernetesVersion = w.release.Metadata.Kubernetes
	w.obj.Status.KubernetesPatches = w.release.Metadata.Patches.String()
	said := []string{"from " + from}
	w.obj.Status.Verification = nil
	if opened.Signer != nil {
		w.obj.Status.Verification = &v1alpha1.ReleaseVerification{By: opened.Signer.String()}
		said = append(said, "signed by "+opened.Signer.String())
	}
	return step.Done().Saying("%s", strings.Join(append(said, w.release.Warnings...), "; ")), nil
}

// reopen is how often a release is asked for that is in place and cannot be opened.
const reopen = time.Minute

// pendingRecheck is how often a fetch is asked after that does not come to an end.
const pendingRecheck = 10 * time.Second

// pin writes down what was opened before anything is done with it: after a kill the same must be opened.
func (w *work) pin(ctx context.Context, pinned releases.Pinned) error {
	w.obj.Status.Source, w.obj.Status.Digest = pinned.Source, pinned.Digest
	text := pinned.String()
	if w.obj.Annotations[v1alpha1.PinAnnotation] == text {
		return nil
	}
	return step.Patch(ctx, w.client, w.obj, func() {
		if w.obj.Annotations == nil {
			w.obj.Annotations = map[string]string{}
		}
		w.obj.Annotations[v1alpha1.PinAnnotation] = text
	})
}

// compareSource tells when the source has something else than what is in use. Nothing is done about it.
func (w *work) compareSource(ctx context.Context) (step.Outcome, error) {
	before, warned := w.asBefore()
	if w.release == nil {
		if warned {
			return before, nil
		}
		return step.Wait(v1alpha1.NotOfferedReason, unopened), nil
	}
	id := comparison{client.ObjectKeyFromObject(w.obj), w.pinned}
	if last, ok := w.compared.Load(id.key); ok && last.(compared).comparison == id && time.Since(last.(compared).at) < w.options.Recheck*9/10 {
		return last.(compared).outcome, nil
	}
	// A source that hangs must not hold up the releases that come after this one: it is asked beside us.
	later := before.LookAgain(compareAgain)
	if _, asking := w.asking.LoadOrStore(id, true); asking {
		return later, nil
	}
	answered := make(chan compared, 1)
	go func() {
		defer w.asking.Delete(id)
		offered, err := w.offered(ctx)
		step.Trace(ctx, v1alpha1.SourceUnchangedCondition, err)
		answer := compared{id, w.compare(offered, err, before), time.Now()}
		w.compared.Store(id.key, answer)
		answered <- answer
	}()
	patience := time.NewTimer(comparePatience)
	defer patience.Stop()
	select {
	case answer := <-answered:
		return answer.outcome, nil
	case <-patience.C:
	case <-ctx.Done():
	}
	return later, nil
}

// offered asks the source what it has now under the name of the release.
func (w *work) offered(ctx context.Context) (digest string, err error) {
	defer panicked.Into(&err)
	return w.releases.Offered(ctx, w.origin, w.release.Name)
}

// unopened is said of the source of a release that cannot be opened, as long as nothing else was.
const unopened = "the release cannot be opened at present"

// asBefore is what was said of the source last, and whether that was that it has something else, or nothing. It holds until
// the source has said otherwise, or until something else is in use or comes from elsewhere.
func (w *work) asBefore() (before step.Outcome, warned bool) {
	if w.reported.Source != w.origin.Location || w.release != nil && w.reported.Digest != w.pinned.Digest {
		return unchanged(), false
	}
	stored := w.obj.Status.Conditions.Get(v1alpha1.SourceUnchangedCondition)
	if stored != nil && stored.Status == metav1.ConditionFalse && stored.Message != unopened &&
		(stored.Reason == v1alpha1.NotOfferedReason || stored.Reason == v1alpha1.ReleaseMovedReason) {
		return step.Wait(stored.Reason, "%s", stored.Message), true
	}
	return unchanged(), false
}

func unchanged() step.Outcome {
	return step.Done().Saying("the source was not seen to offer anything else")
}

const (
	// compareAgain is how soon it is looked whether the source has answered: as a rule it has, or has let it be, by then.
	compareAgain = 6 * time.Second
	// comparePatience is for how long a worker waits for it.
	comparePatience = 500 * time.Millisecond
)

type (
	// comparison is what was asked about: the release with its digest.
	comparison struct {
		key    client.ObjectKey
		pinned releases.Pinned
	}
	// compared is what came of it.
	compared struct {
		comparison
		outcome step.Outcome
		at      time.Time
	}
)

// compare tells what a source's answer means for the release. That a source cannot be asked is told by those who ask it
// for new releases, and says nothing about this one. One that has the release, and cannot tell what it is, will not take a
// warning back later either.
func (w *work) compare(offered string, err error, before step.Outcome) step.Outcome {
	switch {
	case errors.Is(err, source.ErrNotFound):
		return step.Wait(v1alpha1.NotOfferedReason, "%s no longer has the release; the operator keeps it", w.origin.Location)
	case err == nil && offered != "" && offered != w.pinned.Digest:
		moved := &store.MovedError{Source: w.origin.Location, Name: w.release.Name, Pinned: w.pinned.Digest, Offered: offered}
		return step.Wait(v1alpha1.ReleaseMovedReason, "%v", moved)
	case err != nil && !errors.Is(err, errors.ErrUnsupported):
		return before
	}
	return unchanged()
}

// awaitProvider waits until the provider integration has done its work for the release.
func (w *work) awaitProvider(ctx context.Context) (step.Outcome, error) {
	ref := w.obj.Spec.ProviderRef
	if ref == nil {
		return step.Done().Saying("nothing to do on the provider"), nil
	}
	// Whoever may write a ClusterStackRelease shall not have us look at whatever he likes.
	if err := releases.CheckProvider(w.options.ProviderGroups, ref); err != nil {
		return step.Outcome{}, step.Because(v1alpha1.NotAllowedReason, &finalError{err})
	}
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion(ref.APIVersion)
	obj.SetKind(ref.Kind)
	if err := w.watchProvider(ctx, obj); err != nil {
		return step.Outcome{}, fmt.Errorf("watch %s: %w", ref.Kind, err)
	}
	err := w.client.Get(ctx, client.ObjectKey{Namespace: w.obj.Namespace, Name: ref.Name}, obj)
	switch {
	case apierrors.IsNotFound(err):
		return step.Wait(v1alpha1.ProcessOngoingReason, "%s %s does not exist", ref.Kind, ref.Name), nil
	case meta.IsNoMatchError(err):
		return step.Outcome{}, fmt.Errorf("get %s %s: %w; is the provider integration installed?", ref.Kind, ref.Name, err)
	case err != nil:
		return step.Outcome{}, fmt.Errorf("get %s %s: %w", ref.Kind, ref.Name, err)
	}
	// With the release goes the provider's object for it.
	var owned error
	err = step.Patch(ctx, w.client, obj, func() { owned = controllerutil.SetControllerReference(w.obj, obj, w.client.Scheme()) })
	if err := errors.Join(owned, err); err != nil {
		return step.Outcome{}, fmt.Errorf("own %s %s: %w", ref.Kind, ref.Name, err)
	}
	if ready, _, _ := unstructured.NestedBool(obj.Object, "status", "ready"); !ready { // anything but true is not ready
		return step.Wait(v1alpha1.ProcessOngoingReason, "%s %s is not ready", ref.Kind, ref.Name), nil
	}
	return step.Done().Saying("%s %s is ready", ref.Kind, ref.Name), nil
}

// apply brings the objects of the cluster class into the namespace of the release. What is in place
// already is compared and not sent again.
func (w *work) apply(ctx context.Context) (step.Outcome, error) {
	if w.release == nil {
		return step.Done().Saying("not compared while the release cannot be opened"), nil
	}
	result, err := w.render(ctx)
	if err != nil {
		return step.Outcome{}, err
	}
	w.set = Set(result, w.obj.Namespace)
	all := slices.Clone(result.Objects)
	for _, hook := range result.Hooks {
		all = append(all, hook.Object)
	}
	if ids, err := w.applier.Identify(ctx, all, w.obj.Namespace); err != nil {
		return step.Outcome{}, err
	} else if err := Allowed(w.options.Kinds, w.obj.Namespace, ids); err != nil {
		return step.Outcome{}, step.Because(v1alpha1.NotAllowedReason, err)
	}
	w.wanted, err = w.applier.Identify(ctx, result.Objects, w.obj.Namespace)
	if err != nil {
		return step.Outcome{}, err
	}
	if err := w.load(ctx); err != nil {
		return step.Outcome{}, err
	}
	if w.inventory.Len() == 0 && len(w.obj.Status.Resources) > 0 {
		// Somebody has applied this release before: the operator that ran here before us, or we, and the
		// inventory was lost.
		if _, err := w.applier.TakeOver(ctx, w.set, w.inventory, w.journal); err != nil {
			return step.Outcome{}, step.Because(v1alpha1.FailedToApplyObjectsReason, fmt.Errorf("take over: %w", err))
		}
		w.inventory.Suspect(setName, w.wanted)
	}
	comparison, err := w.applier.Drift(ctx, w.inventory)
	if err != nil {
		return step.Outcome{}, fmt.Errorf("compare with what was applied: %w", err)
	}
	drifted := comparison.IDs()
	w.set.Verified = func(id apply.ID) bool { return !slices.Contains(drifted, id) }

	report, err := w.applier.Apply(ctx, w.set, w.inventory, w.journal)
	w.obj.Status.Resources = resources(w.wanted, w.set.Objects, report, err)
	var incomplete *apply.IncompleteError
	switch {
	case errors.As(err, &incomplete) && len(incomplete.Failed) == 0:
		// Nothing to retry until the other manager lets go, which cannot be watched.
		return step.Wait(v1alpha1.ConflictReason, "%v", err).LookAgain(conflictRecheck), nil
	case err != nil:
		// Even what only another release cures today may be cured by another API server tomorrow.
		return step.Outcome{}.LookAgain(w.options.Recheck), step.Because(v1alpha1.FailedToApplyObjectsReason, err)
	}
	if len(report.Applied) > 0 {
		ctrl.LoggerFrom(ctx).Info("Applied objects of the cluster class", "applied", len(report.Applied), "unchanged", len(report.Unchanged))
	}
	return step.Done().Saying("%d objects are in place", len(w.wanted)), nil
}

// Input returns what the cluster class of a release is rendered from for a namespace.
func Input(rel *release.Release, namespace string) render.Input {
	in := render.ClassInput(rel, namespace)
	in.Addon = setName
	return in
}

// Set returns what is applied of a rendered cluster class.
func Set(rendered *render.Result, namespace string) apply.Set {
	return apply.Set{Name: setName, Objects: rendered.Objects, Hooks: hooks(rendered.Hooks), Namespace: namespace}
}

// render renders the cluster class. A chart may generate values, such as keys; these are written down
// before anything is applied, and repeated by each later render.
func (w *work) render(ctx context.Context) (*render.Result, error) {
	in := Input(w.release, w.obj.Namespace)
	ctx = fair.With(ctx, w.obj.Namespace)
	result, err := w.options.Render(ctx, in)
	if err != nil {
		return nil, step.Because(v1alpha1.RenderFailedReason, err)
	}
	if !result.NewValues {
		return result, nil // nearly all charts
	}
	book := w.ledger("generated")
	data, err := book.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("generated values: %w", err)
	}
	if data != nil {
		if err := json.Unmarshal(data, &in.Recorded); err != nil {
			return nil, fmt.Errorf("generated values: %w", err)
		}
	}
	if result, err = w.options.Render(ctx, in); err != nil {
		return nil, step.Because(v1alpha1.RenderFailedReason, err)
	}
	if result.NewValues {
		if data, err = json.Marshal(result.Record); err == nil {
			err = book.Save(ctx, data)
		}
		if err != nil {
			return nil, fmt.Errorf("generated values: %w", err)
		}
	}
	return result, nil
}

// prune takes out what an earlier rendering of the release had and this one has not.
func (w *work) prune(ctx context.Context) (step.Outcome, error) {
	if w.release == nil {
		w.obj.Status.Ready = true
		return step.Done(), nil
	}
	report, err := w.applier.Prune(ctx, w.inventory, func(id apply.ID) bool { return slices.Contains(w.wanted, id) }, w.journal)
	if err != nil {
		return step.Outcome{}, step.Because(v1alpha1.FailedToDeleteObjectsReason, err)
	}
	w.obj.Status.Ready = true
	// What became of objects whose kinds we do not watch is asked regularly; jitter keeps releases apart.
	return pruned(report).LookAgain(wait.Jitter(w.options.Recheck, 0.1)), nil
}

// remove takes out everything that was applied, once no Cluster uses the release. It needs nothing but
// the inventory: the release may be gone from its source.
func (w *work) remove(ctx context.Context) (step.Outcome, error) {
	if !controllerutil.ContainsFinalizer(w.obj, v1alpha1.ClusterStackReleaseFinalizer) {
		return step.Done(), nil // others hold it
	}
	if err := w.load(ctx); err != nil {
		return step.Outcome{}, err
	}
	users, err := w.users(ctx)
	if err != nil {
		return step.Outcome{}, err
	}
	if len(users) > 0 {
		// A class of another name than that of the release wakes nobody.
		return step.Wait(v1alpha1.InUseReason, "used by the Clusters %s", strings.Join(users, ", ")).LookAgain(w.options.Recheck), nil
	}
	// Classes first: Cluster API refuses to delete one that a Cluster has come to use this very moment, and
	// then what it consists of must still be there.
	report, err := w.applier.Prune(ctx, w.inventory, func(id apply.ID) bool { return id.GroupKind() != classKind }, w.journal)
	if err == nil && len(report.Kept) == 0 {
		var rest apply.Report
		rest, err = w.applier.Prune(ctx, w.inventory, func(apply.ID) bool { return false }, w.journal)
		report.Pruned, report.Kept = append(report.Pruned, rest.Pruned...), rest.Kept
	}
	if err != nil {
		return step.Outcome{}, step.Because(v1alpha1.FailedToDeleteObjectsReason, err)
	}
	ctrl.LoggerFrom(ctx).Info("Took the release out of the management cluster", "deleted", len(report.Pruned), "kept", len(report.Kept))
	// Left to the garbage collector, they could be taken for those of a successor of the same name.
	for _, suffix := range ledgers {
		if err := w.ledger(suffix).Delete(ctx); err != nil {
			return step.Outcome{}, err
		}
	}
	w.compared.Delete(client.ObjectKeyFromObject(w.obj))
	err = step.Patch(ctx, w.client, w.obj, func() {
		controllerutil.RemoveFinalizer(w.obj, v1alpha1.ClusterStackReleaseFinalizer)
	})
	if client.IgnoreNotFound(err) != nil {
		return step.Outcome{}, fmt.Errorf("remove finalizer: %w", err)
	}
	return pruned(report), nil
}

// classKind is that of cluster classes.
var classKind = schema.GroupKind{Group: clusterv1.GroupVersion.Group, Kind: "ClusterClass"}

// users returns the Clusters that use the release: by the name that its class has as a rule, by addons of
// it that they still have, or by any class that was applied for it.
func (w *work) users(ctx context.Context) ([]string, error) {
	var users []string
	if name, err := release.ParseName(w.obj.Name); err == nil {
		usage, err := releases.FindUsage(ctx, w.live)
		if err != nil {
			return nil, err
		}
		users = usage[releases.Key{Namespace: w.obj.Namespace, Name: name}]
	}
	var classes []client.ObjectKey
	for _, e := range w.inventory.Entries() {
		if e.GroupKind() == classKind {
			classes = append(classes, client.ObjectKey{Namespace: e.Namespace, Name: e.Name})
		}
	}
	others, err := releases.UsersOfClasses(ctx, w.live, classes)
	if err != nil {
		return nil, err
	}
	users = append(users, others...)
	slices.Sort(users)
	return slices.Compact(users), nil
}

// pruned says what a prune came to.
func pruned(report apply.Report) step.Outcome {
	if len(report.Kept) == 0 {
		return step.Done()
	}
	kept := make([]string, len(report.Kept))
	for i, k := range report.Kept {
		kept[i] = k.String() + " (" + k.Reason + ")"
	}
	return step.Done().Saying("kept %s", strings.Join(kept, ", "))
}

// load reads the inventory of the release.
func (w *work) load(ctx context.Context) error {
	book := w.ledger("inventory")
	data, err := book.Load(ctx)
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	w.inventory, err = apply.DecodeInventory(data)
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	w.journal = journal{book}
	return nil
}

// ledgers are the suffixes of what is kept in Secrets beside the release.
var ledgers = []string{"generated", "inventory"}

func (w *work) ledger(suffix string) *ledger.Ledger {
	return ledger.New(w.client, w.live, w.obj, v1alpha1.GroupVersion.WithKind(v1alpha1.ClusterStackReleaseKind), suffix)
}

// journal keeps an inventory in a ledger.
type journal struct{ *ledger.Ledger }

// Save implements apply.Journal.
func (j journal) Save(ctx context.Context, inv *apply.Inventory) error {
	data, err := inv.Encode()
	if err != nil {
		return err
	}
	return j.Ledger.Save(ctx, data)
}

const setName = "cluster-class"

// conflictRecheck is how often somebody is asked again to let go of a field.
const conflictRecheck = time.Minute

func hooks(rendered []render.Hook) []apply.Hook {
	hooks := make([]apply.Hook, len(rendered))
	for i, h := range rendered {
		hooks[i] = apply.Hook{Object: h.Object, Events: h.Events, Weight: h.Weight, DeletePolicies: h.DeletePolicies}
	}
	return hooks
}

// finalError is an error that trying again does not cure.
type finalError struct{ err error }

func (e *finalError) Error() string   { return e.err.Error() }
func (e *finalError) Unwrap() error   { return e.err }
func (e *finalError) Permanent() bool { return true }
