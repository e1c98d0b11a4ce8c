// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	before, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	block := make([]byte, size)
	for begin := time.Now(); time.Since(begin) < 100*time.Millisecond; {
		for i := 0; i < size; i += 1 << 10 {
			block[i]++
		}
	}
	after, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.Memory - before.Memory; grown < size/2 {
		t.Errorf("%d MiB were written to, but the memory has grown by %d KiB", size>>20, grown>>10)
	}
	if worked := after.CPU - before.CPU; worked <= 0 {
		t.Errorf("CPU time has gone from %s to %s in a busy loop", before.CPU, after.CPU)
	}
	if block[0] == 0 {
		t.Error("nothing was written")
	}
}

func TestUsageOfAProcessThatHasEnded(t *testing.T) {
	dir := t.TempDir()
	p, err := Start(Spec{Name: "true", Path: "/bin/true", LogFile: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if usage, err := UsageOf(p.Pid()); err != nil || usage != (Usage{}) {
		t.Errorf("got %+v, %v", usage, err)
	}
}

func TestBelow(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"one", "one/two", "one-more"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	start := func(folder string) int {
		p, err := Start(Spec{Name: folder, Path: "/bin/sleep", Args: []string{"600"}, LogFile: filepath.Join(dir, folder, "log")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Stop(t.Context()) }) // sleep ends on SIGTERM; that it had to be killed would not matter
		return p.Pid()
	}
	want := []int{start("one"), start("one/two")}
	start("one-more")
	slices.Sort(want)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{dir, link} {
		got, err := Below(filepath.Join(way, "one"))
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if got, err := Below(filepath.Join(dir, "none")); err != nil || len(got) > 0 {
		t.Errorf("in a folder that is not there: %v, %v", got, err)
	}
}
