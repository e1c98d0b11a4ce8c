// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package statefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	file := filepath.Join(dir, "state.json")
	type state struct{ Ports map[string]int }
	var got state
	if err := Read(file, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is written: %v", err)
	}
	// What a writer left that was killed is no obstacle.
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(file+".tmp", []byte(`{"Por`), 0o600)); err != nil {
		t.Fatal(err)
	}
	want := state{Ports: map[string]int{"etcd": 2379}}
	for range 2 {
		if err := Write(file, want); err != nil {
			t.Fatal(err)
		}
	}
	if err := Read(file, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestReadNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var into struct{}
	if err := Read(file, &into); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}
