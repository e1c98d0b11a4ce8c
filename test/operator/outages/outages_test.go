// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package outages takes the servers of the management cluster, and of a workload cluster, away while clusters come up and
// are upgraded: processes are killed and stopped, and the disk of etcd is full. Then they come back.
package outages

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// outage is something that happens to a control plane and is over when the function returns. The time is for how long it
// lasts, if that is not up to the fault.
type outage func(t *testing.T, c *sandboxtest.ControlPlane, lasts time.Duration)

func kill(program string) outage {
	return func(t *testing.T, c *sandboxtest.ControlPlane, _ time.Duration) { c.Kill(t, program) }
}

// stall suspends a program: what it was asked, and what it is asked from now on, gets no answer, but connections stay.
func stall(program string) outage {
	return func(t *testing.T, c *sandboxtest.ControlPlane, lasts time.Duration) {
		c.Signal(t, program, syscall.SIGSTOP)
		<-time.After(lasts)
		c.Signal(t, program, syscall.SIGCONT)
	}
}

// fillDisk makes etcd refuse all writes, as it does by itself when it has used up its quota.
func fillDisk(t *testing.T, c *sandboxtest.ControlPlane, lasts time.Duration) {
	etcd := c.Etcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), operatortest.Patience)
	defer cancel()
	members, err := etcd.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	member := members.Members[0].ID
	_, err = etcdserverpb.NewMaintenanceClient(etcd.ActiveConnection()).Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: etcdserverpb.AlarmType_NOSPACE,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(lasts)
	if _, err := etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: member, Alarm: etcdserverpb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
}

// site is a management cluster that may fail, with an operator that has to live through it.
type site struct {
	*operatortest.World
	control  *sandboxtest.ControlPlane
	operator *operatortest.Operator
	calm     *operatortest.Tenant
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{control: sandboxtest.NewControlPlane(t)}
	s.World = operatortest.NewIn(t, s.control.Config())
	s.PublishLife(t)
	s.operator = s.Live(t)
	s.calm = s.Tenant(t)
	s.live(t, func(string) {}, s.calm)
	return s
}

// live lets clusters come up and upgrades them, with an outage each time when some of it is done.
func (s *site) live(t *testing.T, outage func(during string), clusters ...*operatortest.Tenant) {
	t.Helper()
	for _, phase := range []struct {
		name  string
		begin func(*operatortest.Tenant, testing.TB)
		end   string
	}{
		{"the installation", (*operatortest.Tenant).Install, operatortest.First},
		{"the upgrade", (*operatortest.Tenant).Upgrade, operatortest.Next},
	} {
		writes := s.Writes()
		for _, n := range clusters {
			phase.begin(n, t)
		}
		s.AwaitWrites(t, s.operator, writes+int64(4*len(clusters)))
		outage(phase.name)
		began := time.Now()
		s.Await(t, s.operator, clusters, operatortest.Reached(phase.end))
		t.Logf("%s is done %s after the outage", phase.name, time.Since(began).Round(100*time.Millisecond))
	}
}

// TestOutages has one operator for all outages, which go on one after the other.
func TestOutages(t *testing.T) {
	s := newSite(t)
	for name, tc := range map[string]struct {
		outage outage
		times  int
		lasts  time.Duration
	}{
		"APIServerIsKilled": {kill(sandboxtest.KubeAPIServer), 1, 0},
		"EtcdIsKilled":      {kill(sandboxtest.Etcd), 2, 0},
		"EtcdStalls":        {stall(sandboxtest.Etcd), 1, 5 * time.Second},
		"APIServerStalls":   {stall(sandboxtest.KubeAPIServer), 1, 5 * time.Second},
		"EtcdIsFull":        {fillDisk, 1, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			clusters := []*operatortest.Tenant{s.Tenant(t), s.Tenant(t), s.Tenant(t)}
			s.live(t, func(string) {
				for range tc.times {
					tc.outage(t, s.control, tc.lasts)
				}
			}, clusters...)
			s.Check(t, s.operator, clusters, operatortest.End{Texts: operatortest.NextTexts, Like: s.calm})
		})
	}
	t.Run("WorkloadAPIServerIsKilled", func(t *testing.T) {
		workload := sandboxtest.NewControlPlane(t)
		kubeconfig := func() ([]byte, error) { return os.ReadFile(workload.Kubeconfig()) }
		n := s.TenantOn(t, workload.Config(), kubeconfig)
		s.live(t, func(string) { workload.Kill(t, sandboxtest.KubeAPIServer) }, n)
		s.Check(t, s.operator, []*operatortest.Tenant{n}, operatortest.End{Texts: operatortest.NextTexts})
	})
}
