// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// garbageCollector lets go of what is deleted with its dependents left alone, as that of a real cluster does.
func (w *world) garbageCollector(kind, ns string) {
	w.t.Helper()
	objects := w.client.Resource(plurals[kind]).Namespace(ns)
	watcher, err := objects.Watch(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(watcher.Stop)
	go func() {
		for event := range watcher.ResultChan() {
			obj, ok := event.Object.(*unstructured.Unstructured)
			if !ok || obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) == 0 {
				continue
			}
			_, err := objects.Patch(w.t.Context(), obj.GetName(), types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			if err != nil && !apierrors.IsNotFound(err) && w.t.Context().Err() == nil {
				w.t.Errorf("collect %s: %v", obj.GetName(), err)
			}
		}
	}()
}

// What a release changes although it cannot be changed in place.
func TestImmutableFields(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	const (
		allow    = "annotate the object with clusterstack.x-k8s.io/recreate=allowed"
		precious = "would delete what it holds"
	)
	pods := func(selector, more string) string {
		return `{selector: {matchLabels: {app: ` + selector + `}}, template: {metadata: {labels: {app: ` + selector + `, also: x}}, spec: {containers: [{name: c, image: i}]}}` + more + `}`
	}
	for name, test := range map[string]struct {
		why           string
		kind          string // apiVersion and kind
		before, after string // its content, without metadata
		cluster       bool   // it has no namespace
		// live is merged into the status before the change.
		live string
		// refused is part of what is reported; empty if the change goes through.
		refused string
		// replaced says that the object is another one in the end, once that is allowed.
		replaced bool
		orphans  bool
	}{
		"DeploymentSelector": {
			why:  "Pods of the old selector would run on for ever, so they go with it.",
			kind: "apps/v1 Deployment", before: `spec: ` + pods("a", ""), after: `spec: ` + pods("b", ""), refused: allow, replaced: true,
		},
		"DaemonSetSelector": {
			kind: "apps/v1 DaemonSet", before: `spec: ` + pods("a", ""), after: `spec: ` + pods("b", ""), refused: allow, replaced: true,
		},
		"StatefulSetVolumes": {
			why:  "Its pods live on under the new one.",
			kind: "apps/v1 StatefulSet", before: `spec: ` + pods("a", `, serviceName: s`),
			after:   `spec: ` + pods("a", `, serviceName: s, volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]`),
			refused: allow, replaced: true, orphans: true,
		},
		"FinishedJob": {
			kind: "batch/v1 Job", before: `spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: a}]}}}`,
			after: `spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: b}]}}}`,
			live: `{"status":{"startTime":"2026-01-01T00:00:00Z","completionTime":"2026-01-01T00:00:00Z","succeeded":1,
				"conditions":[{"type":"SuccessCriteriaMet","status":"True"},{"type":"Complete","status":"True"}]}}`,
			replaced: true,
		},
		"RunningJob": {
			kind: "batch/v1 Job", before: `spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: a}]}}}`,
			after:   `spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: b}]}}}`,
			refused: "it is replaced once it has ended", replaced: true,
		},
		"ServiceWithoutAddress": {
			kind: "v1 Service", before: `spec: {ports: [{port: 80}]}`, after: `spec: {clusterIP: None, ports: [{port: 80}]}`, refused: allow, replaced: true,
		},
		"ServiceAddressThatWasAssigned": {
			why:  "Clients know the one it has.",
			kind: "v1 Service", before: `spec: {ports: [{port: 80}]}`, after: `spec: {clusterIP: 10.96.200.198, ports: [{port: 80}]}`,
		},
		"ServiceAddressThatWasAskedFor": {
			kind: "v1 Service", before: `spec: {clusterIP: 10.96.200.199, ports: [{port: 80}]}`, after: `spec: {clusterIP: 10.96.200.200, ports: [{port: 80}]}`,
			refused: allow, replaced: true,
		},
		"ServiceAddressThatIsEmpty": {
			kind: "v1 Service", before: `spec: {clusterIP: "", ports: [{port: 80}]}`, after: `spec: {clusterIP: "", ports: [{port: 81}]}`,
		},
		"ServicePortThatWasAssigned": {
			kind: "v1 Service", before: `spec: {type: NodePort, ports: [{port: 80, name: a}]}`, after: `spec: {type: NodePort, ports: [{port: 80, name: b}]}`,
		},
		"StorageClass": {
			kind: "storage.k8s.io/v1 StorageClass", cluster: true, before: "provisioner: a\nparameters: {a: b}", after: "provisioner: a\nparameters: {a: c}",
			refused: allow, replaced: true,
		},
		"RoleBinding": {
			kind: "rbac.authorization.k8s.io/v1 RoleBinding", before: `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}`,
			after: `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}`, refused: allow, replaced: true,
		},
		"ClusterRoleBinding": {
			kind: "rbac.authorization.k8s.io/v1 ClusterRoleBinding", cluster: true, before: `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}`,
			after: `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}`, refused: allow, replaced: true,
		},
		"SecretType": {
			kind: "v1 Secret", before: "type: a/a\nstringData: {a: hunter2}", after: "type: b/b\nstringData: {a: hunter2}", refused: allow, replaced: true,
		},
		"ConfigMapThatIsImmutable": {
			kind: "v1 ConfigMap", before: "immutable: true\ndata: {a: b}", after: "immutable: true\ndata: {a: c}", refused: allow, replaced: true,
		},
		"Claim": {
			why:  "Whatever the chart says, nobody deletes data.",
			kind: "v1 PersistentVolumeClaim", before: `spec: {storageClassName: a, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}`,
			after: `spec: {storageClassName: b, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}`, refused: precious,
		},
		"PriorityClass": {
			kind: "scheduling.k8s.io/v1 PriorityClass", cluster: true, before: `value: 1`, after: `value: 2`, refused: allow, replaced: true,
		},
		"RuntimeClass": {
			kind: "node.k8s.io/v1 RuntimeClass", cluster: true, before: `handler: a`, after: `handler: b`, refused: allow, replaced: true,
		},
		"IngressClass": {
			kind: "networking.k8s.io/v1 IngressClass", cluster: true, before: `spec: {controller: example.com/a}`, after: `spec: {controller: example.com/b}`,
			refused: allow, replaced: true,
		},
		"Definition": {
			kind: "apiextensions.k8s.io/v1 CustomResourceDefinition", cluster: true,
			before:  `spec: {group: $NS.example.com, scope: Namespaced, names: {plural: things, kind: Thing}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}`,
			after:   `spec: {group: $NS.example.com, scope: Cluster, names: {plural: things, kind: Thing}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}`,
			refused: precious,
		},
		"NotAFieldThatCannotBeChanged": {
			why:  "What no cluster would take is the chart's mistake, and no reason to delete anything.",
			kind: "v1 Service", before: `spec: {ports: [{port: 80}]}`, after: `spec: {ports: [{port: 70000}]}`, refused: "must be between 1 and 65535",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, config: w.config, client: w.client}
			ns := w.namespace("immutable")
			version, kind, _ := strings.Cut(test.kind, " ")
			object := func(content, annotation string) *unstructured.Unstructured {
				where, called := ", namespace: "+ns, "x"
				if test.cluster {
					where, called = "", ns
				}
				if kind == "CustomResourceDefinition" {
					called = "things." + ns + ".example.com"
				}
				return object(t, ns, "apiVersion: "+version+"\nkind: "+kind+"\nmetadata: {name: "+called+where+annotation+"}\n"+content)
			}
			a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
			send := func(obj *unstructured.Unstructured) error {
				_, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: []*unstructured.Unstructured{obj}}, inv, j)
				return err
			}
			first := object(test.before, "")
			defer func() { _, _ = a.Prune(t.Context(), inv, nothing, j) }()
			if err := send(first); err != nil {
				t.Fatal(err)
			}
			if test.live != "" {
				w.mergePatch("kube-controller-manager", first, test.live, "status")
			}
			uid := w.mustGet(first).GetUID()
			err := send(object(test.after, ""))
			if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Fatalf("error %v, want %q", err, test.refused)
			}
			if err != nil {
				var failure *apply.RequestError
				if !errors.As(err, &failure) || failure.Immutable() != (test.replaced || test.refused == precious) {
					t.Errorf("a change that is not possible: %t; %v", failure.Immutable(), err)
				}
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error has a secret in it: %v", err)
				}
			}
			live := w.mustGet(first)
			if (live.GetUID() != uid) != (test.replaced && test.refused == "") {
				t.Errorf("replaced: %t", live.GetUID() != uid)
			}
			if test.refused == "" {
				return
			}
			if test.orphans {
				w.garbageCollector(kind, ns)
			}
			err = send(object(test.after, ", annotations: {clusterstack.x-k8s.io/recreate: allowed}"))
			if (err == nil) != test.replaced {
				t.Errorf("with leave to make it anew: %v", err)
			}
			live = w.mustGet(first)
			if (live.GetUID() != uid) != test.replaced {
				t.Errorf("with leave to make it anew, replaced: %t", live.GetUID() != uid)
			}
			for id, origin := range origins(inv) {
				if origin != apply.Created {
					t.Errorf("%s is %s", id, origin)
				}
			}
			if drifted, err := a.Drift(t.Context(), inv); test.replaced && (err != nil || len(drifted.IDs()) > 0) {
				t.Errorf("drift: %v, %v", drifted, err)
			}
		})
	}
}

// Leave to make an object anew can be given in the cluster, too; an object that is not ours never goes.
func TestLeaveToRecreateIsGivenInTheClusterToo(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	const manifest = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}, immutable: true, data: {a: RELEASE}}`
	leave := `{"metadata":{"annotations":{"clusterstack.x-k8s.io/recreate":"allowed"}}}`
	for name, theirs := range map[string]bool{"Ours": false, "Theirs": true} {
		t.Run(name, func(t *testing.T) {
			ns := w.namespace("leave")
			a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
			send := func(name string) error {
				_, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: objects(t, ns, release(manifest, name))}, inv, j)
				return err
			}
			if theirs {
				w.serverSideApply("admin", object(t, ns, release(manifest, "one")))
			}
			if err := send("one"); err != nil {
				t.Fatal(err)
			}
			cm := object(t, ns, manifest)
			uid := w.mustGet(cm).GetUID()
			w.mergePatch("person", cm, leave)
			err := send("two")
			if (err != nil) != theirs {
				t.Errorf("error %v", err)
			}
			if (w.mustGet(cm).GetUID() == uid) != theirs {
				t.Errorf("replaced: %t", w.mustGet(cm).GetUID() != uid)
			}
		})
	}
}
