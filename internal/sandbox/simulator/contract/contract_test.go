// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestResolve(t *testing.T) {
	gk := schema.GroupKind{Group: "infrastructure.cluster.x-k8s.io", Kind: "OpenStackCluster"}
	cases := map[string]struct {
		why    string
		labels map[string]string
		want   Kind
		fails  bool
	}{
		"NewestContract": {
			labels: map[string]string{"cluster.x-k8s.io/v1beta1": "v1beta1", "cluster.x-k8s.io/v1beta2": "v1beta2"},
			want:   Kind{gk.WithVersion("v1beta2"), V1Beta2},
		},
		"OlderContract": {
			why:    "Providers that have not moved yet.",
			labels: map[string]string{"cluster.x-k8s.io/v1beta1": "v1alpha7_v1beta1"},
			want:   Kind{gk.WithVersion("v1beta1"), V1Beta1},
		},
		"NewestVersion": {
			why:    "The order in the label says nothing: a stable version is newer than any beta.",
			labels: map[string]string{"cluster.x-k8s.io/v1beta2": "v1beta1_v1_v1beta10"},
			want:   Kind{gk.WithVersion("v1"), V1Beta2},
		},
		"NoLabel": {fails: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Resolve(gk, c.labels)
			if (err != nil) != c.fails {
				t.Fatalf("error %v, want one: %t", err, c.fails)
			}
			if got != c.want {
				t.Errorf("%s: got %v, want %v", c.why, got, c.want)
			}
		})
	}
}

func TestFields(t *testing.T) {
	cases := map[string]struct {
		version Version
		status  map[string]any
	}{
		"V1Beta1": {V1Beta1, map[string]any{"ready": true}},
		"V1Beta2": {V1Beta2, map[string]any{"initialization": map[string]any{"provisioned": true}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cluster := &unstructured.Unstructured{Object: map[string]any{}}
			if err := SetEndpoint(cluster, Endpoint{"127.64.1.1", 6443}); err != nil {
				t.Fatal(err)
			}
			if err := SetProvisioned(cluster, c.version); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{
				"spec":   map[string]any{"controlPlaneEndpoint": map[string]any{"host": "127.64.1.1", "port": int64(6443)}},
				"status": c.status,
			}
			if diff := cmp.Diff(want, cluster.Object); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}

			machine := &unstructured.Unstructured{Object: map[string]any{}}
			if err := SetProviderID(machine, "sandbox:///a/b"); err != nil {
				t.Fatal(err)
			}
			if err := SetAddresses(machine, "b", "127.64.1.2"); err != nil {
				t.Fatal(err)
			}
			if got := ProviderID(machine); got != "sandbox:///a/b" {
				t.Errorf("provider ID %q", got)
			}
			addresses, _, _ := unstructured.NestedSlice(machine.Object, "status", "addresses")
			if diff := cmp.Diff([]any{
				map[string]any{"type": "Hostname", "address": "b"},
				map[string]any{"type": "InternalIP", "address": "127.64.1.2"},
			}, addresses); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestSetEndpointKeepsOnlyItsOwn(t *testing.T) {
	cases := map[string]struct {
		endpoint map[string]any
		fails    bool
	}{
		"Same":    {map[string]any{"host": "127.64.1.1", "port": int64(6443)}, false},
		"NoPort":  {map[string]any{"host": "127.64.1.1"}, false},
		"Empty":   {map[string]any{"host": "", "port": int64(0)}, false},
		"Foreign": {map[string]any{"host": "api.example.com", "port": int64(6443)}, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cluster := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"controlPlaneEndpoint": c.endpoint}}}
			if err := SetEndpoint(cluster, Endpoint{"127.64.1.1", 6443}); (err != nil) != c.fails {
				t.Errorf("error %v, want one: %t", err, c.fails)
			}
		})
	}
}

func TestSetReady(t *testing.T) {
	const long = "2020-01-01T00:00:00Z"
	other := map[string]any{"type": "Other", "status": "True"}
	broken := map[string]any{"type": "Ready", "status": "False", "reason": "Broken", "message": "it broke", "lastTransitionTime": long, "observedGeneration": int64(3)}
	cases := map[string]struct {
		why     string
		version Version
		before  []any
		want    []any
		changed bool // it is another state than before, so the time is now
	}{
		"New": {
			version: V1Beta2, before: []any{other}, changed: true,
			want: []any{other, broken},
		},
		"OtherState": {
			version: V1Beta2, before: []any{map[string]any{"type": "Ready", "status": "True", "lastTransitionTime": long}, other}, changed: true,
			want: []any{broken, other},
		},
		"OtherReason": {
			why:     "The time is that of the last change between True and False.",
			version: V1Beta2, before: []any{map[string]any{"type": "Ready", "status": "False", "reason": "Other", "lastTransitionTime": long}},
			want: []any{broken},
		},
		"OlderContract": {
			why:     "Its conditions have a severity and no observedGeneration.",
			version: V1Beta1, before: []any{map[string]any{"type": "Ready", "status": "False", "lastTransitionTime": long}},
			want: []any{map[string]any{"type": "Ready", "status": "False", "severity": "Warning", "reason": "Broken", "message": "it broke", "lastTransitionTime": long}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			machine := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": c.before}}}
			machine.SetGeneration(3)
			if err := SetReady(machine, c.version, metav1.ConditionFalse, "Broken", "it broke"); err != nil {
				t.Fatal(err)
			}
			got, _, _ := unstructured.NestedSlice(machine.Object, "status", "conditions")
			for _, condition := range got {
				if of := condition.(map[string]any); of["type"] == "Ready" && c.changed {
					if of["lastTransitionTime"] == long {
						t.Error("the time has not changed")
					}
					of["lastTransitionTime"] = long
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", c.why, diff)
			}
		})
	}
}
