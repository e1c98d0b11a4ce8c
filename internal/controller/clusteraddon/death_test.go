// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/ledger"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// TestDiesAnywhere lets the operator die at every request that changes anything, before the request is sent and
// after it was carried out but not answered: while a cluster is created, while it is upgraded, and while it goes
// from one release to another and back. Whatever happens, the proof of an upgrade never stands without its
// addons, and another process brings everything to its end: nothing is lost, nothing is left behind, nothing
// that is not ours is touched, and no generated value changes. With the build tag long it does so at every request.
func TestDiesAnywhere(t *testing.T) {
	workload := workloadServer(t)
	for first, unanswered := range []bool{false, true} {
		for dieAt, dead := 1+first, true; dead; dieAt += deaths {
			name := fmt.Sprintf("Before%d", dieAt)
			if unanswered {
				name = fmt.Sprintf("After%d", dieAt)
			}
			t.Run(name, func(t *testing.T) {
				dead = newEnv(t, workload).lifeWithADeath(dieAt, unanswered)
			})
			if t.Failed() {
				return
			}
		}
	}
}

// TestLosesAnyRequest loses one request of an upgrade that changes anything, each in turn, while the operator lives on. A
// stage counts as done only together with what is known of its objects.
func TestLosesAnyRequest(t *testing.T) {
	workload := workloadServer(t)
	for nth, lost := 1, true; lost; nth++ {
		t.Run(strconv.Itoa(nth), func(t *testing.T) {
			e := newEnv(t, workload)
			e.publish(v1, both("cni", "metrics"), addons{"cni": object("cni", "1"), "metrics": object("metrics", "1")})
			e.publish(v2, both("cni", "csi"), addons{"cni": object("cni", "2"), "csi": object("csi", "2")})
			e.running(v1, k135)
			o := e.start()
			o.settle()
			e.use(v2, k135)
			before, _, _ := o.faults.counts()
			o.faults.lose = before + nth
			o.settle()
			e.wantReady()
			e.wantObjects("cni: 2", "csi: 2")
			e.wantCondition(v1alpha1.LeftoversPrunedCondition, "True", v1alpha1.DoneReason, "nothing is left of earlier releases")
			after, _, _ := o.faults.counts()
			lost = after >= o.faults.lose
		})
		if t.Failed() {
			return
		}
	}
}

// lifeWithADeath tells the story of one cluster whose operator dies at its nth change. It reports whether it
// did, or had come to the end of the story before.
func (e *env) lifeWithADeath(dieAt int, unanswered bool) (dead bool) {
	password := "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"{{ .Values.cluster }}-password\"\ndata:\n  text: {{ randAlphaNum 20 }}\n"
	e.publish(v1, both("cni", "metrics"), addons{"cni": object("cni", "1") + password, "metrics": object("metrics", "1")})
	e.publish(up, both("cni", "csi"), addons{"cni": object("cni", "2") + password, "csi": object("csi", "2")})
	atV1, atUp := []string{"cni: 1", "metrics: 1"}, []string{"cni: 2", "csi: 2"}
	e.put("foreign", map[string]string{"text": "foreign"})
	e.running(v1, k135)

	first := e.start()
	first.faults.dieAt, first.faults.unanswered = dieAt, unanswered
	generated := ""
	// check is what has to be true at every moment. Of the asks, only the last one may be proven.
	check := func(when string, ask *rollout.Ask, done []string, stale ...rollout.Ask) {
		e.Helper()
		objects := e.has()
		for _, object := range objects {
			if text, is := strings.CutPrefix(object, "password: "); is {
				if generated == "" {
					generated = text
				}
				if text != generated {
					e.Errorf("%s: a generated value has changed", when)
				}
			}
		}
		for _, s := range stale {
			if e.record().Proves(s) {
				e.Errorf("%s: the proof of something else stands: %s", when, e.record())
			}
		}
		if ask == nil || !e.record().Proves(*ask) {
			return
		}
		for _, object := range done {
			if !slices.Contains(objects, object) {
				e.Errorf("%s: proven without %q, there is only %v: %s", when, object, objects, e.record())
			}
		}
	}
	// live lets the first process go on, and another one after it died.
	live := func(when string, ask *rollout.Ask, done []string, stale ...rollout.Ask) {
		e.Helper()
		for range 8 {
			if _, err := first.once(); err != nil && !first.faults.dead {
				e.Logf("%s: %v", when, err)
			}
			check(when, ask, done, stale...)
			if first.faults.dead {
				break
			}
		}
	}
	end := func(when string, want []string) {
		e.Helper()
		next := first
		if first.faults.dead {
			next = e.start()
		}
		next.settle()
		e.wantReady()
		e.wantCondition(v1alpha1.LeftoversPrunedCondition, "True", v1alpha1.DoneReason, "nothing is left of earlier releases")
		e.wantObjects(slices.Sorted(slices.Values(append(slices.Clone(want), "foreign: foreign", "password: "+generatedIn(e.has()))))...)
		check(when, nil, nil)
		if got := e.addon().Status.Inventory; got == nil || got.Shared != 0 || int(got.Objects) != len(want)+1 {
			e.Errorf("%s: inventory is %+v, want %d objects of ours", when, got, len(want)+1)
		}
	}

	live("creation", nil, nil)
	end("creation", atV1)

	e.use(up, k136)
	ask := e.ask(up, k135, k136)
	live("upgrade", &ask, atUp)
	if first.faults.dead {
		// The user takes it back before another process comes up, and then wants it again.
		e.use(v1, k135)
		end("going back", atV1)
		check("gone back", nil, nil, ask)
		e.use(up, k136)
		check("wanted again", nil, nil, ask)
		ask = e.ask(up, k135, k136)
		second := e.start()
		second.faults.dieAt = 3
		_, _ = second.once()
		check("died again", &ask, atUp)
	}
	end("upgrade", atUp)
	if !e.record().Proves(ask) {
		e.Errorf("the upgrade is not proven at its end: %s", e.record())
	}
	return first.faults.dead
}

// testDiesBetweenStages lets the operator die at each change of a rollout whose second stage is waited for. Whoever goes on
// knows of every object of the first that it is there, and whose.
func testDiesBetweenStages(e *env) {
	for dieAt, dead := 1, true; dead; dieAt++ {
		e.Run(strconv.Itoa(dieAt), func(t *testing.T) {
			e := newEnv(t, e.config)
			gate := "waitForPreCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: " + e.key.Name +
				"-gate, namespace: kube-system}], conditions: o.data.text == \"go\"}"
			e.publish(v1, both("cni", "{name: metrics, action: apply, "+gate+"}"), starter1)
			e.running(v1, k135)
			first := e.start()
			first.faults.dieAt, first.faults.unanswered = dieAt, true
			for range 3 {
				_, _ = first.once()
			}
			dead = first.faults.dead
			e.put("gate", map[string]string{"text": "go"})
			e.start().settle()
			e.wantReady()
			e.wantObjects("cni: 1", "extra: 1", "gate: go", "metrics: 1")
			e.wantCondition(v1alpha1.LeftoversPrunedCondition, "True", v1alpha1.DoneReason, "nothing is left of earlier releases")
			for _, entry := range e.inventory().Entries() {
				if entry.Origin != apply.Created || entry.UID == "" || entry.Hash == "" {
					e.Errorf("the inventory has %+v, want an object that was made and is as it should be", entry)
				}
			}
		})
		if e.Failed() {
			return
		}
	}
}

// inventory returns what the operator remembers about the workload cluster.
func (e *env) inventory() *apply.Inventory {
	e.Helper()
	data, err := ledger.New(e.client, e.client, e.addon(), addonKind, "inventory").Load(e.Context())
	if err != nil {
		e.Fatal(err)
	}
	inventory, err := apply.DecodeInventory(data)
	if err != nil {
		e.Fatal(err)
	}
	return inventory
}

func generatedIn(objects []string) string {
	for _, object := range objects {
		if text, is := strings.CutPrefix(object, "password: "); is {
			return text
		}
	}
	return ""
}
