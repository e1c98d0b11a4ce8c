// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix is what the names of the folders begin with that reapers work in, below the folder for temporary files. A number
// follows.
const prefix = "cluster-stack-test-"

// folder belongs to this process: it holds a lock on it, which the kernel drops when the process ends.
type folder struct {
	path string
	lock *os.File
}

// newFolder makes a folder in parent, after it has removed those of processes that were killed before they could.
func newFolder(parent string) (*folder, error) {
	if err := sweep(parent); err != nil {
		return nil, err
	}
	for {
		dir, err := os.MkdirTemp(parent, prefix+"*")
		if err != nil {
			return nil, err
		}
		// Until it is locked, somebody else may take it for one that is left.
		f, err := own(dir)
		if f != nil || err != nil {
			return f, err
		}
	}
}

// remove removes the folder and gives up its name.
func (f *folder) remove() error { return errors.Join(os.RemoveAll(f.path), f.lock.Close()) }

// own takes a folder for this process. It answers nil when the folder belongs to another process, or has gone.
func own(dir string) (*folder, error) {
	lock, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, lock.Close()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) { // removed before we had the lock
		return nil, lock.Close()
	}
	return &folder{path: dir, lock: lock}, nil
}

// sweep removes the folders of processes that are not there any more. Their programs have ended with them.
func sweep(parent string) error {
	left, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, entry := range left {
		// What a person named in a similar way is none of them.
		number, ours := strings.CutPrefix(entry.Name(), prefix)
		if _, err := strconv.ParseUint(number, 10, 64); err != nil || !ours || !entry.IsDir() {
			continue
		}
		f, err := own(filepath.Join(parent, entry.Name()))
		if err != nil {
			return err
		}
		if f != nil {
			_ = f.remove() // of another user; it stays
		}
	}
	return nil
}
