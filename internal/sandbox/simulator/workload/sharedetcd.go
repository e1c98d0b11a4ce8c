// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
)

const (
	// sharedEtcdDir is among the folders of namespaces; no namespace can have this name.
	sharedEtcdDir = ".etcd"
	// sharedEtcdNumber is the last byte of its address, in the part of the network that belongs to the management side:
	// addresses there are given out from the other end.
	sharedEtcdNumber = 255
)

// SharedEtcd gives the etcd that clusters without an etcd of their own share. It is started when it is first asked for,
// and stopped by Close.
func (f *Fleet) SharedEtcd(ctx context.Context) (*controlplane.SharedEtcd, error) {
	f.etcd.Lock()
	defer f.etcd.Unlock()
	if f.etcd.closed {
		return nil, errClosed
	}
	if f.etcd.running != nil {
		return f.etcd.running, nil
	}
	dir := filepath.Join(f.Dir, sharedEtcdDir)
	started, err := StartSharedEtcd(ctx, f.Programs, dir, address(f.Prefix.Masked().Addr(), sharedEtcdNumber), f.Log.WithValues("etcd", "shared"))
	f.etcd.running = started
	return started, err
}

// StartSharedEtcd starts an etcd for many API servers, at an address of its own, with all that it keeps in a folder: it
// goes on with what is there of an earlier run.
func StartSharedEtcd(ctx context.Context, programs binaries.Set, dir string, ip netip.Addr, log logr.Logger) (*controlplane.SharedEtcd, error) {
	machine := controlplane.Machine{Name: "shared-etcd", IP: ip, Dir: dir}
	// The authority is kept, since Secrets hold its certificate.
	ca, err := pki.EnsureCA(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"), "sandbox-shared-etcd")
	if err == nil {
		machine.Ports.Etcd, err = freePort(ctx, ip, etcdPort)
	}
	if err == nil {
		machine.Ports.EtcdPeer, err = freePort(ctx, ip, etcdPeerPort)
	}
	if err != nil {
		return nil, fmt.Errorf("shared etcd: %w", err)
	}
	etcd, err := controlplane.StartSharedEtcd(ctx, programs, machine, ca, log)
	if err != nil {
		return nil, fmt.Errorf("shared etcd: %w", err)
	}
	return etcd, nil
}

// etcdPrefix is below which a cluster keeps its objects in the shared etcd.
func etcdPrefix(cluster types.NamespacedName) string {
	return "/" + cluster.Namespace + "/" + cluster.Name
}

// forgetShared deletes what a cluster that is gone keeps in the shared etcd.
func (f *Fleet) forgetShared(ctx context.Context, prefix string) error {
	if _, err := os.Stat(filepath.Join(f.Dir, sharedEtcdDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	etcd, err := f.SharedEtcd(ctx)
	if err != nil {
		return err
	}
	if err := etcd.Forget(ctx, prefix); err != nil {
		return fmt.Errorf("delete %s from the shared etcd: %w", prefix, err)
	}
	return nil
}
