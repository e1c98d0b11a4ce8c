// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"testing"
	"time"
)

// TestMachineIsSwitchedOffAndOn: also when the simulator is restarted in between.
func TestMachineIsSwitchedOffAndOn(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir)
	c := ensure(t, f, "one")
	if _, err := c.Allocate(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if since, err := c.boot("m"); err != nil || !since.IsZero() {
		t.Fatalf("a machine that was never off is on since %s (%v)", since, err)
	}
	if err := c.Halt(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if c.machines["m"].Off {
		t.Error("a machine was switched off that had not been on")
	}
	c.up["m"] = true
	if err := c.Halt(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if c.IsUp("m") {
		t.Error("a machine is up that was switched off")
	}

	restarted := func() *Cluster {
		f.Close(t.Context())
		f = fleet(t, dir)
		return ensure(t, f, "one")
	}
	first, err := restarted().boot("m")
	if err != nil || time.Since(first) > time.Minute {
		t.Fatalf("the machine has booted at %s (%v)", first, err)
	}
	again, err := restarted().boot("m")
	if err != nil || !again.Equal(first) {
		t.Errorf("the machine has booted at %s, and then again at %s (%v)", first, again, err)
	}
}
