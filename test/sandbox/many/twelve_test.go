// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package many

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestTwelve has twelve lite clusters at once, created in groups of three, and tells what they take.
func TestTwelve(t *testing.T) {
	const groups, size = 4, 3
	mgmt := sandbox(t, "twelve")
	begin := time.Now()
	var keys []types.NamespacedName
	for group := range groups {
		started := time.Now()
		for i := range size {
			key := types.NamespacedName{Namespace: "twelve", Name: fmt.Sprintf("c%d", group*size+i+1)}
			create(t, mgmt, clustertest.NewCluster(key, before, 1, 0))
			keys = append(keys, key)
		}
		for _, key := range keys[group*size:] {
			mgmt.AwaitCluster(t, patience, key, clustertest.Holds(clusterv1.ClusterAvailableCondition))
		}
		t.Logf("group %d: Available after %s", group+1, time.Since(started).Round(time.Second))
	}
	t.Logf("all %d clusters: Available after %s", len(keys), time.Since(begin).Round(time.Second))

	dir := sandboxtest.Management(t, sandboxtest.WithLite()).Dir()
	simulator := parent(t, dir)
	all := func() map[string]process.Usage {
		programs := usage(t, dir)
		p, err := process.Look(simulator)
		if err != nil {
			t.Fatal(err)
		}
		programs["simulator"] = p.Usage
		return programs
	}
	time.Sleep(atRest)
	first := all()
	time.Sleep(atRest)
	second := all()
	for _, key := range keys {
		used := sum(usage(t, mgmt.ClusterDir(key)))
		t.Logf("cluster %s: %d MiB", key.Name, used.Memory>>20)
		if used.Memory > mostLite {
			t.Errorf("cluster %s takes %d MiB, at most %d are promised", key.Name, used.Memory>>20, mostLite>>20)
		}
	}
	for program, u := range second {
		t.Logf("all %s: %d MiB, %.1f %% of a core", program, u.Memory>>20, share(first[program], u))
	}
	t.Logf("the whole sandbox: %d MiB, %.1f %% of a core", sum(second).Memory>>20, share(sum(first), sum(second)))
	for _, key := range keys {
		mgmt.AwaitCluster(t, patience, key, clustertest.Holds(clusterv1.ClusterAvailableCondition))
		mgmt.DeleteCluster(t, patience, key)
	}
}

// parent is the process that started the programs of a folder, and is the simulator.
func parent(t *testing.T, dir string) int {
	t.Helper()
	pids, err := process.Below(dir)
	if err != nil || len(pids) == 0 {
		t.Fatalf("nothing runs in %s (%v)", dir, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pids[0]))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if pid, ok := strings.CutPrefix(line, "PPid:"); ok {
			number, err := strconv.Atoi(strings.TrimSpace(pid))
			if err != nil {
				t.Fatal(err)
			}
			return number
		}
	}
	t.Fatalf("process %d has no parent", pids[0])
	return 0
}
