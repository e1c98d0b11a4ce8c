// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
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

// ReserveBlock takes a block that no other sandbox on this machine has. It is held until Close, or until
// this process ends.
func ReserveBlock() (*Block, error) {
	for x := firstBlock; x <= lastBlock; x++ {
		prefix := fmt.Sprintf("127.%d", x)
		lock, err := Lock("addresses/" + prefix)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reserve loopback addresses %s.0.0/16: %w", prefix, err)
		}
		return &Block{Prefix: prefix, lock: lock}, nil
	}
	return nil, fmt.Errorf("all %d blocks of loopback addresses are taken by other sandboxes; end one with csctl sandbox down", lastBlock-firstBlock+1)
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
