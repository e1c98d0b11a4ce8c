// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// chart has objects of every wave, in a bad order, two namespaces, and one name for several kinds.
const chart = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: $NS}
webhooks:
- name: guard.$NS.example.com
  clientConfig: {url: "https://127.0.0.1:1/"}
  rules: [{apiGroups: [$NS.example.com], apiVersions: [v1], operations: [CREATE], resources: [nothings]}]
  sideEffects: None
  admissionReviewVersions: [v1]
---
apiVersion: $NS.example.com/v1
kind: Widget
metadata: {name: agent}
spec: {size: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: "agent:v1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: agent}
spec: {selector: {app: agent}, ports: [{port: 53, protocol: UDP, name: udp}, {port: 53, name: tcp}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: agent}
data: {release: v1}
---
apiVersion: v1
kind: Secret
metadata: {name: agent, namespace: $NS-second}
stringData: {password: hunter2}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: agent, namespace: $NS-second}
data: {release: v1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent}
---
apiVersion: v1
kind: Namespace
metadata: {name: $NS-second}
`

func widgets(ns string) string { return crd(ns+".example.com", "Widget") }

func TestApplyInstallsAChartWithinItsBudgetOfRequests(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("install")
	objs := objects(t, ns, chart+widgets(ns))
	transport, j := &wire{}, &journal{}
	a, inv := w.applier(transport, apply.Options{}), apply.NewInventory()

	report, err := a.Apply(t.Context(), apply.Set{Name: "agent", Objects: objs, Namespace: ns}, inv, j)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Applied) != len(objs) {
		t.Errorf("applied %d of %d objects: %v", len(report.Applied), len(objs), names(report.Applied))
	}
	// The bar of the design, for a first install with the discovery that it needs.
	if got, limit := len(transport.requests), len(objs)+6; got > limit {
		t.Errorf("%d requests, at most %d allowed:\n%s", got, limit, strings.Join(transport.requests, "\n"))
	}
	if got, want := transport.changes, len(objs); got != want {
		t.Errorf("%d changing requests for %d objects", got, want)
	}
	for id, origin := range origins(inv) {
		if origin != apply.Created {
			t.Errorf("%s is %s, want it to be ours", id, origin)
		}
	}
	// Each in its own namespace, whatever shares its name.
	for _, obj := range objs {
		if obj.GetKind() == "ValidatingWebhookConfiguration" || obj.GetNamespace() == "" && obj.GetKind() != "Namespace" && obj.GetKind() != "CustomResourceDefinition" {
			continue
		}
		w.mustGet(obj)
	}
	for _, kind := range []string{"v1/ConfigMap", "v1/Service", "v1/ServiceAccount", "apps/v1/Deployment", ns + ".example.com/v1/Widget"} {
		i := strings.LastIndex(kind, "/")
		obj := &unstructured.Unstructured{Object: map[string]any{"apiVersion": kind[:i], "kind": kind[i+1:]}}
		obj.SetName("agent")
		obj.SetNamespace(ns)
		w.mustGet(obj)
	}
	// What is journaled last is what is known.
	if diff := cmp.Diff(inv.Entries(), j.load(t).Entries()); diff != "" {
		t.Errorf("the journal differs from the inventory:\n%s", diff)
	}

	t.Run("AndSendsNothingThatIsUnchanged", func(t *testing.T) {
		w.awaitDiscovered(objs)
		before, saves := len(transport.requests), j.saves
		drift, err := a.Drift(t.Context(), inv)
		if err != nil || len(drift.IDs()) > 0 {
			t.Fatalf("drift %v, %v right after the apply", drift, err)
		}
		lists := len(transport.requests) - before
		// Two for the new kind, which the first discovery did not have.
		if kinds := 9; lists > kinds+2 {
			t.Errorf("%d requests to look for drift in %d kinds", lists, kinds)
		}
		before = len(transport.requests)
		report, err := a.Apply(t.Context(), apply.Set{Name: "agent", Objects: objs, Namespace: ns, Verified: func(apply.ID) bool { return true }}, inv, j)
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Unchanged) != len(objs) || len(transport.requests) != before || j.saves != saves {
			t.Errorf("%d unchanged, %d requests, %d saves, want %d, 0, 0", len(report.Unchanged), len(transport.requests)-before, j.saves-saves, len(objs))
		}
		changed := objects(t, ns, strings.ReplaceAll(chart, "agent:v1", "agent:v2")+widgets(ns))
		report, err = a.Apply(t.Context(), apply.Set{Name: "agent", Objects: changed, Namespace: ns, Verified: func(apply.ID) bool { return true }}, inv, j)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"Deployment.apps " + ns + "/agent"}, names(report.Applied)); diff != "" {
			t.Errorf("applied (-want +got):\n%s", diff)
		}
	})
}

func TestApplyTellsWhoseAnObjectIs(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	const settings = `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: $NS}, data: {ours: a}}`
	for name, test := range map[string]struct {
		why string
		// before makes what was there; it may put something into the inventory.
		before    func(t *testing.T, ns string, inv *apply.Inventory)
		want      apply.Origin // empty: not in the inventory
		conflict  string
		wantValue string
	}{
		"NotThereIsOurs": {
			before: func(*testing.T, string, *apply.Inventory) {}, want: apply.Created, wantValue: "a",
		},
		"ThereWithoutConflictIsShared": {
			why: "We cannot prove that it is ours, and what is deleted cannot be brought back.",
			before: func(t *testing.T, ns string, _ *apply.Inventory) {
				w.create("admin", object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: $NS}, data: {theirs: b}}`))
			},
			want: apply.Shared, wantValue: "a",
		},
		"ConflictIsReportedAndNotForced": {
			before: func(t *testing.T, ns string, _ *apply.Inventory) {
				w.create("admin", object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: $NS}, data: {ours: b}}`))
			},
			want: "", conflict: "admin", wantValue: "b",
		},
		"UnansweredAndAloneIsOurs": {
			why: "The journal named it, and nobody else has written to it: our request made it.",
			before: func(t *testing.T, ns string, inv *apply.Inventory) {
				w.serverSideApply(apply.FieldManager, object(t, ns, settings))
				inv.Put(apply.Entry{ID: apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"}, Origin: apply.Pending})
			},
			want: apply.Created, wantValue: "a",
		},
		"UnansweredBesideAnotherManagerIsShared": {
			before: func(t *testing.T, ns string, inv *apply.Inventory) {
				w.create("admin", object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: $NS}, data: {theirs: b}}`))
				w.serverSideApply(apply.FieldManager, object(t, ns, settings))
				inv.Put(apply.Entry{ID: apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"}, Origin: apply.Pending})
			},
			want: apply.Shared, wantValue: "a",
		},
		"SoleManagerWithoutAJournalIsShared": {
			why: "Another inventory may hold it.",
			before: func(t *testing.T, ns string, _ *apply.Inventory) {
				w.serverSideApply(apply.FieldManager, object(t, ns, settings))
			},
			want: apply.Shared, wantValue: "a",
		},
		"OursIsForced": {
			before: func(t *testing.T, ns string, inv *apply.Inventory) {
				made := w.serverSideApply(apply.FieldManager, object(t, ns, settings))
				inv.Put(apply.Entry{ID: apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"}, Origin: apply.Created, UID: made.GetUID()})
				w.mergePatch("admin", made, `{"data":{"ours":"b"}}`)
			},
			want: apply.Created, wantValue: "a",
		},
		"OursThatWasReplacedIsNotForced": {
			why: "Somebody deleted our object and made one of the same name: that one is theirs.",
			before: func(t *testing.T, ns string, inv *apply.Inventory) {
				w.create("admin", object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: $NS}, data: {ours: b}}`))
				inv.Put(apply.Entry{ID: apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"}, Origin: apply.Created, UID: "6a2a2c3e-0000-4000-8000-000000000000"})
			},
			want: apply.Pending, conflict: "admin", wantValue: "b",
		},
		"OursThatIsGoneIsMadeAgain": {
			before: func(_ *testing.T, ns string, inv *apply.Inventory) {
				inv.Put(apply.Entry{ID: apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"}, Origin: apply.Created, UID: "6a2a2c3e-0000-4000-8000-000000000000"})
			},
			want: apply.Created, wantValue: "a",
		},
		"SharedThatIsGoneBecomesOurs": {
			before: func(_ *testing.T, ns string, inv *apply.Inventory) {
				inv.Put(apply.Entry{ID: apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"}, Origin: apply.Shared, UID: "6a2a2c3e-0000-4000-8000-000000000000"})
			},
			want: apply.Created, wantValue: "a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := w.namespace("whose")
			inv, j := apply.NewInventory(), &journal{}
			test.before(t, ns, inv)
			obj := object(t, ns, settings)
			report, err := w.applier(nil, apply.Options{}).Apply(t.Context(), apply.Set{Name: "s", Objects: []*unstructured.Unstructured{obj}}, inv, j)
			if test.conflict != "" {
				want := []apply.Conflict{{ID: apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"}, Manager: test.conflict, Fields: []string{".data.ours"}}}
				if diff := cmp.Diff(want, report.Conflicts); diff != "" {
					t.Errorf("conflicts (-want +got):\n%s", diff)
				}
				var incomplete *apply.IncompleteError
				if !errors.As(err, &incomplete) {
					t.Errorf("error %v, want an incomplete one: a conflict is no success", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			e, _ := inv.Get(apply.ID{Kind: "ConfigMap", Namespace: ns, Name: "settings"})
			if e.Origin != test.want {
				t.Errorf("origin %q, want %q", e.Origin, test.want)
			}
			if got, _, _ := unstructured.NestedString(w.mustGet(obj).Object, "data", "ours"); got != test.wantValue {
				t.Errorf("value %q, want %q", got, test.wantValue)
			}
		})
	}
}

func TestApplyGoesOnPastARefusedObject(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("refused")
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	set := func(manifests string) apply.Set {
		return apply.Set{Name: "s", Objects: objects(t, ns, manifests), Namespace: ns}
	}
	if _, err := a.Apply(t.Context(), set(chart+widgets(ns)), inv, j); err != nil {
		t.Fatal(err)
	}
	bad := strings.NewReplacer(
		"selector: {matchLabels: {app: agent}}", "selector: {matchLabels: {app: changed-to-geheim}}",
		"metadata: {labels: {app: agent}}", "metadata: {labels: {app: changed-to-geheim}}",
		"stringData: {password: hunter2}", `{type: Opaque, stringData: {"pass word": "geheim geheim"}}`,
		"data: {release: v1}", "data: {release: v2}",
		"spec: {size: 1}", "spec: {size: 0}",
	).Replace(chart)
	bad = strings.Replace(bad, `{type: Opaque, stringData: {"pass word": "geheim geheim"}}`, `stringData: {"pass word": "geheim geheim"}`, 1)
	bad += widgets(ns) + `
---
apiVersion: unknown.example.com/v1
kind: Thing
metadata: {name: thing}
---
apiVersion: apps/v1beta1
kind: Deployment
metadata: {name: old}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.$NS.held.example.com}
spec: {group: $NS.held.example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 100, service: {name: agent, namespace: $NS}}
`
	report, err := a.Apply(t.Context(), set(bad), inv, j)
	if err == nil {
		t.Fatal("no error although objects were refused")
	}
	got := map[string]string{}
	for _, f := range report.Failed {
		got[f.String()] = f.Err.Error()
	}
	want := map[string]string{
		"APIService.apiregistration.k8s.io v1." + ns + ".held.example.com": "held back until the objects that it depends on are applied",
		"Deployment.apps " + ns + "/agent": "invalid: spec.selector: Invalid value: field is immutable; this cannot be changed in place: " +
			"leave the field as it was, or annotate the object with clusterstack.x-k8s.io/recreate=allowed to have it deleted and made anew",
		"Deployment.apps " + ns + "/old":                 `the cluster does not serve version "v1beta1" of this kind, only "v1"; use that in the chart`,
		"Secret " + ns + "-second/agent":                 "invalid: data[pass word]: FieldValueInvalid",
		"Thing.unknown.example.com thing":                "the cluster does not know the kind Thing of unknown.example.com/v1; install what defines it first",
		"Widget." + ns + ".example.com " + ns + "/agent": "invalid: spec.size: Invalid value: spec.size in body should be greater than or equal to 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, report)} {
		if strings.Contains(text, "geheim") {
			t.Errorf("the error has content of an object: %s", text)
		}
	}
	if got, _, _ := unstructured.NestedString(w.mustGet(object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: agent, namespace: $NS}}`)).Object, "data", "release"); got != "v2" {
		t.Errorf("the ConfigMap says %q: one refused object has stopped another", got)
	}
	// What was refused is not taken for applied.
	if e, _ := inv.Get(apply.ID{Group: "apps", Kind: "Deployment", Namespace: ns, Name: "agent"}); e.Hash != "" || e.Origin != apply.Created {
		t.Errorf("entry of the refused Deployment: %+v", e)
	}
	_, again := a.Apply(t.Context(), set(bad), inv, j)
	if again == nil || again.Error() != err.Error() {
		t.Errorf("the error is not stable:\n%v\n%v", err, again)
	}
}

func TestAllowRefusesTheWholeSetBeforeAnyChange(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("allow")
	transport, j := &wire{}, &journal{}
	a := w.applier(transport, apply.Options{Allow: func(gk schema.GroupKind, namespace string) error {
		if gk.Kind != "ConfigMap" || namespace != ns {
			return fmt.Errorf("%s in namespace %q is not allowed", gk, namespace)
		}
		return nil
	}})
	inv := apply.NewInventory()
	_, err := a.Apply(t.Context(), apply.Set{Name: "s", Namespace: ns, Objects: objects(t, ns, `
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: other}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: c, namespace: $NS}}
`)}, inv, j)
	want := `ClusterRole.rbac.authorization.k8s.io c: ClusterRole.rbac.authorization.k8s.io in namespace "" is not allowed; ` +
		`ConfigMap other/b: ConfigMap in namespace "other" is not allowed`
	var refused *apply.RefusedError
	if !errors.As(err, &refused) || err.Error() != want || !refused.Permanent() {
		t.Errorf("error %v, want %s", err, want)
	}
	if transport.changes != 0 || j.saves != 0 || inv.Len() != 0 {
		t.Errorf("%d changes, %d saves, %d entries, want none", transport.changes, j.saves, inv.Len())
	}
}

func TestABrokenAPIGroupIsNoErrorForTheOthers(t *testing.T) {
	w := newWorld(t, sandboxtest.NewAPIServer(t))
	ns := w.namespace("broken")
	w.create("admin", object(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: nobody, namespace: $NS}, spec: {ports: [{port: 443}]}}`))
	broken := w.create("admin", object(t, ns, `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.broken.example.com}
spec: {group: broken.example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: nobody, namespace: $NS}}
`))
	waitForAPIService(t, w, "broken.example.com", "False")
	a, j, inv := w.applier(nil, apply.Options{}), &journal{}, apply.NewInventory()
	objs := objects(t, ns, `
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: $NS-second}}
---
{apiVersion: broken.example.com/v1, kind: Widget, metadata: {name: w, namespace: $NS}}
`)
	if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: objs[:2]}, inv, j); err != nil {
		t.Errorf("apply to healthy groups: %v", err)
	}
	if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: objs[2:]}, inv, j); err == nil || !strings.Contains(err.Error(), `API group "broken.example.com"`) {
		t.Errorf("apply to the broken group: %v", err)
	}

	// From the time when the group was well.
	widget := apply.ID{Group: "broken.example.com", Kind: "Widget", Namespace: ns, Name: "w"}
	inv.Put(apply.Entry{ID: widget, Version: "v1", Origin: apply.Created, UID: "6a2a2c3e-0000-4000-8000-000000000000", Hash: "h", Fields: "f"})
	drifted, err := a.Drift(t.Context(), inv)
	if err == nil || !strings.Contains(err.Error(), `API group "broken.example.com"`) {
		t.Errorf("drift: error %v although a group could not be asked", err)
	}
	if len(drifted.Drifted) != 0 {
		t.Errorf("drift in %v", drifted)
	}
	report, err := a.Prune(t.Context(), inv, nothing, j)
	if err == nil || !strings.Contains(err.Error(), `API group "broken.example.com"`) {
		t.Errorf("prune: error %v although a group could not be asked", err)
	}
	if diff := cmp.Diff([]string{"ConfigMap " + ns + "/c"}, names(report.Pruned)); diff != "" {
		t.Errorf("pruned (-want +got):\n%s", diff)
	}
	want := map[string]apply.Origin{widget.String(): apply.Created, "Namespace " + ns + "-second": apply.Created}
	if diff := cmp.Diff(want, origins(inv)); diff != "" {
		t.Errorf("a kind that cannot be asked is not gone, and a namespace may hold some of it (-want +got):\n%s", diff)
	}

	// The group is gone for good, and what it had with it.
	w.delete(broken)
	waitUntilNotServed(t, w, "broken.example.com")
	if report, err = a.Prune(t.Context(), inv, nothing, j); err != nil || inv.Len() != 0 {
		t.Errorf("prune once the group is gone: %+v, %v; left %v", report, err, origins(inv))
	}
}

func TestAnObjectThatIsBeingDeletedIsNoSuccess(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("deleting")
	obj := object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}, data: {a: b}}`)
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	set := apply.Set{Name: "s", Objects: []*unstructured.Unstructured{obj}}
	if _, err := a.Apply(t.Context(), set, inv, j); err != nil {
		t.Fatal(err)
	}
	w.mergePatch("admin", obj, `{"metadata":{"finalizers":["example.com/hold"]}}`)
	w.delete(obj)
	if _, err := a.Apply(t.Context(), set, inv, j); err == nil || !strings.Contains(err.Error(), "being deleted") {
		t.Errorf("apply while it is being deleted: %v", err)
	}
	w.mergePatch("admin", obj, `{"metadata":{"finalizers":null}}`)
	if _, err := a.Apply(t.Context(), set, inv, j); err != nil {
		t.Error(err)
	}
	w.mustGet(obj)
}

func TestAnOlderFormOfDiscoveryWorksToo(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("discovery")
	config := rest.CopyConfig(w.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/apis" || r.URL.Path == "/api" {
				r = r.Clone(r.Context())
				r.Header.Set("Accept", "application/json")
			}
			return next.RoundTrip(r)
		})
	})
	a, err := apply.New(config, apply.Options{})
	if err != nil {
		t.Fatal(err)
	}
	inv, j := apply.NewInventory(), &journal{}
	if _, err := a.Apply(t.Context(), apply.Set{Name: "s", Objects: objects(t, ns, chart+widgets(ns)), Namespace: ns}, inv, j); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Prune(t.Context(), inv, nothing, j); err != nil || inv.Len() != 0 {
		t.Errorf("%v, left %v", err, origins(inv))
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnUnreachableClusterStopsTheApply(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("unreachable")
	transport := &wire{killAt: 1, how: beforeRequest}
	j := &journal{}
	inv := apply.NewInventory()
	_, err := w.applier(transport, apply.Options{}).Apply(t.Context(), apply.Set{Name: "s", Objects: objects(t, ns, chart+widgets(ns)), Namespace: ns}, inv, j)
	if err == nil || !strings.Contains(err.Error(), errDead.Error()) {
		t.Errorf("error %v", err)
	}
	if transport.changes > 8 {
		t.Errorf("%d changing requests after the first had no answer", transport.changes)
	}
}

func TestThrottlingIsTheCallersToWaitFor(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("throttled")
	throttled := 0
	transport := &wire{fail: func(r *http.Request) *http.Response {
		if r.Method != http.MethodPatch {
			return nil
		}
		throttled++
		return &http.Response{StatusCode: http.StatusTooManyRequests, Request: r, Body: http.NoBody,
			Header: http.Header{"Retry-After": {"1"}}}
	}}
	_, err := w.applier(transport, apply.Options{}).Apply(t.Context(), apply.Set{Name: "s", Objects: []*unstructured.Unstructured{
		object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}}`),
	}}, apply.NewInventory(), &journal{})
	var failure *apply.RequestError
	if !errors.As(err, &failure) || failure.Code != http.StatusTooManyRequests || throttled != 1 {
		t.Errorf("error %v after %d requests", err, throttled)
	}
}

func TestDriftIsFoundWithMetadataAlone(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("drift")
	objs := objects(t, ns, `
{apiVersion: v1, kind: ConfigMap, metadata: {name: untouched, namespace: $NS}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: edited, namespace: $NS}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: extended, namespace: $NS}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: deleted, namespace: $NS}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: replaced, namespace: $NS}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: unlabelled, namespace: $NS}, data: {a: b}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent, namespace: $NS}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: "agent:v1"}]}
`)
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	set := apply.Set{Name: "s", Objects: objs}
	if _, err := a.Apply(t.Context(), set, inv, j); err != nil {
		t.Fatal(err)
	}
	w.mergePatch("admin", objs[1], `{"data":{"a":"c"}}`)
	w.mergePatch("admin", objs[2], `{"data":{"x":"y"}}`)
	w.delete(objs[3])
	w.delete(objs[4])
	w.create("admin", objs[4])
	w.mergePatch("admin", objs[5], `{"metadata":{"labels":null}}`)
	// What controllers write is no drift.
	w.mergePatch("kube-controller-manager", objs[6], `{"status":{"replicas":1,"observedGeneration":1}}`, "status")
	w.mergePatch("kube-controller-manager", objs[6], `{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"1"}}}`)

	transport := &wire{}
	fresh := w.applier(transport, apply.Options{})
	drift, err := fresh.Drift(t.Context(), inv)
	if err != nil {
		t.Fatal(err)
	}
	drifted := drift.IDs()
	cm := "ConfigMap " + ns + "/"
	for name, want := range map[string]string{
		"deleted": "it was deleted, or lost its label", "edited": "fields of it were changed", "replaced": "it was replaced by another one",
	} {
		if !slices.ContainsFunc(drift.Drifted, func(d apply.Drifted) bool { return d.Name == name && d.How == want && d.Set == "s" }) {
			t.Errorf("it is not told of %s that %s: %+v", name, want, drift.Drifted)
		}
	}
	if diff := cmp.Diff([]string{cm + "deleted", cm + "edited", cm + "replaced", cm + "unlabelled"}, names(drifted)); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	if want := 2 + 2; len(transport.requests) != want { // discovery, and a list for each kind
		t.Errorf("%d requests, want %d: %v", len(transport.requests), want, transport.requests)
	}

	// Correcting it sends what has drifted and nothing else. The one that was
	// replaced is somebody else's now, who happens to want the same.
	set.Verified = func(id apply.ID) bool {
		for _, d := range drifted {
			if d == id {
				return false
			}
		}
		return true
	}
	report, err := fresh.Apply(t.Context(), set, inv, j)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names(drifted), names(report.Applied)); diff != "" {
		t.Errorf("applied (-want +got):\n%s", diff)
	}
	if drift, err = fresh.Drift(t.Context(), inv); err != nil || len(drift.IDs()) > 0 {
		t.Errorf("drift %v, %v after the correction", drift, err)
	}
	if got := origins(inv)[cm+"replaced"]; got != apply.Shared {
		t.Errorf("the replaced object is %s", got)
	}
	if got, _, _ := unstructured.NestedString(w.mustGet(objs[2]).Object, "data", "x"); got != "y" {
		t.Error("what somebody added to our object is gone")
	}
}

func TestGetIsNotFooledByKinds(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("get")
	a := w.applier(nil, apply.Options{})
	w.create("admin", object(t, ns, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}}`))
	if _, err := a.Get(t.Context(), schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, ns, "c"); err != nil {
		t.Error(err)
	}
	if _, err := a.Get(t.Context(), schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "", "c"); metav1StatusReason(err) != metav1.StatusReasonNotFound {
		t.Errorf("a namespaced object without a namespace: %v", err)
	}
	if _, err := a.Get(t.Context(), schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, "ignored", ns); err != nil {
		t.Errorf("an object of the cluster with a namespace: %v", err)
	}
}
