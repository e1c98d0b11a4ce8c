// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// LogFile is the daemon's own log, in the logs folder of its state folder.
const LogFile = "sandbox.log"

// Watcher follows the progress of Up.
type Watcher struct {
	// Line is told about the building of programs.
	Line func(string)
	// Event is told about the steps of the sandbox.
	Event func(sandbox.Event)
	// Timeout bounds the time from the start of the daemon until the sandbox is ready.
	Timeout time.Duration
}

// Up starts a sandbox in a process of its own and returns when it is ready. Command is the command line
// that calls Serve, without the executable, which is ours. When the sandbox runs already nothing is done
// and started is false. When ctx ends before it is ready it is taken down again; when it does not come up, or
// not in time, its logs stay, for the user to look at and for Down to remove.
func Up(ctx context.Context, opts Options, command []string, watch Watcher) (state State, started bool, err error) {
	dir, err := Dir(opts.Name)
	if err != nil {
		return State{}, false, err
	}
	if state, err := Read(opts.Name); err == nil && state.Phase == PhaseReady {
		return state, false, nil
	}
	// In our own process, since it can take minutes and must end with us.
	programs, err := binaries.Ensure(ctx, watch.Line)
	if err != nil {
		return State{}, false, err
	}
	held, err := lock(dir)
	if locked(err) {
		return State{}, false, fmt.Errorf("sandbox %s is being started or ended by another csctl; wait for it, or end it with csctl sandbox down --name %s", opts.Name, opts.Name)
	}
	if err != nil {
		return State{}, false, err
	}
	defer held.Close()
	if err := clean(ctx, dir); err != nil {
		return State{}, false, err
	}
	logs := filepath.Join(dir, "logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return State{}, false, err
	}
	if opts.Releases == "" {
		opts.Releases = filepath.Join(dir, "releases")
	}
	if err := os.MkdirAll(opts.Releases, 0o755); err != nil {
		return State{}, false, err
	}

	lockFile, err := held.File()
	if err != nil {
		return State{}, false, err
	}
	defer lockFile.Close()
	waiting, cancel := context.WithTimeoutCause(ctx, watch.Timeout, fmt.Errorf("sandbox %s is not ready after %s", opts.Name, watch.Timeout))
	defer cancel()
	if err := spawn(waiting, task{opts, programs}, command, filepath.Join(logs, LogFile), lockFile, watch.Event); err != nil {
		// The daemon shares our lock; it must be the only one to hold it, or its end would not be seen.
		err = errors.Join(err, lockFile.Close(), held.Close())
		if ctx.Err() != nil {
			return State{}, false, errors.Join(err, end(context.WithoutCancel(ctx), dir))
		}
		if waiting.Err() != nil {
			err = errors.Join(err, halt(ctx, opts.Name, dir))
		}
		return State{}, false, fmt.Errorf("%w\nlogs are in %s; csctl sandbox down --name %s removes them", err, logs, opts.Name)
	}
	state, err = Read(opts.Name)
	return state, true, err
}

// spawn starts the daemon and follows it until it is ready.
func spawn(ctx context.Context, t task, command []string, logFile string, lockFile *os.File, event func(sandbox.Event)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	input, err := json.Marshal(t)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()

	// Besides what it is given the daemon must inherit nothing: whoever started us may have left us descriptors,
	// such as the lock or the pipe of a script, and would wait for them as long as the sandbox runs. Kernels
	// before 5.11 do not know the call; there it is as with any other program.
	_ = unix.CloseRange(progressDescriptor, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)

	cmd := exec.Command(self, command...) //nolint:noctx // it outlives us
	cmd.Args[0] = os.Args[0]
	cmd.Dir = filepath.Dir(logFile)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{write, lockFile} // progressDescriptor, lockDescriptor
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin = bytes.NewReader(input)
	err = cmd.Start()
	if err := errors.Join(err, write.Close()); err != nil {
		return err
	}
	go cmd.Wait() //nolint:errcheck // reaps it if it ends before us; what went wrong comes through the pipe

	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	var failure error
	for lines := json.NewDecoder(read); ; {
		var m message
		if err := lines.Decode(&m); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if failure != nil {
				return failure
			}
			tail, _ := os.ReadFile(logFile)
			return fmt.Errorf("the process of the sandbox ended: %s", bytes.TrimSpace(tail[max(0, len(tail)-2000):]))
		}
		switch {
		case m.Event != nil:
			event(*m.Event)
		case m.Phase == PhaseReady:
			return nil
		case m.Phase == PhaseFailed:
			failure = errors.New(m.Error) // told when the daemon has ended and gives the lock back
		}
	}
}

// Down ends a sandbox and removes all that it made outside the cache of programs. It works as well on one
// that never became ready, and on one whose daemon was killed. Found is false when there was none.
func Down(ctx context.Context, name string) (found bool, err error) {
	dir, err := Dir(name)
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, end(ctx, dir)
}

// end ends the daemon of a state folder, if one runs, and removes the folder.
func end(ctx context.Context, dir string) error {
	held, err := seize(ctx, dir)
	if err != nil {
		return err
	}
	defer held.Close()
	return clean(ctx, dir)
}

// halt ends a daemon that takes too long and leaves its folder. The error says what it was waiting for.
func halt(ctx context.Context, name, dir string) error {
	held, err := seize(ctx, dir)
	if err != nil {
		return err
	}
	defer held.Close()
	state, err := Read(name)
	if err != nil {
		return err
	}
	if state.Error == "" {
		return nil
	}
	return errors.New(state.Error)
}

// seize ends the daemon of a state folder, if one runs, and takes the lock.
func seize(ctx context.Context, dir string) (*net.UnixListener, error) {
	// A daemon needs a moment to stop its programs; when it takes longer it hangs.
	const patience = 30 * time.Second
	deadline := time.Now().Add(patience)
	for {
		held, err := lock(dir)
		if err == nil {
			return held, nil
		}
		if !locked(err) {
			return nil, err
		}
		// The daemon writes its state in its first moment; before that there is nobody to signal yet.
		state, err := readState(dir)
		if err == nil && state.alive() {
			if err := terminate(state.PID, time.Until(deadline)); err != nil {
				return nil, err
			}
		} else if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s is in use by another csctl; end that first", dir)
		}
		// A lock gives no sign when it becomes free.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// clean ends what a killed daemon may have left, and removes the state folder. The caller holds the lock.
func clean(ctx context.Context, dir string) error {
	pids, err := process.Marked(dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := terminate(pid, 0); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	// The folders that all sandboxes share go with the last one.
	if sandboxes := filepath.Dir(dir); os.Remove(sandboxes) == nil {
		_ = os.Remove(filepath.Dir(sandboxes))
	}
	return nil
}

// terminate ends a process and waits until it is gone: SIGTERM first, SIGKILL after patience.
func terminate(pid int, patience time.Duration) error {
	// Through a descriptor, the signals cannot reach a later process of the same number.
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, try := range []struct {
		signal  unix.Signal
		timeout time.Duration
	}{{unix.SIGTERM, patience}, {unix.SIGKILL, 5 * time.Second}} {
		if try.timeout <= 0 {
			continue
		}
		if err := unix.PidfdSendSignal(fd, try.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		ended, err := poll(fd, try.timeout)
		if ended || err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// poll waits until the process of a descriptor has ended.
func poll(fd int, timeout time.Duration) (ended bool, err error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(timeout.Milliseconds())) //nolint:gosec // descriptors are small
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
