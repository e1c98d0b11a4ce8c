// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// protectedNamespaces belong to every cluster.
var protectedNamespaces = []string{"default", "kube-system", "kube-public", "kube-node-lease"}

// Prune deletes the objects of the inventory that keep does not want, in the
// reverse order of their waves. It deletes only what is provably ours: made or
// taken over by us, still the same object, still with our label, still managed
// by us, or made by another manager of ours that left it to us. The namespaces of every cluster, claims to volumes, and what the chart
// asked to keep are left and forgotten; definitions that have instances and
// namespaces that hold anything else are left and looked at again by the next
// Prune. What Helm hooks made stays as long as any object of its set.
//
// Helm's hooks for the deletion of a set run when nothing of it is wanted any
// more. One that fails, or takes longer than [Options.Patience], holds the deletion
// of its set and of no other; the error then wraps a [*WaitingError].
//
// An entry leaves the inventory once its fate is known, and the journal is saved
// after each wave. The error is nil only if everything unwanted is gone, on its
// way, or kept for a reason that the report gives.
func (a *Applier) Prune(ctx context.Context, inv *Inventory, keep func(ID) bool, journal Journal) (Report, error) {
	if !inv.Prunable(keep) {
		return Report{}, nil
	}
	going := inv.going(keep)
	r, err := a.begin(inv, journal)
	if err != nil {
		return Report{}, err
	}
	held := map[string]bool{}
	for _, set := range going {
		if err := r.hooksOfDeletion(ctx, set, preDelete); err != nil {
			held[set] = true
			r.failDeletion(err)
			continue
		}
		p := inv.sets[set]
		p.Going = true
		inv.sets[set] = p
	}
	r.checkpoint(ctx)
	if r.isStopped() {
		return r.finish(ctx)
	}
	doomed := slices.DeleteFunc(unwanted(inv.Entries(), keep), func(e Entry) bool { return held[e.Set] })
	if err := r.pruneAll(ctx, doomed); err != nil {
		return r.report, err
	}
	sets := map[string]bool{}
	for _, e := range doomed {
		sets[e.Set] = true
	}
	for _, set := range going {
		if held[set] || r.isStopped() || inv.holds(set) {
			continue
		}
		sets[set] = true
		if err := r.hooksOfDeletion(ctx, set, postDelete); err != nil {
			delete(sets, set) // They are still to be run.
			r.failDeletion(err)
		}
	}
	inv.forgetSets(sets)
	return r.finish(ctx)
}

// pruneAll deletes objects in the reverse order of their waves.
func (r *run) pruneAll(ctx context.Context, doomed []Entry) error {
	if len(doomed) == 0 {
		return nil
	}
	known, generation, err := r.mapper.kinds(ctx)
	if err != nil {
		return err
	}
	// Only a fresh look may conclude that a kind is gone, and its objects with it,
	// or that a namespace holds nothing of any kind.
	uncertain := func(e Entry) bool {
		_, ok := known.lookup(e.GroupKind(), "")
		return !ok || e.GroupKind() == namespaceKind
	}
	if slices.ContainsFunc(doomed, uncertain) {
		if known, err = r.mapper.refresh(ctx, generation); err != nil {
			return err
		}
	}
	for w := waves - 1; w >= 0; w-- {
		var turn []Entry
		for _, e := range doomed {
			if waveOf(e.GroupKind()) == w {
				turn = append(turn, e)
			}
		}
		if len(turn) == 0 {
			continue
		}
		r.each(len(turn), func(i int) { r.prune(ctx, known, turn[i]) })
		if r.isStopped() {
			break
		}
		r.checkpoint(ctx)
	}
	return nil
}

// Prunable tells whether there is anything that [Applier.Prune] would deal with.
func (inv *Inventory) Prunable(keep func(ID) bool) bool {
	return len(unwanted(inv.Entries(), keep)) > 0 || len(inv.going(keep)) > 0
}

// going are the sets of which nothing is wanted any more, sorted, and those whose
// deletion has begun.
func (inv *Inventory) going(keep func(ID) bool) []string {
	alive := map[string]bool{}
	has := map[string]bool{}
	for _, e := range inv.objects {
		has[e.Set] = true
		alive[e.Set] = alive[e.Set] || keep != nil && keep(e.ID)
	}
	var going []string
	for _, set := range slices.Sorted(maps.Keys(inv.sets)) {
		p := inv.sets[set]
		if len(p.Delete) > 0 && !alive[set] && (has[set] || p.Going) {
			going = append(going, set)
		}
	}
	return going
}

// holds reports whether a set has ordinary objects.
func (inv *Inventory) holds(set string) bool {
	for _, e := range inv.objects {
		if e.Set == set && e.Hook == "" {
			return true
		}
	}
	return false
}

// hooksOfDeletion runs the hooks before or after the deletion of a set. Those
// before it have run once it has begun; of those after it nothing is left.
func (r *run) hooksOfDeletion(ctx context.Context, set, event string) error {
	p := r.inv.sets[set]
	if event == preDelete && p.Going {
		return nil
	}
	hooks, err := r.deleteHooks(ctx, p.Delete, event)
	if err != nil || len(hooks) == 0 {
		return err
	}
	r.set = set
	if err := r.runHooks(ctx, hooks, event); err != nil {
		return err
	}
	if event == postDelete {
		for _, h := range hooks {
			if err := r.removeHook(ctx, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// failDeletion records why a set could not be deleted, if that is not recorded yet.
func (r *run) failDeletion(err error) {
	var waiting *WaitingError
	if errors.As(err, &waiting) {
		r.fail(waiting.ID, waiting)
		return
	}
	if r.report.err() == nil {
		r.halt(err)
	}
}

// unwanted selects what is to go. Objects that hooks made are often configuration
// that the rest of the set reads, and are not rendered as ordinary objects.
func unwanted(entries []Entry, keep func(ID) bool) []Entry {
	alive := map[string]bool{}
	wanted := func(e Entry) bool { return keep != nil && keep(e.ID) }
	for _, e := range entries {
		if wanted(e) {
			alive[e.Set] = true
		}
	}
	return slices.DeleteFunc(entries, func(e Entry) bool {
		return wanted(e) || e.Hook != "" && alive[e.Set]
	})
}

// verdict on one object of the inventory that is no longer wanted.
type verdict struct {
	// gone says that the object is not there any more, or on its way.
	gone bool
	// reason says why the object is left, empty if it is not.
	reason string
	// again says that a later look may come to another end.
	again bool
}

func (r *run) prune(ctx context.Context, known *kinds, e Entry) {
	v, failure := r.judge(ctx, known, e)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case failure != nil:
		r.report.Failed = append(r.report.Failed, Failure{ID: e.ID, Err: failure})
		if failure.cluster() {
			r.stop(failure)
		}
	case v.gone:
		r.inv.Delete(e.ID)
		r.report.Pruned = append(r.report.Pruned, e.ID)
	case v.again:
		// It is not applied any more, so nothing is to be verified about it.
		e.Hash, e.Fields = "", ""
		r.inv.Put(e)
		r.report.Kept = append(r.report.Kept, Kept{ID: e.ID, Reason: v.reason})
	default:
		r.inv.Delete(e.ID)
		r.report.Kept = append(r.report.Kept, Kept{ID: e.ID, Reason: v.reason})
	}
}

// judge decides about one object, and deletes it if nothing speaks against it.
func (r *run) judge(ctx context.Context, known *kinds, e Entry) (verdict, *RequestError) {
	switch {
	case e.GroupKind() == namespaceKind && slices.Contains(protectedNamespaces, e.Name):
		return verdict{reason: "this namespace belongs to the cluster"}, nil
	case e.GroupKind() == claimKind:
		return verdict{reason: "deleting it would delete data"}, nil
	case e.Keep:
		return verdict{reason: "its chart asks to keep it"}, nil
	case e.Origin == Shared && !r.oneOfSeveral():
		return verdict{reason: existedBefore}, nil
	}
	where, served := known.lookup(e.GroupKind(), "")
	if !served {
		if known.failed[e.Group] {
			return verdict{}, &RequestError{Code: http.StatusServiceUnavailable,
				Text: fmt.Sprintf("the cluster cannot tell what API group %q serves; look at its APIServices", e.Group)}
		}
		return verdict{gone: true}, nil // No kind, no objects.
	}
	live, failure := r.head(ctx, where, e.ID)
	if failure != nil {
		if failure.notFound() {
			return verdict{gone: true}, nil
		}
		return verdict{}, failure
	}
	another := r.companion(live.ManagedFields)
	if e.Origin == Shared && another == "" && live.Annotations[madeAnnotation] != string(live.UID) {
		return verdict{reason: existedBefore}, nil
	}
	if reason := r.foreign(e, live); reason != "" {
		return verdict{reason: reason}, nil
	}
	if another != "" {
		if e.Origin.Ours() {
			if failure := r.bequeath(ctx, where, e.ID, live.UID); failure != nil {
				return verdict{}, failure
			}
		}
		// It has to be able to change the object without asking us.
		return verdict{reason: another + " applies it, too"}, r.release(ctx, where, e, live.UID)
	}
	if live.DeletionTimestamp != nil {
		return verdict{gone: true}, nil
	}
	var reason string
	switch e.GroupKind() {
	case crdKind:
		reason, failure = r.instances(ctx, where, e.ID)
	case namespaceKind:
		reason, failure = r.inhabitants(ctx, known, e.Name)
	}
	if failure != nil || reason != "" {
		return verdict{reason: reason, again: true}, failure
	}
	failure = r.remove(ctx, where, e.ID, live.UID)
	switch {
	case failure == nil, failure.notFound():
		return verdict{gone: true}, nil
	case failure.Code == http.StatusConflict:
		return verdict{reason: anotherObject, again: true}, nil
	default:
		return verdict{}, failure
	}
}

const (
	anotherObject = "another object has taken its name"
	existedBefore = "it existed before the cluster stack"
)

// foreign says why a live object is not ours to delete, and nothing if it is.
func (r *run) foreign(e Entry, live answer) string {
	_, applied := appliedFields(live.ManagedFields, r.manager)
	switch {
	case e.Origin == Pending && !soleManager(live.ManagedFields, r.manager):
		return "it is not certain that the cluster stack made it"
	case e.Origin != Pending && live.UID != e.UID:
		return anotherObject
	case !applied:
		return "another manager has taken it over"
	case live.Labels[OwnedLabel] != OwnedValue:
		return "somebody removed its label " + OwnedLabel
	}
	return ""
}

// companion returns another manager of ours that applies the object as well, or nothing: what several have
// stays until the last of them goes.
func (r *run) companion(fields []metav1.ManagedFieldsEntry) string {
	for _, entry := range fields {
		if entry.Operation == metav1.ManagedFieldsOperationApply && entry.Manager != r.manager && strings.HasPrefix(entry.Manager, FieldManager+"/") {
			return oneLine(entry.Manager)
		}
	}
	return ""
}

// oneOfSeveral reports whether there are others like us, who may have made what existed before us.
func (r *run) oneOfSeveral() bool { return strings.HasPrefix(r.manager, FieldManager+"/") }

// madeAnnotation has the UID of an object that one of several managers of ours has made and left to the others: the last
// of them may delete it. On a copy of the object, or a restored one, it means nothing.
const madeAnnotation = "clusterstack.x-k8s.io/made-by-operator"

// bequeath notes on an object that we have made it.
func (r *run) bequeath(ctx context.Context, where resource, id ID, uid types.UID) *RequestError {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": uid, "annotations": map[string]string{madeAnnotation: string(uid)},
	}})
	if err != nil {
		return &RequestError{Text: err.Error()}
	}
	request := r.client.Patch(types.MergePatchType).AbsPath(path(where, id.Namespace, id.Name)...).Param("fieldManager", r.manager).Body(body)
	_, failure := r.do(ctx, request, id.GroupKind() == secretKind)
	return failure
}

// release gives up our fields of an object and leaves the rest as it is.
func (r *run) release(ctx context.Context, where resource, e Entry, uid types.UID) *RequestError {
	nothing := &unstructured.Unstructured{}
	nothing.SetGroupVersionKind(e.GroupKind().WithVersion(where.Version))
	nothing.SetNamespace(e.Namespace)
	nothing.SetName(e.Name)
	nothing.SetUID(uid)
	_, failure := r.patchObject(ctx, &item{id: e.ID, resource: where}, nothing, false)
	return failure
}

// instances tells whether a definition still has objects.
func (r *run) instances(ctx context.Context, where resource, id ID) (string, *RequestError) {
	bounded, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	crd, err := r.at(where, "").Get(bounded, id.Name, metav1.GetOptions{})
	if err != nil {
		failure := requestError(ctx, err, false)
		if failure.notFound() {
			return "", nil
		}
		return "", failure
	}
	for _, versions := range definedKinds([]*unstructured.Unstructured{crd}) {
		return r.anyObject(ctx, versions[0])
	}
	return "none of its versions is served, so nobody can tell whether it has instances", nil
}

func (r *run) anyObject(ctx context.Context, in resource) (string, *RequestError) {
	found := false
	failure := r.list(ctx, in, "", metav1.ListOptions{Limit: 1}, func(*metav1.PartialObjectMetadata) bool {
		found = true
		return false
	})
	switch {
	case failure != nil && !failure.notFound():
		return "", failure
	case found:
		return "it still has instances", nil
	}
	return "", nil
}

// incidental are kinds of which every namespace has some that nobody made for their own sake.
var incidental = map[schema.GroupKind]bool{
	{Kind: "Event"}:                                    true,
	{Kind: "Endpoints"}:                                true,
	{Group: "events.k8s.io", Kind: "Event"}:            true,
	{Group: "discovery.k8s.io", Kind: "EndpointSlice"}: true,
	{Group: "coordination.k8s.io", Kind: "Lease"}:      true,
}

// inhabitants tells whether a namespace holds anything that its deletion would
// take along: whatever is still there in its turn, last of all, is not ours to delete.
func (r *run) inhabitants(ctx context.Context, known *kinds, namespace string) (string, *RequestError) {
	if len(known.failed) > 0 {
		return "not all API groups of the cluster answer, so nobody can tell whether it is empty", nil
	}
	var kinds []schema.GroupKind
	for gk, versions := range known.served {
		if r := versions[0]; r.namespaced && r.can("list") && r.can("delete") && !incidental[gk] {
			kinds = append(kinds, gk)
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupKind) int {
		return ID{Group: a.Group, Kind: a.Kind}.Compare(ID{Group: b.Group, Kind: b.Kind})
	})
	for _, gk := range kinds {
		found := ""
		failure := r.list(ctx, known.served[gk][0], namespace, metav1.ListOptions{Limit: 500}, func(obj *metav1.PartialObjectMetadata) bool {
			if byCluster(gk, obj) {
				return true
			}
			found = ID{Group: gk.Group, Kind: gk.Kind, Namespace: namespace, Name: obj.Name}.String()
			return false
		})
		switch {
		case failure != nil && (failure.notFound() || failure.Code == http.StatusMethodNotAllowed):
		case failure != nil:
			return "", failure
		case found != "":
			return "it still holds other objects, such as " + found, nil
		}
	}
	return "", nil
}

// byCluster reports whether an object in a namespace goes by itself, or was put there by the cluster.
func byCluster(gk schema.GroupKind, obj *metav1.PartialObjectMetadata) bool {
	switch {
	case obj.DeletionTimestamp != nil, metav1.GetControllerOf(obj) != nil:
		return true
	case gk == schema.GroupKind{Kind: "ConfigMap"}:
		return obj.Name == "kube-root-ca.crt"
	case gk == schema.GroupKind{Kind: "ServiceAccount"}:
		return obj.Name == "default"
	}
	return false
}
