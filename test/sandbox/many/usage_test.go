// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package many

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// The most memory that a cluster with one control plane machine may take, as the documentation promises.
const (
	mostLite = 300 << 20
	mostFull = 600 << 20
)

// within checks what a cluster takes right now.
func within(t testing.TB, mgmt *clustertest.Management, key types.NamespacedName, most int64) {
	t.Helper()
	if used := sum(usage(t, mgmt.ClusterDir(key))).Memory; used > most {
		t.Errorf("cluster %s takes %d MiB, at most %d are promised: %v", key, used>>20, most>>20, usage(t, mgmt.ClusterDir(key)))
	}
}

// usage is what the programs with files below a folder take, by the name of the program.
func usage(t testing.TB, dir string) map[string]process.Usage {
	t.Helper()
	pids, err := process.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]process.Usage{}
	for _, pid := range pids {
		p, err := process.Look(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			t.Fatal(err)
		}
		programs[p.Program] = programs[p.Program].Add(p.Usage)
	}
	return programs
}

func sum(programs map[string]process.Usage) process.Usage {
	var total process.Usage
	for _, u := range programs {
		total = total.Add(u)
	}
	return total
}

// atRest is how long a cluster is left alone before it is measured, and then measured.
const atRest = time.Minute

// BenchmarkCluster tells what one workload cluster with one control plane machine takes when nothing happens in it.
func BenchmarkCluster(b *testing.B) {
	mgmt := sandbox(b, "bench")
	clustertest.Apply(b, mgmt, "bench", "testdata/external-etcd.yaml")
	for name, change := range map[string]func(*clusterv1.Cluster){
		"lite":   func(*clusterv1.Cluster) {},
		"shared": func(c *clusterv1.Cluster) { c.Spec.Topology.ClassRef.Name = "external-etcd" },
		"full": func(c *clusterv1.Cluster) {
			c.Annotations = map[string]string{infra.ControlPlaneAnnotation: infra.ControlPlaneFull}
		},
	} {
		b.Run(name, func(b *testing.B) {
			key := types.NamespacedName{Namespace: "bench", Name: name}
			cluster := clustertest.NewCluster(key, before, 1, 0)
			change(cluster)
			for b.Loop() {
				create(b, mgmt, cluster.DeepCopy())
				workload := mgmt.Workload(b, patience, key)
				if name == "full" {
					clustertest.InstallNetwork(b, workload)
				}
				mgmt.AwaitCluster(b, patience, key, clustertest.Holds(clusterv1.ClusterAvailableCondition))

				b.StopTimer()
				time.Sleep(atRest)
				begin := usage(b, mgmt.ClusterDir(key))
				time.Sleep(atRest)
				end := usage(b, mgmt.ClusterDir(key))
				for program, u := range end {
					b.Logf("%s: %d MiB, %.1f %% of a core", program, u.Memory>>20, share(begin[program], u))
				}
				b.ReportMetric(float64(sum(end).Memory)/(1<<20), "MiB")
				b.ReportMetric(share(sum(begin), sum(end)), "%core")
				mgmt.DeleteCluster(b, patience, key)
				b.StartTimer()
			}
		})
	}
}

// share is how much of a core was used between two looks that are atRest apart, in percent.
func share(before, after process.Usage) float64 {
	return 100 * float64(after.CPU-before.CPU) / float64(atRest)
}
