// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
)

// logFile is a log below the state folder of a sandbox.
type logFile struct{ component, file string }

// findLogs lists the logs of a sandbox: those of the management side by the name of the program, those of
// simulated machines with the path that leads to them.
func findLogs(dir string) ([]logFile, error) {
	var logs []logFile
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no sandbox, or a machine that goes away while we look
		}
		if err != nil {
			return err
		}
		if d.IsDir() || filepath.Ext(path) != ".log" {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		component := strings.TrimPrefix(strings.TrimSuffix(rel, ".log"), "logs/")
		logs = append(logs, logFile{component: component, file: path})
		return nil
	})
	slices.SortFunc(logs, func(a, b logFile) int { return strings.Compare(a.component, b.component) })
	return logs, err
}

// logsOf lists the logs of the sandbox of a name, none when there is no such sandbox.
func logsOf(name string) ([]logFile, error) {
	dir, err := daemon.Dir(name)
	if err != nil {
		return nil, err
	}
	return findLogs(dir)
}

func componentsOf(logs []logFile) []string {
	components := make([]string, len(logs))
	for i, l := range logs {
		components[i] = l.component
	}
	return components
}

// copyLog prints a log and, when it is to follow, what is added until ctx ends or the log is removed.
func copyLog(ctx context.Context, out io.Writer, file string, follow bool) error {
	log, err := os.Open(file)
	if err != nil {
		return err
	}
	defer log.Close()
	if !follow {
		_, err = io.Copy(out, log)
		return err
	}
	changes, err := watchFile(file)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(0, 1)) })
	defer func() {
		stop()
		_ = changes.Close()
	}()
	events := make([]byte, 4096)
	for {
		// After the watch was set, so that nothing is missed.
		if _, err := io.Copy(out, log); err != nil {
			return err
		}
		if info, err := log.Stat(); err != nil || removed(info) {
			return err
		}
		if _, err := changes.Read(events); err != nil {
			if ctx.Err() != nil {
				return nil // the user has seen enough
			}
			return err
		}
	}
}

func watchFile(file string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	changes := os.NewFile(uintptr(fd), "inotify")
	// Removing a file changes its attributes, as long as it is open.
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_MODIFY|unix.IN_ATTRIB); err != nil {
		return nil, errors.Join(os.NewSyscallError("inotify_add_watch", err), changes.Close())
	}
	return changes, nil
}

// removed tells that no name leads to an open file any more.
func removed(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}
