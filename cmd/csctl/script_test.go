// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"csctl": main})
}

// TestScripts runs whole sessions with csctl, as a person would have them in a terminal.
func TestScripts(t *testing.T) {
	stacks, err := filepath.Abs("../../stacks")
	if err != nil {
		t.Fatal(err)
	}
	registry := registrytest.Start(t, registrytest.Options{})
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("STACKS", stacks)
			env.Setenv("REGISTRY", registry.Host)
			// For sessions that change the path.
			path, err := exec.LookPath("csctl")
			env.Setenv("CSCTL", path)
			return err
		},
	})
}
