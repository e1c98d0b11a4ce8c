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

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// releasedDir is a folder beside those of namespaces, whose names begin with no dot. It has the clusters that nobody
// of this sandbox runs any more, by their endpoints.
const releasedDir = ".released"

// Owner is the object that a cluster was made for, in the cluster's namespace.
type Owner struct {
	Group string    `json:"group"`
	Kind  string    `json:"kind"`
	Name  string    `json:"name"`
	UID   types.UID `json:"uid"`
}

// NotHereError says that the cluster of an endpoint is not this sandbox's, and that no other one has let go of it.
type NotHereError struct {
	Endpoint netip.AddrPort
	// Holder is the folder of who runs it; empty when there is no such cluster.
	Holder string
}

func (e *NotHereError) Error() string {
	if e.Holder == "" {
		return fmt.Sprintf("there is no cluster at %s in any sandbox of this user; if this is to be a new cluster, leave spec.controlPlaneEndpoint empty", e.Endpoint)
	}
	return fmt.Sprintf("the cluster at %s is still run by the sandbox in %s; it goes over when its infrastructure object is gone there", e.Endpoint, e.Holder)
}

// Release ends a cluster whose object is gone though nobody asked for the cluster's end: clusterctl moved the
// object to another management cluster, or a person removed its finalizers. The data stays, for the sandbox that asks
// for a cluster with this endpoint.
func (f *Fleet) Release(ctx context.Context, key types.NamespacedName) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.release(ctx, key)
}

// release needs the lock, and keeps it until all programs have ended: nobody may open the cluster in between.
func (f *Fleet) release(ctx context.Context, key types.NamespacedName) error {
	if err := f.hold(key); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("release cluster %s: %w", key, err)
	}
	dir := f.dir(key)
	var state clusterState
	if err := statefile.Read(filepath.Join(dir, clusterFile), &state); err != nil {
		return fmt.Errorf("release cluster %s: %w", key, err)
	}
	if c, ok := f.clusters[key]; ok {
		c.kill(ctx)
	}
	if state.SharedEtcd {
		// Nobody can go on with a part of it, and the next cluster of this name would find its objects.
		// The folder goes last: without it, nobody would know that something is to be deleted there.
		if err := f.forgetShared(ctx, etcdPrefix(key)); err != nil {
			return fmt.Errorf("release cluster %s: %w", key, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		f.forget(key)
		f.Log.Info("removed a cluster whose infrastructure object is gone", "cluster", key.String())
		return nil
	}
	released := filepath.Join(f.Dir, releasedDir, state.Endpoint.String())
	if err := os.MkdirAll(filepath.Dir(released), 0o700); err != nil {
		return err
	}
	if err := os.Rename(dir, released); err != nil {
		return fmt.Errorf("release cluster %s: %w", key, err)
	}
	f.forget(key)
	_ = os.Remove(filepath.Dir(dir)) // only when it was the last cluster of its namespace
	f.Log.Info("released a cluster whose infrastructure object is gone; another sandbox may go on with it",
		"cluster", key.String(), "endpoint", state.Endpoint.String(), "dir", released)
	return nil
}

// takeOver makes the cluster of an endpoint one of this fleet, when nobody runs it. It needs the lock.
func (f *Fleet) takeOver(ctx context.Context, spec Spec, owner Owner, endpoint netip.AddrPort) (*Cluster, error) {
	missing := &NotHereError{Endpoint: endpoint}
	for _, candidate := range f.all() {
		if candidate.Endpoint != endpoint {
			continue
		}
		if candidate.SharedEtcd {
			return nil, fmt.Errorf("cluster %s cannot be taken over from %s: it has no etcd of its own", spec, candidate.dir)
		}
		err := f.seize(candidate.dir, spec.NamespacedName, owner)
		switch {
		case err == nil:
			f.Log.Info("took a cluster over", "cluster", spec.String(), "endpoint", endpoint.String(), "from", candidate.dir)
			return f.open(ctx, spec)
		case errors.Is(err, unix.EWOULDBLOCK):
			missing.Holder = candidate.dir
		case !errors.Is(err, fs.ErrNotExist): // somebody was faster
			return nil, fmt.Errorf("take over cluster %s: %w", spec, err)
		}
	}
	return nil, missing
}

// seize takes the folder of a cluster that nobody runs. A fleet that is killed right after the rename finds the
// cluster among its own.
func (f *Fleet) seize(dir string, key types.NamespacedName, owner Owner) error {
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	own := f.dir(key)
	f.forget(key)
	// What may be there is the beginning of a cluster that nobody went on with.
	if err := errors.Join(os.RemoveAll(own), os.MkdirAll(filepath.Dir(own), 0o700), os.Rename(dir, own)); err != nil {
		return errors.Join(err, lock.Close())
	}
	f.locks[key] = lock
	var state clusterState
	if err := statefile.Read(filepath.Join(own, clusterFile), &state); err != nil {
		return err
	}
	state.Owner = owner
	return statefile.Write(filepath.Join(own, clusterFile), state)
}

// hold takes the lock of a cluster of this fleet, if it does not have it. It needs the fleet's own lock.
func (f *Fleet) hold(key types.NamespacedName) error {
	if _, held := f.locks[key]; held {
		return nil
	}
	lock, err := lockDir(f.dir(key))
	if err != nil {
		return err
	}
	f.locks[key] = lock
	return nil
}

// forget drops what is known about a cluster that is this fleet's no more. It needs the lock.
func (f *Fleet) forget(key types.NamespacedName) {
	delete(f.clusters, key)
	if lock, held := f.locks[key]; held {
		_ = lock.Close() // a folder that was only read
		delete(f.locks, key)
	}
}

// Owners are the objects that the clusters of this fleet were made for.
func (f *Fleet) Owners() map[types.NamespacedName]Owner {
	f.mu.Lock()
	defer f.mu.Unlock()
	owners := map[types.NamespacedName]Owner{}
	for key := range f.locks {
		var state clusterState
		if err := statefile.Read(filepath.Join(f.dir(key), clusterFile), &state); err != nil {
			f.Log.Error(err, "read a cluster", "cluster", key.String())
			continue
		}
		owners[key] = state.Owner
	}
	return owners
}

// stored is a cluster that some sandbox of this user has on disk.
type stored struct {
	clusterState
	dir string
}

// all lists the clusters of this fleet and of its neighbours, the released ones too. What is unreadable is left
// out: a neighbour may be removing it right now.
func (f *Fleet) all() []stored {
	var found []stored
	for _, fleets := range []string{f.Dir, f.Neighbours} {
		if fleets == "" {
			continue
		}
		files, err := filepath.Glob(filepath.Join(fleets, "*", "*", clusterFile))
		if err != nil {
			f.Log.Error(err, "look for clusters")
		}
		for _, file := range files {
			s := stored{dir: filepath.Dir(file)}
			if err := statefile.Read(file, &s.clusterState); err == nil {
				found = append(found, s)
			}
		}
	}
	return found
}

// lockDir takes the lock of a cluster's folder: who has it runs the cluster. The kernel drops it when the holder
// ends, and it goes along when the folder is renamed. The error is EWOULDBLOCK when somebody has it.
func lockDir(dir string) (*os.File, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), folder.Close())
	}
	// It may have been renamed or replaced before it was locked.
	locked, err := folder.Stat()
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	now, err := os.Stat(dir)
	if err == nil && !os.SameFile(locked, now) {
		err = fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return folder, nil
}
