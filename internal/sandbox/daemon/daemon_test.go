// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDir(t *testing.T) {
	t.Setenv("HOME", "/home/user")
	for name, tc := range map[string]struct {
		why     string
		sandbox string
		state   string
		want    string
		err     string
	}{
		"Default":           {sandbox: "default", want: "/home/user/.local/state/cluster-stack/sandbox/default"},
		"StateHome":         {sandbox: "a-1", state: "/state", want: "/state/cluster-stack/sandbox/a-1"},
		"StateHomeRelative": {why: "The XDG specification has relative paths ignored.", sandbox: "default", state: "state", want: "/home/user/.local/state/cluster-stack/sandbox/default"},
		"Empty":             {sandbox: "", err: "sandbox name"},
		"PathEscape":        {why: "down removes the folder.", sandbox: "../..", err: "sandbox name"},
		"TooLong":           {sandbox: strings.Repeat("a", 33), err: "sandbox name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_STATE_HOME", tc.state)
			got, err := Dir(tc.sandbox)
			if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %q, %v. %s", got, err, tc.why)
			}
		})
	}
}

// TestDirBehindALink: down would remove the folder below the feet of a daemon that is known by another name.
func TestDirBehindALink(t *testing.T) {
	target, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, inside := range []string{"", "state"} { // the latter is not there yet
		t.Setenv("XDG_STATE_HOME", filepath.Join(link, inside))
		want := filepath.Join(target, inside, "cluster-stack", "sandbox", "a")
		if got, err := Dir("a"); got != want || err != nil {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}

func TestReadTellsTheDeadFromTheLiving(t *testing.T) {
	ticks, err := startTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		why  string
		give State
		want string
	}{
		"Living":       {give: State{Phase: PhaseReady, PID: os.Getpid(), StartTicks: ticks}, want: PhaseReady},
		"Gone":         {give: State{Phase: PhaseReady, PID: 1 << 30, StartTicks: 1}, want: PhaseDead},
		"NumberReused": {why: "Another process has the number now.", give: State{Phase: PhaseReady, PID: os.Getpid(), StartTicks: ticks + 1}, want: PhaseDead},
		"Failed":       {why: "A failed start is told with its reason after its process has ended.", give: State{Phase: PhaseFailed, PID: 1 << 30}, want: PhaseFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_STATE_HOME", t.TempDir())
			dir, err := Dir("default")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := tc.give.write(dir); err != nil {
				t.Fatal(err)
			}
			got, err := Read("default")
			if err != nil || got.Phase != tc.want {
				t.Errorf("got %s, %v. %s", got.Phase, err, tc.why)
			}
		})
	}
}

func TestReadWithoutSandbox(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	_, err := Read("default")
	var want *NotRunningError
	if !errors.As(err, &want) {
		t.Errorf("got %v", err)
	}
}

// TestWhatNext: nobody is to lose clusters by advice about logs.
func TestWhatNext(t *testing.T) {
	for outcome, want := range map[Outcome]string{
		Started: "csctl sandbox down --name a removes them",
		Resumed: "all that is in it is kept: csctl sandbox up --name a tries again, csctl sandbox down --name a removes it",
	} {
		if got := whatNext(outcome, "a"); got != want {
			t.Errorf("%s: %q, want %q", outcome, got, want)
		}
	}
}

// TestDownEndsWhatAKilledDaemonLeft: a program that outlived its daemon carries the sandbox's mark.
func TestDownEndsWhatAKilledDaemonLeft(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir, err := Dir("default")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	left := exec.CommandContext(t.Context(), "sleep", "600")
	left.Env = []string{"CLUSTER_STACK_SANDBOX=" + dir}
	other := exec.CommandContext(t.Context(), "sleep", "600")
	other.Env = []string{"CLUSTER_STACK_SANDBOX=" + dir + "-other"}
	for _, c := range []*exec.Cmd{left, other} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()

	found, err := Down(t.Context(), "default")
	if err != nil || !found {
		t.Fatalf("found %t, %v", found, err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the program still runs")
	}
	if _, err := startTicks(other.Process.Pid); err != nil {
		t.Errorf("a program of another sandbox was ended: %v", err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = other.Wait()
	if diff := cmp.Diff([]string(nil), list(t, os.Getenv("XDG_STATE_HOME"))); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
