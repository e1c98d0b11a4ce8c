// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// tempFolder is the place in which one process prepares releases. The process holds a lock on it for
// as long as it lives, however it ends; process ids would not do, because they come back, and
// containers that share a volume do not see one another's.
type tempFolder struct {
	parent string

	mu sync.Mutex
	// path and lock are of the folder, empty as long as none could be made.
	path string
	lock *os.File
}

// newTempFolder makes a temporary folder in parent and removes those that nobody holds any more. If that fails,
// it is tried again when the folder is needed.
func newTempFolder(parent string) (*tempFolder, error) {
	t := &tempFolder{parent: parent}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t, t.renew()
}

// renew makes the temporary folder.
func (t *tempFolder) renew() error {
	parent := t.parent
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := removeIfAbandoned(filepath.Join(parent, entry.Name())); err != nil {
			return err
		}
	}
	for {
		path, err := os.MkdirTemp(parent, "")
		if err != nil {
			return err
		}
		lock, err := tryLock(path)
		if err != nil {
			return err
		}
		// Between its creation and its lock another process may have taken it for an abandoned one.
		if lock != nil {
			t.path, t.lock = path, lock
			return nil
		}
	}
}

func removeIfAbandoned(path string) error {
	lock, err := tryLock(path)
	if lock == nil || err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(path), lock.Close())
}

// tryLock locks the folder. It returns nil when somebody else holds it or it is gone.
func tryLock(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, f.Close())
	}
	held, err := isAt(f, path)
	if err != nil || !held {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// isAt reports whether path still leads to the open file f.
func isAt(f *os.File, path string) (bool, error) {
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	opened, err := f.Stat()
	return err == nil && os.SameFile(opened, now), err
}

// make returns a new empty folder. When somebody has removed the temporary folder, or a process on a machine
// that does not see our lock has, there is a new one.
func (t *tempFolder) make() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" {
		if err := t.renew(); err != nil {
			return "", err
		}
	}
	path, err := os.MkdirTemp(t.path, "")
	if !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	gone := t.lock
	if err := t.renew(); err != nil {
		return "", err
	}
	_ = gone.Close() // of a folder that is gone
	return os.MkdirTemp(t.path, "")
}

func (t *tempFolder) remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" {
		return nil
	}
	path, lock := t.path, t.lock
	t.path, t.lock = "", nil
	return errors.Join(os.RemoveAll(path), lock.Close())
}
