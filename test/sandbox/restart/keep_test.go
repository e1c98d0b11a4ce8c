// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestKeep stops a sandbox with a cluster of one control plane machine and a worker, and goes on with it.
func TestKeep(t *testing.T) {
	t.Parallel()
	goesOn(t, 1, func(t *testing.T, s *sandbox) {
		s.csctl(t, "down", "--keep")
		s.expectNoProcess(t)
	})
}

// goesOn proves that a cluster, what was written to it, and what was published in the sandbox's registry are there again
// after the end of its sandbox.
func goesOn(t *testing.T, controlPlanes int32, end func(*testing.T, *sandbox)) {
	s := newSandbox(t)
	s.csctl(t, "up", "--registry")
	name, err := release.ParseName("docker-starter-1-36-v1")
	if err != nil {
		t.Fatal(err)
	}
	published, err := s.registry(t).Publish(t.Context(), name, releasetest.Multistage(name.String()), time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := s.management(t)
	cluster := types.NamespacedName{Namespace: "default", Name: "one"}
	clustertest.CreateClass(t, m, cluster.Namespace)
	if err := m.Create(t.Context(), clustertest.NewCluster(cluster, "v1.36.3", controlPlanes, 1)); err != nil {
		t.Fatal(err)
	}
	config := m.Kubeconfig(t, limit, cluster)
	clustertest.InstallNetwork(t, m.Workload(t, limit, cluster))
	m.AwaitCluster(t, limit, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	workload := clustertest.Connect(t, config)
	written := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "written"}}
	if err := workload.Create(t.Context(), written); err != nil {
		t.Fatal(err)
	}

	end(t, s)
	stopped := time.Now()
	if out := s.csctl(t, "up"); !strings.Contains(out, "with 1 cluster") {
		t.Errorf("up does not tell with what it goes on:\n%s", out)
	}
	if found, err := s.registry(t).Resolve(t.Context(), name); err != nil || found != published {
		t.Errorf("the registry has %s, %v; want %s", found, err, published)
	}
	// Asked with what a user had before.
	clustertest.Await(t, workload, limit, &corev1.ConfigMapList{}, func(found *corev1.ConfigMapList) error {
		if len(found.Items) != 1 || found.Items[0].UID != written.UID {
			return fmt.Errorf("what was written is not there: %v", found.Items)
		}
		return nil
	}, client.MatchingFields{"metadata.name": written.Name})
	t.Logf("the cluster answers %s after the stop", time.Since(stopped).Round(time.Second))
	m = s.management(t)
	clustertest.Await(t, workload, limit, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
		if want := int(controlPlanes) + 1; len(nodes.Items) != want {
			return fmt.Errorf("%d nodes, want %d", len(nodes.Items), want)
		}
		return nil
	})
	m.AwaitCluster(t, limit, cluster, clustertest.Holds(clusterv1.ClusterRemoteConnectionProbeCondition))
	m.AwaitCluster(t, limit, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	t.Logf("Available %s after the stop", time.Since(stopped).Round(time.Second))
	machines := clustertest.Await(t, m, limit, &clusterv1.MachineList{}, func(*clusterv1.MachineList) error { return nil })
	if want := int(controlPlanes) + 1; len(machines.Items) != want {
		t.Errorf("%d machines, want the %d that there were", len(machines.Items), want)
	}

	// It can be changed as before.
	if err := m.Delete(t.Context(), clustertest.NewCluster(cluster, "v1.36.3", controlPlanes, 1)); err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, m, limit, &clusterv1.ClusterList{}, func(clusters *clusterv1.ClusterList) error {
		if len(clusters.Items) > 0 {
			return fmt.Errorf("cluster %s is still there", clusters.Items[0].Name)
		}
		return nil
	})
	s.csctl(t, "down")
}

// registry is a repository in the registry of the sandbox.
func (s *sandbox) registry(t *testing.T) *oci.Source {
	t.Helper()
	source, err := oci.New(strings.TrimSpace(s.csctl(t, "registry"))+"/cluster-stacks", oci.Options{Web: web.Options{PlainHTTP: true}})
	if err != nil {
		t.Fatal(err)
	}
	return source
}
