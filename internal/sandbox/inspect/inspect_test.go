// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
)

func TestPrograms(t *testing.T) {
	since := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	running := func(program, dir string, args ...string) process.Running {
		return process.Running{PID: 7, Program: program, Dir: dir, Args: args, Since: since, Usage: process.Usage{Memory: 9}}
	}
	suspended := running("etcd", "/c/machines/m", "--listen-client-urls=https://127.64.1.2:2379")
	suspended.Suspended = true
	for name, tc := range map[string]struct {
		why     string
		running []process.Running
		logs    []string
		want    []Program
	}{
		"OfAMachine": {
			running: []process.Running{running("kube-apiserver", "/c/machines/m", "--bind-address=127.64.1.2", "--secure-port=6443")},
			logs:    []string{"/c/machines/m/kube-apiserver.log"},
			want:    []Program{{Name: "kube-apiserver", Machine: "m", State: Running, PID: 7, Since: since, MemoryBytes: 9, Address: "127.64.1.2:6443"}},
		},
		"OfTheCluster": {
			running: []process.Running{running("kube-scheduler", "/c")},
			want:    []Program{{Name: "kube-scheduler", State: Running, PID: 7, Since: since, MemoryBytes: 9}},
		},
		"Suspended": {
			running: []process.Running{suspended},
			want:    []Program{{Name: "etcd", Machine: "m", State: Suspended, PID: 7, Since: since, MemoryBytes: 9, Address: "127.64.1.2:2379"}},
		},
		"NotRunning": {
			why:     "It crashes, or its machine is switched off: the reader has to see that it is missing.",
			running: []process.Running{running("kube-scheduler", "/c")},
			logs:    []string{"/c/machines/m/etcd.log"},
			want: []Program{
				{Name: "kube-scheduler", State: Running, PID: 7, Since: since, MemoryBytes: 9},
				{Name: "etcd", Machine: "m", State: NotRunning},
			},
		},
		"Nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, programs("/c", tc.running, tc.logs)); diff != "" {
				t.Errorf("%s\n%s", tc.why, diff)
			}
		})
	}
}

func TestSharedEtcd(t *testing.T) {
	own := process.Running{Program: apiServer, Args: []string{"--etcd-servers=https://127.64.1.2:2379"}}
	part := process.Running{Program: apiServer, Args: []string{"--etcd-servers=https://127.64.0.255:2379", "--etcd-prefix=/default/one"}}
	if got := sharedEtcd([]process.Running{own}); got != "" {
		t.Errorf("with an etcd of its own: %q", got)
	}
	if got := sharedEtcd([]process.Running{part}); got != "shared, /default/one at https://127.64.0.255:2379" {
		t.Errorf("got %q", got)
	}
}

func TestDescribeMachine(t *testing.T) {
	m := &clusterv1.Machine{
		ObjectMeta: metav1.ObjectMeta{Name: "m", Labels: map[string]string{clusterv1.MachineControlPlaneLabel: ""}},
		Spec:       clusterv1.MachineSpec{Version: "v1.36.3"},
		Status: clusterv1.MachineStatus{
			Phase:     "Provisioned",
			Addresses: clusterv1.MachineAddresses{{Type: clusterv1.MachineHostName, Address: "m"}, {Type: clusterv1.MachineInternalIP, Address: "127.64.1.2"}},
			Conditions: []metav1.Condition{
				{Type: clusterv1.MachineNodeReadyCondition, Status: metav1.ConditionUnknown},
				{Type: clusterv1.MachineReadyCondition, Status: metav1.ConditionFalse, Reason: "NotReady", Message: "* InfrastructureReady: out of quota"},
			},
		},
	}
	want := Machine{
		Name: "m", ControlPlane: true, Version: "v1.36.3", Address: "127.64.1.2", Phase: "Provisioned",
		Problems: []Condition{{Type: "Ready", Status: "False", Reason: "NotReady", Message: "* InfrastructureReady: out of quota"}},
	}
	if diff := cmp.Diff(want, describeMachine(m)); diff != "" {
		t.Errorf("before there is a Node: %s", diff)
	}
	m.Status.NodeRef.Name = "m"
	want.NodeReady = "Unknown"
	if diff := cmp.Diff(want, describeMachine(m)); diff != "" {
		t.Error(diff)
	}
}

func TestDescribeCluster(t *testing.T) {
	c := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "one", Annotations: map[string]string{infra.ControlPlaneAnnotation: infra.ControlPlaneLite}},
		Spec: clusterv1.ClusterSpec{
			ControlPlaneEndpoint: clusterv1.APIEndpoint{Host: "127.64.1.1", Port: 6443},
			Topology:             clusterv1.Topology{Version: "v1.36.3", ClassRef: clusterv1.ClusterClassRef{Name: "class", Namespace: "classes"}},
		},
		Status: clusterv1.ClusterStatus{Phase: "Provisioned", Conditions: []metav1.Condition{
			{Type: clusterv1.ClusterAvailableCondition, Status: metav1.ConditionTrue},
			{Type: clusterv1.ClusterDeletingCondition, Status: metav1.ConditionTrue, Reason: "WaitingForWorkers", Message: "one left"},
		}},
	}
	want := Cluster{Namespace: "team", Name: "one", Class: "classes/class", Version: "v1.36.3", Phase: "Provisioned", Size: "lite", Endpoint: "https://127.64.1.1:6443", Machines: []Machine{}}
	if diff := cmp.Diff(want, describeCluster(c)); diff != "" {
		t.Error(diff)
	}
	c.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	want.Phase = "Deleting"
	want.Problems = []Condition{{Type: "Deleting", Status: "True", Reason: "WaitingForWorkers", Message: "one left"}}
	if diff := cmp.Diff(want, describeCluster(c)); diff != "" {
		t.Errorf("on its way out: %s", diff)
	}
}

func TestAskAPIServer(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"Ready":    {status: http.StatusOK, body: "ok", want: "ready"},
		"NoEtcd":   {status: http.StatusInternalServerError, body: "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed\nreadyz check failed\n", want: "not ready: etcd, poststarthook/x"},
		"Confused": {status: http.StatusBadGateway, want: "502 Bad Gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = fmt.Fprint(w, tc.body)
			}))
			defer server.Close()
			if got := health(t.Context(), server); got != tc.want {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("Silent", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			cancel(fmt.Errorf("that was too long"))
			<-r.Context().Done()
		}))
		defer server.Close()
		if got := health(ctx, server); got != "that was too long" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("Gone", func(t *testing.T) {
		server := httptest.NewTLSServer(nil)
		server.Close()
		if got := health(t.Context(), server); !strings.Contains(got, "connection refused") {
			t.Errorf("got %q", got)
		}
	})
}

// health asks a server as if it were the API server of a machine.
func health(ctx context.Context, server *httptest.Server) string {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, certificatePEM(server), 0o600); err != nil {
		return err.Error()
	}
	host, port, _ := strings.Cut(server.Listener.Addr().String(), ":")
	r := process.Running{PID: 1, Program: apiServer, Args: []string{"--bind-address=" + host, "--secure-port=" + port, "--client-ca-file=" + ca}}
	all := programs("/c", []process.Running{r}, nil)
	askPrograms(ctx, all, []process.Running{r})
	return all[0].Health
}

func certificatePEM(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// TestRunningBelow: somebody may look at the files of a cluster.
func TestRunningBelow(t *testing.T) {
	sleep, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	start := func(folder, log string) int {
		t.Helper()
		file := filepath.Join(dir, folder, log)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		p, err := process.Start(process.Spec{Name: folder, Path: sleep, Args: []string{"600"}, LogFile: file})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Stop(t.Context()) }) // that it had to be killed would not matter
		return p.Pid()
	}
	program := start("program", filepath.Base(sleep)+".log")
	start("somebody", "notes.log")
	got, err := runningBelow(dir)
	if err != nil || len(got) != 1 || got[0].PID != program {
		t.Errorf("got %+v, %v; want process %d", got, err, program)
	}
}
