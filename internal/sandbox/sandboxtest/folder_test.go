// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFoldersOfTheDeadAreSwept and no others.
func TestFoldersOfTheDeadAreSwept(t *testing.T) {
	parent := t.TempDir()
	living, err := newFolder(parent)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := newFolder(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dead.path, "1", "etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := dead.lock.Close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	others := []string{"of-somebody-else", "cluster-stack-test-results"}
	for _, name := range others {
		if err := os.Mkdir(filepath.Join(parent, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	next, err := newFolder(parent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead.path); !os.IsNotExist(err) {
		t.Errorf("the folder of a process that was killed is there: %v", err)
	}
	if _, err := os.Stat(living.path); err != nil {
		t.Errorf("the folder of a process that runs: %v", err)
	}
	for _, f := range []*folder{living, next} {
		if err := f.remove(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != len(others) {
		t.Errorf("left: %v, %v", left, err)
	}
}
