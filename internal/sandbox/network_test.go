// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"net"
	"strconv"
	"testing"
)

func TestReserveBlock(t *testing.T) {
	one, err := ReserveBlock()
	if err != nil {
		t.Fatal(err)
	}
	two, err := ReserveBlock()
	if err != nil {
		t.Fatal(err)
	}
	if one.Prefix == two.Prefix {
		t.Errorf("two sandboxes have %s", one.Prefix)
	}
	if got, want := one.Address(3), one.Prefix+".0.3"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, b := range []*Block{one, two} {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestFreePort(t *testing.T) {
	block, err := ReserveBlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = block.Close() })
	ip := block.Address(1)

	for name, tc := range map[string]struct {
		why    string
		taken  string // address that a listener has
		wanted bool
	}{
		"Free":                  {wanted: true, why: "Programs have their standard ports where they can."},
		"TakenOnTheAddress":     {taken: ip},
		"TakenOnAllAddresses":   {taken: "", why: "A Kubernetes or etcd of this machine may listen on the wildcard address."},
		"TakenOnAnotherAddress": {taken: "127.0.0.1", wanted: true, why: "What listens on 127.0.0.1 is not in the way."},
	} {
		t.Run(name, func(t *testing.T) {
			port := portOfNobody(t)
			if name != "Free" {
				l, err := net.Listen("tcp", net.JoinHostPort(tc.taken, strconv.Itoa(port)))
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			}
			got, err := freePort(ip, port)
			if err != nil {
				t.Fatal(err)
			}
			if (got == port) != tc.wanted {
				t.Errorf("wanted %d, got %d. %s", port, got, tc.why)
			}
			if !bindable(ip, got) {
				t.Errorf("port %d cannot be bound", got)
			}
		})
	}
}

// portOfNobody is a port that is free on all addresses.
func portOfNobody(t *testing.T) int {
	t.Helper()
	port, err := freePort("", 0)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
