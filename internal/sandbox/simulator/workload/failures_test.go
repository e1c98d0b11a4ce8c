// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"os"
	"path/filepath"
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

// TestMachineThatIsNotSwitchedOffStaysOn: whoever tries again has to find what is still to be switched off.
func TestMachineThatIsNotSwitchedOffStaysOn(t *testing.T) {
	c := ensure(t, fleet(t, t.TempDir()), "one")
	if _, err := c.Allocate(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	c.up["m"] = true
	inTheWay := filepath.Join(c.machineDir("m"), machineFile+".tmp") // nothing can be written then
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.Halt(t.Context(), "m"); err == nil || !c.IsUp("m") {
		t.Errorf("the machine is up: %t (%v)", c.IsUp("m"), err)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := c.Halt(t.Context(), "m"); err != nil || c.IsUp("m") {
		t.Errorf("the machine is up: %t (%v)", c.IsUp("m"), err)
	}
}

// TestMachineOfAReleasedClusterIsNotWritten: its folder is another sandbox's now.
func TestMachineOfAReleasedClusterIsNotWritten(t *testing.T) {
	f := fleet(t, t.TempDir())
	c := withData(t, f, "one")
	c.up["m"] = true
	if err := f.Release(t.Context(), c.NamespacedName); err != nil {
		t.Fatal(err)
	}
	if err := c.Halt(t.Context(), "m"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("the folder of the cluster is there again (%v)", err)
	}
}
