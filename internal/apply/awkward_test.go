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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// bystander is in every set: whatever is in the way of the others, it arrives.
const bystander = `
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: bystander, namespace: $NS}, data: {a: b}}
`

// What is in the way in real clusters, and what charts get wrong. What is refused is told in a sentence that stays the
// same, holds up nothing else, is not taken for applied, and arrives once the obstacle is gone.
func TestAwkward(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sandboxtest.APIServer(t))
	long := strings.Repeat("n", 250) + "end"
	blobs := strings.Replace(crd("$NS.example.com", "Blob"), "spec: {type: object", "text: {type: string}, spec: {type: object", 1)
	meters := strings.NewReplacer("gauges", "meters", "singular: gauge", "singular: meter").Replace(crd("$NS.example.com", "Gauge"))
	big := func(size int) string { return strings.Repeat("x", size) }
	const (
		quota = `{apiVersion: v1, kind: ResourceQuota, metadata: {name: quota, namespace: $NS}, spec: {hard: {count/configmaps: "RELEASE"}}}`
		used  = `{"status":{"hard":{"count/configmaps":"%s"},"used":{"count/configmaps":"1"}}}`
		claim = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: claim, namespace: $NS}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}}`
		most  = `{apiVersion: v1, kind: LimitRange, metadata: {name: range, namespace: $NS}, spec: {limits: [{type: PersistentVolumeClaim, max: {storage: 1Gi}}]}}`
		guard = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: $NS}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets]}]
  validations: [{expression: "'team' in object.metadata.labels", message: every Secret needs a team}]
`
		binding = `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: $NS}, spec: {policyName: $NS, validationActions: [Deny]}}`
		secret  = `{apiVersion: v1, kind: Secret, metadata: {name: secret, namespace: $NS}, stringData: {password: hunter2}}`
		going   = `{apiVersion: v1, kind: Namespace, metadata: {name: $NS-going}}`
		inGoing = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS-going}, data: {a: b}}`
		pod     = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: $NS}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i, FIELDS}]}}}}`
	)
	for name, test := range map[string]struct {
		why string
		// objects are applied together with the bystander.
		objects string
		// obstacle is put in the way before.
		obstacle func(*world, string)
		// refused are parts of what is said then; without any, all arrives at once.
		refused []string
		// lift takes the obstacle away; without it, it is the chart that has to change.
		lift func(*world, string)
		// whole says that nothing of the set is sent.
		whole bool
	}{
		"NamespaceThatIsBeingDeleted": {
			why:     "The API server refuses what is new in it; to try again at once would not help.",
			objects: inGoing + "\n---\n" + strings.Replace(secret, "$NS", "$NS-going", 1),
			obstacle: func(w *world, ns string) {
				w.delete(w.create("admin", object(t, ns, going)))
			},
			refused: []string{"ConfigMap $NS-going/c:", "namespace $NS-going because it is being terminated", "Secret $NS-going/secret: Forbidden: metadata.namespace: NamespaceTerminating"},
			lift: func(w *world, ns string) {
				w.finalize(ns + "-going")
				w.create("admin", object(t, ns, going))
			},
		},
		"NamespaceOfTheSetThatIsBeingDeleted": {
			why:     "That it is there is no success when it is about to go.",
			objects: going + "\n---\n" + inGoing,
			obstacle: func(w *world, ns string) {
				w.delete(w.create("admin", object(t, ns, going)))
			},
			refused: []string{"Namespace $NS-going: it is being deleted, and is applied again once it is gone", "ConfigMap $NS-going/c:"},
			lift:    func(w *world, ns string) { w.finalize(ns + "-going") },
		},
		"NamespaceThatDoesNotExist": {
			objects: inGoing,
			refused: []string{"ConfigMap $NS-going/c: there is no Namespace $NS-going; the chart must bring it, or somebody make it"},
			lift:    func(w *world, ns string) { w.create("admin", object(t, ns, going)) },
		},
		"QuotaThatIsExceeded": {
			objects: secret + "\n---\n" + `{apiVersion: v1, kind: ConfigMap, metadata: {name: one-too-many, namespace: $NS}}`,
			obstacle: func(w *world, ns string) {
				// To change what is there uses up nothing.
				w.create("admin", object(t, ns, bystander))
				obj := object(t, ns, release(quota, "1"))
				w.create("admin", obj)
				w.mergePatch("kube-controller-manager", obj, fmt.Sprintf(used, "1"), "status")
				w.awaitRefusal(true, object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: probe, namespace: $NS}}`))
			},
			refused: []string{"ConfigMap $NS/one-too-many:", "exceeded quota: quota"},
			lift: func(w *world, ns string) {
				w.mergePatch("kube-controller-manager", object(t, ns, release(quota, "9")), fmt.Sprintf(used, "9"), "status")
				w.awaitRefusal(false, object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: probe, namespace: $NS}}`))
			},
		},
		"LimitRange": {
			objects: claim,
			obstacle: func(w *world, ns string) {
				w.create("admin", object(t, ns, most))
				w.awaitRefusal(true, object(t, ns, claim))
			},
			refused: []string{"PersistentVolumeClaim $NS/claim:", "maximum storage usage per PersistentVolumeClaim is 1Gi"},
			lift: func(w *world, ns string) {
				w.delete(object(t, ns, most))
				w.awaitRefusal(false, object(t, ns, claim))
			},
		},
		"AdmissionPolicy": {
			why:     "A Secret is refused: what its policy says may quote it, and is not repeated.",
			objects: secret,
			obstacle: func(w *world, ns string) {
				w.create("admin", object(t, ns, guard))
				w.create("admin", object(t, ns, binding))
				w.awaitRefusal(true, object(t, ns, secret))
			},
			refused: []string{"Secret $NS/secret: ValidatingAdmissionPolicy '$NS' with binding '$NS' denied request"},
			lift: func(w *world, ns string) {
				w.delete(object(t, ns, binding))
				w.awaitRefusal(false, object(t, ns, secret))
				w.delete(object(t, ns, guard))
			},
		},
		"ObjectOf1400KiB": {
			objects: blobs + "\n---\n" + `{apiVersion: $NS.example.com/v1, kind: Blob, metadata: {name: b, namespace: $NS, annotations: {x: z}}, text: ` + big(1400<<10) + `}`,
		},
		"ObjectTooLargeForTheStorage": {
			objects: blobs + "\n---\n" + `{apiVersion: $NS.example.com/v1, kind: Blob, metadata: {name: b, namespace: $NS}, text: ` + big(1600<<10) + `}`,
			refused: []string{"Blob.$NS.example.com $NS/b:", "larger than what the cluster stores as one object, which is 1.5 MiB by default; the chart must split it"},
		},
		"ObjectTooLargeForARequest": {
			objects: blobs + "\n---\n" + `{apiVersion: $NS.example.com/v1, kind: Blob, metadata: {name: b, namespace: $NS}, text: ` + big(3200<<10) + `}`,
			refused: []string{"Blob.$NS.example.com $NS/b:", "Request entity too large: limit is 3145728; the chart must split the object"},
		},
		"ConfigMapOverItsLimit": {
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}, data: {x: ` + big(1100<<10) + `}}`,
			refused: []string{"ConfigMap $NS/c: invalid: []: Too long: may not be more than 1048576 bytes"},
		},
		"ListKeyTwice": {
			objects: strings.Replace(pod, "FIELDS", "env: [{name: A, value: geheim}, {name: A, value: geheim}]", 1),
			refused: []string{"Deployment.apps $NS/d:", `.spec.template.spec.containers[name="c"].env: duplicate entries for key [name="A"]`, "must name each only once"},
		},
		"PortTwice": {
			objects: `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: $NS}, spec: {ports: [{port: 80, name: a}, {port: 80, name: b}]}}`,
			refused: []string{"Service $NS/s:", `.spec.ports: duplicate entries for key [port=80,protocol="TCP"]`, "must name each only once"},
		},
		"UnknownField": {
			objects: strings.Replace(pod, "FIELDS", "imagePolicy: Always", 1),
			refused: []string{"Deployment.apps $NS/d:", `.spec.template.spec.containers[name="c"].imagePolicy: field not declared in schema`},
		},
		"NumberForText": {
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS, annotations: {replicas: 424242}}}`,
			refused: []string{"ConfigMap $NS/c:", ".metadata.annotations.replicas: expected string …; the chart must put it in quotes"},
		},
		"ObjectTwiceInOneSet": {
			why: "As it has always been: of two with one name, the last one counts.",
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}, data: {which: first}}` + "\n---\n" +
				`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}, data: {which: last}}`,
		},
		"LongestName": {
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: ` + long + `, namespace: $NS}, data: {a: b}}`,
		},
		"NameThatIsTooLong": {
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: ` + long + `x, namespace: $NS}}`,
			refused: []string{"invalid: metadata.name: Invalid value: must be no more than 253 characters"},
		},
		"NameThatIsNotASCII": {
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: größe, namespace: $NS}}`,
			refused: []string{"ConfigMap $NS/größe: invalid: metadata.name: Invalid value: a lowercase RFC 1123 subdomain must consist of"},
		},
		"NameThatIsAPath": {
			why:     "It would lead the request to another object, past all that was asked about this one.",
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: ../../kube-system/secrets/x, namespace: $NS}}`,
			refused: []string{`a ConfigMap has the name or namespace "../../kube-system/secrets/x", which may not contain '/'`}, whole: true,
		},
		"NamespaceThatIsAPath": {
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: ..}}`,
			refused: []string{`a ConfigMap has the name or namespace "..", which may not be '..'`}, whole: true,
		},
		"NameThatIsOfTheSystem": {
			objects: `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "system:$NS:a%b"}}`,
			refused: []string{`"system:$NS:a%b", which may not contain '%'`}, whole: true,
		},
		"TextInAllLanguages": {
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS, annotations: {note: "Größe ✓ 大きさ \u0000\u202e"}}, data: {text: "наша 🚢\r\n\t\u0007", empty: ""}, binaryData: {b: AAEC/w==}}`,
		},
		"StatusInTheManifest": {
			why: "Generators write it into definitions; it is the server's, and no drift.",
			objects: crd("$NS.example.com", "Gauge") + "status: {acceptedNames: {kind: \"\", plural: \"\"}, conditions: [], storedVersions: []}\n---\n" +
				strings.Replace(pod, "FIELDS", "stdin: true", 1) + "\n---\n" +
				`{apiVersion: v1, kind: Service, metadata: {name: s, namespace: $NS, creationTimestamp: null}, spec: {ports: [{port: 80}]}, status: {loadBalancer: {}}}`,
		},
		"DefinitionWhoseNamesAreTaken": {
			why:     "The objects of the kind would otherwise be waited for in vain.",
			objects: crd("$NS.example.com", "Gauge"),
			obstacle: func(w *world, ns string) {
				w.create("admin", object(t, ns, meters))
				w.awaitEstablished(object(t, ns, meters))
			},
			refused: []string{"CustomResourceDefinition.apiextensions.k8s.io gauges.$NS.example.com: its names are not accepted", `"GaugeList" is already in use`},
			lift: func(w *world, ns string) {
				w.delete(object(t, ns, meters))
				w.awaitEstablished(object(t, ns, crd("$NS.example.com", "Gauge")))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, config: w.config, client: w.client}
			ns := w.namespace("awkward")
			if test.obstacle != nil {
				test.obstacle(w, ns)
			}
			set := apply.Set{Name: "s", Objects: objects(t, ns, test.objects+bystander)}
			transport := &wire{}
			a, inv, j := w.applier(transport, apply.Options{}), apply.NewInventory(), &journal{}
			t.Cleanup(func() {
				_, _ = w.applier(nil, apply.Options{}).Prune(context.WithoutCancel(t.Context()), inv, nothing, j)
			})
			_, err := a.Apply(t.Context(), set, inv, j)
			for _, part := range test.refused {
				if part = strings.ReplaceAll(part, "$NS", ns); err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v, want %s in it", err, part)
				}
			}
			if len(test.refused) == 0 && err != nil {
				t.Fatal(err)
			}
			var refused *apply.RefusedError
			if errors.As(err, &refused) != test.whole || test.whole && transport.changes > 0 {
				t.Errorf("refused as a whole: %t, after %d changes", !test.whole, transport.changes)
			}
			if err != nil {
				if len(err.Error()) > 1000 || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "424242") {
					t.Errorf("not fit for a status: %v", err)
				}
				if _, again := a.Apply(t.Context(), set, inv, j); again == nil || again.Error() != err.Error() {
					t.Errorf("the error is not stable:\n%v\n%v", err, again)
				}
			}
			if !test.whole {
				w.mustGet(object(t, ns, bystander))
			}
			if test.lift != nil {
				test.lift(w, ns)
				if _, err := a.Apply(t.Context(), set, inv, j); err != nil {
					t.Fatalf("once nothing is in the way: %v", err)
				}
			}
			if err != nil && test.lift == nil {
				// Nothing is left in the inventory of what has never been there.
				for id := range origins(inv) {
					if !strings.Contains(id, "bystander") && !strings.HasPrefix(id, "CustomResourceDefinition") {
						t.Errorf("%s is in the inventory", id)
					}
				}
				return
			}
			if len(inv.Entries()) != len(identities(set.Objects)) {
				t.Errorf("inventory %v", origins(inv))
			}
			w.awaitDiscovered(set.Objects)
			drift, err := a.Drift(t.Context(), inv)
			if err != nil || len(drift.IDs()) > 0 {
				t.Errorf("drift right after the apply: %v, %v", drift, err)
			}
			sent := transport.changes
			set.Verified = func(apply.ID) bool { return true }
			if _, err := a.Apply(t.Context(), set, inv, j); err != nil || transport.changes != sent {
				t.Errorf("%d requests for what is there: %v", transport.changes-sent, err)
			}
			if name == "ObjectTwiceInOneSet" {
				if which, _, _ := unstructured.NestedString(w.mustGet(set.Objects[0]).Object, "data", "which"); which != "last" {
					t.Errorf("the %s one is there", which)
				}
			}
		})
	}
}

// identities are the objects, each once.
func identities(objs []*unstructured.Unstructured) []string {
	var ids []string
	for _, obj := range objs {
		ids = append(ids, obj.GetKind()+" "+obj.GetNamespace()+"/"+obj.GetName())
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// finalize lets a namespace go, as the controller for namespaces does once it is empty.
func (w *world) finalize(name string) {
	w.t.Helper()
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}, "spec": map[string]any{"finalizers": []any{}}}}
	if _, err := w.in(ns).Update(w.t.Context(), ns, metav1.UpdateOptions{}, "finalize"); err != nil {
		w.t.Fatal(err)
	}
}

// awaitEstablished waits until a definition is served.
func (w *world) awaitEstablished(obj *unstructured.Unstructured) {
	w.t.Helper()
	watcher, err := w.in(obj).Watch(w.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + obj.GetName()})
	if err != nil {
		w.t.Fatal(err)
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		if is, _ := event.Object.(*unstructured.Unstructured); is != nil && conditionOf(is, "Established") == "True" {
			return
		}
	}
	w.t.Fatalf("%s is not established", obj.GetName())
}

// awaitDiscovered waits until discovery has the kinds that are defined among some objects: they are served a moment before
// that, and there is no event for it.
func (w *world) awaitDiscovered(objs []*unstructured.Unstructured) {
	w.t.Helper()
	known, err := discovery.NewDiscoveryClientForConfig(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, obj := range objs {
		group, _, _ := unstructured.NestedString(obj.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(obj.Object, "spec", "names", "kind")
		if obj.GetKind() != "CustomResourceDefinition" {
			continue
		}
		err := wait.PollUntilContextTimeout(w.t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
			_, lists, err := known.ServerGroupsAndResources()
			if discovery.IsGroupDiscoveryFailedError(err) {
				err = nil // that of another test, say
			}
			return slices.ContainsFunc(lists, func(list *metav1.APIResourceList) bool {
				return strings.HasPrefix(list.GroupVersion, group+"/") && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind })
			}), err
		})
		if err != nil {
			w.t.Fatalf("discovery does not have %s of %s: %v", kind, group, err)
		}
	}
}

// awaitRefusal waits until the admission of the API server has noticed something, for which there is no event: until
// it refuses an object, or does not any more.
func (w *world) awaitRefusal(refused bool, obj *unstructured.Unstructured) {
	w.t.Helper()
	obj.SetName(obj.GetName() + "-probe")
	var last error
	err := wait.PollUntilContextTimeout(w.t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		_, last = w.in(obj).Create(ctx, obj, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return (last != nil) == refused && (last == nil || apierrors.IsForbidden(last) || apierrors.IsInvalid(last) || apierrors.IsInternalError(last)), nil
	})
	if err != nil {
		w.t.Fatalf("the API server refuses %s: %v, want %t", obj.GetKind(), last, refused)
	}
}
