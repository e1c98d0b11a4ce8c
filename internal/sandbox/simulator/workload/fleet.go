// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package workload keeps the workload clusters of a sandbox: for each one a load balancer, the machines of
// its control plane, one pair of kube-controller-manager and kube-scheduler, and the kubelets of all its machines.
//
// Every machine has an IP address of its own out of the network of loopback, so that programs keep the ports that
// everybody expects. What has to survive a restart is in the folder of a cluster: its addresses, the data of
// etcd, certificates and logs. Programs do not survive; whoever asks for a machine again starts it again.
package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// Options of a fleet.
type Options struct {
	Programs binaries.Set
	// Dir keeps a folder for each cluster.
	Dir string
	// Prefix is the network of the sandbox, such as 127.64.0.0/16. Its first 256 addresses belong to others.
	Prefix netip.Prefix
	// Neighbours is a pattern for the Dirs of other sandboxes, from which clusters may be taken over. It may be empty.
	Neighbours string
	Log        logr.Logger
}

// Fleet is all workload clusters of a sandbox.
type Fleet struct {
	Options

	mu       sync.Mutex
	clusters map[types.NamespacedName]*Cluster
	// locks are held on the folders of all clusters, also of those that nobody asked for yet.
	locks  map[types.NamespacedName]*os.File
	closed bool

	etcd struct {
		sync.Mutex
		running *controlplane.SharedEtcd // nil before it is asked for
		closed  bool
	}
}

const (
	clusterFile = "cluster.json"
	machineFile = "machine.json"
	// firstNumber is the third byte of the addresses of the first cluster. It leaves 127.X.0.* to the management cluster.
	firstNumber = 1
	// balancerNumber is the last byte of the address of a cluster's load balancer.
	balancerNumber = 1
)

// clusterState is what is remembered of a cluster.
type clusterState struct {
	// Endpoint is where its load balancer listens. Its machines have the other addresses of the same third byte.
	Endpoint netip.AddrPort `json:"endpoint"`
	// Initialized says that what kubeadm creates was created.
	Initialized bool `json:"initialized"`
	// SharedEtcd says that its objects are in the etcd that clusters share.
	SharedEtcd bool `json:"sharedEtcd,omitempty"`
	// Owner is the object that it was made for.
	Owner Owner `json:"owner"`
}

// New gives the fleet that is kept in the folder; nothing runs yet.
func New(o Options) (*Fleet, error) {
	f := &Fleet{Options: o, clusters: map[types.NamespacedName]*Cluster{}, locks: map[types.NamespacedName]*os.File{}}
	files, err := filepath.Glob(filepath.Join(o.Dir, "*", "*", clusterFile))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		key := types.NamespacedName{Namespace: filepath.Base(filepath.Dir(dir)), Name: filepath.Base(dir)}
		if key.Namespace == releasedDir {
			continue
		}
		if err := f.hold(key); err != nil {
			o.Log.Info("not one of this sandbox's clusters any more: another one is taking it over", "cluster", key.String(), "cause", err.Error())
		}
	}
	return f, nil
}

// Spec is what a cluster is like. Only Lite can change.
type Spec struct {
	types.NamespacedName
	// Lite clusters have neither kube-controller-manager nor kube-scheduler, and their Nodes a network for nothing.
	Lite bool
	// PodSubnet, ServiceSubnet and DNSDomain as the API server takes them; the first may be empty.
	PodSubnet, ServiceSubnet, DNSDomain string
}

// Ensure gives the cluster of an object, with its load balancer listening. An object that names no endpoint gets
// a new cluster, with addresses that are its own until Remove. One that names an endpoint gets the cluster that is
// there, which may have to be taken over from another sandbox; the error is a NotHereError as long as that is not
// possible.
func (f *Fleet) Ensure(ctx context.Context, spec Spec, owner Owner, endpoint netip.AddrPort) (*Cluster, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.open(ctx, spec)
	if err == nil {
		if c.isOf(owner, endpoint) {
			return c, c.setOwner(owner)
		}
		// Left by an object of this name that is gone.
		if err := f.release(ctx, spec.NamespacedName); err != nil {
			return nil, err
		}
		err = fs.ErrNotExist
	}
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case endpoint.IsValid():
		return f.takeOver(ctx, spec, owner, endpoint)
	}
	state, err := f.allocate(ctx)
	if err != nil {
		return nil, err
	}
	state.Owner = owner
	if err := statefile.Write(filepath.Join(f.dir(spec.NamespacedName), clusterFile), state); err != nil {
		return nil, err
	}
	return f.open(ctx, spec)
}

// Open gives a cluster that Ensure made, now or in an earlier run, and fs.ErrNotExist when there is none.
func (f *Fleet) Open(ctx context.Context, spec Spec) (*Cluster, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open(ctx, spec)
}

// open needs the lock.
func (f *Fleet) open(ctx context.Context, spec Spec) (*Cluster, error) {
	if f.closed {
		return nil, errClosed
	}
	if c, ok := f.clusters[spec.NamespacedName]; ok {
		c.setLite(spec.Lite)
		return c, nil
	}
	if err := f.hold(spec.NamespacedName); err != nil {
		return nil, err
	}
	dir := f.dir(spec.NamespacedName)
	var state clusterState
	if err := statefile.Read(filepath.Join(dir, clusterFile), &state); err != nil {
		return nil, err
	}
	c, err := newCluster(ctx, f, spec, dir, state)
	if err != nil {
		return nil, err
	}
	f.clusters[spec.NamespacedName] = c
	return c, nil
}

// Pods counts the pods of a cluster that something is true of, besides static ones. Those of a cluster that does not
// run are none.
func (f *Fleet) Pods(key types.NamespacedName, of func(*corev1.Pod) bool) int {
	c := f.running(key)
	if c == nil {
		return 0
	}
	c.mu.Lock()
	kubelets := c.kubelets
	c.mu.Unlock()
	if kubelets == nil {
		return 0
	}
	return kubelets.Count(of)
}

// SharesEtcd tells whether the machines of a cluster have no etcd of their own.
func (f *Fleet) SharesEtcd(key types.NamespacedName) bool {
	c := f.running(key)
	return c != nil && c.sharesEtcd()
}

// running is a cluster that was opened in this run, nil if there is none of that name.
func (f *Fleet) running(key types.NamespacedName) *Cluster {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clusters[key]
}

// Remove ends a cluster and forgets all of it.
func (f *Fleet) Remove(ctx context.Context, key types.NamespacedName) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Another sandbox may be taking the cluster over right now.
	if err := f.hold(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cluster %s: %w", key, err)
	}
	if c, ok := f.clusters[key]; ok {
		c.kill(ctx)
	}
	dir := f.dir(key)
	var state clusterState
	if err := statefile.Read(filepath.Join(dir, clusterFile), &state); err == nil && state.SharedEtcd {
		if err := f.forgetShared(ctx, etcdPrefix(key)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // only when it was the last cluster of its namespace
	f.forget(key)
	return nil
}

// Close stops everything and keeps what is on disk. Programs may take until ctx is done. Who asks for a cluster later,
// since it did not notice in time, gets none.
func (f *Fleet) Close(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	var all sync.WaitGroup
	for _, c := range f.clusters {
		all.Go(func() { c.stop(ctx) })
	}
	all.Wait()
	for key := range f.locks {
		f.forget(key)
	}
	f.etcd.Lock()
	defer f.etcd.Unlock()
	f.etcd.closed = true
	if f.etcd.running != nil {
		f.etcd.running.Stop(ctx)
		f.etcd.running = nil
	}
}

func (f *Fleet) dir(key types.NamespacedName) string {
	return filepath.Join(f.Dir, key.Namespace, key.Name)
}

// allocate needs the lock. It finds an address that nobody has and a port for the load balancer. A cluster that went to
// another sandbox keeps its addresses.
func (f *Fleet) allocate(ctx context.Context) (clusterState, error) {
	taken := map[netip.Addr]bool{}
	for _, cluster := range f.all() {
		taken[cluster.Endpoint.Addr()] = true
	}
	for number := firstNumber; number <= 255; number++ {
		bytes := f.Prefix.Masked().Addr().As4()
		bytes[2], bytes[3] = byte(number), balancerNumber
		ip := netip.AddrFrom4(bytes)
		if taken[ip] {
			continue
		}
		port, err := freePort(ctx, ip, apiServerPort)
		return clusterState{Endpoint: netip.AddrPortFrom(ip, port)}, err
	}
	return clusterState{}, errors.New("this sandbox has 255 clusters, which is all it has addresses for: delete one, or start another sandbox")
}

// address is that of a machine of the cluster with an endpoint.
func address(endpoint netip.Addr, machine byte) netip.Addr {
	bytes := endpoint.As4()
	bytes[3] = machine
	return netip.AddrFrom4(bytes)
}

// freePort gives the preferred port if nobody listens there, on this address or on all, and any free one otherwise.
func freePort(ctx context.Context, ip netip.Addr, preferred uint16) (uint16, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(ip, preferred).String())
	if err != nil {
		if listener, err = config.Listen(ctx, "tcp", netip.AddrPortFrom(ip, 0).String()); err != nil {
			return 0, err
		}
	}
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	return port, listener.Close()
}
