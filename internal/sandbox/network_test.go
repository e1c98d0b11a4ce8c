// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

func TestReserveBlockLeavesWhatIsKept(t *testing.T) {
	one, err := ReserveBlock()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = one.Close() }()
	var others []string
	for x := firstBlock; x <= lastBlock; x++ {
		if prefix := fmt.Sprintf("127.%d", x); prefix != one.Prefix {
			others = append(others, prefix)
		}
	}
	if other, err := ReserveBlock(others...); err == nil {
		t.Errorf("a new sandbox got %s, which another one needs when it is started again", other.Prefix)
	}
}

func TestReserveBlockAgain(t *testing.T) {
	mine := fmt.Sprintf("127.of-test-%d", os.Getpid()) // which no sandbox beside this test chooses
	first, err := ReserveBlockAgain(mine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReserveBlockAgain(mine); err == nil || !strings.Contains(err.Error(), "another sandbox has the loopback addresses "+mine) {
		t.Errorf("got %v", err)
	}
	given := make(chan struct{})
	go func() {
		defer close(given)
		_ = first.Close()
	}()
	again, err := ReserveBlockAgain(mine)
	if err != nil {
		t.Fatalf("what somebody was about to give back: %v", err)
	}
	<-given
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestPortsStayTheSame(t *testing.T) {
	block, err := ReserveBlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = block.Close() })
	file := filepath.Join(t.TempDir(), "ports.json")
	take := func(name, ip string, standard int) int {
		t.Helper()
		p, err := readPorts(file) // as after a restart
		if err != nil {
			t.Fatal(err)
		}
		port, err := p.take(name, ip, standard)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	ip, standard := block.Address(1), portOfNobody(t)
	if got := take("etcd", ip, standard); got != standard {
		t.Errorf("got %d, want the standard port %d", got, standard)
	}
	webhook := take("webhook", "", 0)
	if got := take("webhook", "", 0); got != webhook {
		t.Errorf("got %d after a restart, want %d again", got, webhook)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(standard)))
	if err != nil {
		t.Fatal(err)
	}
	moved := take("etcd", ip, standard)
	if moved == standard {
		t.Error("got a port that somebody else has")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := take("etcd", ip, standard); got != moved {
		t.Errorf("got %d, want %d, which it had before", got, moved)
	}
	if got := take("other", "", webhook); got == webhook {
		t.Error("two programs got one port")
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
