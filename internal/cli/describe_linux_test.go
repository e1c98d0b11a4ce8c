// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/inspect"
)

func TestPrintCluster(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	c := inspect.Cluster{
		Namespace: "default", Name: "one", Class: "class", Version: "v1.36.3", Phase: "Provisioned",
		Endpoint: "https://127.64.1.1:6443", MemoryBytes: 300 << 20, Logs: "/state/machines/default/one",
		Problems: []inspect.Condition{{Type: "Available", Status: "False", Reason: "NotAvailable", Message: "* WorkersAvailable:\n  * no worker"}},
		Machines: []inspect.Machine{
			{Name: "one-cp", ControlPlane: true, Version: "v1.36.3", Address: "127.64.1.2", Phase: "Running", NodeReady: "True"},
			{Name: "one-w", Version: "v1.36.3", Phase: "Provisioning", Problems: []inspect.Condition{{Type: "Ready", Status: "False", Reason: "NotReady", Message: "out of quota"}}},
		},
		Pools: []inspect.Pool{{Name: "pool", Version: "v1.36.3", Phase: "ScalingUp", Wanted: 3, Replicas: 2, Ready: 1}},
		Programs: []inspect.Program{
			{Name: "kube-scheduler", State: inspect.Suspended, PID: 4, Since: now.Add(-time.Hour), MemoryBytes: 40 << 20},
			{Name: "etcd", Machine: "one-cp", State: inspect.Running, PID: 5, Since: now.Add(-time.Second), MemoryBytes: 60 << 20, Address: "127.64.1.2:2379", Health: "leader of 1, 90 KiB"},
			{Name: "kube-apiserver", Machine: "one-cp", State: inspect.NotRunning},
		},
		Addons:   &inspect.Addons{Applied: "docker-starter-1-36-v1", Target: "docker-starter-1-36-v2", Message: "waits for cni", Stages: []inspect.Stage{{Name: "cni", Phase: "waiting", Message: "not healthy:\nds/cni"}}},
		Failures: []inspect.Failure{{Name: "default/f", Type: "APIServerDown", Active: true, Message: "hits one-cp"}},
	}
	const want = `Cluster default/one: Provisioned
Class:      class
Kubernetes: v1.36.3
Endpoint:   https://127.64.1.1:6443
Memory:     300 MiB
Logs:       /state/machines/default/one

Available is False (NotAvailable)
  * WorkersAvailable:
    * no worker

MACHINE  ROLE           VERSION  ADDRESS     PHASE         NODE READY
one-cp   control plane  v1.36.3  127.64.1.2  Running       True
one-w    worker         v1.36.3  -           Provisioning  -

one-w: Ready is False (NotReady)
  out of quota

MACHINE POOL  VERSION  PHASE      WANTED  REPLICAS  READY
pool          v1.36.3  ScalingUp  3       2         1

PROGRAM         MACHINE  STATE       PID  SINCE  MEMORY  ADDRESS          HEALTH
kube-scheduler  -        Suspended   4    60m    40 MiB  -                -
etcd            one-cp   Running     5    1s     60 MiB  127.64.1.2:2379  leader of 1, 90 KiB
kube-apiserver  one-cp   NotRunning  -    -      -       -                -

Addons: not ready: waits for cni
Applied: docker-starter-1-36-v1
Target:  docker-starter-1-36-v2

ADDON  PHASE    MESSAGE
cni    waiting  not healthy:

Failures that are being rehearsed:
NAME       TYPE           ACTIVE  MESSAGE
default/f  APIServerDown  true    hits one-cp
`
	var got bytes.Buffer
	if err := printCluster(&got, c, now); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestClusterOf(t *testing.T) {
	for folder, want := range map[string]string{
		"/s":                                     "",
		"/s/logs":                                "",
		"/s-2/machines/default/one":              "",
		"/s/machines/.etcd":                      "",
		"/s/machines/default/one":                "default/one",
		"/s/machines/default/one/machines/one-x": "default/one",
	} {
		if got := clusterOf("/s", folder); got != want {
			t.Errorf("%s is of %q, want %q", folder, got, want)
		}
	}
}

func TestPrintSandbox(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	d := sandboxDescription{
		sandboxStatus: sandboxStatus{
			State: daemon.State{
				Name: "a", Phase: daemon.PhaseReady, Since: now.Add(-time.Hour), Addresses: "127.64.0.0/16",
				Settings:   daemon.Options{CRDs: []string{"/a.yaml", "/b"}, Kubernetes: "1.34", Operator: daemon.NoOperator, Lite: new(bool)},
				Components: []sandbox.Component{{Name: "etcd", State: sandbox.StateReady, PID: 1, Address: "127.64.0.1:2379", Since: now.Add(-time.Minute), Restarts: 2, LastError: "exited: killed\nlast line"}},
			},
			Clusters: []clusterStatus{{Namespace: "default", Name: "one", Phase: "Provisioned", Available: "True"}},
		},
		MemoryBytes: 700 << 20, ProcessMemory: map[int]int64{1: 50 << 20}, ClusterMemory: map[string]int64{"default/one": 300 << 20}, Logs: "/state/logs", Merged: []string{"/home/me/.kube/config"},
		Failures: map[string][]inspect.Failure{"default/one": {{Name: "f", Type: "EtcdDown"}}},
	}
	const want = `Sandbox a: Ready for 60m
Settings:    --crds /a.yaml --crds /b --kubernetes 1.34 --operator none --lite=false
Addresses:   127.64.0.0/16
Memory:      700 MiB
Logs:        /state/logs
Merged into: /home/me/.kube/config

PROGRAM  STATE  PID  SINCE  RESTARTS  MEMORY  ADDRESS
etcd     Ready  1    60s    2         50 MiB  127.64.0.1:2379

etcd ended before: exited: killed
  last line

NAMESPACE  CLUSTER  CLASS  VERSION  PHASE        AVAILABLE  MEMORY
default    one                      Provisioned  True       300 MiB

Failures in default/one that are being rehearsed:
NAME  TYPE      ACTIVE  MESSAGE
f     EtcdDown  false   -
`
	var got bytes.Buffer
	if err := printSandbox(&got, d, now); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}
