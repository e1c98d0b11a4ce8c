// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func job(t testing.TB, ns, name, image string) *unstructured.Unstructured {
	return object(t, ns, fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: %s, namespace: $NS}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: %q}]}}}
`, name, image))
}

// jobController ends Jobs, as the one of a real cluster would, and keeps a diary
// of what it saw in which order.
type jobController struct {
	w  *world
	ns string

	mu    sync.Mutex
	diary []string
	// outcome of a Job by name: "Complete" (also for those not named), "Failed", or "" to let it run.
	outcome map[string]string
}

func (w *world) jobController(ns string) *jobController {
	w.t.Helper()
	c := &jobController{w: w, ns: ns, outcome: map[string]string{}}
	for _, kind := range []string{"Job", "ConfigMap"} {
		watcher, err := w.client.Resource(plurals[kind]).Namespace(ns).Watch(w.t.Context(), metav1.ListOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(watcher.Stop)
		go c.run(kind, watcher)
	}
	return c
}

func (c *jobController) run(kind string, watcher watch.Interface) {
	for event := range watcher.ResultChan() {
		obj, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type == watch.Modified {
			continue
		}
		c.mu.Lock()
		c.diary = append(c.diary, string(event.Type)+" "+obj.GetName())
		outcome, named := c.outcome[obj.GetName()]
		c.mu.Unlock()
		if !named {
			outcome = "Complete"
		}
		if kind == "Job" && event.Type == watch.Added && outcome != "" {
			c.end(obj.GetName(), outcome)
		}
	}
}

func (c *jobController) end(name, outcome string) {
	const now = `"2026-01-01T00:00:00Z"`
	patch := `{"status":{"startTime":` + now + `,"completionTime":` + now + `,"succeeded":1,"conditions":[{"type":"SuccessCriteriaMet","status":"True"},{"type":"Complete","status":"True"}]}}`
	if outcome == "Failed" {
		patch = `{"status":{"startTime":` + now + `,"failed":1,"conditions":[{"type":"FailureTarget","status":"True","reason":"BackoffLimitExceeded"},{"type":"Failed","status":"True","reason":"BackoffLimitExceeded"}]}}`
	}
	_, err := c.w.client.Resource(plurals["Job"]).Namespace(c.ns).Patch(c.w.t.Context(), name, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{FieldManager: "kube-controller-manager"}, "status")
	if err != nil && c.w.t.Context().Err() == nil {
		c.w.t.Errorf("end Job %s: %v", name, err)
	}
}

func (c *jobController) set(name, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcome[name] = outcome
}

func (c *jobController) made(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, line := range c.diary {
		if line == "ADDED "+name {
			n++
		}
	}
	return n
}

func TestHooksRunInTheirPlace(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hooks")
	jobs := w.jobController(ns)
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	set := func(release string) apply.Set {
		cm := object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}, data: {r: `+release+`}}`)
		return apply.Set{Name: "s", Objects: []*unstructured.Unstructured{cm}, Hooks: []apply.Hook{
			{Object: job(t, ns, "after", release), Events: []string{"post-install", "post-upgrade"}},
			{Object: job(t, ns, "second", release), Events: []string{"pre-install"}, Weight: 5},
			{Object: job(t, ns, "first", release), Events: []string{"pre-install", "pre-upgrade"}, Weight: -5, DeletePolicies: []string{"hook-succeeded"}},
			{Object: job(t, ns, "upgrade", release), Events: []string{"pre-upgrade"}},
			{Object: job(t, ns, "delete", release), Events: []string{"pre-delete"}},
			{Object: object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: input, namespace: $NS}}`), Events: []string{"pre-install"}, Weight: 5},
		}}
	}
	if _, err := a.Apply(t.Context(), set("one"), inv, j); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"first": 1, "second": 1, "after": 1, "upgrade": 0, "delete": 0} {
		if got := jobs.made(name); got != want {
			t.Errorf("installation: hook %s ran %d times, want %d", name, got, want)
		}
	}
	if w.get(job(t, ns, "first", "one")) != nil {
		t.Error("a hook that asked for it was not deleted")
	}
	// Each is made after the one before it has ended, and has a later version.
	var last uint64
	for _, obj := range []*unstructured.Unstructured{
		object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: input, namespace: $NS}}`),
		job(t, ns, "second", ""),
		object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}}`),
		job(t, ns, "after", ""),
	} {
		version, err := strconv.ParseUint(w.mustGet(obj).GetResourceVersion(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if version < last {
			t.Errorf("%s was there too early", obj.GetName())
		}
		last = version
	}

	// The same again is no upgrade.
	if _, err := a.Apply(t.Context(), set("one"), inv, j); err != nil {
		t.Fatal(err)
	}
	if jobs.made("upgrade") != 0 || jobs.made("after") != 1 {
		t.Error("hooks ran although nothing had changed")
	}
	if _, err := a.Apply(t.Context(), set("two"), inv, j); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"first": 2, "second": 1, "after": 2, "upgrade": 1, "delete": 0} {
		if got := jobs.made(name); got != want {
			t.Errorf("after the upgrade: hook %s ran %d times, want %d", name, got, want)
		}
	}
	// What hooks made stays as long as the addon, and goes with it.
	id := apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "object"}
	if report, err := a.Prune(t.Context(), inv, func(got apply.ID) bool { return got == id }, j); err != nil || len(report.Pruned) > 0 {
		t.Errorf("pruned %v, %v", names(report.Pruned), err)
	}
	if _, err := a.Prune(t.Context(), inv, nothing, j); err != nil || inv.Len() != 0 {
		t.Errorf("prune all: %v, left %v", err, origins(inv))
	}
	// It comes back as an installation.
	if _, err := a.Apply(t.Context(), set("two"), inv, j); err != nil {
		t.Fatal(err)
	}
	if got := jobs.made("second"); got != 2 {
		t.Errorf("hook of the installation ran %d times, want 2", got)
	}
}

func TestAFailedHookStopsTheSetAndRunsAgain(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hookfails")
	jobs := w.jobController(ns)
	jobs.set("check", "Failed")
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	cm := object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}}`)
	set := apply.Set{Name: "s", Objects: []*unstructured.Unstructured{cm}, Hooks: []apply.Hook{
		{Object: job(t, ns, "check", "i"), Events: []string{"pre-install"}},
	}}
	_, err := a.Apply(t.Context(), set, inv, j)
	want := "hook Job.batch " + ns + "/check: it has failed: BackoffLimitExceeded; it is run again, or left out once it is annotated with clusterstack.x-k8s.io/hook=skip"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if w.get(cm) != nil {
		t.Error("the objects were applied although the hook before them failed")
	}
	jobs.set("check", "Complete")
	// In another life, to see that the journal is enough.
	if _, err := w.applier(nil, apply.Options{}).Apply(t.Context(), set, j.load(t), j); err != nil {
		t.Errorf("second attempt: %v", err)
	}
	if got := jobs.made("check"); got != 2 {
		t.Errorf("the hook ran %d times, want 2", got)
	}
	w.mustGet(cm)
}

func TestAHookIsLeftOutOnce(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hookskips")
	jobs := w.jobController(ns)
	jobs.set("check", "Failed")
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	set := func(data string) apply.Set {
		return apply.Set{
			Name:    "s",
			Objects: objects(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}, data: {a: `+data+`}}`),
			Hooks:   []apply.Hook{{Object: job(t, ns, "check", "i"), Events: []string{"pre-install", "pre-upgrade"}}},
		}
	}
	if _, err := a.Apply(t.Context(), set("one"), inv, j); err == nil {
		t.Fatal("the hook has not failed")
	}
	w.mergePatch("person", job(t, ns, "check", "i"), `{"metadata":{"annotations":{"clusterstack.x-k8s.io/hook":"skip"}}}`)
	if _, err := a.Apply(t.Context(), set("one"), inv, j); err != nil || jobs.made("check") != 1 {
		t.Errorf("%v, and the hook ran %d times, want once", err, jobs.made("check"))
	}
	// What comes next has to be checked as if nothing had been.
	jobs.set("check", "Complete")
	if _, err := a.Apply(t.Context(), set("two"), j.load(t), j); err != nil || jobs.made("check") != 2 {
		t.Errorf("%v, and the hook ran %d times, want twice", err, jobs.made("check"))
	}
}

func TestAWaitForAHookIsTakenUpAgain(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hookwaits")
	jobs := w.jobController(ns)
	jobs.set("slow", "")
	inv, j := apply.NewInventory(), &journal{}
	set := apply.Set{Name: "s", Objects: objects(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}}`), Hooks: []apply.Hook{
		{Object: job(t, ns, "slow", "i"), Events: []string{"pre-install"}},
	}}
	// The caller's patience ends once the Job is there.
	ctx, cancel := context.WithCancel(t.Context())
	seen := journalFunc(func(ctx context.Context, inv *apply.Inventory) error {
		for _, e := range inv.Entries() {
			if e.Kind == "Job" && e.Origin == apply.Created {
				cancel()
			}
		}
		return j.Save(ctx, inv)
	})
	_, err := w.applier(nil, apply.Options{}).Apply(ctx, set, inv, seen)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "it has failed") {
		t.Errorf("error %v, want the end of the caller's context", err)
	}
	uid := w.mustGet(job(t, ns, "slow", "i")).GetUID()
	done := make(chan error, 1)
	go func() {
		_, err := w.applier(nil, apply.Options{}).Apply(t.Context(), set, j.load(t), j)
		done <- err
	}()
	jobs.end("slow", "Complete")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := w.mustGet(job(t, ns, "slow", "i")).GetUID(); got != uid {
		t.Error("the Job was made anew although it was underway")
	}
}

func TestAHookIsNotWaitedForLongerThanPatience(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hookpatience")
	jobs := w.jobController(ns)
	jobs.set("slow", "")
	set := apply.Set{
		Name:    "s",
		Objects: []*unstructured.Unstructured{object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}}`)},
		Hooks:   []apply.Hook{{Object: job(t, ns, "slow", "i"), Events: []string{"pre-install"}}},
	}
	a, inv, j := w.applier(nil, apply.Options{Patience: 100 * time.Millisecond}), apply.NewInventory(), &journal{}
	for range 2 {
		report, err := a.Apply(t.Context(), set, inv, j)
		var waiting *apply.WaitingError
		if !errors.As(err, &waiting) || waiting.Name != "slow" || waiting.Version != "v1" {
			t.Fatalf("error %v, want that the hook has not ended", err)
		}
		if len(report.Failed) > 0 || w.get(set.Objects[0]) != nil {
			t.Errorf("report is %+v; nothing has failed, and what comes after the hook has to wait", report)
		}
	}
	uid := w.mustGet(job(t, ns, "slow", "i")).GetUID()
	jobs.end("slow", "Complete")
	// However slow the machine is: a Job that has ended is seen with the first look.
	if _, err := w.applier(nil, apply.Options{Patience: time.Minute}).Apply(t.Context(), set, j.load(t), j); err != nil {
		t.Error(err)
	}
	if got := w.mustGet(job(t, ns, "slow", "i")).GetUID(); got != uid {
		t.Error("the Job was made anew although it was underway")
	}
	w.mustGet(set.Objects[0])
}

// Helm's delete hooks run when nothing of an addon is wanted any more, as they were when it was applied.
func TestHooksOfADeletion(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hookdelete")
	jobs := w.jobController(ns)
	a, inv, j := w.applier(nil, apply.Options{Patience: 100 * time.Millisecond}), apply.NewInventory(), &journal{}
	cm := object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}}`)
	other := object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: $NS}}`)
	set := apply.Set{Name: "s", Objects: []*unstructured.Unstructured{cm}, Hooks: []apply.Hook{
		{Object: job(t, ns, "before", "i"), Events: []string{"pre-delete"}},
		{Object: job(t, ns, "after", "i"), Events: []string{"post-delete"}},
		{Object: job(t, ns, "test", "i"), Events: []string{"test"}},
	}}
	patient := w.applier(nil, apply.Options{})
	for _, set := range []apply.Set{set, {Name: "other", Objects: []*unstructured.Unstructured{other}}} {
		if _, err := patient.Apply(t.Context(), set, inv, j); err != nil {
			t.Fatal(err)
		}
	}
	if jobs.made("before")+jobs.made("after") != 0 {
		t.Error("a hook of the deletion ran at the installation")
	}

	// A Job that does not end holds its own addon, and no other.
	jobs.set("before", "")
	inv = j.load(t) // of another process
	report, err := a.Prune(t.Context(), inv, nothing, j)
	var waiting *apply.WaitingError
	if !errors.As(err, &waiting) || waiting.Name != "before" {
		t.Errorf("error %v, want that the hook has not ended", err)
	}
	if diff := cmp.Diff([]string{"ConfigMap " + ns + "/other"}, names(report.Pruned)); diff != "" || w.get(cm) == nil {
		t.Errorf("pruned (-want +got):\n%s", diff)
	}
	// One that fails does, too: what it guards may be data.
	jobs.end("before", "Failed")
	if _, err = patient.Prune(t.Context(), inv, nothing, j); err == nil || !strings.Contains(err.Error(), "it has failed") || w.get(cm) == nil {
		t.Errorf("error %v, want that the hook has failed", err)
	}
	// Somebody who knows better leaves it out.
	w.mergePatch("person", job(t, ns, "before", "i"), `{"metadata":{"annotations":{"clusterstack.x-k8s.io/hook":"skip"}}}`)
	jobs.set("after", "Failed")
	if _, err = patient.Prune(t.Context(), inv, nothing, j); err == nil || !strings.Contains(err.Error(), "Job.batch "+ns+"/after: it has failed") {
		t.Errorf("error %v, want that the hook after it has failed", err)
	}
	if w.get(cm) != nil || jobs.made("before") != 1 {
		t.Error("the object is still there, or the hook before it ran again")
	}
	jobs.set("after", "Complete")
	inv = j.load(t)
	if _, err := patient.Prune(t.Context(), inv, nothing, j); err != nil {
		t.Error(err)
	}
	if w.get(job(t, ns, "before", "")) != nil || w.get(job(t, ns, "after", "")) != nil || inv.Len() != 0 || jobs.made("test") != 0 {
		t.Errorf("left: %v", origins(inv))
	}
	made := jobs.made("after")
	if _, err := patient.Prune(t.Context(), inv, nothing, j); err != nil || jobs.made("after") != made {
		t.Errorf("a second prune: %v", err)
	}
}

// One object can be a hook of several events, and a roll-back is none of an upgrade.
func TestEventsOfHooks(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hookevents")
	jobs := w.jobController(ns)
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	send := func(release string, back bool) {
		t.Helper()
		cm := object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}, data: {r: `+release+`}}`)
		_, err := a.Apply(t.Context(), apply.Set{Name: "s", RollBack: back, Objects: []*unstructured.Unstructured{cm}, Hooks: []apply.Hook{
			{Object: job(t, ns, "around", "i"), Events: []string{"pre-install", "post-install"}},
			{Object: job(t, ns, "upgrade", "i"), Events: []string{"pre-upgrade", "post-upgrade"}},
			{Object: job(t, ns, "rollback", "i"), Events: []string{"pre-rollback", "post-rollback"}},
		}}, inv, j)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		release string
		back    bool
		want    string
	}{
		{"one", false, "2 0 0"}, {"two", false, "2 2 0"}, {"one", true, "2 2 2"}, {"one", true, "2 2 2"},
	} {
		send(step.release, step.back)
		if got := fmt.Sprint(jobs.made("around"), " ", jobs.made("upgrade"), " ", jobs.made("rollback")); strings.Join(strings.Fields(got), " ") != step.want {
			t.Errorf("after %+v: hooks ran %s times", step, got)
		}
	}
}

func TestAHookDoesNotTakeSomebodyElsesObject(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("hookforeign")
	theirs := w.create("admin", job(t, ns, "check", "i"))
	_, err := w.applier(nil, apply.Options{}).Apply(t.Context(), apply.Set{Name: "s", Hooks: []apply.Hook{
		{Object: job(t, ns, "check", "i"), Events: []string{"pre-install"}},
	}}, apply.NewInventory(), &journal{})
	if err == nil || !strings.Contains(err.Error(), "not of this cluster stack") {
		t.Errorf("error %v", err)
	}
	if got := w.mustGet(theirs); got.GetUID() != theirs.GetUID() {
		t.Error("somebody else's Job was replaced")
	}
}

// A process that dies while hooks run leaves no Job behind that blocks the next one.
func TestAKillAmongHooksIsRecoveredFrom(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	for _, how := range []death{beforeRequest, beforeAnswer, afterAnswer} {
		for killAt := 1; ; killAt++ {
			ns := w.namespace("hookkill")
			w.jobController(ns)
			j := &journal{}
			set := func(release string) apply.Set {
				return apply.Set{Name: "s",
					Objects: objects(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: object, namespace: $NS}}`),
					Hooks: []apply.Hook{
						{Object: job(t, ns, "before", release), Events: []string{"pre-install", "pre-upgrade"}},
						{Object: job(t, ns, "after", release), Events: []string{"post-install", "post-upgrade"}, DeletePolicies: []string{"before-hook-creation", "hook-succeeded"}},
					}}
			}
			live := func(release string, wire *wire) error {
				j.wire = wire
				_, err := w.applier(wire, apply.Options{}).Apply(t.Context(), set(release), j.load(t), j)
				return err
			}
			if err := live("one", nil); err != nil {
				t.Fatal(err)
			}
			wire := &wire{killAt: killAt, how: how}
			_ = live("two", wire) // Whether it notices is not the question.
			// The next life may find a release that is newer still.
			if err := live("three", nil); err != nil {
				t.Fatalf("after a death %s %d: %v", how, killAt, err)
			}
			before := w.mustGet(job(t, ns, "before", ""))
			containers, _, _ := unstructured.NestedSlice(before.Object, "spec", "template", "spec", "containers")
			if image := containers[0].(map[string]any)["image"]; image != "three" {
				t.Errorf("after a death %s %d: the hook is of release %v", how, killAt, image)
			}
			want := map[string]apply.Origin{
				"ConfigMap " + ns + "/object": apply.Created, "Job.batch " + ns + "/before": apply.Created,
			}
			if diff := cmp.Diff(want, origins(j.load(t))); diff != "" || w.get(job(t, ns, "after", "")) != nil {
				t.Errorf("after a death %s %d: inventory (-want +got):\n%s", how, killAt, diff)
			}
			if !wire.dead {
				break
			}
		}
	}
}
