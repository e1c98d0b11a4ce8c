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

// Drift tells which objects of the inventory are not as they were applied: gone,
// replaced by another of the same name, or with our fields changed by somebody.
// It asks with one list of metadata per kind, answered from the API server's
// cache. Only what was applied completely is compared. With an error some kinds
// could not be asked: nothing is known about their objects, and what is returned
// is what was found in the others.
func (a *Applier) Drift(ctx context.Context, inv *Inventory) ([]ID, error) {
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
		return nil, nil
	}
	known, generation, err := a.mapper.kinds(ctx)
	if err != nil {
		return nil, err
	}
	missing := func(gk schema.GroupKind) bool { _, ok := known.lookup(gk, ""); return !ok }
	if slices.ContainsFunc(order, missing) {
		if known, err = a.mapper.refresh(ctx, generation); err != nil {
			return nil, err
		}
	}
	r := &run{Applier: a}
	var (
		drifted  []ID
		failures = make([]error, len(order))
	)
	r.each(len(order), func(i int) {
		found, failure := a.driftOf(ctx, known, order[i], byKind[order[i]])
		if failure != nil {
			failures[i] = fmt.Errorf("look at all of kind %s: %w", order[i], failure)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		drifted = append(drifted, found...)
	})
	slices.SortFunc(drifted, ID.Compare)
	return drifted, errors.Join(failures...)
}

func (a *Applier) driftOf(ctx context.Context, known *kinds, gk schema.GroupKind, entries []Entry) ([]ID, *RequestError) {
	where, served := known.lookup(gk, "")
	if !served && known.failed[gk.Group] {
		return nil, &RequestError{Code: http.StatusServiceUnavailable,
			Text: fmt.Sprintf("the cluster cannot tell what API group %q serves; look at its APIServices", gk.Group)}
	}
	live := map[ID]*metav1.PartialObjectMetadata{}
	if served {
		failure := a.list(ctx, where, "", metav1.ListOptions{LabelSelector: OwnedLabel + "=" + OwnedValue, ResourceVersion: "0"},
			func(obj *metav1.PartialObjectMetadata) bool {
				live[ID{Group: gk.Group, Kind: gk.Kind, Namespace: obj.Namespace, Name: obj.Name}] = obj
				return true
			})
		if failure != nil && !failure.notFound() {
			return nil, failure
		}
	}
	var drifted []ID
	for _, e := range entries {
		obj := live[e.ID]
		if obj == nil || obj.UID != e.UID || fieldsHash(obj.ManagedFields, a.manager) != e.Fields {
			drifted = append(drifted, e.ID)
		}
	}
	return drifted, nil
}
