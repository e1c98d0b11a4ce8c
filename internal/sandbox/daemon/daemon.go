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

// Outcome is what Up did.
type Outcome string

// The outcomes of Up.
const (
	// Started is a new sandbox.
	Started Outcome = "Started"
	// Resumed is a sandbox that was ended and kept, or was killed, and goes on with all that was in it.
	Resumed Outcome = "Resumed"
	// Running is a sandbox that ran already; nothing was done.
	Running Outcome = "Running"
)

// Up starts a sandbox in a process of its own and returns when it is ready. Command is the command line
// that calls Serve, without the executable, which is ours.
//
// A sandbox that was ready once goes on with what is in its folder, whatever happened to it. One that never was
// begins anew: when ctx ends before it is ready it is taken down again; when it does not come up, or not in time, its
// logs stay, for the user to look at and for Down to remove.
func Up(ctx context.Context, name string, opts Options, command []string, watch Watcher) (State, Outcome, error) {
	dir, err := Dir(name)
	if err != nil {
		return State{}, "", err
	}
	if state, err := Read(name); err == nil && state.Phase == PhaseReady {
		return state, Running, nil
	}
	// In our own process, since it can take minutes and must end with us.
	programs, err := binaries.Ensure(ctx, watch.Line)
	if err != nil {
		return State{}, "", err
	}
	held, err := lockSoon(ctx, dir)
	if locked(err) {
		return State{}, "", fmt.Errorf("sandbox %s is being started or ended by another csctl; wait for it, or end it with csctl sandbox down --name %s", name, name)
	}
	if err != nil {
		return State{}, "", err
	}
	defer held.Close()
	before, err := readState(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return State{}, "", err
	}
	t, outcome := newTask(name, opts, before)
	t.Programs = programs
	if outcome == Resumed {
		err = reap(ctx, dir)
	} else {
		err = clean(ctx, dir)
	}
	if err != nil {
		return State{}, "", err
	}
	if err := t.prepare(dir); err != nil {
		return State{}, "", err
	}

	logs := filepath.Join(dir, "logs")
	lockFile, err := held.File()
	if err != nil {
		return State{}, "", err
	}
	defer lockFile.Close()
	waiting, cancel := context.WithTimeoutCause(ctx, watch.Timeout, fmt.Errorf("sandbox %s is not ready after %s", name, watch.Timeout))
	defer cancel()
	if err := spawn(waiting, t, command, filepath.Join(logs, LogFile), lockFile, watch.Event); err != nil {
		// The daemon shares our lock; it must be the only one to hold it, or its end would not be seen.
		err = errors.Join(err, lockFile.Close(), held.Close())
		switch {
		case ctx.Err() != nil && outcome == Started:
			return State{}, "", errors.Join(err, end(context.WithoutCancel(ctx), dir))
		case ctx.Err() != nil:
			_, stopErr := Stop(context.WithoutCancel(ctx), name)
			return State{}, "", errors.Join(err, stopErr)
		case waiting.Err() != nil:
			err = errors.Join(err, halt(ctx, name, dir))
		}
		return State{}, "", fmt.Errorf("%w\nlogs are in %s; %s", err, logs, whatNext(outcome, name))
	}
	state, err := Read(name)
	return state, outcome, err
}

// whatNext says what to do about a sandbox that did not come up.
func whatNext(outcome Outcome, name string) string {
	if outcome == Resumed {
		return fmt.Sprintf("all that is in it is kept: csctl sandbox up --name %[1]s tries again, csctl sandbox down --name %[1]s removes it", name)
	}
	return fmt.Sprintf("csctl sandbox down --name %s removes them", name)
}

// lockSoon takes the lock of a state folder. A daemon that was killed a moment ago may still be about to give it back.
func lockSoon(ctx context.Context, dir string) (*net.UnixListener, error) {
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); ; {
		held, err := lock(dir)
		if !locked(err) || time.Now().After(deadline) {
			return held, err
		}
		// A lock gives no sign when it becomes free.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// newTask decides what becomes of a sandbox, by what is left of it. Of one that was never ready nothing is taken over,
// the settings included: what they brought about is gone.
func newTask(name string, opts Options, before State) (task, Outcome) {
	t := task{Name: name, CRDs: opts.CRDs}
	if !before.Lasting {
		t.Settings = opts.over(Options{})
		return t, Started
	}
	t.Settings, t.Block = opts.over(before.Settings), before.block()
	return t, Resumed
}

// prepare finds what the settings stand for, and makes the folders of a sandbox.
func (t *task) prepare(dir string) error {
	t.Operator, t.Releases = t.Settings.Operator, t.Settings.Releases
	switch t.Operator {
	case NoOperator:
		t.Operator = ""
	case "":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		if beside := filepath.Join(filepath.Dir(self), "cluster-stack-operator"); isFile(beside) {
			t.Operator = beside
		}
	default:
		if !isFile(t.Operator) {
			return fmt.Errorf("the operator %s, which sandbox %s was started with, is not there any more; name another one with --operator, or none", t.Operator, t.Name)
		}
	}
	own := filepath.Join(dir, "releases")
	if t.Releases == "" {
		t.Releases = own
	} else if info, err := os.Stat(t.Releases); err != nil || !info.IsDir() {
		return fmt.Errorf("the folder of releases %s, which sandbox %s was started with, is not there any more; name another one with --releases", t.Releases, t.Name)
	}
	if err := makeDir(filepath.Join(dir, "logs"), 0o700); err != nil {
		return err
	}
	if t.Releases != own {
		return nil
	}
	return makeDir(own, 0o755)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// makeDir makes a folder. The end of another sandbox may remove folders on the way to it while they are empty.
func makeDir(dir string, mode fs.FileMode) (err error) {
	const tries = 100
	for range tries {
		if err = os.MkdirAll(dir, mode); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
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
	// The other end of the pipe is ours as long as we are there: see Options.Bound.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, write.Close())
	}
	err = cmd.Start()
	if err := errors.Join(err, write.Close()); err != nil {
		return err
	}
	go func() {
		_, _ = stdin.Write(input) // a daemon that does not read it ends, which comes through the other pipe
		if !t.Settings.Bound {
			_ = stdin.Close()
		}
	}()
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

// Stop ends a sandbox and keeps what is in it, for Up to go on with. Found is false when there was none.
func Stop(ctx context.Context, name string) (found bool, err error) {
	dir, err := Dir(name)
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	held, err := seize(ctx, dir)
	if err != nil {
		return true, err
	}
	defer held.Close()
	if err := reap(ctx, dir); err != nil {
		return true, err
	}
	state, err := readState(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	if !state.Lasting {
		return true, fmt.Errorf("sandbox %s never became ready, so there is nothing in it to keep; csctl sandbox down --name %s removes it", name, name)
	}
	state.Phase, state.Error, state.PID, state.StartTicks, state.Components = PhaseStopped, "", 0, 0, nil
	state.Since = time.Now()
	return true, state.write(dir)
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

// reap ends what a killed daemon may have left. The caller holds the lock.
func reap(ctx context.Context, dir string) error {
	for ctx.Err() == nil {
		pids, err := process.Marked(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := terminate(pid, 0); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// clean ends what a killed daemon may have left, and removes the state folder. The caller holds the lock.
func clean(ctx context.Context, dir string) error {
	if err := reap(ctx, dir); err != nil {
		return err
	}
	return remove(dir)
}

// remove removes a state folder. The caller holds the lock.
func remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	// The folders that all sandboxes share go with the last one.
	if sandboxes := filepath.Dir(dir); os.Remove(sandboxes) == nil {
		_ = os.Remove(filepath.Dir(sandboxes))
	}
	return nil
}

// killPatience is how long the kernel may take to end a process on a busy machine.
const killPatience = 30 * time.Second

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
	}{{unix.SIGTERM, patience}, {unix.SIGKILL, killPatience}} {
		if try.timeout <= 0 {
			continue
		}
		if err := unix.PidfdSendSignal(fd, try.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		ended, err := process.AwaitEnd(fd, try.timeout)
		if ended || err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}
