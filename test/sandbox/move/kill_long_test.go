// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package move

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestKilledSandboxes: whichever sandbox is killed while a cluster goes from one to the other, the cluster goes on, in
// one of them only.
func TestKilledSandboxes(t *testing.T) {
	for name, tc := range map[string]struct {
		why string
		// move takes the objects of the cluster from blue to green, and kills.
		move func(t *testing.T, blue, green *sandbox)
		// alone says that blue's objects stay, and so blue must not run again.
		alone bool
	}{
		"Source": {
			why: "Nobody may be left who lets go of the cluster.",
			move: func(t *testing.T, blue, green *sandbox) {
				blue.moveTo(t, green)
				blue.killSoon(t)
			},
		},
		"Target": {
			why: "It may have the cluster on disk and not know yet.",
			move: func(t *testing.T, blue, green *sandbox) {
				blue.moveTo(t, green)
				green.killSoon(t)
				green.up(t)
			},
		},
		"LostManagementCluster": {
			why: "Objects of a backup come back in another management cluster.",
			move: func(t *testing.T, blue, green *sandbox) {
				backup := t.TempDir()
				clusterctl(t, "move", "--namespace="+cluster.Namespace, "--kubeconfig="+blue.kubeconfig(), "--to-directory="+backup)
				blue.kill(t)
				clusterctl(t, "move", "--to-kubeconfig="+green.kubeconfig(), "--from-directory="+backup)
			},
			alone: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			home, err := os.MkdirTemp("", "move-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.RemoveAll(home); err != nil {
					t.Error(err)
				}
			})
			t.Setenv("XDG_STATE_HOME", home)
			blue, green := start(t, home, "blue"), start(t, home, "green")

			source := blue.management(t)
			source.Namespace(t, cluster.Namespace)
			clustertest.CreateClass(t, source, cluster.Namespace)
			wanted := clustertest.NewCluster(cluster, "v1.36.3", 1, 1)
			wanted.Annotations = map[string]string{"sandbox.clusterstack.x-k8s.io/control-plane": "lite"}
			if err := source.Create(t.Context(), wanted); err != nil {
				t.Fatal(err)
			}
			workload := source.Workload(t, patience, cluster)
			data := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kept"}}
			if err := workload.Create(t.Context(), data); err != nil {
				t.Fatal(err)
			}
			source.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))

			tc.move(t, blue, green)
			target := green.management(t)
			goesOn := func() {
				t.Helper()
				target.AwaitCluster(t, patience, cluster, clustertest.Holds(clusterv1.ClusterAvailableCondition))
				got := &corev1.ConfigMap{}
				if err := workload.Get(t.Context(), client.ObjectKeyFromObject(data), got); err != nil || got.UID != data.UID {
					t.Fatalf("the data is not there: %v. %s", err, tc.why)
				}
				if here, there := len(target.Programs(t, cluster)), len(source.Programs(t, cluster)); here == 0 || there != 0 {
					t.Fatalf("%d programs of it run in green, %d in blue. %s", here, there, tc.why)
				}
			}
			goesOn()
			if !tc.alone {
				blue.up(t)
				goesOn()
			}
			target.DeleteCluster(t, patience, cluster)
		})
	}
}

// sandbox is one that is started as users do it.
type sandbox struct{ name, dir string }

func start(t *testing.T, home, name string) *sandbox {
	t.Helper()
	s := &sandbox{name: name, dir: filepath.Join(home, "cluster-stack", "sandbox", name)}
	t.Cleanup(func() { s.csctl(t, "down") })
	s.up(t)
	return s
}

func (s *sandbox) up(t *testing.T) {
	t.Helper()
	s.csctl(t, "up", "--operator", "none")
}

func (s *sandbox) csctl(t *testing.T, command string, args ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	args = append([]string{"sandbox", command, "--name", s.name}, args...)
	if code := cli.Run(args, strings.NewReader(""), &stdout, &stderr); code != 0 {
		t.Fatalf("csctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, &stdout, &stderr)
	}
}

func (s *sandbox) kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

func (s *sandbox) management(t *testing.T) *clustertest.Management {
	t.Helper()
	return clustertest.Open(t, s.kubeconfig(), s.dir)
}

func (s *sandbox) moveTo(t *testing.T, target *sandbox) {
	t.Helper()
	clusterctl(t, "move", "--namespace="+cluster.Namespace, "--kubeconfig="+s.kubeconfig(), "--to-kubeconfig="+target.kubeconfig())
}

// killSoon kills at some moment of the hand-over, which takes a few seconds.
func (s *sandbox) killSoon(t *testing.T) {
	t.Helper()
	wait := rand.N(4 * time.Second)
	t.Logf("%s is killed %s after the move", s.name, wait.Round(time.Millisecond))
	<-time.After(wait)
	s.kill(t)
}

func (s *sandbox) kill(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.dir, "sandbox.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ PID int }
	if err := json.Unmarshal(raw, &state); err != nil || state.PID == 0 {
		t.Fatal(fmt.Errorf("the process of sandbox %s is not known: %w", s.name, err))
	}
	clustertest.Kill(t, state.PID)
}
