// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// Two that want one object at the same moment: one has it, the other says so, and it stays that way.
func TestOneObjectHasOneOwner(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("race")
	base := w.applier(nil, apply.Options{})
	for round := range 20 {
		type party struct {
			*apply.Applier
			inv *apply.Inventory
			set apply.Set
			err error
		}
		var parties [2]party
		for i := range parties {
			manifest := fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c%d, namespace: $NS}, data: {who: "%d"}}`, round, i)
			parties[i] = party{Applier: base.As(fmt.Sprintf("%s/ns/%d", apply.FieldManager, i)), inv: apply.NewInventory(),
				set: apply.Set{Name: "s", Objects: objects(t, ns, manifest)}}
		}
		all := func() {
			var wg sync.WaitGroup
			for i := range parties {
				wg.Go(func() {
					_, parties[i].err = parties[i].Apply(t.Context(), parties[i].set, parties[i].inv, &journal{})
				})
			}
			wg.Wait()
		}
		all()
		owner := slices.IndexFunc(parties[:], func(p party) bool { return p.err == nil })
		if owner < 0 {
			t.Fatalf("nobody has it: %v, %v", parties[0].err, parties[1].err)
		}
		other := 1 - owner
		want := fmt.Sprintf("%q manages .data.who", fmt.Sprintf("%s/ns/%d", apply.FieldManager, owner))
		for range 2 {
			if err := parties[other].err; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the other one says %v, want %s", err, want)
			}
			live := w.mustGet(parties[0].set.Objects[0])
			if who, _, _ := unstructured.NestedString(live.Object, "data", "who"); who != fmt.Sprint(owner) {
				t.Errorf("it is of %s, want %d", who, owner)
			}
			all()
		}
		if t.Failed() {
			return
		}
	}
}

// What two have in common stays until the last one lets go, and is then the other's to change.
func TestACommonObjectOutlivesItsOwner(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("common")
	base := w.applier(nil, apply.Options{})
	first, second := base.As(apply.FieldManager+"/ns/first"), base.As(apply.FieldManager+"/ns/second")
	set := func(value string) apply.Set {
		return apply.Set{Name: "s", Objects: objects(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: image, namespace: $NS}, data: {a: `+value+`}}`)}
	}
	ofFirst, ofSecond := apply.NewInventory(), apply.NewInventory()
	if _, err := first.Apply(t.Context(), set("x"), ofFirst, &journal{}); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Apply(t.Context(), set("x"), ofSecond, &journal{}); err != nil {
		t.Fatal(err)
	}
	report, err := first.Prune(t.Context(), ofFirst, nothing, &journal{})
	if err != nil || len(report.Kept) != 1 || report.Kept[0].Reason != apply.FieldManager+"/ns/second applies it, too" || ofFirst.Len() != 0 {
		t.Errorf("prune: %+v, %v", report, err)
	}
	if _, err := second.Apply(t.Context(), set("later"), ofSecond, &journal{}); err != nil {
		t.Errorf("the one that is left cannot change it: %v", err)
	}
	if got, _, _ := unstructured.NestedString(w.mustGet(set("").Objects[0]).Object, "data", "a"); got != "later" {
		t.Errorf("it says %q", got)
	}
	report, err = second.Prune(t.Context(), ofSecond, nothing, &journal{})
	if err != nil || len(report.Pruned) != 1 || w.get(set("").Objects[0]) != nil {
		t.Errorf("nobody has it any more, and it stays: %+v, %v", report, err)
	}
}

// Whoever goes first, an object goes with the last of those that have it, if one of them made it; one that was there
// before them stays.
func TestACommonObjectGoesWithTheLast(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("last")
	base := w.applier(nil, apply.Options{})
	for i, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for _, before := range []bool{false, true} {
			set := apply.Set{Name: "s", Objects: objects(t, ns, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: image-%d-%t, namespace: $NS}, data: {a: x}}`, i, before))}
			if before {
				w.create("admin", set.Objects[0])
			}
			var inventories [3]*apply.Inventory
			manager := func(n int) *apply.Applier { return base.As(fmt.Sprintf("%s/ns/%d", apply.FieldManager, n)) }
			for n := range inventories {
				inventories[n] = apply.NewInventory()
				if _, err := manager(n).Apply(t.Context(), set, inventories[n], &journal{}); err != nil {
					t.Fatal(err)
				}
			}
			for k, n := range order {
				if w.get(set.Objects[0]) == nil {
					t.Fatalf("order %v: it is gone although somebody has it", order[:k])
				}
				if _, err := manager(n).Prune(t.Context(), inventories[n], nothing, &journal{}); err != nil {
					t.Fatal(err)
				}
			}
			if there := w.get(set.Objects[0]) != nil; there != before {
				t.Errorf("order %v, there before: %t; it is there: %t", order, before, there)
			}
		}
	}
}

// Releases by chance, deaths by chance, other people by chance: whatever the journal says afterwards is true, what
// is deleted was ours and is in no release any more, and the last release arrives.
func TestJournalsTellTheTruth(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, config: w.config, client: w.client}
			chance := rand.New(rand.NewPCG(seed, 7))
			ns, j := w.namespace("truth"), &journal{}
			object := func(i int, text string) *unstructured.Unstructured {
				return object(t, ns, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c%d, namespace: $NS}, data: {text: "%s"}}`, i, text))
			}
			const names = 8
			// An object of each name that somebody else made has a UID that must stay.
			theirs := map[int]string{}
			for range 2 {
				n := chance.IntN(names)
				if theirs[n] == "" {
					theirs[n] = string(w.create("admin", object(n, "")).GetUID())
				}
			}
			release := func() []*unstructured.Unstructured {
				var objs []*unstructured.Unstructured
				for i := range names {
					if chance.IntN(2) == 0 {
						obj := object(i, "")
						_ = unstructured.SetNestedField(obj.Object, fmt.Sprint(chance.IntN(3)), "data", "ours")
						unstructured.RemoveNestedField(obj.Object, "data", "text")
						objs = append(objs, obj)
					}
				}
				return objs
			}
			life := func(objs []*unstructured.Unstructured, wire *wire) error {
				a, inv := w.applier(wire, apply.Options{Concurrency: 1 + chance.IntN(4)}), j.load(t)
				j.wire = wire
				if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: objs}, inv, j); err != nil {
					return err
				}
				_, err := a.Prune(t.Context(), inv, func(id apply.ID) bool {
					return slices.ContainsFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetName() == id.Name })
				}, j)
				return err
			}
			for range 10 {
				objs := release()
				_ = life(objs, &wire{killAt: 1 + chance.IntN(12), how: []death{beforeRequest, beforeAnswer, afterAnswer}[chance.IntN(3)]})
				inv := j.load(t)
				for i := range names {
					live := w.get(object(i, ""))
					e, known := inv.Get(apply.ID{Kind: "ConfigMap", Namespace: ns, Name: fmt.Sprintf("c%d", i)})
					switch {
					case theirs[i] != "":
						if live == nil || string(live.GetUID()) != theirs[i] {
							t.Fatalf("somebody else's object %d was deleted or replaced", i)
						}
						if known && e.Origin.Ours() {
							t.Fatalf("somebody else's object %d is called ours", i)
						}
					case live != nil:
						if !known {
							t.Fatalf("object %d is in the cluster and not in the journal", i)
						}
						if e.UID != "" && e.UID != live.GetUID() {
							t.Fatalf("object %d is not the one of the journal", i)
						}
					}
				}
			}
			last := release()
			if err := life(last, nil); err != nil {
				t.Fatal(err)
			}
			for i := range names {
				wanted := slices.ContainsFunc(last, func(o *unstructured.Unstructured) bool { return o.GetName() == fmt.Sprintf("c%d", i) })
				live := w.get(object(i, ""))
				if wanted && live == nil || !wanted && live != nil && theirs[i] == "" {
					t.Errorf("object %d: wanted %t, there %t", i, wanted, live != nil)
				}
			}
		})
	}
}

func FuzzDecodeInventory(f *testing.F) {
	f.Add([]byte(`{"version":1,"objects":[{"kind":"A","name":"b","origin":"Created","version":"v1"}],"sets":{"s":{"pre":"x","delete":[{"object":{"apiVersion":"v1","kind":"Pod"},"events":["pre-delete"]}]}}}`))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"objects":[{"kind":"A","name":"b","origin":"Created","namespace":"\u0000"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		inv, err := apply.DecodeInventory(data)
		if err != nil {
			return
		}
		first, err := inv.Encode()
		if err != nil {
			return // a hook that is no object
		}
		again, err := apply.DecodeInventory(first)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if second, err := again.Encode(); err != nil || string(second) != string(first) {
			t.Errorf("%v: written twice:\n%s\n%s", err, first, second)
		}
	})
}
