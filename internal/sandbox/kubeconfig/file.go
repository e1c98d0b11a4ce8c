// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// lockPatience is how long another program may take to change a file.
const lockPatience = 10 * time.Second

// Options say how entries come into a file.
type Options struct {
	// Owner is the state folder of the sandbox.
	Owner string
	// Only takes out what the owner had in the file besides the entries.
	Only bool
	// Switch makes the first entry the current context. Else it becomes that only where there is none.
	Switch bool
}

// UsersFile is the file that kubectl would write a new context to: the first of KUBECONFIG that is there, or
// ~/.kube/config.
func UsersFile() string { return clientcmd.NewDefaultPathOptions().GetDefaultFilename() }

// Merge puts entries into a file, which is created when it is not there. It returns the current context afterwards. A
// name that somebody else uses is a TakenError.
func Merge(ctx context.Context, file string, entries []Entry, o Options) (current string, err error) {
	err = change(ctx, file, func(config *clientcmdapi.Config) error {
		before := config.CurrentContext
		if err := put(config, o.Owner, entries, !o.Only); err != nil {
			if taken := (*TakenError)(nil); errors.As(err, &taken) {
				taken.File = file
			}
			return err
		}
		// It was taken out and put back.
		if _, there := config.Contexts[before]; there {
			config.CurrentContext = before
		}
		if o.Switch || config.CurrentContext == "" {
			config.CurrentContext = entries[0].Name
		}
		current = config.CurrentContext
		return nil
	})
	return current, err
}

// Remove takes out of a file what an owner has there, and returns the names of the contexts that are gone. A file
// that is gone has nothing.
func Remove(ctx context.Context, file, owner string) (contexts []string, err error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	err = change(ctx, file, func(config *clientcmdapi.Config) error {
		contexts = take(config, owner)
		return nil
	})
	return contexts, err
}

// change reads a file, changes it, and replaces it, while no kubectl does the same.
func change(ctx context.Context, file string, edit func(*clientcmdapi.Config) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	unlock, err := lock(ctx, file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	// The file that a link leads to, or the link would become a file of its own.
	target, mode := file, fs.FileMode(0o600)
	if resolved, err := filepath.EvalSymlinks(file); err == nil {
		target = resolved
	}
	before, err := os.ReadFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info, err := os.Stat(target); err == nil {
		mode = info.Mode().Perm()
	}
	config := clientcmdapi.NewConfig()
	if len(bytes.TrimSpace(before)) > 0 {
		if config, err = clientcmd.Load(before); err != nil {
			return fmt.Errorf("%s is no kubeconfig: %w; mend it, or choose another file", file, err)
		}
	}
	unchanged, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	if err := edit(config); err != nil {
		return err
	}
	after, err := clientcmd.Write(*config)
	if err != nil || bytes.Equal(unchanged, after) {
		return err
	}
	return replace(target, after, mode)
}

// replace has readers see the file as it was or as it is to be.
func replace(file string, content []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	// Synced, because the file holds what the user cannot get back.
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// lock takes the lock of a kubeconfig file that kubectl takes as well.
func lock(ctx context.Context, file string) (unlock func() error, err error) {
	name := file + ".lock"
	ctx, cancel := context.WithTimeoutCause(ctx, lockPatience, fmt.Errorf("%s is there for more than %s: another program changes %s, or was killed while it did; then remove the lock", name, lockPatience, file))
	defer cancel()
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0)
		if err == nil {
			return func() error { return os.Remove(name) }, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond): // kubectl gives no other sign
		}
	}
}
