// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// The two releases of an addon that the kill test goes through. What only the
// first has is of every kind that pruning treats in its own way.
const (
	both = `
{apiVersion: v1, kind: ServiceAccount, metadata: {name: agent, namespace: $NS}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: agent, namespace: $NS}, data: {release: RELEASE}}
---
{apiVersion: v1, kind: Secret, metadata: {name: agent, namespace: $NS}, stringData: {release: RELEASE}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: found, namespace: $NS}, data: {release: RELEASE}}
`
	onlyFirst = `
---
{apiVersion: v1, kind: Namespace, metadata: {name: $NS-second}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: agent, namespace: $NS-second}, data: {release: RELEASE}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: found-first, namespace: $NS}, data: {release: RELEASE}}
---
{apiVersion: $NS.example.com/v1, kind: Widget, metadata: {name: agent, namespace: $NS}}
`
	onlySecond = `
---
{apiVersion: v1, kind: Service, metadata: {name: agent, namespace: $NS}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: found-second, namespace: $NS}, data: {release: RELEASE}}
`
)

// A process that dies anywhere leaves a cluster and a journal from which the
// next one reaches the same end: nothing lost, nothing orphaned, nothing of
// somebody else's touched.
func TestAKillAnywhereIsRecoveredFrom(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	for _, phase := range []string{"install", "upgrade", "prune"} {
		for _, how := range []death{beforeRequest, beforeAnswer, afterAnswer} {
			t.Run(phase+" "+string(how), func(t *testing.T) {
				t.Parallel()
				w := &world{t: t, config: w.config, client: w.client}
				for killAt := 1; ; killAt++ {
					s := newStory(w)
					if !s.tell(phase, killAt, how) {
						if killAt < 4 {
							t.Errorf("only %d changes in this phase", killAt-1)
						}
						break
					}
					if t.Failed() {
						t.Fatalf("at change %d", killAt)
					}
				}
			})
		}
	}
}

type story struct {
	*world
	ns            string
	first, second []*unstructured.Unstructured
	foreign       []*unstructured.Unstructured
	journal       *journal
}

func newStory(w *world) *story {
	w.t.Helper()
	s := &story{world: w, ns: w.namespace("kill"), journal: &journal{}}
	s.first = objects(w.t, s.ns, release(both+onlyFirst+widgets(s.ns), "one"))
	s.second = objects(w.t, s.ns, release(both+onlySecond, "two"))
	for _, manifest := range []string{
		// Rendered, but there before us.
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: found, namespace: $NS}, data: {theirs: "1"}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: found-first, namespace: $NS}, data: {theirs: "1"}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: found-second, namespace: $NS}, data: {theirs: "1"}}`,
		// Not rendered, with a label that pretends to be ours.
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: bystander, namespace: $NS}, data: {theirs: "1"}}`,
	} {
		s.foreign = append(s.foreign, w.create("admin", object(w.t, s.ns, manifest)))
	}
	return s
}

// life runs one phase in a process of its own.
func (s *story) life(phase string, wire *wire) error {
	a := s.applier(wire, apply.Options{})
	s.journal.wire = wire
	inv := s.journal.load(s.t)
	var err error
	switch phase {
	case "install":
		_, err = a.Apply(context.Background(), apply.Set{Name: "agent", Objects: s.first}, inv, s.journal)
	case "upgrade":
		_, err = a.Apply(context.Background(), apply.Set{Name: "agent", Objects: s.second}, inv, s.journal)
	case "prune":
		var ids []apply.ID
		if ids, err = a.Identify(context.Background(), s.second, ""); err != nil {
			break
		}
		wanted := map[apply.ID]bool{}
		for _, id := range ids {
			wanted[id] = true
		}
		_, err = a.Prune(context.Background(), inv, func(id apply.ID) bool { return wanted[id] }, s.journal)
	}
	return err
}

// tell goes through all phases, dying once in one of them, and looks at the
// end. It reports whether there was such a change to die at.
func (s *story) tell(deadly string, killAt int, how death) bool {
	died := false
	for _, phase := range []string{"install", "upgrade", "prune"} {
		if phase == deadly {
			wire := &wire{killAt: killAt, how: how}
			err := s.life(phase, wire)
			died = wire.dead
			if err == nil && died && how != afterAnswer {
				s.t.Errorf("%s: success although the process died", phase)
			}
			if err != nil && !died {
				s.t.Errorf("%s: %v", phase, err)
			}
		}
		if err := s.life(phase, &wire{}); err != nil {
			s.t.Errorf("%s in a new life: %v", phase, err)
		}
	}
	s.check()
	return died
}

func (s *story) check() {
	s.t.Helper()
	want := map[string]apply.Origin{}
	for _, obj := range s.second {
		live := s.mustGet(obj)
		if v, found, _ := unstructured.NestedString(live.Object, "data", "release"); found && live.GetKind() == "ConfigMap" && v != "two" {
			s.t.Errorf("%s %s has the content of release %s", obj.GetKind(), obj.GetName(), v)
		}
		id := apply.ID{Group: obj.GroupVersionKind().Group, Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
		want[id.String()] = apply.Created
		for _, f := range s.foreign {
			if f.GetName() == obj.GetName() {
				want[id.String()] = apply.Shared
			}
		}
	}
	if diff := cmp.Diff(want, origins(s.journal.load(s.t))); diff != "" {
		s.t.Errorf("inventory (-want +got):\n%s", diff)
	}
	for _, obj := range s.first {
		if wanted(s.second, obj) || wanted(s.foreign, obj) {
			continue
		}
		if obj.GetKind() == "Widget" {
			continue // Its kind goes with its definition.
		}
		if live := s.get(obj); live != nil && live.GetDeletionTimestamp() == nil {
			s.t.Errorf("%s %s/%s is left over", obj.GetKind(), obj.GetNamespace(), obj.GetName())
		}
	}
	for _, f := range s.foreign {
		live := s.get(f)
		switch {
		case live == nil:
			s.t.Errorf("somebody else's %s was deleted", f.GetName())
			continue
		case live.GetUID() != f.GetUID():
			s.t.Errorf("somebody else's %s was replaced", f.GetName())
		case f.GetName() == "bystander" && live.GetResourceVersion() != f.GetResourceVersion():
			s.t.Errorf("somebody else's %s was written", f.GetName())
		}
		if v, _, _ := unstructured.NestedString(live.Object, "data", "theirs"); v != "1" {
			s.t.Errorf("somebody else's field in %s is %q", f.GetName(), v)
		}
	}
}

func wanted(objs []*unstructured.Unstructured, obj *unstructured.Unstructured) bool {
	for _, o := range objs {
		if o.GetKind() == obj.GetKind() && o.GetNamespace() == obj.GetNamespace() && o.GetName() == obj.GetName() {
			return true
		}
	}
	return false
}

// The fields of two releases can be the same and their values differ: what a
// killed process has sent cannot be told from metadata.
func TestARollBackAfterAKillIsSent(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("rollback")
	set := func(release string) apply.Set {
		return apply.Set{Name: "s", Objects: objects(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}, data: {release: `+release+`}}`)}
	}
	j := &journal{}
	if _, err := w.applier(nil, apply.Options{}).Apply(t.Context(), set("one"), j.load(t), j); err != nil {
		t.Fatal(err)
	}
	// The first change is the journal's, the second the object's.
	j.wire = &wire{killAt: 2, how: beforeAnswer}
	if _, err := w.applier(j.wire, apply.Options{}).Apply(t.Context(), set("two"), j.load(t), j); err == nil {
		t.Fatal("the process did not die")
	}
	j.wire = nil
	a, inv := w.applier(nil, apply.Options{}), j.load(t)
	drifted, err := a.Drift(t.Context(), inv)
	if err != nil {
		t.Fatal(err)
	}
	back := set("one")
	back.Verified = func(id apply.ID) bool { return !slices.Contains(drifted.IDs(), id) }
	if _, err := a.Apply(t.Context(), back, inv, j); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := unstructured.NestedString(w.mustGet(back.Objects[0]).Object, "data", "release"); got != "one" {
		t.Errorf("the cluster has release %q", got)
	}
}

func TestAJournalThatCannotBeWrittenStopsEverything(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("journal")
	transport := &wire{}
	broken := journalFunc(func(context.Context, *apply.Inventory) error { return errors.New("conflict") })
	_, err := w.applier(transport, apply.Options{}).Apply(t.Context(), apply.Set{Name: "s", Namespace: ns,
		Objects: objects(t, ns, chart+widgets(ns))}, apply.NewInventory(), broken)
	if err == nil || transport.changes != 0 {
		t.Errorf("error %v after %d changes", err, transport.changes)
	}
}

type journalFunc func(context.Context, *apply.Inventory) error

func (f journalFunc) Save(ctx context.Context, inv *apply.Inventory) error { return f(ctx, inv) }

func TestALostInventoryIsFoundOutAnew(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	s := newStory(w)
	if err := s.life("install", nil); err != nil {
		t.Fatal(err)
	}
	before := origins(s.journal.load(t))

	a, inv := w.applier(nil, apply.Options{}), apply.NewInventory()
	ids, err := a.Identify(t.Context(), s.first, "")
	if err != nil {
		t.Fatal(err)
	}
	inv.Suspect("agent", ids)
	if _, err := a.Apply(t.Context(), apply.Set{Name: "agent", Objects: s.first}, inv, &journal{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, origins(inv)); diff != "" {
		t.Errorf("inventory (-before +after):\n%s", diff)
	}
}

func TestPruneDeletesOnlyWhatIsProvablyOurs(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	const settings = `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: $NS}, data: {ours: a}}`
	for name, test := range map[string]struct {
		manifests string
		// change is what happens between apply and prune.
		change func(t *testing.T, ns string, objs []*unstructured.Unstructured)
		// want says for each object why it stays, "" if it goes.
		want []string
		// held says that the inventory still has what stays.
		held bool
	}{
		"Ours": {manifests: settings, want: []string{""}},
		"GoneAlready": {
			manifests: settings,
			change:    func(_ *testing.T, _ string, objs []*unstructured.Unstructured) { w.delete(objs[0]) },
			want:      []string{""},
		},
		"ThereBefore": {
			manifests: `{apiVersion: v1, kind: Namespace, metadata: {name: $NS}}`,
			want:      []string{"it existed before the cluster stack"},
		},
		"KubeSystem": {
			manifests: `{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}`,
			want:      []string{"this namespace belongs to the cluster"},
		},
		"AskedToKeep": {
			manifests: `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: $NS, annotations: {helm.sh/resource-policy: keep}}}`,
			want:      []string{"its chart asks to keep it"},
		},
		"Volume": {
			manifests: `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: $NS}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`,
			want:      []string{"deleting it would delete data"},
		},
		"TakenOver": {
			manifests: settings,
			change: func(_ *testing.T, _ string, objs []*unstructured.Unstructured) {
				w.mergePatch("admin", objs[0], `{"metadata":{"managedFields":[{"manager":"admin","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:ours":{}}}}]}}`)
			},
			want: []string{"another manager has taken it over"},
		},
		"Replaced": {
			manifests: settings,
			change: func(_ *testing.T, _ string, objs []*unstructured.Unstructured) {
				w.delete(objs[0])
				w.create("admin", objs[0])
			},
			want: []string{"another object has taken its name"},
		},
		"LabelRemoved": {
			manifests: settings,
			change: func(_ *testing.T, _ string, objs []*unstructured.Unstructured) {
				w.mergePatch("admin", objs[0], `{"metadata":{"labels":null}}`)
			},
			want: []string{"somebody removed its label clusterstack.x-k8s.io/instance"},
		},
		"DefinitionWithInstances": {
			manifests: `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}}` + "CRD",
			change: func(t *testing.T, ns string, _ []*unstructured.Unstructured) {
				w.create("admin", object(t, ns, `{apiVersion: $NS.example.com/v1, kind: Widget, metadata: {name: theirs, namespace: $NS}}`))
			},
			want: []string{"", "it still has instances"},
			held: true,
		},
		"DefinitionWithOurInstancesOnly": {
			manifests: `{apiVersion: $NS.example.com/v1, kind: Widget, metadata: {name: ours, namespace: $NS}}` + "CRD",
			want:      []string{"", ""},
		},
		"NamespaceWithOtherObjects": {
			manifests: `{apiVersion: v1, kind: Namespace, metadata: {name: $NS-second}}`,
			change: func(t *testing.T, ns string, _ []*unstructured.Unstructured) {
				w.create("admin", object(t, ns, `{apiVersion: v1, kind: Secret, metadata: {name: theirs, namespace: $NS-second}}`))
			},
			want: []string{"it still holds other objects, such as Secret $NS-second/theirs"},
			held: true,
		},
		"NamespaceWithWhatTheClusterPutsThere": {
			manifests: `{apiVersion: v1, kind: Namespace, metadata: {name: $NS-second}}`,
			change: func(t *testing.T, ns string, _ []*unstructured.Unstructured) {
				w.create("kube-controller-manager", object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: $NS-second}}`))
				w.create("kube-controller-manager", object(t, ns, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: $NS-second}}`))
			},
			want: []string{""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := w.namespace("prune")
			manifests := test.manifests
			if cut, ok := strings.CutSuffix(manifests, "CRD"); ok {
				manifests = cut + "\n" + widgets(ns)
			}
			objs := objects(t, ns, manifests)
			a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
			if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: objs}, inv, j); err != nil {
				t.Fatal(err)
			}
			ids, err := a.Identify(t.Context(), objs, "")
			if err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				test.change(t, ns, objs)
			}
			report, err := a.Prune(t.Context(), inv, nothing, j)
			if err != nil {
				t.Fatal(err)
			}
			reasons := map[string]string{}
			for _, id := range report.Pruned {
				reasons[id.String()] = ""
			}
			for _, k := range report.Kept {
				reasons[k.String()] = k.Reason
			}
			want, held := map[string]string{}, map[string]apply.Origin{}
			for i, obj := range objs {
				id := apply.ID{Group: obj.GroupVersionKind().Group, Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
				want[id.String()] = strings.ReplaceAll(test.want[i], "$NS", ns)
				if test.held && test.want[i] != "" {
					held[id.String()] = apply.Created
				}
				if live := w.get(obj); (live != nil && live.GetDeletionTimestamp() == nil) != (test.want[i] != "" || name == "Replaced") {
					t.Errorf("%s: there is %v", id, live != nil)
				}
			}
			if diff := cmp.Diff(want, reasons); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(held, origins(inv)); diff != "" {
				t.Errorf("inventory of %d objects afterwards (-want +got):\n%s", len(ids), diff)
			}
			if diff := cmp.Diff(origins(inv), origins(j.load(t))); diff != "" {
				t.Errorf("journal (-inventory +journal):\n%s", diff)
			}
		})
	}
}

func TestPruneDropsWhatHasNoKindAnyMore(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("nokind")
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	objs := objects(t, ns, widgets(ns)+"\n---\n{apiVersion: "+ns+".example.com/v1, kind: Widget, metadata: {name: w, namespace: $NS}}")
	if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: objs}, inv, j); err != nil {
		t.Fatal(err)
	}
	w.delete(objs[0])
	waitUntilNotServed(t, w, ns+".example.com")
	if _, err := a.Prune(t.Context(), inv, nothing, j); err != nil || inv.Len() != 0 {
		t.Errorf("%v, left %v", err, origins(inv))
	}
}

func TestPruneFindsObjectsWhateverTheirVersion(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("version")
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	hpa := func(version string) []*unstructured.Unstructured {
		return objects(t, ns, fmt.Sprintf(`{apiVersion: autoscaling/%s, kind: HorizontalPodAutoscaler, metadata: {name: h, namespace: $NS}, spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}}`, version))
	}
	if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: hpa("v1")}, inv, j); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: hpa("v2")}, inv, j); err != nil {
		t.Fatal(err)
	}
	if inv.Len() != 1 {
		t.Fatalf("another version is another object: %v", inv.Entries())
	}
	ids, err := a.Identify(t.Context(), hpa("v2"), "")
	if err != nil {
		t.Fatal(err)
	}
	report, err := a.Prune(t.Context(), inv, func(id apply.ID) bool { return id == ids[0] }, j)
	if err != nil || len(report.Pruned) > 0 {
		t.Errorf("pruned %v, %v although still rendered", names(report.Pruned), err)
	}
	// The chart goes, and the cluster no longer serves the version it was written in.
	e := inv.Entries()[0]
	e.Version = "v2beta1"
	inv.Put(e)
	if drifted, err := a.Drift(t.Context(), inv); err != nil || len(drifted.IDs()) > 0 {
		t.Errorf("drift %v, %v", drifted, err)
	}
	if report, err = a.Prune(t.Context(), inv, nothing, j); err != nil || len(report.Pruned) != 1 {
		t.Errorf("pruned %v, %v", names(report.Pruned), err)
	}
	if live, err := w.in(hpa("v2")[0]).Get(t.Context(), "h", metav1.GetOptions{}); err == nil {
		t.Errorf("left over: %v", live.GetName())
	}
}
