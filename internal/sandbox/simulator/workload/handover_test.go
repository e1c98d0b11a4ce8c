// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr/testr"
	"golang.org/x/sys/unix"
)

// sandboxes gives the fleets of sandboxes whose state folders lie side by side in one folder.
func sandboxes(t *testing.T) func(name string) *Fleet {
	t.Helper()
	state := t.TempDir()
	return func(name string) *Fleet {
		t.Helper()
		f, err := New(Options{
			Dir: filepath.Join(state, name, "machines"), Neighbours: filepath.Join(state, "*", "machines"),
			Prefix: prefix, Log: testr.New(t),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close(context.WithoutCancel(t.Context())) })
		return f
	}
}

// withData makes a cluster with a machine and something that only it has.
func withData(t *testing.T, f *Fleet, name string) *Cluster {
	t.Helper()
	c := ensure(t, f, name)
	if _, err := c.Allocate(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.machineDir("m"), "data"), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func wantData(t *testing.T, c *Cluster, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(c.machineDir("m"), "data"))
	if string(got) != want || err != nil && want != "" {
		t.Errorf("cluster %s has the data %q of %q (%v)", c.Spec, got, want, err)
	}
}

// moved is the object of a cluster in the management cluster that it was moved to.
var moved = Owner{Kind: "InfraCluster", Name: "one", UID: "moved"}

func TestHandOver(t *testing.T) {
	sandbox := sandboxes(t)
	source, target := sandbox("source"), sandbox("target")
	c := withData(t, source, "one")
	endpoint := c.Endpoint()

	var notHere *NotHereError
	if _, err := target.Ensure(t.Context(), spec("one"), moved, endpoint); !errors.As(err, &notHere) || !strings.Contains(notHere.Holder, "source") {
		t.Errorf("the target took what the source runs: %v", err)
	}
	if err := source.Release(t.Context(), c.NamespacedName); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Open(t.Context(), spec("one")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the source still has it: %v", err)
	}
	got, err := target.Ensure(t.Context(), spec("one"), moved, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if got.Endpoint() != endpoint {
		t.Errorf("at %s, not at %s", got.Endpoint(), endpoint)
	}
	if ip, err := got.Allocate(t.Context(), "m"); ip != netip.MustParseAddr("127.63.1.2") || err != nil {
		t.Errorf("its machine is at %s, %v", ip, err)
	}
	wantData(t, got, "one")
	if owner := target.Owners()[got.NamespacedName]; owner != moved {
		t.Errorf("it belongs to %+v", owner)
	}
	// The addresses are in use, though not by the sandbox whose network it is.
	if other := ensure(t, source, "other"); other.Endpoint().Addr() == endpoint.Addr() {
		t.Error("the source gave the addresses away")
	}

	// And back.
	if err := target.Release(t.Context(), got.NamespacedName); err != nil {
		t.Fatal(err)
	}
	back, err := source.Ensure(t.Context(), spec("one"), Owner{UID: "back"}, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	wantData(t, back, "one")
}

// TestRemoveLeavesWhatSomebodyElseHolds: whoever takes a cluster over has the lock on its folder before it renames it.
func TestRemoveLeavesWhatSomebodyElseHolds(t *testing.T) {
	source := sandboxes(t)("source")
	c := withData(t, source, "one")
	source.Close(t.Context())
	lock, err := lockDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Remove(t.Context(), c.NamespacedName); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("got %v", err)
	}
	wantData(t, c, "one")
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := source.Remove(t.Context(), c.NamespacedName); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("it is left (%v)", err)
	}
}

// TestHandOverAfterKill: whatever moment a sandbox is killed in, one of the two goes on with the cluster.
func TestHandOverAfterKill(t *testing.T) {
	for name, tc := range map[string]struct {
		why  string
		kill func(t *testing.T, source *Fleet, c *Cluster)
	}{
		"BeforeItWasReleased": {
			why:  "The kernel has dropped the lock, and nobody will let go of the cluster any more.",
			kill: func(*testing.T, *Fleet, *Cluster) {},
		},
		"AfterItWasReleased": {
			kill: func(t *testing.T, source *Fleet, c *Cluster) {
				if err := source.Release(t.Context(), c.NamespacedName); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox := sandboxes(t)
			source := sandbox("source")
			c := withData(t, source, "one")
			tc.kill(t, source, c)
			source.Close(t.Context()) // as far as locks and addresses go, the end of the process

			target := sandbox("target")
			got, err := target.Ensure(t.Context(), spec("one"), moved, c.Endpoint())
			if err != nil {
				t.Fatalf("%v. %s", err, tc.why)
			}
			wantData(t, got, "one")
			target.Close(t.Context())

			// Both come back. The source's object is gone, or still there if the move was not finished.
			source, target = sandbox("source"), sandbox("target")
			var notHere *NotHereError
			if _, err := source.Ensure(t.Context(), spec("one"), Owner{UID: "one"}, c.Endpoint()); !errors.As(err, &notHere) {
				t.Errorf("the source got %v", err)
			}
			if got, err = target.Open(t.Context(), spec("one")); err != nil {
				t.Fatal(err)
			}
			wantData(t, got, "one")
		})
	}
}

// TestSeizedButNotOwned: a target that was killed between the rename and what it writes next goes on.
func TestSeizedButNotOwned(t *testing.T) {
	sandbox := sandboxes(t)
	source, target := sandbox("source"), sandbox("target")
	c := withData(t, source, "one")
	source.Close(t.Context())
	if err := os.MkdirAll(filepath.Join(target.Dir, "n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.dir, target.dir(c.NamespacedName)); err != nil {
		t.Fatal(err)
	}
	got, err := sandbox("target").Ensure(t.Context(), spec("one"), moved, c.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	wantData(t, got, "one")
	if got.state.Owner != moved {
		t.Errorf("it belongs to %+v", got.state.Owner)
	}
}

// TestDataOfAGoneObjectIsLeftAlone: a person removed the finalizers of a cluster's object, or of the Cluster, and
// makes another one of that name. It starts with nothing.
func TestDataOfAGoneObjectIsLeftAlone(t *testing.T) {
	for name, told := range map[string]bool{"Released": true, "ReplacedUnseen": false} {
		t.Run(name, func(t *testing.T) {
			f := sandboxes(t)("one")
			old := withData(t, f, "one")
			if told {
				if err := f.Release(t.Context(), old.NamespacedName); err != nil {
					t.Fatal(err)
				}
			}
			c, err := f.Ensure(t.Context(), spec("one"), Owner{UID: "another"}, netip.AddrPort{})
			if err != nil {
				t.Fatal(err)
			}
			wantData(t, c, "")
			if c.Endpoint() == old.Endpoint() {
				t.Error("it got the addresses of the one before, whose data is still there")
			}
		})
	}
}

func TestEndpointOfNobody(t *testing.T) {
	f := sandboxes(t)("one")
	_, err := f.Ensure(t.Context(), spec("one"), moved, netip.MustParseAddrPort("127.63.9.1:6443"))
	if err == nil || !strings.Contains(err.Error(), "leave spec.controlPlaneEndpoint empty") {
		t.Errorf("got %v", err)
	}
	if _, err := f.Open(t.Context(), spec("one")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left something behind: %v", err)
	}
}

// TestReleaseTwice: the event of the deletion may come again.
func TestReleaseTwice(t *testing.T) {
	f := sandboxes(t)("one")
	c := withData(t, f, "one")
	for range 2 {
		if err := f.Release(t.Context(), c.NamespacedName); err != nil {
			t.Fatal(err)
		}
	}
}
