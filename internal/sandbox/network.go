// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// The blocks of loopback addresses that sandboxes choose from: 127.64.0.0/16 to 127.126.0.0/16. Low
// numbers are left to what else uses loopback addresses (127.0.0.1, 127.0.1.1, 127.0.0.53).
const firstBlock, lastBlock = 64, 126

// Block is a range of 65,536 loopback addresses that one sandbox has to itself. Management programs use
// its first address, simulated machines the others, so that every program can keep its standard port.
type Block struct {
	// Prefix is the fixed half of the addresses, as "127.64".
	Prefix string
	lock   *net.UnixListener
}

// ReserveBlock takes a block that no other sandbox on this machine has. Those whose prefixes are given belong to
// sandboxes that may be started again. It is held until Close, or until this process ends.
func ReserveBlock(kept ...string) (*Block, error) {
	const blocks = lastBlock - firstBlock + 1
	// Any one, not the first that is free: that would be the one of a sandbox that has ended to be started again in a
	// moment, of which only those that share its state folder are told.
	begin := rand.IntN(blocks) //nolint:gosec // any block will do
	for i := range blocks {
		prefix := fmt.Sprintf("127.%d", firstBlock+(begin+i)%blocks)
		if slices.Contains(kept, prefix) {
			continue
		}
		block, err := reserve(prefix)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		return block, err
	}
	return nil, fmt.Errorf("all %d blocks of loopback addresses are taken by other sandboxes; csctl sandbox list shows them, csctl sandbox down ends one", blocks)
}

// ReserveBlockAgain takes the block that a sandbox had before.
func ReserveBlockAgain(prefix string) (*Block, error) {
	// A process that was killed may still be about to give it back.
	const patience, pause = 5 * time.Second, 20 * time.Millisecond
	deadline := time.Now().Add(patience)
	for {
		block, err := reserve(prefix)
		if !errors.Is(err, unix.EADDRINUSE) {
			return block, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another sandbox has the loopback addresses %s.0.0/16, which the clusters of this one need; end the other one first (csctl sandbox list shows those of this user), or remove this one with csctl sandbox down", prefix)
		}
		time.Sleep(pause) // a lock gives no sign when it becomes free
	}
}

func reserve(prefix string) (*Block, error) {
	lock, err := Lock("addresses/" + prefix)
	if err != nil {
		return nil, fmt.Errorf("reserve loopback addresses %s.0.0/16: %w", prefix, err)
	}
	return &Block{Prefix: prefix, lock: lock}, nil
}

// Close gives the block back.
func (b *Block) Close() error { return b.lock.Close() }

// Address is the n-th address of the management side, from 1.
func (b *Block) Address(n int) string { return fmt.Sprintf("%s.0.%d", b.Prefix, n) }

// Lock takes a lock that the kernel drops when this process ends and that leaves nothing on disk: a
// socket with an abstract name. Such names live in the network namespace, as loopback addresses do.
// When somebody else holds it the error is EADDRINUSE.
func Lock(name string) (*net.UnixListener, error) {
	// Hashed, because the kernel takes no more than 107 bytes.
	sum := sha256.Sum256([]byte(name))
	return net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("@cluster-stack-sandbox/%x", sum)})
}

// ports remembers which port each program was given: what others were told of it stays true when the sandbox is
// started again.
type ports struct {
	file string

	mu    sync.Mutex
	known map[string]int // by name
}

func readPorts(file string) (*ports, error) {
	p := &ports{file: file, known: map[string]int{}}
	if err := statefile.Read(file, &p.known); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return p, nil
}

// take gives a port for a program to bind on ip: the one that it had before, else the standard one, else any. An empty ip
// stands for all addresses.
func (p *ports) take(name, ip string, standard int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := cmp.Or(p.known[name], standard)
	for {
		port, err := freePort(ip, wanted)
		if err != nil {
			return 0, err
		}
		if p.isOfAnother(name, port) { // which may not listen yet
			wanted = 0
			continue
		}
		p.known[name] = port
		return port, statefile.Write(p.file, p.known)
	}
}

func (p *ports) isOfAnother(name string, port int) bool {
	for other, taken := range p.known {
		if other != name && taken == port {
			return true
		}
	}
	return false
}

// freePort returns a port that can be bound on ip: the wanted one, unless some program has it on this
// address or on all addresses. An empty ip asks for a port that is free on all addresses.
func freePort(ip string, wanted int) (int, error) {
	if wanted != 0 && bindable(ip, wanted) {
		return wanted, nil
	}
	// Below the range from which the kernel serves outgoing connections (32768 by default), since the port
	// must still be free when the program that it is for binds it.
	const low, high, tries = 20000, 32000, 200
	for range tries {
		port := low + rand.IntN(high-low) //nolint:gosec // any port will do
		if bindable(ip, port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d on %q", low, high, ip)
}

func bindable(ip string, port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port))) //nolint:noctx // binding does not wait
	if err != nil {
		return false
	}
	return l.Close() == nil
}
