// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// addresses hands out the addresses of pods; each is given to one pod of the cluster at a time.
type addresses struct {
	mu    sync.Mutex
	byPod map[types.UID]netip.Addr
	taken map[netip.Addr]types.UID
	last  map[netip.Prefix]netip.Addr
}

func newAddresses() *addresses {
	return &addresses{byPod: map[types.UID]netip.Addr{}, taken: map[netip.Addr]types.UID{}, last: map[netip.Prefix]netip.Addr{}}
}

// of gives the address of a pod, a new one out of prefix when it has none. An address that was just freed is
// not given out again before all others were: connections to it may still be remembered.
func (a *addresses) of(pod types.UID, prefix netip.Prefix) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.byPod[pod]; ok {
		return known, nil
	}
	prefix = prefix.Masked()
	first := prefix.Addr().Next() // the network's own address; the one after it belongs to the Node
	candidate, ok := a.last[prefix]
	if !ok {
		candidate = first
	}
	for wrapped := false; ; {
		candidate = candidate.Next()
		if !prefix.Contains(candidate) {
			if wrapped {
				return netip.Addr{}, fmt.Errorf("no free address in %s", prefix)
			}
			wrapped, candidate = true, first
			continue
		}
		if _, used := a.taken[candidate]; !used {
			a.last[prefix], a.byPod[pod], a.taken[candidate] = candidate, candidate, pod
			return candidate, nil
		}
	}
}

// keep takes note of the address that a pod has already.
func (a *addresses) keep(pod types.UID, address string) {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return // a pod without an address has nothing to keep
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.byPod[pod], a.taken[ip] = ip, pod
}

// free makes the address of a pod available again.
func (a *addresses) free(pod types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ip, ok := a.byPod[pod]; ok {
		delete(a.byPod, pod)
		delete(a.taken, ip)
	}
}
