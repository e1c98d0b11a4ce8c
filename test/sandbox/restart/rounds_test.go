// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package restart

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// roundVariable repeats one round: SEED/NUMBER, as the round logged it.
const roundVariable = "CLUSTER_STACK_SANDBOX_ROUND"

// latest is how long after the order of a cluster something is killed at the latest. It is about as long as the cluster
// needs to be Available, so that the kill meets all that happens until then.
const latest = 40 * time.Second

// round is one life of a sandbox: up, create a cluster, kill a process, up, the cluster comes to be all the same, down.
type round struct {
	seed   uint64
	number int
	// after is how long after the order of the cluster the process is killed.
	after time.Duration
	// victim picks one of the processes, from 0 to 1.
	victim float64
}

// newRound decides a round by its seed and number alone. The first kills the daemon, and with it everything.
func newRound(seed uint64, number int) round {
	random := rand.New(rand.NewPCG(seed, uint64(number))) //nolint:gosec // to be repeatable is the point
	return round{seed: seed, number: number, after: time.Duration(random.Int64N(int64(latest))), victim: random.Float64()}
}

func (r round) String() string { return fmt.Sprintf("%d/%d", r.seed, r.number) }

// TestRounds kills a random process at a random moment, again and again. There are more rounds with the build tag long.
func TestRounds(t *testing.T) {
	var all []round
	if only := os.Getenv(roundVariable); only != "" {
		var seed uint64
		var number int
		if _, err := fmt.Sscanf(only, "%d/%d", &seed, &number); err != nil {
			t.Fatalf("%s=%s: want SEED/NUMBER: %v", roundVariable, only, err)
		}
		all = []round{newRound(seed, number)}
	} else {
		seed := rand.Uint64()
		for number := range rounds {
			all = append(all, newRound(seed, number))
		}
	}
	for _, r := range all {
		t.Run(fmt.Sprint(r.number), func(t *testing.T) {
			t.Parallel()
			t.Logf("repeat this round with %s=%s", roundVariable, r)
			r.run(t)
		})
	}
}

func (r round) run(t *testing.T) {
	s := newSandbox(t)
	cluster := types.NamespacedName{Namespace: "default", Name: "one"}
	s.csctl(t, "up")
	m := s.management(t)
	clustertest.CreateClass(t, m, cluster.Namespace)
	order := clustertest.NewCluster(cluster, "v1.36.3", 1, 0)
	order.Annotations = map[string]string{infra.ControlPlaneAnnotation: infra.ControlPlaneLite}
	ordered := time.Now()
	if err := m.Create(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(r.after - time.Since(ordered)): // no event: the moment is to be any
	case <-t.Context().Done():
	}
	pid, name := r.choose(t, s)
	t.Logf("killing %s %s after the order of the cluster", name, r.after.Round(time.Millisecond))
	clustertest.Kill(t, pid)

	s.csctl(t, "up")
	m = s.management(t)
	m.AwaitCluster(t, limit, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
	t.Logf("Available %s after its order", time.Since(ordered).Round(time.Second))
	s.csctl(t, "down")
}

// choose picks a process of the sandbox, its daemon included.
func (r round) choose(t *testing.T, s *sandbox) (pid int, name string) {
	t.Helper()
	type candidate struct {
		name string
		pid  int
	}
	candidates := []candidate{{"the daemon", s.state(t).PID}}
	if r.number == 0 {
		return candidates[0].pid, candidates[0].name
	}
	pids, err := process.Marked(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		p, err := process.Look(pid)
		if err != nil {
			continue // it has just ended
		}
		name := filepath.Base(p.Program)
		if strings.Contains(strings.Join(p.Args, " "), filepath.Join(s.dir, "machines")) {
			name += " of the cluster"
		}
		candidates = append(candidates, candidate{name, pid})
	}
	slices.SortFunc(candidates, func(a, b candidate) int { return cmp.Compare(a.name, b.name) })
	chosen := candidates[int(r.victim*float64(len(candidates)))]
	return chosen.pid, chosen.name
}
