// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// formerManager is the field manager of the existing operator. It is kubectl's
// own default too, so fields of a person can stand in the same entry.
const formerManager = "kubectl"

// formerHook stands in an entry in place of the run, for a hook that the existing operator applied.
const formerHook = "former"

// TakeOver makes objects ours that the existing operator applied. An object of
// the set that has our label and that the operator's field manager has applied
// gets the fields that the set renders moved to our manager; other fields stay
// with whoever applied them. Nothing else of the object changes, so what runs is
// not disturbed. Objects that are not there, or not the operator's, are left
// alone; the next apply deals with them.
//
// inv is changed and saved through the journal before anything changes and at
// the end. Calling again after a failure goes on where the last call ended. The
// report's Applied are the objects that are ours now.
func (a *Applier) TakeOver(ctx context.Context, set Set, inv *Inventory, journal Journal) (Report, error) {
	p, err := a.plan(ctx, set)
	if err != nil {
		return Report{}, err
	}
	r, err := a.begin(inv, journal)
	if err != nil {
		return Report{}, err
	}
	byResource := map[resourceKey][]*item{}
	var order []resourceKey
	// The existing operator applied hooks like any other object.
	hooks := map[ID]string{}
	items := slices.Clone(p.items)
	for _, h := range p.hooks {
		hooks[h.id] = formerHook
		items = append(items, h.item)
	}
	for _, it := range items {
		if it.absence != nil {
			continue
		}
		key := resourceKey{it.resource.Group, it.resource.Version, it.resource.Resource}
		if byResource[key] == nil {
			order = append(order, key)
		}
		byResource[key] = append(byResource[key], it)
	}
	live := map[ID]*metav1.PartialObjectMetadata{}
	r.each(len(order), func(i int) {
		items := byResource[order[i]]
		failure := r.list(ctx, items[0].resource, "", metav1.ListOptions{LabelSelector: OwnedLabel + "=" + OwnedValue, Limit: 500},
			func(obj *metav1.PartialObjectMetadata) bool {
				id := items[0].id
				id.Namespace, id.Name = obj.Namespace, obj.Name
				r.mu.Lock()
				defer r.mu.Unlock()
				live[id] = obj
				return true
			})
		if failure != nil && !failure.notFound() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.stop(failure)
		}
	})
	if r.stopped != nil {
		return r.report, r.stopped
	}

	var turn []*item
	for _, it := range items {
		obj := live[it.id]
		if obj == nil || obj.DeletionTimestamp != nil {
			continue
		}
		e, known := inv.Get(it.id)
		_, former := appliedFields(obj.ManagedFields, formerManager)
		if known && e.Origin == Adopting || !known && former {
			inv.Put(Entry{ID: it.id, Version: it.resource.Version, Set: set.Name, Origin: Adopting, Keep: it.keep,
				Expires: it.expires, Drift: it.drift, Hook: hooks[it.id]})
			turn = append(turn, it)
		}
	}
	if len(turn) == 0 {
		return r.report, nil
	}
	if _, known := inv.sets[set.Name]; !known {
		// Its hooks have run: those of an upgrade come with another content.
		content := p.digest()
		inv.sets[set.Name] = progress{Pre: content, Post: content, Delete: p.ofDeletion()}
	}
	if err := r.save(ctx); err != nil {
		return r.report, err
	}
	r.each(len(turn), func(i int) { r.takeOver(ctx, turn[i], live[turn[i].id].ObjectMeta) })
	return r.finish(ctx)
}

type resourceKey struct{ group, version, resource string }

func (r *run) takeOver(ctx context.Context, it *item, live metav1.ObjectMeta) {
	ours, failure := r.moveFields(ctx, it, live)
	r.mu.Lock()
	defer r.mu.Unlock()
	e, _ := r.inv.Get(it.id)
	switch {
	case failure != nil:
		r.report.Failed = append(r.report.Failed, Failure{ID: it.id, Err: failure})
		if failure.cluster() {
			r.stop(failure)
		}
	case ours.UID == "":
		r.inv.Delete(it.id) // Not the operator's after all.
	default:
		e.Origin, e.UID, e.Fields = Adopted, ours.UID, fieldsHash(ours.ManagedFields, r.manager)
		r.inv.Put(e)
		r.report.Applied = append(r.report.Applied, it.id)
	}
}

// moveFields moves the entry of the former manager to ours. The answer is empty
// if there is none, and as live if an earlier, unanswered request has done it.
func (r *run) moveFields(ctx context.Context, it *item, live metav1.ObjectMeta) (answer, *RequestError) {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		entries, moved, failure := r.moved(live.ManagedFields, it.object)
		if failure != nil {
			return answer{}, failure
		}
		if !moved {
			if _, ours := appliedFields(live.ManagedFields, r.manager); ours {
				return answer{ObjectMeta: live}, nil
			}
			return answer{}, nil
		}
		body, err := json.Marshal([]map[string]any{
			{"op": "test", "path": "/metadata/resourceVersion", "value": live.ResourceVersion},
			{"op": "replace", "path": "/metadata/managedFields", "value": entries},
		})
		if err != nil {
			return answer{}, &RequestError{Code: http.StatusBadRequest, Text: "its managed fields cannot be written as JSON"}
		}
		request := r.client.Patch(types.JSONPatchType).AbsPath(path(it.resource, it.id.Namespace, it.id.Name)...).
			Param("fieldManager", r.manager).Body(body)
		ans, failure := r.do(ctx, request, it.id.GroupKind() == secretKind)
		changed := failure != nil && (failure.Code == http.StatusUnprocessableEntity || failure.Code == http.StatusConflict)
		if !changed || attempt == attempts {
			return ans, failure
		}
		// Somebody wrote in between, a controller its status for instance: look again.
		ans, failure = r.head(ctx, it.resource, it.id)
		if failure != nil || ans.UID != live.UID {
			return answer{}, failure
		}
		live = ans.ObjectMeta
	}
}

// moved divides the former manager's entry: what the object renders becomes
// ours, the rest stays. Nothing is moved if an entry of ours exists.
func (r *run) moved(entries []metav1.ManagedFieldsEntry, rendered *unstructured.Unstructured) ([]metav1.ManagedFieldsEntry, bool, *RequestError) {
	i, former := appliedFields(entries, formerManager)
	if _, ours := appliedFields(entries, r.manager); ours || !former {
		return nil, false, nil
	}
	set, err := fieldSet(entries[i])
	if err != nil {
		return nil, false, &RequestError{Code: http.StatusUnprocessableEntity, Text: "its managed fields cannot be read"}
	}
	ours, rest := divide(set, rendered.Object)
	if ours.Empty() {
		return nil, false, nil
	}
	var result []metav1.ManagedFieldsEntry
	for j, entry := range entries {
		if j != i {
			result = append(result, entry)
			continue
		}
		for _, part := range []struct {
			manager string
			fields  *fieldpath.Set
		}{{r.manager, ours}, {formerManager, rest}} {
			if part.fields.Empty() {
				continue
			}
			data, err := part.fields.ToJSON()
			if err != nil {
				return nil, false, &RequestError{Code: http.StatusUnprocessableEntity, Text: "its managed fields cannot be written"}
			}
			entry.Manager, entry.FieldsV1 = part.manager, metav1.NewFieldsV1(string(data))
			result = append(result, entry)
		}
	}
	return result, true, nil
}

// divide splits a set of fields into those that the object has and the others.
func divide(set *fieldpath.Set, object map[string]any) (has, lacks *fieldpath.Set) {
	has, lacks = &fieldpath.Set{}, &fieldpath.Set{}
	set.Iterate(func(p fieldpath.Path) {
		if _, found := find(object, p); found {
			has.Insert(p.Copy())
		} else {
			lacks.Insert(p.Copy())
		}
	})
	return has, lacks
}

// find follows a path of managed fields into an object.
func find(in any, p fieldpath.Path) (any, bool) {
	if len(p) == 0 {
		return in, true
	}
	switch e := p[0]; {
	case e.FieldName != nil:
		if m, ok := in.(map[string]any); ok {
			if v, ok := m[*e.FieldName]; ok {
				return find(v, p[1:])
			}
		}
	case e.Key != nil:
		if list, ok := in.([]any); ok {
			if element := byKey(list, *e.Key); element != nil {
				return find(element, p[1:])
			}
		}
	case e.Value != nil:
		list, _ := in.([]any)
		for _, element := range list {
			if value.Equals(value.NewValueInterface(element), *e.Value) {
				return find(element, p[1:])
			}
		}
	case e.Index != nil:
		if list, ok := in.([]any); ok && *e.Index >= 0 && *e.Index < len(list) {
			return find(list[*e.Index], p[1:])
		}
	}
	return nil, false
}

// byKey finds the element of an associative list. The API server fills in keys
// that have a default, such as the protocol of a port, so an element without
// one matches too, unless another has it.
func byKey(list []any, key value.FieldList) map[string]any {
	var loose map[string]any
	for _, element := range list {
		m, ok := element.(map[string]any)
		if !ok {
			continue
		}
		equal, lacking := true, 0
		for _, field := range key {
			v, has := m[field.Name]
			if !has {
				lacking++
				continue
			}
			equal = equal && value.Equals(value.NewValueInterface(v), field.Value)
		}
		switch {
		case equal && lacking == 0:
			return m
		case equal && lacking < len(key) && loose == nil:
			loose = m
		}
	}
	return loose
}
