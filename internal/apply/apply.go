// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
)

// Set is a group of objects that are applied together, such as one addon.
type Set struct {
	// Name tells sets of one inventory apart.
	Name string
	// Objects are applied in waves; of two with the same ID the last one counts.
	// They carry [OwnedLabel], without which they would count as drifted and never be pruned.
	Objects []*unstructured.Unstructured
	// Hooks run before and after the objects when the content of the set has changed.
	Hooks []Hook
	// RollBack says that the set takes the place of a later version of it: hooks
	// for a roll-back run then, and not those for an upgrade.
	RollBack bool
	// Namespace is for namespaced objects that name none.
	Namespace string
	// Unsaved says that the caller saves the inventory itself where the report says so, soon, and before it waits for
	// anything: the save that ends the operation is then left out.
	Unsaved bool
	// Verified, if set, tells which objects of the inventory are known to be
	// as they were applied last, as [Applier.Drift] finds out. Of these only
	// the ones whose content has changed are sent.
	Verified func(ID) bool
}

// item is one object on its way.
type item struct {
	id       ID
	resource resource
	object   *unstructured.Unstructured
	// body is the object in JSON, which sorts the keys of maps, and hash identifies it.
	body    []byte
	hash    string
	wave    wave
	keep    bool
	expires bool
	drift   string
	// defined says that the kind comes from a definition in the same set.
	defined bool
	// absence says why the kind cannot be addressed, empty when it can.
	absence error
}

// plan is a set with everything resolved that can be before the first change.
type plan struct {
	items []*item
	hooks []*hook
}

// digest identifies the content of a set: whether its hooks have run for it.
func (p *plan) digest() string {
	var lines []string
	for _, it := range p.items {
		lines = append(lines, it.id.String()+" "+it.hash)
	}
	for _, h := range p.hooks {
		lines = append(lines, "hook "+h.id.String()+" "+h.hash)
	}
	slices.Sort(lines)
	return digest([]byte(strings.Join(lines, "\n")))
}

// Identify tells under which IDs objects would be applied. Only the cluster
// knows which of them have a namespace; a kind that neither it nor a definition
// among the objects knows is taken to have one if its object names one.
func (a *Applier) Identify(ctx context.Context, objects []*unstructured.Unstructured, namespace string) ([]ID, error) {
	items, err := a.locate(ctx, objects, objects, namespace)
	if err != nil {
		return nil, err
	}
	ids := make([]ID, 0, len(items))
	for _, it := range items {
		ids = append(ids, it.id)
	}
	slices.SortFunc(ids, ID.Compare)
	return ids, nil
}

// plan resolves a set and asks whether all of it is allowed.
func (a *Applier) plan(ctx context.Context, set Set) (*plan, error) {
	all := slices.Clone(set.Objects)
	for _, h := range set.Hooks {
		all = append(all, h.Object)
	}
	items, err := a.resolve(ctx, set.Objects, all, set.Namespace)
	if err != nil {
		return nil, err
	}
	p := &plan{items: items}
	for _, h := range set.Hooks {
		resolved, err := a.resolve(ctx, []*unstructured.Unstructured{h.Object}, all, set.Namespace)
		if err != nil {
			return nil, err
		}
		p.hooks = append(p.hooks, &hook{item: resolved[0], Hook: h})
	}
	if a.allow == nil {
		return p, nil
	}
	var refused []error
	ask := func(it *item) {
		if err := a.allow(it.id.GroupKind(), it.id.Namespace); err != nil {
			refused = append(refused, fmt.Errorf("%s: %w", it.id, err))
		}
	}
	for _, it := range p.items {
		ask(it)
	}
	for _, h := range p.hooks {
		ask(h.item)
	}
	if len(refused) > 0 {
		return nil, &RefusedError{problems: refused}
	}
	return p, nil
}

// resolve finds out where objects go, and what is to be sent for them. The definitions among all count as served.
func (a *Applier) resolve(ctx context.Context, objects, all []*unstructured.Unstructured, namespace string) ([]*item, error) {
	items, err := a.locate(ctx, objects, all, namespace)
	if err != nil {
		return nil, err
	}
	for _, it := range items {
		if err := it.prepare(); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// locate finds out where objects go. The items have the objects as they are given.
func (a *Applier) locate(ctx context.Context, objects, all []*unstructured.Unstructured, namespace string) ([]*item, error) {
	defined := definedKinds(all)
	known, generation, err := a.mapper.kinds(ctx)
	if err != nil {
		return nil, err
	}
	unknown := func(obj *unstructured.Unstructured) bool {
		gvk := obj.GroupVersionKind()
		r, ok := known.lookup(gvk.GroupKind(), gvk.Version)
		return len(defined[gvk.GroupKind()]) == 0 && (!ok || r.Version != gvk.Version)
	}
	if slices.ContainsFunc(objects, unknown) {
		if known, err = a.mapper.refresh(ctx, generation); err != nil {
			return nil, err
		}
	}
	return locateIn(known, objects, defined, namespace)
}

// locateIn finds out where objects go in a cluster that serves known and what the definitions among all objects add.
func locateIn(known *kinds, objects []*unstructured.Unstructured, defined map[schema.GroupKind][]resource, namespace string) ([]*item, error) {
	var items []*item
	position := map[ID]int{}
	for _, obj := range objects {
		it, err := newItem(obj, known, defined, namespace)
		if err != nil {
			return nil, err
		}
		if i, twice := position[it.id]; twice {
			items[i] = it
			continue
		}
		position[it.id] = len(items)
		items = append(items, it)
	}
	return items, nil
}

func newItem(obj *unstructured.Unstructured, known *kinds, defined map[schema.GroupKind][]resource, namespace string) (*item, error) {
	gvk := obj.GroupVersionKind()
	id := ID{Group: gvk.Group, Kind: gvk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	if id.Kind == "" || gvk.Version == "" || id.Name == "" {
		return nil, refusedf("an object lacks its apiVersion, kind or name: %s", id)
	}
	// Both become part of the path of a request, which must not lead to anything else.
	for _, segment := range []string{id.Namespace, id.Name} {
		if problems := content.IsPathSegmentName(segment); len(problems) > 0 {
			return nil, refusedf("a %s has the name or namespace %s, which %s", id.Kind, strconv.QuoteToASCII(oneLine(segment)), strings.Join(problems, " and "))
		}
	}
	it := &item{id: id, wave: waveOf(gvk.GroupKind())}
	var found bool
	if versions := defined[gvk.GroupKind()]; len(versions) > 0 {
		it.defined = true
		it.resource, found = (&kinds{served: defined}).lookup(gvk.GroupKind(), gvk.Version)
	} else {
		it.resource, found = known.lookup(gvk.GroupKind(), gvk.Version)
	}
	switch {
	case found && it.resource.Version == gvk.Version:
	case known.failed[gvk.Group]:
		it.absence = &RequestError{Text: fmt.Sprintf("the cluster cannot tell what API group %q serves; look at its APIServices", gvk.Group)}
	case found:
		it.absence = &RequestError{Code: http.StatusNotFound, Text: fmt.Sprintf("the cluster does not serve version %q of this kind, only %q; use that in the chart", gvk.Version, it.resource.Version)}
	default:
		it.absence = &RequestError{Code: http.StatusNotFound, Text: fmt.Sprintf("the cluster does not know the kind %s of %s; install what defines it first", gvk.Kind, gvk.GroupVersion())}
	}
	switch {
	case found && !it.resource.namespaced:
		it.id.Namespace = ""
	case found && it.id.Namespace == "":
		if namespace == "" {
			return nil, refusedf("%s: it needs a namespace and names none", id)
		}
		it.id.Namespace = namespace
	}
	it.object = obj
	return it, nil
}

// prepare makes what is sent out of the object as it was given.
func (it *item) prepare() error {
	it.object = it.object.DeepCopy()
	// What a server sets is not for us to apply, and a chart may carry it by accident.
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "generation", "selfLink", "creationTimestamp"} {
		unstructured.RemoveNestedField(it.object.Object, "metadata", field)
	}
	if it.id.Namespace == "" {
		unstructured.RemoveNestedField(it.object.Object, "metadata", "namespace")
	} else {
		it.object.SetNamespace(it.id.Namespace)
	}
	it.keep = it.object.GetAnnotations()["helm.sh/resource-policy"] == "keep"
	it.drift = it.object.GetAnnotations()[DriftAnnotation]
	if it.id.GroupKind() == jobKind {
		_, it.expires, _ = unstructured.NestedFieldNoCopy(it.object.Object, "spec", "ttlSecondsAfterFinished")
	}
	var err error
	if it.body, err = json.Marshal(it.object.Object); err != nil {
		return fmt.Errorf("%s: %w", it.id, err)
	}
	it.hash = digest(it.body)
	return nil
}

// run is one operation in progress. Its lock guards inventory and report, which
// the objects of a wave change at the same time.
type run struct {
	*Applier
	set     string
	journal Journal
	unsaved bool

	mu     sync.Mutex
	inv    *Inventory
	report Report
	// stopped is the error after which nothing more is begun.
	stopped error
	// fresh are entries made by this run: nothing was sent for them before.
	fresh map[ID]bool
	saved string
}

func (a *Applier) begin(inv *Inventory, journal Journal) (*run, error) {
	data, err := inv.Encode()
	if err != nil {
		return nil, err
	}
	return &run{Applier: a, journal: journal, inv: inv, fresh: map[ID]bool{}, saved: string(data)}, nil
}

// save writes the journal unless it says already what the inventory says.
func (r *run) save(ctx context.Context) error {
	data, err := r.inv.Encode()
	if err != nil {
		return err
	}
	if string(data) == r.saved {
		return nil
	}
	if err := r.journal.Save(ctx, r.inv); err != nil {
		return fmt.Errorf("save the inventory: %w", err)
	}
	r.saved = string(data)
	return nil
}

// checkpoint saves the journal after changes were made, also when the caller
// has given up in the meantime: what is known about the cluster should not be lost.
func (r *run) checkpoint(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.timeout)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.save(ctx); err != nil {
		r.stop(err)
	}
}

// stop ends the run with its first error. The lock is held.
func (r *run) stop(err error) {
	if r.stopped == nil {
		r.stopped = err
	}
}

// halt is stop for those who do not hold the lock.
func (r *run) halt(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop(err)
}

func (r *run) isStopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped != nil
}

// Apply brings a set of objects into the cluster: hooks that run before it, then
// the objects in waves, then hooks that run after it. An object that is not in
// the inventory is never forced; see [Origin] for what becomes of it.
//
// Nothing is sent at all if the set is refused, a [*RefusedError]. Otherwise inv is
// changed and saved through the journal: once before anything changes, naming all
// that is about to be sent, around each hook, and once when all is done. Whoever
// dies between waves leaves objects that were announced, and the next call finds out
// whose they are; to save what each wave came to would cost more than its objects.
// The report says what became of each object. The error is
// nil only if all objects are in place and all hooks have succeeded; it is an
// [*IncompleteError] when some are not while the cluster was reachable. Objects
// that the set no longer has stay until they are pruned.
//
// Hooks and definitions of new kinds are waited for, at most until ctx ends; the
// next call takes the wait up again. With [Options.Patience] a hook that takes
// longer makes the error a [*WaitingError].
func (a *Applier) Apply(ctx context.Context, set Set, inv *Inventory, journal Journal) (Report, error) {
	p, err := a.plan(ctx, set)
	if err != nil {
		return Report{}, err
	}
	r, err := a.begin(inv, journal)
	if err != nil {
		return Report{}, err
	}
	r.set, r.unsaved = set.Name, set.Unsaved
	content := p.digest()
	done := inv.sets[set.Name]
	if done.Going {
		done = progress{} // It comes back, as if it had never been there.
	}
	occasion := occasion(set, done)
	before, after := due(p.hooks, "pre-"+occasion), due(p.hooks, "post-"+occasion)
	if done.Pre == content {
		before = nil
	}
	if done.Post == content {
		after = nil
	}

	send := r.announce(p.items, set.Verified)
	if len(send)+len(before)+len(after) > 0 {
		for _, h := range before {
			r.announceHook(h, "pre "+content)
		}
		for _, h := range after {
			r.announceHook(h, "post "+content)
		}
		inv.sets[set.Name] = progress{Pre: done.Pre, Post: done.Post, Delete: p.ofDeletion()}
		// Whatever the caller has saved or not: the journal is to say what comes now.
		r.saved = ""
		if err := r.save(ctx); err != nil {
			return r.report, err
		}
	}

	if err := r.runHooks(ctx, before, "pre "+content); err != nil {
		r.halt(err)
	}
	if !r.isStopped() {
		r.haveRun(before)
		inv.sets[set.Name] = progress{Pre: content, Post: done.Post, Delete: p.ofDeletion()}
		r.waves(ctx, send)
	}
	if !r.isStopped() && r.report.err() == nil {
		if err := r.runHooks(ctx, after, "post "+content); err != nil {
			r.halt(err)
		}
		if !r.isStopped() && r.report.err() == nil {
			r.haveRun(after)
			inv.sets[set.Name] = progress{Pre: content, Post: content, Delete: p.ofDeletion()}
		}
	}
	return r.finish(ctx)
}

// finish saves and reports. What stopped a run is told alone: what else was
// underway at that moment is chance, and the text of an error has to be stable.
func (r *run) finish(ctx context.Context) (Report, error) {
	if !r.unsaved {
		r.checkpoint(ctx)
	} else if data, err := r.inv.Encode(); err != nil {
		r.stop(err)
	} else {
		r.report.Unsaved = string(data) != r.saved
	}
	r.report.sort()
	if r.stopped != nil {
		return r.report, r.stopped
	}
	return r.report, r.report.err()
}

// announce enters what is about to be sent into the inventory and returns it.
func (r *run) announce(items []*item, verified func(ID) bool) []*item {
	var send []*item
	for _, it := range items {
		e, known := r.inv.Get(it.id)
		if known && verified != nil && e.Hash == it.hash && e.UID != "" && verified(it.id) {
			e.Set, e.Keep, e.Expires, e.Drift = r.set, it.keep, it.expires, it.drift
			r.inv.Put(e)
			r.report.Unchanged = append(r.report.Unchanged, it.id)
			continue
		}
		if it.absence != nil {
			r.report.Failed = append(r.report.Failed, Failure{ID: it.id, Err: it.absence})
			continue
		}
		r.enter(it, "")
		send = append(send, it)
	}
	return send
}

// enter records that an object is about to be sent.
func (r *run) enter(it *item, hook string) {
	e, known := r.inv.Get(it.id)
	if !known {
		r.fresh[it.id] = true
		e = Entry{ID: it.id, Origin: Pending}
	}
	e.Version, e.Set, e.Keep, e.Hook = it.resource.Version, r.set, it.keep, hook
	e.Expires, e.Drift = it.expires, it.drift
	// Until the answer is there nobody can say which content the cluster has.
	e.Hash = ""
	r.inv.Put(e)
}

// waves sends the objects, wave by wave.
func (r *run) waves(ctx context.Context, items []*item) {
	for w := range waves {
		var turn []*item
		for _, it := range items {
			if it.wave == w {
				turn = append(turn, it)
			}
		}
		if len(turn) == 0 {
			continue
		}
		if w == interceptors && r.report.err() != nil {
			turn = r.holdBack(turn)
		}
		r.each(len(turn), func(i int) { r.send(ctx, turn[i]) })
		if r.isStopped() {
			return
		}
	}
	r.lockedOut(ctx, items)
}

// holdBack takes out what could block a cluster while what stands behind it is
// not applied. What is there already may be updated.
func (r *run) holdBack(items []*item) []*item {
	var rest []*item
	for _, it := range items {
		if e, _ := r.inv.Get(it.id); e.UID != "" {
			rest = append(rest, it)
			continue
		}
		if r.fresh[it.id] {
			r.inv.Delete(it.id)
		}
		r.report.Failed = append(r.report.Failed, Failure{ID: it.id, Err: &RequestError{
			Text: "held back until the objects that it depends on are applied",
		}})
	}
	return rest
}

// each runs work for n objects, a few at a time, until the run is stopped.
func (r *run) each(n int, work func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, r.concurrency)
	for i := range n {
		slots <- struct{}{}
		if r.isStopped() {
			<-slots
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := func() (err error) {
				defer panicked.Into(&err)
				work(i)
				return nil
			}(); err != nil {
				r.halt(err)
			}
		})
	}
	wg.Wait()
}

// send applies one object and records the answer.
func (r *run) send(ctx context.Context, it *item) {
	ans, failure := r.sendOnce(ctx, it)
	for wait := 50 * time.Millisecond; failure != nil && it.notServedYet(failure) && wait < 10*time.Second; wait *= 2 {
		// The definition is established, but behind a load balancer another API
		// server may answer that has not heard of it. There is no event for that.
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			ans, failure = r.sendOnce(ctx, it)
			continue
		}
		break
	}
	if failure == nil && it.id.GroupKind() == crdKind && ans.DeletionTimestamp == nil {
		failure = r.established(ctx, it)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record(it, ans, failure)
}

// notServedYet reports whether a kind that was just defined is not served yet.
func (it *item) notServedYet(failure *RequestError) bool {
	return it.defined && failure.notFound() && strings.Contains(failure.Text, "could not find the requested resource")
}

// sendOnce applies one object: with force what is ours, and only as long as it
// is still the same object.
func (r *run) sendOnce(ctx context.Context, it *item) (answer, *RequestError) {
	r.mu.Lock()
	e, _ := r.inv.Get(it.id)
	r.mu.Unlock()
	obj := it.object
	force := e.Origin.Ours() && e.UID != ""
	if force {
		obj = obj.DeepCopy()
		obj.SetUID(e.UID)
	}
	ans, failure := r.patchObject(ctx, it, obj, force)
	switch {
	case failure == nil:
		return ans, nil
	case !force || !failure.precondition():
		if failure.Reason == metav1.StatusReasonInvalid && it.absence == nil {
			return r.changeRefused(ctx, it, failure)
		}
		return ans, failure
	}
	live, absent := r.head(ctx, it.resource, it.id)
	if absent != nil && !absent.notFound() || absent == nil && live.UID == e.UID {
		return ans, failure
	}
	return r.startAnew(ctx, it)
}

// startAnew applies an object in place of that of the inventory, which is gone. If
// there is one of its name, somebody else has made it.
func (r *run) startAnew(ctx context.Context, it *item) (answer, *RequestError) {
	r.mu.Lock()
	e, _ := r.inv.Get(it.id)
	e.Origin, e.UID, e.Fields = Pending, "", ""
	r.inv.Put(e)
	err := r.save(ctx)
	if err != nil {
		r.stop(err)
	}
	r.mu.Unlock()
	if err != nil {
		return answer{}, &RequestError{Text: "not sent, because the inventory could not be saved"}
	}
	return r.patchObject(ctx, it, it.object, false)
}

func (r *run) patchObject(ctx context.Context, it *item, obj *unstructured.Unstructured, force bool) (answer, *RequestError) {
	body := it.body
	if obj != it.object {
		var err error
		if body, err = json.Marshal(obj.Object); err != nil {
			return answer{}, &RequestError{Code: http.StatusBadRequest, Text: "it cannot be written as JSON"}
		}
	}
	return r.patch(ctx, it.resource, it.id, body, force)
}

// record takes down what became of an object. The lock is held.
func (r *run) record(it *item, ans answer, failure *RequestError) {
	e, _ := r.inv.Get(it.id)
	if ans.UID != "" {
		switch {
		case ans.created:
			e.Origin = Created
		case e.Origin == Pending && !r.fresh[it.id] && soleManager(ans.ManagedFields, r.manager):
			// An earlier request of ours made it, and we did not see the answer.
			e.Origin = Created
		case !e.Origin.Ours():
			// It was there before us, and we cannot prove that it is ours: it stays on prune.
			e.Origin = Shared
		}
		e.UID = ans.UID
		e.Fields = fieldsHash(ans.ManagedFields, r.manager)
		r.fresh[it.id] = false
	}
	if failure == nil && ans.DeletionTimestamp != nil {
		failure = beingDeleted()
	}
	switch {
	case failure == nil:
		e.Hash = it.hash
		r.inv.Put(e)
		r.report.Applied = append(r.report.Applied, it.id)
		return
	case r.fresh[it.id] && !failure.Unanswered():
		r.inv.Delete(it.id) // Refused: the object is not there because of us.
	default:
		r.inv.Put(e)
	}
	if len(failure.conflicts) > 0 {
		for _, c := range failure.conflicts {
			c.ID = it.id
			r.report.Conflicts = append(r.report.Conflicts, c)
		}
		return
	}
	r.report.Failed = append(r.report.Failed, Failure{ID: it.id, Err: failure})
	if failure.cluster() {
		r.stop(failure) // Without the object: which one meets it first is chance.
	}
}

// establishTimeout bounds the wait for a definition: it takes a moment, or never comes.
const establishTimeout = time.Minute

// established waits until a definition is served.
func (r *run) established(ctx context.Context, it *item) *RequestError {
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, establishTimeout)
	defer cancel()
	err := r.await(ctx, it.resource, it.id, "", func(crd *unstructured.Unstructured) (bool, error) {
		if c := condition(crd, "NamesAccepted"); c["status"] == "False" {
			return false, &RequestError{Code: http.StatusConflict, Text: oneLine(fmt.Sprintf("its names are not accepted: %v", c["message"]))}
		}
		return condition(crd, "Established")["status"] == "True", nil
	})
	if err == nil {
		return nil
	}
	var failure *RequestError
	if errors.As(err, &failure) && failure.Code != 0 {
		return failure
	}
	if parent.Err() == nil && ctx.Err() != nil {
		return &RequestError{Code: http.StatusGatewayTimeout, Text: fmt.Sprintf("the cluster does not serve it after %s", establishTimeout)}
	}
	return requestError(ctx, err, false)
}

// condition finds a condition by type, empty if the object has none of it.
func condition(obj *unstructured.Unstructured, kind string) map[string]any {
	conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == kind {
			return c
		}
	}
	return nil
}
