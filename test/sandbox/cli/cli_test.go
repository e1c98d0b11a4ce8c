// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cli has a session with csctl and a sandbox that runs, as a person would have it in a terminal.
package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"csctl": func() { os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

func TestSession(t *testing.T) {
	programs, err := binaries.Ensure(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	class, err := os.ReadFile(filepath.Join("..", "clustertest", "files", "class.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			tools := filepath.Join(env.WorkDir, "tools")
			env.Setenv("PATH", env.Getenv("PATH")+string(filepath.ListSeparator)+tools)
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("KUBECONFIG", filepath.Join(env.WorkDir, "config"))
			env.Setenv(binaries.AssetsVariable, filepath.Dir(programs.Manifests))
			env.Defer(func() { tidy(t, env) })
			return errors.Join(
				os.Mkdir(tools, 0o755),
				os.Symlink(programs.Kubectl, filepath.Join(tools, "kubectl")),
				os.WriteFile(filepath.Join(env.WorkDir, "class.yaml"), class, 0o600),
			)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"signal": signal},
	})
}

// tidy ends what a session that failed has left running.
func tidy(t *testing.T, env *testscript.Env) {
	csctl, err := exec.LookPath("csctl")
	if err != nil {
		t.Error(err)
		return
	}
	down := exec.Command(csctl, "sandbox", "down")
	down.Env = env.Vars
	if out, err := down.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", down, err, out)
	}
}

// signal sends a signal to each process of a program that works below a folder: signal STOP FOLDER PROGRAM.
func signal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}
	if neg || len(args) != 3 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal STOP|CONT folder program")
	}
	pids, err := process.Below(ts.MkAbs(args[1]))
	ts.Check(err)
	running, err := process.LookAll(pids)
	ts.Check(err)
	sent := 0
	for _, r := range running {
		if r.Program == args[2] {
			ts.Check(syscall.Kill(r.PID, signals[args[0]]))
			sent++
		}
	}
	if sent == 0 {
		ts.Fatalf("no %s runs below %s", args[2], args[1])
	}
}
