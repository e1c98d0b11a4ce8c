// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

// work is one reconciliation of one ClusterStack.
type work struct {
	*Reconciler
	stack *v1alpha1.ClusterStack
	// listing is what the source offers, if somebody subscribes to it. It is asked for once, because it can
	// change at any time.
	listing releases.Listing
	// found are the releases of this cluster stack in the namespace, whoever asked for them.
	found map[release.Name]*v1alpha1.ClusterStackRelease
	// decided is set by the first step that needs it.
	decided *plan
	// published has when the releases that the source offers were published. It is set by plan.
	published map[release.Name]time.Time
	// provider refers to the object of the provider integration for each release.
	provider map[release.Name]*corev1.ObjectReference
}

// observe finds the releases that are there.
func (w *work) observe(ctx context.Context) error {
	list := &v1alpha1.ClusterStackReleaseList{}
	if err := w.client.List(ctx, list, client.InNamespace(w.stack.Namespace)); err != nil {
		return fmt.Errorf("list ClusterStackReleases: %w", err)
	}
	w.found = map[release.Name]*v1alpha1.ClusterStackRelease{}
	for i := range list.Items {
		if name, err := release.ParseName(list.Items[i].Name); err == nil && name.Prefix() == prefix(w.stack) {
			w.found[name] = &list.Items[i]
		}
	}
	return nil
}

// reach reports whether the source can be used at all, whatever it answers.
func (w *work) reach(context.Context) (step.Outcome, error) {
	var (
		unusable *releases.UnusableError
		unread   *releases.UnreadError
	)
	switch err := w.listing.Err; {
	case !w.listing.Asked:
		return step.Wait(v1alpha1.WaitingReason, "the source has not been asked for its releases yet"), nil
	case errors.As(err, &unusable), errors.Is(err, source.ErrUnauthorized):
		return step.Wait(v1alpha1.FailedCreateAssetsClientReason, "%v", err), nil
	case errors.As(err, &unread):
		return step.Wait(v1alpha1.WaitingReason, "it is not known whether the source can be used: %v", err), nil
	}
	return step.Done().Saying("the source can be used"), nil
}

// relist is how soon it is looked whether a source that never answered has a lister.
const relist = time.Minute

// list reports what the source offers. It asks nothing: the lister does, for all ClusterStacks.
func (w *work) list(ctx context.Context) (step.Outcome, error) {
	listing := w.listing
	if !listing.Asked {
		return step.Wait(v1alpha1.WaitingReason, "the source has not been asked for its releases yet"), nil
	}
	if listing.Err != nil {
		// Not an error of ours to retry: the lister asks again and wakes us, if there is one by now.
		if !listing.At.IsZero() {
			return step.Wait(v1alpha1.FailedToSyncReason, "%v; nothing changes until it answers again, as it did last at %s", listing.Err, listing.At.UTC().Format(time.RFC3339)), nil
		}
		return step.Wait(v1alpha1.FailedToSyncReason, "%v", listing.Err).LookAgain(relist), nil
	}
	p, err := w.plan(ctx)
	switch {
	case err != nil:
		return step.Outcome{}, err
	case p.Ahead != nil && p.Newest == nil:
		return step.Wait(v1alpha1.SourceRollbackReason, "the source no longer has any release of the channel %s, though %s came from there: %s", w.stack.Spec.Channel, p.Ahead, staysAsItIs(p.Ahead)), nil
	case p.Ahead != nil:
		return step.Wait(v1alpha1.SourceRollbackReason, "the newest release at the source is %s, which is older than %s: %s", p.Newest, p.Ahead, staysAsItIs(p.Ahead)), nil
	case p.Newest != nil:
		return step.Done().Saying("the newest release is %s", p.Newest), nil
	case len(p.Unordered) > 0:
		return step.Wait(v1alpha1.ReleasesUnorderedReason, "none of the releases %s is known to be newer than another: name the wanted ones in spec.versions", join(p.Unordered)), nil
	}
	return step.Done().Saying("the source has no release of the channel %s", w.stack.Spec.Channel), nil
}

// staysAsItIs says what becomes of a subscription whose source has gone back behind a release.
func staysAsItIs(ahead *release.Name) string {
	return fmt.Sprintf("nothing is changed; if %s was withdrawn on purpose, delete its ClusterStackRelease", ahead)
}

// provide makes the object of the provider integration for each release that is to be kept.
func (w *work) provide(ctx context.Context) (step.Outcome, error) {
	p, err := w.plan(ctx)
	if err != nil {
		return step.Outcome{}, err
	}
	if w.stack.Spec.ProviderRef == nil {
		return step.Wait(v1alpha1.ProviderTemplateNotFoundReason, "spec.providerRef is missing; set it, or set spec.noProvider"), nil
	}
	template, err := w.template(ctx)
	switch {
	case err != nil && step.Permanent(err):
		return step.Outcome{}, step.Because(v1alpha1.InvalidSpecReason, err)
	case err != nil:
		return step.Outcome{}, step.Because(v1alpha1.ProviderTemplateNotFoundReason, err)
	}
	w.provider = map[release.Name]*corev1.ObjectReference{}
	for _, name := range p.Keep {
		if rel := w.found[name]; rel != nil && !leads(w.stack, rel) {
			continue
		}
		ref, err := w.applyProviderRelease(ctx, template, name)
		if err != nil {
			return step.Outcome{}, step.Because(v1alpha1.FailedToCreateOrUpdateReason, err)
		}
		w.provider[name] = ref
	}
	return step.Done(), nil
}

// sync makes, adopts and deletes releases as planned.
func (w *work) sync(ctx context.Context) (step.Outcome, error) {
	p, err := w.plan(ctx)
	if err != nil {
		return step.Outcome{}, err
	}
	var errs []error
	for _, name := range p.Keep {
		errs = append(errs, w.keep(ctx, name))
	}
	for _, name := range p.Leave {
		errs = append(errs, w.leave(ctx, name))
	}
	errs = append(errs, w.delete(ctx, p.Delete))
	w.summarize()
	if err := errors.Join(errs...); err != nil {
		return step.Outcome{}, step.Because(v1alpha1.FailedToCreateOrUpdateReason, err)
	}
	return step.Done(), nil
}

// available says whether a Cluster could use any of the releases.
func (w *work) available(context.Context) (step.Outcome, error) {
	if usable := w.stack.Status.UsableVersions; usable != "" {
		return step.Done().Saying("usable: %s", usable), nil
	}
	if summary := w.stack.Status.Summary; len(summary) > 0 {
		newest := summary[len(summary)-1]
		return step.Wait(v1alpha1.NoReleaseReadyReason, "%s-%s: %s", prefix(w.stack), newest.Name, newest.Message), nil
	}
	return step.Wait(v1alpha1.NoReleaseReadyReason, "there is no release"), nil
}

// plan decides which releases there shall be, once per reconciliation.
func (w *work) plan(ctx context.Context) (*plan, error) {
	if w.decided != nil {
		return w.decided, nil
	}
	wanted, err := wantedReleases(w.stack)
	if err != nil {
		return nil, step.Because(v1alpha1.InvalidSpecReason, err)
	}
	usage, err := releases.FindUsage(ctx, w.client)
	if err != nil {
		return nil, err
	}
	listing := w.listing
	s := situation{
		Wanted:    wanted,
		Subscribe: w.stack.Spec.AutoSubscribe,
		Channel:   w.stack.Spec.Channel,
		Listed:    listing.Asked && listing.Err == nil,
		History:   int(w.stack.Spec.HistoryLimit),
	}
	w.published = map[release.Name]time.Time{}
	for _, offer := range listing.Offers {
		if offer.Name.Prefix() == prefix(w.stack) {
			s.Offered = append(s.Offered, offer)
			w.published[offer.Name] = offer.Published
		}
	}
	for name, rel := range w.found {
		owned, shared := ownership(w.stack, rel)
		s.Existing = append(s.Existing, existing{
			Offer:  source.Offer{Name: name, Published: published(rel)},
			Ready:  rel.Status.Ready,
			Opened: releases.PinOf(rel).Digest != "",
			Owned:  owned,
			Shared: shared,
			InUse:  len(usage[releases.Key{Namespace: rel.Namespace, Name: name}]) > 0,
		})
	}
	p := decide(s)
	w.decided = &p
	return w.decided, nil
}

// published is when a release was published, as it was known when it was made.
func published(rel *v1alpha1.ClusterStackRelease) time.Time {
	at, err := time.Parse(time.RFC3339Nano, rel.Annotations[v1alpha1.PublishedAnnotation])
	if err != nil {
		return time.Time{} // nobody knew
	}
	return at
}

// date writes down when a release was published, because the source may forget it.
func (w *work) date(rel *v1alpha1.ClusterStackRelease, name release.Name) {
	at := w.published[name]
	if at.IsZero() || !published(rel).IsZero() {
		return
	}
	if rel.Annotations == nil {
		rel.Annotations = map[string]string{}
	}
	rel.Annotations[v1alpha1.PublishedAnnotation] = at.UTC().Format(time.RFC3339Nano)
}

// keep makes a release exist, belong to this ClusterStack and refer to its provider object.
func (w *work) keep(ctx context.Context, name release.Name) error {
	rel := w.found[name]
	if rel == nil {
		rel = &v1alpha1.ClusterStackRelease{
			ObjectMeta: metav1.ObjectMeta{
				Name:            name.String(),
				Namespace:       w.stack.Namespace,
				OwnerReferences: []metav1.OwnerReference{ownerReference(w.stack)},
			},
			Spec: v1alpha1.ClusterStackReleaseSpec{ProviderRef: w.provider[name]},
		}
		w.shard(rel)
		w.date(rel, name)
		err := w.client.Create(ctx, rel)
		if err == nil {
			ctrl.LoggerFrom(ctx).Info("Created a release", "ClusterStackRelease", klog.KObj(rel))
			w.recorder.Eventf(w.stack, rel, corev1.EventTypeNormal, v1alpha1.ClusterStackReleaseCreatedReason, "CreateClusterStackRelease", "created release %s", name)
			w.found[name] = rel
			return nil
		}
		if apierrors.IsAlreadyExists(err) {
			// We, or somebody else, made it a moment ago, and the cache does not know yet. It is not taken for ours unseen.
			rel = &v1alpha1.ClusterStackRelease{}
			err = w.live.Get(ctx, client.ObjectKey{Namespace: w.stack.Namespace, Name: name.String()}, rel)
		}
		if err != nil {
			return fmt.Errorf("create ClusterStackRelease %s: %w", name, err)
		}
		w.found[name] = rel
	}
	if !rel.DeletionTimestamp.IsZero() {
		return nil // made anew when it is gone; its watch wakes us
	}
	err := step.Patch(ctx, w.client, rel, func() {
		w.own(rel)
		w.date(rel, name)
		if leads(w.stack, rel) {
			rel.Spec.ProviderRef = w.provider[name]
			w.shard(rel)
		}
	})
	if err != nil {
		return fmt.Errorf("update ClusterStackRelease %s: %w", name, err)
	}
	return nil
}

// own makes the ClusterStack an owner of a release. One of the same name that existed before left a
// reference by which the release would be collected as garbage.
func (w *work) own(rel *v1alpha1.ClusterStackRelease) {
	for i := range rel.OwnerReferences {
		if ref := &rel.OwnerReferences[i]; isClusterStack(*ref) && ref.Name == w.stack.Name {
			ref.UID = w.stack.UID
			return
		}
	}
	rel.OwnerReferences = append(rel.OwnerReferences, ownerReference(w.stack))
}

// shard puts a release into the hands of the operator that has its ClusterStack, where several share the
// work by label.
func (w *work) shard(rel *v1alpha1.ClusterStackRelease) {
	if shard, is := w.stack.Labels[clusterv1.WatchLabel]; is {
		if rel.Labels == nil {
			rel.Labels = map[string]string{}
		}
		rel.Labels[clusterv1.WatchLabel] = shard
	}
}

// leave lets go of a release that another ClusterStack still wants.
func (w *work) leave(ctx context.Context, name release.Name) error {
	rel := w.found[name]
	err := step.Patch(ctx, w.client, rel, func() {
		rel.OwnerReferences = slices.DeleteFunc(rel.OwnerReferences, func(ref metav1.OwnerReference) bool {
			return isClusterStack(ref) && ref.Name == w.stack.Name
		})
	})
	if err != nil {
		return fmt.Errorf("update ClusterStackRelease %s: %w", name, err)
	}
	return nil
}

// delete deletes releases that nobody wants, after one more look at who uses them: the cache may not
// know a Cluster yet that was made a moment ago.
func (w *work) delete(ctx context.Context, names []release.Name) error {
	if len(names) == 0 {
		return nil
	}
	usage, err := releases.FindUsage(ctx, w.live)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		rel := w.found[name]
		if len(usage[releases.Key{Namespace: rel.Namespace, Name: name}]) > 0 || !rel.DeletionTimestamp.IsZero() {
			continue
		}
		unchanged := client.Preconditions{UID: &rel.UID, ResourceVersion: &rel.ResourceVersion}
		if err := w.client.Delete(ctx, rel, unchanged); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("delete ClusterStackRelease %s: %w", name, err))
			continue
		}
		ctrl.LoggerFrom(ctx).Info("Deleted a release that nobody needs", "ClusterStackRelease", klog.KObj(rel))
		w.recorder.Eventf(w.stack, rel, corev1.EventTypeNormal, v1alpha1.ClusterStackReleaseDeletedReason, "DeleteClusterStackRelease", "deleted release %s, which nobody needs", name)
		delete(w.found, name)
	}
	return errors.Join(errs...)
}

// wantedReleases are the releases that spec.versions names.
func wantedReleases(stack *v1alpha1.ClusterStack) ([]release.Name, error) {
	var names []release.Name
	for _, text := range stack.Spec.Versions {
		version, err := release.ParseVersion(text)
		if err != nil {
			return nil, &specError{fmt.Errorf("spec.versions: %w", err)}
		}
		names = append(names, name(stack, version))
	}
	// The text of a name is what counts at the border, so it is checked as such, a version or not.
	for _, n := range append([]release.Name{name(stack, release.Version{Major: 1})}, names...) {
		if _, err := release.ParseName(n.String()); err != nil {
			return nil, &specError{fmt.Errorf("spec.provider, spec.name and spec.kubernetesVersion: %w", err)}
		}
	}
	return names, nil
}

// specError is an error that only another spec can cure.
type specError struct{ err error }

func (e *specError) Error() string   { return e.err.Error() }
func (e *specError) Unwrap() error   { return e.err }
func (e *specError) Permanent() bool { return true }

func name(stack *v1alpha1.ClusterStack, version release.Version) release.Name {
	return release.Name{Provider: stack.Spec.Provider, Stack: stack.Spec.Name, Kubernetes: stack.Spec.KubernetesVersion, Version: version}
}

// prefix is what the names of all releases of a cluster stack begin with.
func prefix(stack *v1alpha1.ClusterStack) string { return name(stack, release.Version{}).Prefix() }

// ownerReference marks a release as asked for by a ClusterStack. Several may ask for one, so none controls it.
func ownerReference(stack *v1alpha1.ClusterStack) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(),
		Kind:       v1alpha1.ClusterStackKind,
		Name:       stack.Name,
		UID:        stack.UID,
	}
}

func isClusterStack(ref metav1.OwnerReference) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && gv.Group == v1alpha1.GroupVersion.Group && ref.Kind == v1alpha1.ClusterStackKind
}

// ownership tells whether a ClusterStack, and whether another one, asked for a release.
func ownership(stack *v1alpha1.ClusterStack, rel *v1alpha1.ClusterStackRelease) (owned, shared bool) {
	for _, ref := range rel.OwnerReferences {
		if isClusterStack(ref) {
			owned = owned || ref.Name == stack.Name
			shared = shared || ref.Name != stack.Name
		}
	}
	return owned, shared
}

// leads tells whether the ClusterStack decides how a release is provided. Of several that ask for it, the
// first one does: if each had its way, they would undo one another's for ever.
func leads(stack *v1alpha1.ClusterStack, rel *v1alpha1.ClusterStackRelease) bool {
	i := slices.IndexFunc(rel.OwnerReferences, isClusterStack)
	return i < 0 || rel.OwnerReferences[i].Name == stack.Name
}

func join(names []release.Name) string {
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = name.String()
	}
	return strings.Join(texts, ", ")
}
