// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package restart proves that a sandbox goes on with all clusters after it was stopped, and after anything of it was
// killed at any moment, and that nothing of it is left in the end.
package restart

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// limit is for what takes a minute on a machine that is not busy.
const limit = 8 * time.Minute

// TestMain lets the test binary be csctl, for the tests and for the sandboxes that they start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sandbox" {
		os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	// Tests mostly wait for Cluster API, so that more of them run at once than there are processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// sandbox is one that a test uses by csctl, as a person would.
type sandbox struct {
	home, dir string
}

// newSandbox gives a sandbox that does not run yet. When the test ends there must be nothing left of it.
func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	// Not t.TempDir: the test itself is to find out what is left.
	home, err := os.MkdirTemp("", "sandbox-restart-")
	if err != nil {
		t.Fatal(err)
	}
	s := &sandbox{home: home, dir: filepath.Join(home, "cluster-stack", "sandbox", "default")}
	t.Cleanup(func() {
		if t.Failed() {
			s.keepLogs(t)
			_, _ = s.try("down")
			_ = os.RemoveAll(home)
			return
		}
		if err := os.Remove(home); err != nil {
			t.Errorf("files are left: %v", err)
		}
		s.expectNoProcess(t)
	})
	return s
}

// logsVariable names a folder for the logs of sandboxes whose test has failed.
const logsVariable = "CLUSTER_STACK_SANDBOX_LOGS"

func (s *sandbox) keepLogs(t *testing.T) {
	keep := os.Getenv(logsVariable)
	if keep == "" {
		return
	}
	to := filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.CopyFS(to, os.DirFS(s.dir)); err != nil {
		t.Logf("keep logs: %v", err)
	}
}

func (s *sandbox) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{"sandbox"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+s.home)
	return cmd
}

func (s *sandbox) try(args ...string) (string, error) {
	out, err := s.command(args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("csctl sandbox %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// csctl runs a command that is to succeed.
func (s *sandbox) csctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *sandbox) state(t *testing.T) daemon.State {
	t.Helper()
	var state daemon.State
	if err := json.Unmarshal([]byte(s.csctl(t, "status", "-o", "json")), &state); err != nil {
		t.Fatal(err)
	}
	return state
}

// management gives clients of the management cluster.
func (s *sandbox) management(t *testing.T) *clustertest.Management {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(s.csctl(t, "kubeconfig")))
	if err != nil {
		t.Fatal(err)
	}
	return &clustertest.Management{WithWatch: clustertest.Connect(t, config)}
}

func (s *sandbox) expectNoProcess(t *testing.T) {
	t.Helper()
	pids, err := process.Marked(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		p, err := process.Look(pid)
		t.Errorf("process %d is left: %+v (%v)", pid, p, err)
	}
}
