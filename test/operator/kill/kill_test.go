// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kill lets the operator die at every request that changes anything: before it is sent, after it was carried
// out but not answered, and after its answer. Another process has to bring everything to the same end.
package kill

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// phase is a part of the life of a cluster, in which the operator dies once for each cluster.
type phase struct {
	name string
	// begin is what the user does.
	begin func(*operatortest.Tenant, testing.TB)
	// reached tells what is missing at its end, and texts are those of the addons then.
	reached func(*operatortest.Tenant, *v1alpha1.ClusterAddon) string
	texts   []string
}

// matrix is a world whose tenants all live through the same, except for when the operator dies.
type matrix struct {
	*operatortest.World
	t         *testing.T
	untouched *operatortest.Tenant // nobody dies for it
	tenants   []*operatortest.Tenant
}

func newMatrix(t *testing.T, tenants int) *matrix {
	t.Helper()
	m := &matrix{World: operatortest.New(t), t: t}
	m.PublishLife(t)
	for range tenants {
		m.tenants = append(m.tenants, m.Tenant(t))
	}
	m.untouched = m.tenants[0]
	return m
}

// phases are the life of a cluster.
func phases() []phase {
	return []phase{
		{name: "install", begin: (*operatortest.Tenant).Install, reached: operatortest.Reached(operatortest.First), texts: operatortest.FirstTexts},
		{name: "upgrade", begin: (*operatortest.Tenant).Upgrade, reached: operatortest.Reached(operatortest.Next), texts: operatortest.NextTexts},
		{name: "delete", begin: (*operatortest.Tenant).Delete, reached: operatortest.Gone},
	}
}

// live lives through a phase with one operator after the other. Each dies for each tenant at the point that it is
// given, the last one for nobody.
func (m *matrix) live(p phase, lives ...map[string]operatortest.Point) {
	t := m.t
	t.Helper()
	began := time.Now()
	where := map[string][]string{}
	deaths, changes := 0, 0
	for i, points := range append(lives, nil) {
		m.Fates.Set(points)
		o := m.Live(t, "--clusterstack-concurrency=20", "--clusterstackrelease-concurrency=20", "--clusteraddon-concurrency=20")
		if i == 0 {
			for _, n := range m.tenants {
				p.begin(n, t)
			}
		}
		m.Await(t, o, m.tenants, func(n *operatortest.Tenant, addon *v1alpha1.ClusterAddon) string {
			if dead, _ := m.Fates.Dead(n.Namespace); dead {
				return ""
			}
			return p.reached(n, addon)
		})
		if points == nil {
			m.Check(t, o, m.tenants, operatortest.End{
				Texts: p.texts, Like: m.untouched,
				Happened: func(n *operatortest.Tenant) string { return fmt.Sprintf("died at %q", where[n.Namespace]) },
			})
		}
		o.End()
		if i == 0 {
			changes = m.Fates.Changes(m.untouched.Namespace)
		}
		for _, n := range m.tenants {
			n.CheckGenerated(t)
			if dead, at := m.Fates.Dead(n.Namespace); dead {
				deaths++
				where[n.Namespace] = append(where[n.Namespace], at)
			}
		}
	}
	t.Logf("%s: %d requests that change something; the operator died at %d points, and all came to the same end; %s",
		p.name, changes, deaths, time.Since(began).Round(time.Second))
	if changes >= most {
		t.Errorf("%s: %d requests that change something, but the operator dies only at the first %d: more clusters are needed", p.name, changes, most)
	}
	if t.Failed() {
		t.FailNow()
	}
}

const (
	// most is more than the requests that change something in any phase.
	most = 36
	// moments are those before a request is sent, and before its answer is heard. After that is before the next one.
	moments = 2
)

// TestDiesAnywhere has a cluster for each request of a phase that changes something and each moment of it, and lets the
// operator die for the cluster there. The one after it dies somewhere, too, and the third one has to bring all of them to
// the end that the cluster came to for which nobody died.
func TestDiesAnywhere(t *testing.T) {
	m := newMatrix(t, 1+most*moments)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	for _, p := range phases() {
		first, second := map[string]operatortest.Point{m.untouched.Namespace: {}}, map[string]operatortest.Point{}
		for i, n := range m.tenants[1:] {
			first[n.Namespace] = operatortest.Point{N: 1 + i/moments, Moment: operatortest.Moment(i % moments)}
			second[n.Namespace] = operatortest.Point{N: 1 + random.IntN(most/2), Moment: operatortest.Moment(random.IntN(int(operatortest.Moments)))}
		}
		m.live(p, first, second)
	}
}
