// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// cluster answers from memory; an error stands for what a real one may say.
type cluster map[string]any

func (c cluster) Get(_ context.Context, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	switch v := c[Object{GroupVersionKind: gvk, Namespace: namespace, Name: name}.String()].(type) {
	case error:
		return nil, v
	case map[string]any:
		return &unstructured.Unstructured{Object: v}, nil
	default:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: gvk.Kind}, name)
	}
}

func deployment(spec, status map[string]any) map[string]any {
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "dep", "namespace": "kube-system", "generation": int64(1)},
		"spec":     spec, "status": status,
	}
}

var dep = release.ObjectRef{Key: "dep", APIVersion: "apps/v1", Kind: "Deployment", Name: "dep", Namespace: "kube-system"}

func gate(expression string, objects ...release.ObjectRef) *release.Condition {
	return &release.Condition{Objects: objects, Expression: expression}
}

func isPermanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

func TestGate(t *testing.T) {
	const ready = "dep.status.readyReplicas == dep.status.replicas"
	for name, test := range map[string]struct {
		why        string
		expression string
		objects    []release.ObjectRef
		cluster    cluster
		met        bool
		waiting    string
		// problem is part of the error; permanent says that only another release helps.
		problem   string
		permanent bool
	}{
		"Met": {
			expression: ready, objects: []release.ObjectRef{dep}, met: true,
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(nil, map[string]any{"replicas": int64(2), "readyReplicas": int64(2)})},
		},
		"NotMet": {
			expression: ready, objects: []release.ObjectRef{dep}, waiting: ready,
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(nil, map[string]any{"replicas": int64(2), "readyReplicas": int64(1)})},
		},
		"MissingObject": {
			why:        "It may not have been applied yet.",
			expression: ready, objects: []release.ObjectRef{dep}, waiting: "Deployment.apps kube-system/dep to exist",
		},
		"MissingKind": {
			why:        "Its definition may come with a later object.",
			expression: ready, objects: []release.ObjectRef{dep}, waiting: "Deployment.apps kube-system/dep to exist",
			cluster: cluster{"Deployment.apps kube-system/dep": &meta.NoKindMatchError{}},
		},
		"MissingField": {
			why:        "A controller fills in the status later.",
			expression: ready, objects: []release.ObjectRef{dep}, waiting: ready + " (no such key: readyReplicas)",
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(nil, map[string]any{"replicas": int64(2)})},
		},
		"MissingElement": {
			expression: `dep.status.conditions[0].status == "True"`, objects: []release.ObjectRef{dep},
			waiting: `dep.status.conditions[0].status == "True" (index out of bounds: 0)`,
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(nil, map[string]any{"conditions": []any{}})},
		},
		"NoObjects":         {expression: "1 + 1 == 2", met: true},
		"ReadFails":         {expression: ready, objects: []release.ObjectRef{dep}, cluster: cluster{"Deployment.apps kube-system/dep": errors.New("timeout")}, problem: "read Deployment.apps kube-system/dep: timeout"},
		"DoesNotCompile":    {expression: "dep.status.", objects: []release.ObjectRef{dep}, problem: "Syntax error", permanent: true},
		"UnknownVariable":   {expression: "other.status.x == 1", objects: []release.ObjectRef{dep}, problem: "undeclared reference to 'other'", permanent: true},
		"KubernetesLibrary": {why: "As today: CEL's standard library only.", expression: `isURL("x")`, problem: "undeclared reference to 'isURL'", permanent: true},
		"NotBoolean":        {expression: "1 + 1", problem: "yields int", permanent: true},
		"NotBooleanAtLast": {
			expression: "dep.status.replicas", objects: []release.ObjectRef{dep}, problem: "yields int", permanent: true,
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(nil, map[string]any{"replicas": int64(2)})},
		},
		"Empty":          {expression: "", problem: "Syntax error", permanent: true},
		"TooLong":        {expression: strings.Repeat(" ", 3000) + "true", problem: "at most 2048", permanent: true},
		"TooManyObjects": {expression: "true", objects: make([]release.ObjectRef, 17), problem: "at most 16", permanent: true},
		"SameKeyTwice":   {expression: "true", objects: []release.ObjectRef{dep, dep}, problem: `two objects have the key "dep"`, permanent: true},
		"Incomplete":     {expression: "true", objects: []release.ObjectRef{{Key: "a", APIVersion: "v1", Kind: "Pod"}}, problem: "lacks one of", permanent: true},
		"Expensive": {
			why:        "A release must not be able to hold the operator up.",
			expression: `[1, 2, 3, 4, 5, 6].all(x, string(dep.spec.text) + string(dep.spec.text) != "")`, objects: []release.ObjectRef{dep},
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"text": strings.Repeat("x", 2<<20)}, nil)},
			problem: "costs more than", permanent: true,
		},
		"WrongTypes": {
			why:        "A field may be null for a while.",
			expression: "dep.status.replicas > 1", objects: []release.ObjectRef{dep}, problem: "no such overload",
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(nil, map[string]any{"replicas": "geheim"})},
		},
		"ValueIsNoExpression": {
			why:        "The object may be a Secret.",
			expression: `"x".matches(dep.spec.text)`, objects: []release.ObjectRef{dep}, problem: "cannot be evaluated",
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"text": "geheim("}, nil)},
		},
		"ValueIsNoNumber": {
			expression: `int(dep.spec.text) > 1`, objects: []release.ObjectRef{dep}, problem: "type conversion error",
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"text": "geheim"}, nil)},
		},
		"ValueIsNoTime": {
			expression: `timestamp(dep.spec.text) > timestamp("2026-01-01T00:00:00Z")`, objects: []release.ObjectRef{dep}, problem: "type conversion error",
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"text": "geheim"}, nil)},
		},
		"ValueIsNoDuration": {
			expression: `duration(dep.spec.text) > duration("1s")`, objects: []release.ObjectRef{dep}, problem: "type conversion error",
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"text": "geheim"}, nil)},
		},
		"ValueIsNoKey": {
			expression: `dep.spec[dep.spec.text] == 1`, objects: []release.ObjectRef{dep}, waiting: "dep.spec[dep.spec.text] == 1 (no such key)",
			cluster: cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"text": "geheim"}, nil)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			g, err := CompileGate(gate(test.expression, test.objects...))
			var verdict Verdict
			if err == nil {
				verdict, err = g.Eval(t.Context(), test.cluster)
			}
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) || isPermanent(err) != test.permanent {
					t.Errorf("error %v, permanent %v, want %q, %v", err, isPermanent(err), test.problem, test.permanent)
				}
				if err != nil && strings.Contains(err.Error(), "geheim") {
					t.Errorf("the error has a value of an object: %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(Verdict{Met: test.met, Waiting: test.waiting}, verdict); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
			if d := time.Since(start); d > 2*maxTime {
				t.Errorf("it took %s", d)
			}
		})
	}
}

func TestGateEndsInTime(t *testing.T) {
	items := make([]any, 300)
	for i := range items {
		items[i] = int64(i)
	}
	g, err := CompileGate(gate("dep.spec.l.all(a, dep.spec.l.all(b, dep.spec.l.all(c, a + b + c >= 0)))", dep))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	// Cost or time, whichever runs out first on this machine.
	if _, err := g.Eval(t.Context(), cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"l": items}, nil)}); err == nil {
		t.Error("no error")
	}
	if d := time.Since(start); d > 2*maxTime {
		t.Errorf("it took %s", d)
	}
}

func TestGateEndsWithItsCaller(t *testing.T) {
	g, err := CompileGate(gate("[1, 2, 3].all(x, [1, 2, 3].all(y, x * y > 0))"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Eval(ctx, cluster{}); err != nil && (isPermanent(err) || !errors.Is(err, context.Canceled)) {
		t.Errorf("error %v", err)
	}
}

func FuzzGate(f *testing.F) {
	for _, seed := range []string{"true", "dep.status.x == 1", "dep.l.all(x, x > 1)", `dep["a"]`, "has(dep.status)", "dep.l.map(x, dep.l)", "'a' * 3", "[dep, dep].exists(d, d.size() > 1)"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		g, err := CompileGate(gate(expression, dep))
		if err != nil {
			if !isPermanent(err) {
				t.Errorf("%v is not permanent", err)
			}
			return
		}
		start := time.Now()
		_, _ = g.Eval(t.Context(), cluster{"Deployment.apps kube-system/dep": deployment(map[string]any{"l": []any{int64(1), "a", nil}}, nil)})
		if d := time.Since(start); d > 2*maxTime {
			t.Errorf("%q took %s", expression, d)
		}
	})
}

func TestHealth(t *testing.T) {
	object := func(name string) Object {
		return Object{GroupVersionKind: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, Namespace: "kube-system", Name: name}
	}
	settled := map[string]any{"observedGeneration": int64(1), "replicas": int64(1), "readyReplicas": int64(1), "updatedReplicas": int64(1), "availableReplicas": int64(1),
		"conditions": []any{map[string]any{"type": "Available", "status": "True"}}}
	c := cluster{
		"Deployment.apps kube-system/well":    deployment(map[string]any{"replicas": int64(1)}, settled),
		"Deployment.apps kube-system/starts":  deployment(map[string]any{"replicas": int64(2)}, settled),
		"Deployment.apps kube-system/strange": deployment(map[string]any{"replicas": int64(1)}, map[string]any{"conditions": "geheim"}),
		"Deployment.apps kube-system/stuck": deployment(map[string]any{"replicas": int64(1)}, map[string]any{"observedGeneration": int64(1), "conditions": []any{
			map[string]any{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "a\n" + strings.Repeat("b", 1000)}}}),
	}
	got, err := Health(t.Context(), c, object("well"), object("stuck"), object("starts"), object("missing"), object("strange"))
	if err != nil {
		t.Fatal(err)
	}
	summary := map[string]string{}
	for _, u := range got {
		summary[u.Name] = u.Status
		if strings.Contains(u.Message, "geheim") || strings.Contains(u.Message, "\n") || len(u.Message) > 2*maxMessage || u.Message == "" {
			t.Errorf("message of %s: %q", u.Name, u.Message)
		}
	}
	want := map[string]string{"missing": "NotFound", "starts": "InProgress", "strange": "Unknown", "stuck": "Failed"}
	if diff := cmp.Diff(want, summary); diff != "" {
		t.Errorf("unhealthy (-want +got):\n%s", diff)
	}
	if got[0].Name != "missing" || got[len(got)-1].Name != "stuck" {
		t.Errorf("order: %v", got)
	}
	if _, err := Health(t.Context(), cluster{"Deployment.apps kube-system/x": errors.New("timeout")}, object("x")); err == nil {
		t.Error("no error although an object could not be read")
	}
}
