// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

func cilium(tb testing.TB) *release.Release {
	return wrapped(tb, "cni", "cilium", "1.16.6", publicChart(tb, "cilium-1.16.6.tgz"), nil)
}

func TestCiliumRendersToItsObjectsAndRepeats(t *testing.T) {
	rel := cilium(t)
	first := mustRender(t, rel, "cni", nil)
	if len(first.Objects) != 18 || len(first.Hooks) != 0 {
		t.Errorf("%d objects and %d hooks, want 18 and 0", len(first.Objects), len(first.Hooks))
	}
	if !first.NewValues || len(first.Record) == 0 {
		t.Errorf("a first render generates certificates, but nothing is recorded: %v", first.Record)
	}
	second := mustRender(t, rel, "cni", first.Record)
	if second.NewValues {
		t.Error("a second render generates values again")
	}
	if diff := cmp.Diff(text(t, first.Objects), text(t, second.Objects)); diff != "" {
		t.Errorf("two renders differ:\n%s", diff)
	}
	if diff := cmp.Diff(first.Record, second.Record); diff != "" {
		t.Errorf("two records differ:\n%s", diff)
	}
}

func TestMetricsServerRendersToItsObjects(t *testing.T) {
	rel := wrapped(t, "metrics-server", "metrics-server", "3.12.2", publicChart(t, "metrics-server-3.12.2.tgz"), nil)
	result := mustRender(t, rel, "metrics-server", nil)
	if len(result.Objects) != 9 {
		t.Errorf("%d objects, want 9", len(result.Objects))
	}
}

func mustRender(tb testing.TB, rel *release.Release, addon string, recorded render.Record) *render.Result {
	tb.Helper()
	result, err := render.Addon(rel, addon, facts(), recorded)
	if err != nil {
		tb.Fatal(err)
	}
	return result
}

func text(tb testing.TB, value any) string {
	tb.Helper()
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

func BenchmarkCilium(b *testing.B) {
	rel := cilium(b)
	recorded := mustRender(b, rel, "cni", nil).Record
	b.ReportAllocs()
	for b.Loop() {
		mustRender(b, rel, "cni", recorded)
	}
}

func BenchmarkCiliumOfManyClusters(b *testing.B) {
	rel := cilium(b)
	recorded := mustRender(b, rel, "cni", nil).Record
	cache := render.NewCache(0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cache.Addon(rel, "cni", facts(), recorded); err != nil {
			b.Fatal(err)
		}
	}
}
