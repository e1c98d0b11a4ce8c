// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cli has a session with csctl and a sandbox that runs, as a person would have it in a terminal.
package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
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
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"await": await},
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
	})
}

// await runs a command again and again until its output matches: what it tells of takes a while to come about.
func await(ts *testscript.TestScript, neg bool, args []string) {
	const patience = 2 * time.Minute
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await pattern command [args...]")
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(patience); ; {
		if err := ts.Exec(args[1], args[2:]...); err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no match for %#q within %s in\n%s%s", args[0], patience, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
	}
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
