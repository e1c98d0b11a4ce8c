// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package apply_test

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// The most that a chart may have: each object takes one request, and what is remembered of all of them stays small
// enough to be read at each pass.
func TestTwoThousandObjects(t *testing.T) {
	w := newWorld(t, sandboxtest.APIServer(t))
	ns := w.namespace("many")
	const many = 2000
	var objs []*unstructured.Unstructured
	for i := range many {
		objs = append(objs, object(t, ns, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings-of-component-%d, namespace: $NS}, data: {n: "%d"}}`, i, i)))
	}
	transport, j := &wire{}, &journal{}
	a, inv := w.applier(transport, apply.Options{}), apply.NewInventory()
	set := apply.Set{Name: "s", Objects: objs}
	if _, err := a.Apply(t.Context(), set, inv, j); err != nil {
		t.Fatal(err)
	}
	if got := len(transport.requests); got > many+6 {
		t.Errorf("%d requests for %d objects", got, many)
	}
	if limit := many * 500; len(j.data) > limit {
		t.Errorf("the inventory has %d bytes, want at most %d", len(j.data), limit)
	}
	next := j.load(t)
	before := len(transport.requests)
	drift, err := a.Drift(t.Context(), next)
	if err != nil || len(drift.IDs()) > 0 || len(transport.requests)-before > 5 {
		t.Errorf("drift %d, %v with %d requests", len(drift.IDs()), err, len(transport.requests)-before)
	}
	if _, err := a.Prune(t.Context(), next, nothing, j); err != nil || next.Len() != 0 {
		t.Errorf("prune: %v, left %d", err, next.Len())
	}
}
