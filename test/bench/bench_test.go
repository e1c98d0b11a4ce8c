// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

// Package bench measures what the operator costs: requests, time, memory. It runs the real program against real
// API servers, and against a thousand stand-ins of them. Its numbers are compared with bars, and kept in
// bench/results.json.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// root is the repository, seen from this package.
const root = "../.."

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}

// bars are what is promised, in the order in which they are printed.
var bars = []struct {
	key  string
	bar  float64
	what string
}{
	{"requests_per_install", 33, "requests to a workload cluster from connection to HelmChartApplied, 27 objects"},
	{"cpu_seconds_per_cluster", 0.20, "CPU seconds of the operator to install them"},
	{"cpu_seconds_without_keygen", 0.06, "the same when the keys are there already"},
	{"ratio_to_bare_apply", 1.25, "time to install them, in units of bare applies and the same generation of keys"},
	{"writes_at_rest", 0, "writes to any cluster in a quarter of an hour at rest"},
	{"requests_at_rest_per_minute", 2, "requests a minute to a workload cluster at rest"},
	{"restart_writes", 0, "writes to any cluster by a restart with 1,000 clusters"},
	{"restart_hook_seconds", 5, "seconds from the restart with 1,000 clusters to the first answer to a hook"},
	{"hook_p99_ms", 50, "milliseconds to answer a hook, 99th percentile, with 1,000 clusters"},
	{"first_addon_request_seconds", 3, "seconds from an initialized control plane to the first request for an addon"},
	{"memory_mib_1000", 400, "MiB of memory with 1,000 clusters at rest"},
}

// numbers are what was measured, by key.
type numbers map[string]float64

// BenchmarkOperator measures everything, once.
func BenchmarkOperator(b *testing.B) {
	measured := numbers{}
	report := func(key string, value float64) {
		measured[key] = value
		b.ReportMetric(value, key)
		fmt.Fprintf(os.Stderr, "  %-32s %.4g\n", key, value)
	}
	for range b.N {
		program := build(b)
		rel := newRelease(b)
		servers := workloadServers(b, 12)
		installs(b, program, rel, servers, report)
		rest := beginRest(b, program, rel, servers, report)
		thousand(b, program, rel, report)
		rest(report)
	}
	if err := measured.write(filepath.Join(root, "bench", "results.json")); err != nil {
		b.Fatal(err)
	}
	measured.print()
}

// build builds the operator and returns its path.
func build(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "cluster-stack-operator")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/cluster-stack-operator")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build the operator: %v\n%s", err, out)
	}
	return path
}

// result is one entry of the file of results.
type result struct {
	Value  float64 `json:"value"`
	Bar    float64 `json:"bar"`
	Cores  int     `json:"cores"`
	Commit string  `json:"commit"`
}

func (n numbers) write(file string) error {
	commit, err := exec.Command("git", "-C", root, "rev-parse", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("which commit this is: %w", err)
	}
	results := map[string]result{}
	for _, bar := range bars {
		value, ok := n[bar.key]
		if !ok {
			return fmt.Errorf("%s was not measured", bar.key)
		}
		results[bar.key] = result{Value: value, Bar: bar.bar, Cores: runtime.NumCPU(), Commit: strings.TrimSpace(string(commit))}
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

func (n numbers) print() {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.Debug)
	fmt.Fprintln(table, "value\tbar\t\twhat\t")
	for _, bar := range bars {
		verdict := "ok"
		if n[bar.key] > bar.bar {
			verdict = "OVER"
		}
		fmt.Fprintf(table, "%.4g\t%.4g\t%s\t%s\t\n", n[bar.key], bar.bar, verdict, bar.what)
	}
	_ = table.Flush()
}

// percentile is the value that p of all are not above, 0 <= p <= 1.
func percentile[T interface{ ~int64 | ~float64 }](values []T, p float64) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}
