// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kill lets the operator die at every request that changes anything: before it is sent, after it was carried
// out but not answered, and after its answer. Another process has to bring everything to the same end.
package kill

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	v1 = "docker-starter-1-35-v1"
	up = "docker-starter-1-36-v1"
	// Each release is for one version of Kubernetes.
	k135, k136 = "v1.35.4", "v1.36.4"
)

const generated = `
apiVersion: v1
kind: Secret
metadata:
  name: cni-password
stringData:
  password: {{ randAlphaNum 20 }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: cni
`

func configMap(name, text string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  text: \"" + text + " of {{ .Values.cluster }}\"\n"
}

// phase is a part of the life of a cluster, in which the operator dies once for each cluster.
type phase struct {
	name string
	// begin is what the user does.
	begin func(*testing.T, *operatortest.Tenant)
	// reached tells what is missing at its end.
	reached func(*operatortest.Tenant, *v1alpha1.ClusterAddon) string
}

// matrix is a world whose tenants all live through the same, except for when the operator dies.
type matrix struct {
	*operatortest.World
	t         *testing.T
	untouched *operatortest.Tenant // nobody dies for it
	tenants   []*operatortest.Tenant
	passwords map[string]map[string]string
}

func newMatrix(t *testing.T, tenants int) *matrix {
	t.Helper()
	m := &matrix{World: operatortest.New(t), t: t, passwords: map[string]map[string]string{}}
	m.Publish(t, v1, operatortest.Release(t, v1,
		operatortest.Addon{Name: "cni", Templates: generated + configMap("cni", "1") + configMap("shared-name", "1")},
		operatortest.Addon{Name: "metrics", Templates: configMap("metrics", "1")},
	))
	m.Publish(t, up, operatortest.Release(t, up,
		operatortest.Addon{Name: "cni", Templates: generated + configMap("cni", "2")},
		operatortest.Addon{Name: "csi", Templates: configMap("csi", "2")},
	))
	for range tenants {
		m.tenants = append(m.tenants, m.Tenant(t))
	}
	m.untouched = m.tenants[0]
	m.Goes = func(n *operatortest.Tenant) {
		texts, err := n.Texts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"cni: 2 of c", "csi: 2 of c"} {
			if !slices.Contains(texts, want) {
				t.Errorf("%s: Cluster API may go on without %q, there is only %q", n.Namespace, want, texts)
			}
		}
	}
	return m
}

// phases are the life of a cluster.
func phases() []phase {
	return []phase{
		{
			name: "install",
			begin: func(t *testing.T, n *operatortest.Tenant) {
				n.Subscribe(t, operatortest.Stack("1.35", "v1"))
				n.Create(t, v1, k135)
			},
			reached: operatortest.Reached(v1),
		},
		{
			name: "upgrade",
			begin: func(t *testing.T, n *operatortest.Tenant) {
				n.Subscribe(t, operatortest.Stack("1.36", "v1"))
				n.Use(t, up, k136)
			},
			reached: operatortest.Reached(up),
		},
		{
			name:  "delete",
			begin: func(t *testing.T, n *operatortest.Tenant) { n.Delete(t) },
			reached: func(n *operatortest.Tenant, _ *v1alpha1.ClusterAddon) string {
				left, err := n.Collect(context.Background())
				if err != nil {
					return err.Error()
				}
				return strings.Join(left, ", ")
			},
		},
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
				p.begin(t, n)
			}
		}
		m.Await(t, o, m.tenants, func(n *operatortest.Tenant, addon *v1alpha1.ClusterAddon) string {
			if dead, _ := m.Fates.Dead(n.Namespace); dead {
				return ""
			}
			return p.reached(n, addon)
		})
		if points == nil {
			m.AwaitRest(t, o)
		}
		o.End()
		if i == 0 {
			changes = m.Fates.Changes(m.untouched.Namespace)
		}
		for _, n := range m.tenants {
			m.keeps(n)
			if dead, at := m.Fates.Dead(n.Namespace); dead {
				deaths++
				where[n.Namespace] = append(where[n.Namespace], at)
			}
		}
	}
	m.compare(p, where)
	t.Logf("%s: %d requests that change something; the operator died at %d points, and all came to the same end; %s",
		p.name, changes, deaths, time.Since(began).Round(time.Second))
	if changes >= most {
		t.Errorf("%s: %d requests that change something, but the operator dies only at the first %d: more clusters are needed", p.name, changes, most)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// keeps checks that what was generated for a tenant is what it was before.
func (m *matrix) keeps(n *operatortest.Tenant) {
	m.t.Helper()
	now, err := n.Generated(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for name, value := range now {
		if before, known := m.passwords[n.Namespace][name]; known && before != value {
			m.t.Errorf("%s: the generated value of %s has changed", n.Namespace, name)
		}
	}
	if len(now) > 0 {
		m.passwords[n.Namespace] = now
	}
}

// compare checks that all tenants have come to the end that the one has for which nobody died.
func (m *matrix) compare(p phase, where map[string][]string) {
	t := m.t
	t.Helper()
	states, err := m.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	golden := states[m.untouched.Namespace]
	wrong := 0
	for _, n := range m.tenants {
		n.CheckForeign(t)
		n.CheckEvents(t)
		if diff := cmp.Diff(golden, states[n.Namespace]); diff != "" {
			if wrong++; wrong <= 3 {
				t.Errorf("%s: died at %q: another end (-without a death +with it):\n%s", p.name, where[n.Namespace], diff)
			}
		}
	}
	if wrong > 3 {
		t.Errorf("%s: %d tenants came to another end", p.name, wrong)
	}
}

const (
	// most is more than the requests that change something in any phase.
	most = 24
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
