// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

func machine(t *testing.T) Machine {
	t.Helper()
	return Machine{
		Name: "m", Minor: "1.35", IP: netip.MustParseAddr("127.63.1.2"), Dir: t.TempDir(),
		Ports: Ports{APIServer: 6443, Etcd: 2379, EtcdPeer: 12380},
	}
}

func TestArguments(t *testing.T) {
	m := machine(t)
	c := &Cluster{Name: "one", ServiceSubnet: "10.128.0.0/12", DNSDomain: "cluster.local", Dir: t.TempDir()}
	withPods := *c
	withPods.PodSubnet = "192.168.0.0/16"
	cases := map[string]struct {
		why  string
		args []string
		want []string
	}{
		"APIServer": {
			"The version that the Machine asks for, from a binary of a newer one.", c.apiServerArgs(m),
			[]string{"--emulated-version=kube=1.35", "--secure-port=6443", "--bind-address=127.63.1.2", "--etcd-servers=https://127.63.1.2:2379", "--service-cluster-ip-range=10.128.0.0/12"},
		},
		"Etcd": {
			"Ports of a machine need not be the usual ones.", etcdArgs(m, []string{"a=https://127.63.1.3:2380", "m=https://127.63.1.2:12380"}, "existing"),
			[]string{"--name=m", "--listen-peer-urls=https://127.63.1.2:12380", "--initial-cluster=a=https://127.63.1.3:2380,m=https://127.63.1.2:12380", "--initial-cluster-state=existing"},
		},
		"ControllerManager": {
			"Nodes get ranges of addresses only where the cluster has some.", withPods.controllerManagerArgs(ManagersSpec{Minor: "1.35"}),
			[]string{"--allocate-node-cidrs=true", "--cluster-cidr=192.168.0.0/16", "--emulated-version=kube=1.35"},
		},
		"Scheduler": {"", c.schedulerArgs(ManagersSpec{Minor: "1.36"}), []string{"--emulated-version=kube=1.36"}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			for _, arg := range test.want {
				if !slices.Contains(test.args, arg) {
					t.Errorf("%s is missing in %q. %s", arg, test.args, test.why)
				}
			}
		})
	}
	if slices.Contains(c.controllerManagerArgs(ManagersSpec{Minor: "1.35"}), "--allocate-node-cidrs=true") {
		t.Error("ranges of addresses from nowhere")
	}
}

func TestInitialCluster(t *testing.T) {
	m := machine(t)
	got := initialCluster([]*etcdserverpb.Member{
		{Name: "first", PeerURLs: []string{"https://127.63.1.9:2380"}},
		{Name: "", PeerURLs: []string{"https://127.63.1.2:12380"}},
	}, m)
	if want := []string{"first=https://127.63.1.9:2380", "m=https://127.63.1.2:12380"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestStaleMembers(t *testing.T) {
	m := machine(t)
	other := m
	other.IP = netip.MustParseAddr("127.63.1.9")
	cases := map[string]struct {
		why   string
		give  *etcdserverpb.Member
		stale bool
	}{
		"Announced":       {"It has no data, so it can only join anew.", &etcdserverpb.Member{PeerURLs: []string{m.peerURL()}, IsLearner: true}, true},
		"Voter":           {"", &etcdserverpb.Member{PeerURLs: []string{m.peerURL()}}, true},
		"OtherVoter":      {"", &etcdserverpb.Member{PeerURLs: []string{"https://127.63.1.3:2380"}}, false},
		"LearnerThatRuns": {"It is about to be promoted.", &etcdserverpb.Member{PeerURLs: []string{other.peerURL()}, IsLearner: true}, false},
		"LearnerOfNobody": {"Etcd takes one learner at a time.", &etcdserverpb.Member{PeerURLs: []string{"https://127.63.1.3:2380"}, IsLearner: true}, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := staleMembers([]*etcdserverpb.Member{c.give}, m, []Machine{other}); (len(got) == 1) != c.stale {
				t.Errorf("got %v. %s", got, c.why)
			}
		})
	}
}

func TestHasData(t *testing.T) {
	m := machine(t)
	if m.HasData() {
		t.Error("a new machine has data")
	}
	if err := os.MkdirAll(filepath.Join(m.Dir, "etcd", "member", "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !m.HasData() {
		t.Error("the data of an earlier run was not found")
	}
	if err := m.Discard(); err != nil || m.HasData() {
		t.Errorf("the data is still there (%v)", err)
	}
}

func TestFirstAddress(t *testing.T) {
	cases := map[string]struct {
		subnets, want string
		fails         bool
	}{
		"One":      {"10.96.0.0/12", "10.96.0.1", false},
		"Two":      {"10.128.0.0/12,fd00::/112", "10.128.0.1", false},
		"Unmasked": {"10.96.3.4/16", "10.96.0.1", false},
		"None":     {"", "", true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := firstAddress(c.subnets)
			if (err != nil) != c.fails || err == nil && got.String() != c.want {
				t.Errorf("got %s, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestProgramIsStartedAgain(t *testing.T) {
	p, err := launch(t.Context(), process.Spec{Name: "sleep", Path: "/bin/sleep", Args: []string{"1000"}, LogFile: filepath.Join(t.TempDir(), "log")}, testr.New(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := p.process()
	killed, err := os.FindProcess(first.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for p.process() == first {
		select {
		case <-deadline:
			t.Fatal("it was not started again")
		case <-time.After(20 * time.Millisecond):
		}
	}
	p.Stop(noGrace(t.Context()))
	select {
	case <-p.process().Done():
	default:
		t.Error("it runs after Stop")
	}
}

func TestProgramStoppedWhileItWaits(t *testing.T) {
	p, err := launch(t.Context(), process.Spec{Name: "false", Path: "/bin/false", LogFile: filepath.Join(t.TempDir(), "log")}, testr.New(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := p.process()
	<-first.Done()
	p.Stop(noGrace(t.Context()))
	if p.process() != first {
		t.Error("it was started again although it was stopped")
	}
}

func TestDisturbedProgram(t *testing.T) {
	changed := make(chan struct{}, 1)
	p, err := launch(t.Context(), process.Spec{Name: "sleep", Path: "/bin/sleep", Args: []string{"1000"}, LogFile: filepath.Join(t.TempDir(), "log")}, testr.New(t), func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(noGrace(t.Context()))
	first := p.process()
	await := func(what string, holds func() bool) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for !holds() {
			select {
			case <-deadline:
				t.Fatalf("%s: in vain; the program is %+v, its process %s", what, p.state(), kernelState(t, p.process().Pid()))
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	kernel := func(state string) func() bool {
		return func() bool { return kernelState(t, p.process().Pid()) == state }
	}

	p.disturb(Disturbance{Hung: true})
	<-changed
	await("stands still", kernel("T"))
	if s := p.state(); !s.Running || !s.Hung {
		t.Errorf("a program that stands still is %+v", s)
	}
	p.disturb(Disturbance{Pause: 50 * time.Millisecond})
	await("runs for a moment", kernel("S"))
	await("pauses", kernel("T"))
	await("runs for another moment", kernel("S"))
	p.disturb(Disturbance{})
	await("runs again", kernel("S"))

	p.disturb(Disturbance{Down: true})
	<-first.Done()
	await("is down", func() bool { return !p.state().Running })
	if s := p.state(); s.ExitCode != 137 {
		t.Errorf("exit code %d, want that of a program that was killed", s.ExitCode)
	}
	p.disturb(Disturbance{})
	await("is started again", func() bool { return p.process() != first && p.state().Running })
}

func TestHungProgramEndsInOrder(t *testing.T) {
	p, err := launch(t.Context(), process.Spec{Name: "sleep", Path: "/bin/sleep", Args: []string{"1000"}, LogFile: filepath.Join(t.TempDir(), "log")}, testr.New(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.disturb(Disturbance{Hung: true})
	p.Stop(t.Context())
	if code := p.process().ExitCode(); code != 143 {
		t.Errorf("exit code %d, want that of a program that was asked to end", code)
	}
}

// kernelState is the state of a process, such as S or T; empty when it is gone.
func kernelState(t *testing.T, pid int) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	return after[:1]
}
