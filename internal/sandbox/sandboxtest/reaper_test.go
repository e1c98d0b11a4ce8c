// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest

import "testing"

// TestNumbersComeBack: a test that is run many times starts more API servers than a block has addresses.
func TestNumbersComeBack(t *testing.T) {
	r := &Reaper{dir: t.TempDir(), taken: map[int]bool{}}
	for want := 1; want <= 254; want++ {
		if got, err := r.take(); got != want || err != nil {
			t.Fatalf("got %d, %v; want %d", got, err, want)
		}
	}
	if got, err := r.take(); err == nil {
		t.Errorf("got %d of 254", got)
	}
	if err := r.discard(7); err != nil {
		t.Fatal(err)
	}
	if got, err := r.take(); got != 7 || err != nil {
		t.Errorf("got %d, %v; want the one that came back", got, err)
	}
}
