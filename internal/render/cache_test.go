// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestRecent(t *testing.T) {
	type op struct {
		put  string
		size int
		get  string
	}
	for name, tc := range map[string]struct {
		why  string
		ops  []op
		want string
	}{
		"ByNumber":       {ops: []op{{put: "a"}, {put: "b"}, {put: "c"}, {put: "d"}}, want: "bcd"},
		"ByUse":          {ops: []op{{put: "a"}, {put: "b"}, {put: "c"}, {get: "a"}, {put: "d"}}, want: "acd"},
		"BySize":         {ops: []op{{put: "a", size: 4}, {put: "b", size: 4}, {put: "c", size: 4}}, want: "bc"},
		"TooLarge":       {why: "It is rendered each time; better than to end for want of memory.", ops: []op{{put: "a", size: 11}}, want: ""},
		"PutAgain":       {why: "Its size counts once.", ops: []op{{put: "a", size: 6}, {put: "a", size: 6}, {put: "b", size: 4}}, want: "ab"},
		"SizeIsReleased": {ops: []op{{put: "a", size: 9}, {put: "b", size: 9}, {put: "c", size: 1}}, want: "bc"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecent[string, string](3, 10)
			for _, op := range tc.ops {
				if op.put != "" {
					r.put(op.put, op.put, op.size)
				} else {
					r.get(op.get)
				}
			}
			var have strings.Builder
			for _, key := range []string{"a", "b", "c", "d"} {
				if value, found := r.get(key); found {
					have.WriteString(value)
				}
			}
			if diff := cmp.Diff(tc.want, have.String()); diff != "" {
				t.Errorf("%s\n(-want +got):\n%s", tc.why, diff)
			}
		})
	}
}

// The estimate is for a bound on memory: a factor of two does not matter, ten would.
func TestSizeOfAResult(t *testing.T) {
	object := func() *unstructured.Unstructured {
		rules := []any{}
		for range 200 {
			rules = append(rules, map[string]any{
				"apiGroups": []any{"apps"}, "resources": []any{"deployments", "daemonsets"}, "verbs": []any{"get", "list", "watch"},
			})
		}
		return &unstructured.Unstructured{Object: map[string]any{"kind": "ClusterRole", "rules": rules}}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	results := make([]*Result, 50)
	for i := range results {
		results[i] = &Result{Objects: []*unstructured.Unstructured{object()}}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	actual, estimate := int(after.HeapAlloc-before.HeapAlloc)/len(results), results[0].size()
	if estimate < actual/3 || estimate > actual*3 {
		t.Errorf("estimated %d bytes, really %d", estimate, actual)
	}
	runtime.KeepAlive(results)
}
