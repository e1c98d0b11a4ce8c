// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e walks whole stories against the programs as users run them.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// root is the repository, seen from this package.
const root = "../.."

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// programs builds csctl, the operator and the quickstart once, and returns their folder.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var built = sync.OnceValues(func() (string, error) {
	// Below the repository's bin: a folder that git ignores, and that the next run builds into again.
	dir, err := filepath.Abs(filepath.Join(root, "bin", "e2e"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/csctl", "./cmd/cluster-stack-operator", "./hack/quickstart")
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return dir, cmd.Run()
})
