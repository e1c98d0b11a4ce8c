// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// An addon with a webhook that keeps ConfigMaps of its namespace out while its backend does not run.
const guarded = `
apiVersion: v1
kind: ConfigMap
metadata: {name: rules, namespace: $NS}
data: {release: RELEASE}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: guard, namespace: $NS}
spec:
  selector: {matchLabels: {app: guard}}
  template:
    metadata: {labels: {app: guard}}
    spec: {containers: [{name: guard, image: "guard:RELEASE"}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: guard-$NS}
webhooks:
- name: guard.$NS.example.com
  clientConfig: {url: "https://127.0.0.1:1/"}
  failurePolicy: Fail
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: SELECTED}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]
  sideEffects: None
  admissionReviewVersions: [v1]
`

func TestAnAddonsOwnWebhookDoesNotLockItOut(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("lockout")
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	set := func(name, selected string) apply.Set {
		return apply.Set{Name: "guard", Objects: objects(t, ns, strings.ReplaceAll(release(guarded, name), "SELECTED", selected))}
	}
	defer func() { _, _ = a.Prune(t.Context(), inv, nothing, j) }()
	// The webhook comes last, so nothing is in the way of the installation.
	if _, err := a.Apply(t.Context(), set("one", ns), inv, j); err != nil {
		t.Fatal(err)
	}
	probe := func() *unstructured.Unstructured { return set("probe", "").Objects[0] }
	w.awaitRefusal(true, probe())

	// Its backend never came up. What it does not keep out arrives, and of what it does one knows why.
	report, err := a.Apply(t.Context(), set("two", ns), inv, j)
	want := "ConfigMap " + ns + "/rules: the admission webhook \"guard." + ns + ".example.com\", which is asked about it, does not answer; " +
		"it is one of ValidatingWebhookConfiguration.admissionregistration.k8s.io guard-" + ns + ", which addon guard brought: " +
		"see why that addon's pods do not run, or delete this configuration, which is applied again with the addon"
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	if diff := cmp.Diff([]string{
		"ValidatingWebhookConfiguration.admissionregistration.k8s.io guard-" + ns, "Deployment.apps " + ns + "/guard",
	}, names(report.Applied)); diff != "" {
		t.Errorf("applied (-want +got):\n%s", diff)
	}
	deployment := set("two", ns).Objects[1]
	containers, _, _ := unstructured.NestedSlice(w.mustGet(deployment).Object, "spec", "template", "spec", "containers")
	if containers[0].(map[string]any)["image"] != "guard:two" {
		t.Error("the backend was not brought up to date")
	}
	if _, again := a.Apply(t.Context(), set("two", ns), inv, j); again == nil || again.Error() != err.Error() {
		t.Errorf("the error is not stable: %v", again)
	}

	// A release with a webhook that looks elsewhere opens the door itself, as soon as the API server has noticed.
	if _, err := a.Apply(t.Context(), set("three", "nowhere"), inv, j); err != nil {
		w.awaitRefusal(false, probe())
		if _, err := a.Apply(t.Context(), set("three", "nowhere"), inv, j); err != nil {
			t.Error(err)
		}
	}
	if got, _, _ := unstructured.NestedString(w.mustGet(set("three", "").Objects[0]).Object, "data", "release"); got != "three" {
		t.Errorf("the ConfigMap is of release %s", got)
	}
	for id, origin := range origins(inv) {
		if origin != apply.Created {
			t.Errorf("%s is %s", id, origin)
		}
	}
}

// What was never accepted is not in the inventory for having been tried twice.
func TestAStrangersWebhookIsNamed(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("kept-out")
	theirs := object(t, ns, strings.ReplaceAll(strings.Split(guarded, "---")[2], "SELECTED", ns))
	w.create("admin", theirs)
	defer w.delete(theirs)
	w.awaitRefusal(true, object(t, ns, strings.Split(guarded, "---")[0]))
	inv := apply.NewInventory()
	_, err := w.applier(nil, apply.Options{}).Apply(t.Context(), apply.Set{Name: "s",
		Objects: objects(t, ns, strings.Split(guarded, "---")[0])}, inv, &journal{})
	if err == nil || !strings.HasSuffix(err.Error(), "does not answer") || inv.Len() != 0 {
		t.Errorf("error %v, inventory %v", err, origins(inv))
	}
}

// A conversion webhook that is not there is a matter of its kind alone.
func TestAConversionWebhookThatIsNotThere(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("conversion")
	const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gauges.$NS.example.com}
spec:
  group: $NS.example.com
  scope: Namespaced
  names: {plural: gauges, singular: gauge, kind: Gauge, listKind: GaugeList}
  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: "https://127.0.0.1:1/"}}}
  versions:
  - {name: v1, served: true, storage: STORED1, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
  - {name: v2, served: true, storage: STORED2, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
{apiVersion: $NS.example.com/v1, kind: Gauge, metadata: {name: g, namespace: $NS}, spec: {a: 1}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: $NS}, data: {a: b}}
`
	stored := func(first, second string) apply.Set {
		return apply.Set{Name: "s", Objects: objects(t, ns, strings.NewReplacer("STORED1", first, "STORED2", second).Replace(definition))}
	}
	a, inv, j := w.applier(nil, apply.Options{}), apply.NewInventory(), &journal{}
	if _, err := a.Apply(t.Context(), stored("true", "false"), inv, j); err != nil {
		t.Fatal(err)
	}
	// Now the objects that are stored have to be converted for whoever asks for the other version.
	set := stored("false", "true")
	_, err := a.Apply(t.Context(), set, inv, j)
	if err == nil || !strings.Contains(err.Error(), "conversion webhook of its kind does not answer") || strings.Contains(err.Error(), "ConfigMap") {
		t.Errorf("error %v", err)
	}
	w.delete(set.Objects[2])
	drift, err := a.Drift(t.Context(), inv)
	if err != nil && len(drift.Unknown) == 0 {
		t.Errorf("drift: %v", err)
	}
	if len(drift.Drifted) != 1 || drift.Drifted[0].Kind != "ConfigMap" {
		t.Errorf("drift %+v, want what the other kinds have", drift)
	}
}
