// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// DriftAnnotation on an object, in the chart or in the cluster, says what is to become
// of changes that others make to it: "correct", "warn" or "ignore". It goes before what
// is said about the cluster as a whole.
const DriftAnnotation = "clusterstack.x-k8s.io/drift"

// Drifted is an object that is not as it was applied.
type Drifted struct {
	ID
	// Set is what the object was applied with.
	Set string
	// How it differs, as the end of a sentence: "it was deleted".
	How string
	// Policy is the value of [DriftAnnotation], empty where it is not set.
	Policy string
}

// Comparison is what [Applier.Drift] found.
type Comparison struct {
	// Drifted are the objects that differ, sorted by ID.
	Drifted []Drifted
	// Unknown are objects of kinds that the cluster could not list, sorted by ID.
	Unknown []ID
}

// IDs of all objects that are not known to be as they were applied.
func (c Comparison) IDs() []ID {
	ids := slices.Clone(c.Unknown)
	for _, d := range c.Drifted {
		ids = append(ids, d.ID)
	}
	slices.SortFunc(ids, ID.Compare)
	return ids
}

// Drift tells which objects of the inventory are not as they were applied: gone,
// replaced by another of the same name, or with our fields changed by somebody.
// It asks with one list of metadata per kind, answered from the API server's
// cache. Only what was applied completely is compared. An error that comes with a
// comparison is about kinds that could not be asked, whose objects are Unknown.
func (a *Applier) Drift(ctx context.Context, inv *Inventory) (Comparison, error) {
	byKind := map[schema.GroupKind][]Entry{}
	var order []schema.GroupKind
	for _, e := range inv.Entries() {
		if e.Hash == "" || e.Hook != "" {
			continue
		}
		if byKind[e.GroupKind()] == nil {
			order = append(order, e.GroupKind())
		}
		byKind[e.GroupKind()] = append(byKind[e.GroupKind()], e)
	}
	if len(order) == 0 {
		return Comparison{}, nil
	}
	known, generation, err := a.mapper.kinds(ctx)
	if err != nil {
		return Comparison{}, err
	}
	missing := func(gk schema.GroupKind) bool { _, ok := known.lookup(gk, ""); return !ok }
	if slices.ContainsFunc(order, missing) {
		if known, err = a.mapper.refresh(ctx, generation); err != nil {
			return Comparison{}, err
		}
	}
	r := &run{Applier: a}
	var (
		result   Comparison
		failures = make([]error, len(order))
	)
	r.each(len(order), func(i int) {
		found, failure := a.driftOf(ctx, known, order[i], byKind[order[i]])
		r.mu.Lock()
		defer r.mu.Unlock()
		result.Drifted = append(result.Drifted, found...)
		if failure != nil {
			failures[i] = fmt.Errorf("look at all of kind %s: %w", order[i], failure)
			for _, e := range byKind[order[i]] {
				result.Unknown = append(result.Unknown, e.ID)
			}
		}
	})
	slices.SortFunc(result.Drifted, func(a, b Drifted) int { return a.Compare(b.ID) })
	slices.SortFunc(result.Unknown, ID.Compare)
	return result, errors.Join(append(failures, r.stopped)...)
}

func (a *Applier) driftOf(ctx context.Context, known *kinds, gk schema.GroupKind, entries []Entry) ([]Drifted, *RequestError) {
	where, served := known.lookup(gk, "")
	if !served && known.failed[gk.Group] {
		return nil, &RequestError{Code: http.StatusServiceUnavailable,
			Text: fmt.Sprintf("the cluster cannot tell what API group %q serves; look at its APIServices", gk.Group)}
	}
	live := map[ID]*metav1.PartialObjectMetadata{}
	if served {
		owned := metav1.ListOptions{LabelSelector: OwnedLabel + "=" + OwnedValue, ResourceVersion: a.written.latest(where)}
		each := func(obj *metav1.PartialObjectMetadata) bool {
			live[ID{Group: gk.Group, Kind: gk.Kind, Namespace: obj.Namespace, Name: obj.Name}] = obj
			return true
		}
		failure := a.list(ctx, where, "", owned, each)
		if failure != nil && failure.Code == http.StatusGatewayTimeout {
			// The cluster was set back to a time before our last write, and does not come to it.
			a.written.forget(where)
			owned.ResourceVersion = a.written.latest(where)
			clear(live)
			failure = a.list(ctx, where, "", owned, each)
		}
		if failure != nil && !failure.notFound() {
			return nil, failure
		}
	}
	var drifted []Drifted
	for _, e := range entries {
		obj := live[e.ID]
		d := Drifted{ID: e.ID, Set: e.Set, Policy: e.Drift}
		if obj != nil && obj.Annotations[DriftAnnotation] != "" {
			d.Policy = obj.Annotations[DriftAnnotation]
		}
		switch {
		case obj == nil && e.Expires:
			continue
		case obj == nil:
			d.How = "it was deleted, or lost its label"
		case obj.UID != e.UID:
			d.How = "it was replaced by another one"
		case fieldsHash(obj.ManagedFields, a.manager) != e.Fields:
			d.How = "fields of it were changed"
		default:
			continue
		}
		drifted = append(drifted, d)
	}
	return drifted, nil
}

// Changed reports whether an object, as somebody who watches it sees it, is not
// as the entry says that it was applied.
func (a *Applier) Changed(e Entry, live metav1.Object) bool {
	return e.Hash != "" && (live.GetUID() != e.UID || live.GetDeletionTimestamp() != nil ||
		fieldsHash(live.GetManagedFields(), a.manager) != e.Fields)
}
