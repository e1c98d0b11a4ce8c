// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// What the existing operator has applied: lists with keys that have defaults among it.
const former = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent, namespace: $NS, annotations: {example.com/old: "1"}}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent, clusterstack.x-k8s.io/instance: owned}}
    spec:
      tolerations: [{operator: Exists}]
      containers:
      - name: agent
        image: "agent:v1"
        env: [{name: OLD, value: "1"}, {name: KEPT, value: "1"}]
        ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53}]
---
apiVersion: v1
kind: Service
metadata: {name: agent, namespace: $NS}
spec: {selector: {app: agent}, ports: [{port: 53, protocol: UDP, name: udp}, {port: 53, name: tcp}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: $NS}
automountServiceAccountToken: false
`

// managers prints who owns what on the object itself, subresources left out.
func managers(obj *unstructured.Unstructured) map[string]string {
	out := map[string]string{}
	for _, e := range obj.GetManagedFields() {
		if e.Subresource == "" {
			out[e.Manager+" "+string(e.Operation)] = e.FieldsV1.GetRawString()
		}
	}
	return out
}

func TestTakeOverFromTheExistingOperator(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("takeover")
	rendered := objects(t, ns, former)
	deployment, service, account := rendered[0], rendered[1], rendered[2]

	// A person has used the same field manager, as kubectl does by default.
	byPerson := deployment.DeepCopy()
	byPerson.SetAnnotations(map[string]string{"example.com/old": "1", "example.com/person": "1"})
	w.serverSideApply("kubectl", byPerson)
	w.serverSideApply("kubectl", service)
	// Somebody's own that carries our label, and one of ours that is nobody's yet.
	stranger := w.serverSideApply("kubectl", object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: stranger, namespace: $NS}, data: {a: b}}`))
	unlabelled := account.DeepCopy()
	unlabelled.SetLabels(nil)
	w.serverSideApply("kubectl", unlabelled)
	w.mergePatch("kube-controller-manager", deployment, `{"status":{"replicas":1}}`, "status")
	before := w.mustGet(deployment)

	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	report, err := a.TakeOver(t.Context(), apply.Set{Name: "agent", Objects: rendered}, inv, j)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Service " + ns + "/agent", "Deployment.apps " + ns + "/agent"}
	if diff := cmp.Diff(want, names(report.Applied)); diff != "" {
		t.Errorf("taken over (-want +got):\n%s", diff)
	}
	after := w.mustGet(deployment)
	if after.GetGeneration() != before.GetGeneration() {
		t.Error("the take-over has changed the spec")
	}
	if diff := cmp.Diff(`{"f:metadata":{"f:annotations":{"f:example.com/person":{}}}}`, managers(after)["kubectl Apply"]); diff != "" {
		t.Errorf("what stays the person's (-want +got):\n%s", diff)
	}
	// Ours is exactly what an apply of the same object would have given us.
	clean := objects(t, ns, strings.ReplaceAll(former, "name: agent,", "name: compare,"))
	for i, live := range []*unstructured.Unstructured{after, w.mustGet(service)} {
		compare := w.serverSideApply(apply.FieldManager, clean[i])
		if diff := cmp.Diff(managers(compare)[apply.FieldManager+" Apply"], managers(live)[apply.FieldManager+" Apply"]); diff != "" {
			t.Errorf("our fields of %s (-applied +taken over):\n%s", live.GetKind(), diff)
		}
	}
	if live := w.mustGet(stranger); live.GetResourceVersion() != stranger.GetResourceVersion() {
		t.Error("an object that is not rendered was written")
	}
	if got := managers(w.mustGet(account)); got["kubectl Apply"] == "" || got[apply.FieldManager+" Apply"] != "" {
		t.Errorf("an object without the label was taken over: %v", got)
	}

	// The next release removes what was ours and leaves what was not.
	next := objects(t, ns, strings.NewReplacer(`, annotations: {example.com/old: "1"}`, "", `{name: OLD, value: "1"}, `, "").Replace(former))
	if _, err := a.Apply(t.Context(), apply.Set{Name: "agent", Objects: next[:2]}, inv, j); err != nil {
		t.Fatal(err)
	}
	live := w.mustGet(deployment)
	if diff := cmp.Diff(map[string]string{"example.com/person": "1"}, live.GetAnnotations()); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	containers, _, _ := unstructured.NestedSlice(live.Object, "spec", "template", "spec", "containers")
	env := containers[0].(map[string]any)["env"]
	if diff := cmp.Diff([]any{map[string]any{"name": "KEPT", "value": "1"}}, env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	for id, origin := range origins(inv) {
		if origin != apply.Adopted {
			t.Errorf("%s is %s", id, origin)
		}
	}
	if report, err := a.Prune(t.Context(), inv, nothing, j); err != nil || len(report.Pruned) != 2 {
		t.Errorf("prune: %+v, %v", report, err)
	}
}

func TestAKillDuringATakeOverIsRecoveredFrom(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	for _, how := range []death{beforeRequest, beforeAnswer, afterAnswer} {
		for killAt := 1; ; killAt++ {
			ns := w.namespace("takeoverkill")
			rendered := objects(t, ns, former)
			for _, obj := range rendered {
				w.serverSideApply("kubectl", obj)
			}
			j := &journal{}
			live := func(wire *wire) error {
				j.wire = wire
				_, err := w.applier(wire, apply.Options{}).TakeOver(t.Context(), apply.Set{Name: "agent", Objects: rendered}, j.load(t), j)
				return err
			}
			wire := &wire{killAt: killAt, how: how}
			_ = live(wire)
			if err := live(nil); err != nil {
				t.Fatal(err)
			}
			inv := j.load(t)
			if inv.Len() != len(rendered) {
				t.Errorf("after a death %s %d: %d of %d taken over", how, killAt, inv.Len(), len(rendered))
			}
			for id, origin := range origins(inv) {
				if origin != apply.Adopted {
					t.Errorf("after a death %s %d: %s is %s", how, killAt, id, origin)
				}
			}
			for _, obj := range rendered {
				if got := managers(w.mustGet(obj)); got["kubectl Apply"] != "" {
					t.Errorf("after a death %s %d: %s is still the operator's", how, killAt, obj.GetKind())
				}
			}
			if !wire.dead {
				break
			}
		}
	}
}

func TestTakeOverKeepsWhatIsWrittenAtTheSameTime(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("takeoverrace")
	rendered := objects(t, ns, former)[:1]
	w.serverSideApply("kubectl", rendered[0])
	j, inv := &journal{}, apply.NewInventory()
	// Between our look and our patch, a status is written.
	raced := journalFunc(func(ctx context.Context, inv *apply.Inventory) error {
		w.mergePatch("kube-controller-manager", rendered[0], `{"status":{"replicas":`+strconv.Itoa(j.saves+1)+`}}`, "status")
		return j.Save(ctx, inv)
	})
	if _, err := w.applier(nil, apply.Options{}).TakeOver(t.Context(), apply.Set{Name: "agent", Objects: rendered}, inv, raced); err != nil {
		t.Fatal(err)
	}
	live := w.mustGet(rendered[0])
	if replicas, _, _ := unstructured.NestedInt64(live.Object, "status", "replicas"); replicas == 0 {
		t.Error("the status was lost")
	}
	for _, e := range live.GetManagedFields() {
		if e.Manager == "kube-controller-manager" && e.Subresource == "status" && e.Operation == metav1.ManagedFieldsOperationUpdate {
			return
		}
	}
	t.Errorf("the manager of the status was lost: %v", live.GetManagedFields())
}
