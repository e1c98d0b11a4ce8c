// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

const (
	// RecreateAnnotation on an object, in the chart or in the cluster, allows it to be deleted and made anew
	// when a release changes what cannot be changed in place. Only [RecreateAllowed] does.
	RecreateAnnotation = "clusterstack.x-k8s.io/recreate"
	// RecreateAllowed is the value of [RecreateAnnotation].
	RecreateAllowed = "allowed"

	// goneTimeout bounds the wait for an object that makes way; the next call takes the wait up again.
	goneTimeout = 15 * time.Second
)

// precious are kinds that are never deleted to be made anew: what they hold would go with them.
var precious = []schema.GroupKind{
	namespaceKind, crdKind, claimKind, {Kind: "PersistentVolume"}, {Kind: "Node"},
}

// orphaning are kinds whose pods live on under a successor with the same selector.
var orphaning = []schema.GroupKind{
	{Group: "apps", Kind: "Deployment"}, {Group: "apps", Kind: "StatefulSet"},
	{Group: "apps", Kind: "DaemonSet"}, {Group: "apps", Kind: "ReplicaSet"},
}

// changeRefused deals with an object that the API server calls invalid. Which
// fields cannot be changed is not looked up in a list, nor read out of messages: if
// the API server would take the very same object under a name that is free, it is
// the change that it refuses.
func (r *run) changeRefused(ctx context.Context, it *item, failure *RequestError) (answer, *RequestError) {
	live, missing := r.read(ctx, it)
	switch {
	case missing != nil:
		return answer{}, failure
	case live.GetDeletionTimestamp() != nil:
		return answer{}, beingDeleted()
	}
	r.mu.Lock()
	e, _ := r.inv.Get(it.id)
	r.mu.Unlock()
	ours := e.Origin.Ours() && e.UID == live.GetUID()
	if kept, some := withoutAssigned(it.object, live, r.manager); some {
		if ours {
			kept.SetUID(e.UID)
		}
		return r.patchObject(ctx, it, kept, ours)
	}
	if refusal := r.tryElsewhere(ctx, it); refusal != nil {
		if replaceable(it, live, ours).how == "" {
			return answer{}, failure
		}
		failure.cure = "; it is not made anew, because that is refused, too: " + refusal.Error()
		return answer{}, failure
	}
	failure.immutable = true
	v := replaceable(it, live, ours)
	if v.how == "" {
		failure.cure = "; this cannot be changed in place: " + v.cure
		return answer{}, failure
	}
	if failure := r.makeWay(ctx, it, live, v.how); failure != nil {
		return answer{}, failure
	}
	return r.startAnew(ctx, it)
}

// read reads what is needed to judge a refused change; of a Secret only metadata.
func (r *run) read(ctx context.Context, it *item) (*unstructured.Unstructured, *RequestError) {
	if it.id.GroupKind() == secretKind {
		head, failure := r.head(ctx, it.resource, it.id)
		if failure != nil {
			return nil, failure
		}
		live := &unstructured.Unstructured{Object: map[string]any{}}
		live.SetUID(head.UID)
		live.SetResourceVersion(head.ResourceVersion)
		live.SetAnnotations(head.Annotations)
		live.SetDeletionTimestamp(head.DeletionTimestamp)
		return live, nil
	}
	bounded, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	live, err := r.at(it.resource, it.id.Namespace).Get(bounded, it.id.Name, metav1.GetOptions{})
	if err != nil {
		return nil, requestError(ctx, err, false)
	}
	return live, nil
}

// replacement says how an object can make way for its successor.
type replacement struct {
	// how is empty if it cannot.
	how metav1.DeletionPropagation
	// cure says what would have to be done then, as the end of a sentence.
	cure string
}

// replaceable decides whether an object whose change was refused is made anew.
func replaceable(it *item, live *unstructured.Unstructured, ours bool) replacement {
	gk := it.id.GroupKind()
	allowed := it.object.GetAnnotations()[RecreateAnnotation] == RecreateAllowed ||
		live.GetAnnotations()[RecreateAnnotation] == RecreateAllowed
	switch {
	case !ours:
		return replacement{cure: "it is not of this cluster stack; delete it, or have the chart leave it alone"}
	case slices.Contains(precious, gk):
		return replacement{cure: "to make it anew would delete what it holds; leave the field as it was"}
	case gk == jobKind || gk == podKind:
		if ended(live) || allowed {
			return replacement{how: metav1.DeletePropagationBackground}
		}
		return replacement{cure: "it is replaced once it has ended"}
	case !allowed:
		return replacement{cure: fmt.Sprintf("leave the field as it was, or annotate the object with %s=%s to have it deleted and made anew",
			RecreateAnnotation, RecreateAllowed)}
	}
	// Pods that another selector does not find would run on for ever.
	before, _, _ := unstructured.NestedFieldNoCopy(live.Object, "spec", "selector")
	after, _, _ := unstructured.NestedFieldNoCopy(it.object.Object, "spec", "selector")
	if slices.Contains(orphaning, gk) && reflect.DeepEqual(before, after) {
		return replacement{how: metav1.DeletePropagationOrphan}
	}
	return replacement{how: metav1.DeletePropagationBackground}
}

// ended reports whether a Job or Pod will do nothing any more.
func ended(obj *unstructured.Unstructured) bool {
	done, err := hookState(obj)
	return done || err != nil
}

// makeWay deletes an object for its successor and waits until it is gone.
func (r *run) makeWay(ctx context.Context, it *item, live *unstructured.Unstructured, how metav1.DeletionPropagation) *RequestError {
	failure := r.removeWith(ctx, it.resource, it.id, live.GetUID(), how)
	if failure != nil {
		if failure.notFound() {
			return nil
		}
		return failure
	}
	return r.awaitGone(ctx, it, live.GetUID(), live.GetResourceVersion())
}

// awaitGone waits until an object that was deleted is gone.
func (r *run) awaitGone(ctx context.Context, it *item, uid types.UID, resourceVersion string) *RequestError {
	bounded, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	err := r.await(bounded, it.resource, it.id, resourceVersion, func(obj *unstructured.Unstructured) (bool, error) {
		return obj.GetUID() != uid, nil
	})
	switch {
	case err == nil, errors.Is(err, errGone):
		return nil
	case bounded.Err() != nil && ctx.Err() == nil:
		return beingDeleted()
	}
	return requestError(ctx, err, false)
}

func beingDeleted() *RequestError {
	return &RequestError{Code: http.StatusConflict, Reason: metav1.StatusReasonConflict,
		Text: "it is being deleted, and is applied again once it is gone"}
}

// tryElsewhere asks whether the object would be accepted if it were not there
// already: under another name, and without it being made.
func (r *run) tryElsewhere(ctx context.Context, it *item) *RequestError {
	obj := elsewhere(it.object)
	id := it.id
	id.Name = obj.GetName()
	body, err := json.Marshal(obj.Object)
	if err != nil {
		return &RequestError{Code: http.StatusBadRequest, Text: "it cannot be written as JSON"}
	}
	request := r.patchRequest(it.resource, id, body, true).Param("dryRun", metav1.DryRunAll)
	_, failure := r.do(ctx, request, id.GroupKind() == secretKind)
	return failure
}

// elsewhere returns the object under another name, without what only one object can have at a time.
func elsewhere(obj *unstructured.Unstructured) *unstructured.Unstructured {
	obj = obj.DeepCopy()
	suffix := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(digest([]byte(obj.GetName()))))[:8]
	name := obj.GetName()
	if len(name) > 40 {
		name = strings.TrimRight(name[:40], "-.")
	}
	obj.SetName(name + "-" + suffix)
	switch obj.GroupVersionKind().GroupKind() {
	case serviceKind:
		for _, field := range []string{"clusterIPs", "healthCheckNodePort"} {
			unstructured.RemoveNestedField(obj.Object, "spec", field)
		}
		if ip, _, _ := unstructured.NestedString(obj.Object, "spec", "clusterIP"); ip != headless {
			unstructured.RemoveNestedField(obj.Object, "spec", "clusterIP")
		}
		ports, _, _ := unstructured.NestedFieldNoCopy(obj.Object, "spec", "ports")
		list, _ := ports.([]any)
		for _, port := range list {
			if port, ok := port.(map[string]any); ok {
				delete(port, "nodePort")
			}
		}
	case crdKind:
		// Its name says what it defines, and a kind is defined once.
		group, _, _ := unstructured.NestedString(obj.Object, "spec", "group")
		obj.SetName("x" + suffix + "." + group)
		_ = unstructured.SetNestedMap(obj.Object, map[string]any{"plural": "x" + suffix, "singular": "x" + suffix,
			"kind": "X" + suffix, "listKind": "X" + suffix + "List"}, "spec", "names")
	}
	return obj
}

// headless stands in place of the address of a Service that has none.
const headless = "None"

// withoutAssigned returns the object without the addresses that the API server
// has assigned to the live one, if that is what the object differs in: clients
// have learnt them by now. What a release has set itself is not assigned, and a
// Service without any address is another kind of thing.
func withoutAssigned(obj, live *unstructured.Unstructured, manager string) (*unstructured.Unstructured, bool) {
	if obj.GroupVersionKind().GroupKind() != serviceKind {
		return nil, false
	}
	set := &fieldpath.Set{}
	if i, ok := appliedFields(live.GetManagedFields(), manager); ok {
		var err error
		if set, err = fieldSet(live.GetManagedFields()[i]); err != nil {
			return nil, false
		}
	}
	if wanted, _, _ := unstructured.NestedString(obj.Object, "spec", "clusterIP"); wanted == headless {
		return nil, false
	}
	kept := obj.DeepCopy()
	some := false
	for _, field := range []string{"clusterIP", "clusterIPs", "healthCheckNodePort"} {
		wanted, asked, _ := unstructured.NestedFieldNoCopy(obj.Object, "spec", field)
		assigned, exists, _ := unstructured.NestedFieldNoCopy(live.Object, "spec", field)
		if asked && exists && assigned != headless && !set.Has(fieldpath.MakePathOrDie("spec", field)) && !reflect.DeepEqual(wanted, assigned) {
			unstructured.RemoveNestedField(kept.Object, "spec", field)
			some = true
		}
	}
	return kept, some
}
