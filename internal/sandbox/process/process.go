// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package process runs the programs of a sandbox as children that cannot outlive it.
//
// Every child is started with a death signal: when the process that started it ends, however it
// ends, the kernel kills the child. A child leads its own process group, and what is left of that
// group is killed when the child exits, so that a grandchild does not stay behind either.
// Whether a program that exited is started again is the caller's to decide.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Marker is an environment variable that children inherit besides PATH, HOME and TMPDIR. A sandbox sets it
// to its state folder, so that what belongs to it can be told from other processes.
const Marker = "CLUSTER_STACK_SANDBOX"

// grace is how long a program may take to end by itself after SIGTERM.
const grace = 5 * time.Second

// Spec says which program to start.
type Spec struct {
	// Name is used in messages.
	Name string
	// Path of the executable.
	Path string
	Args []string
	// Env is added to PATH, HOME, TMPDIR and Marker. Nothing else is inherited: what the user's shell holds
	// for etcd (ETCD_…) or for pods (POD_NAMESPACE) would change how the programs behave.
	Env []string
	// LogFile takes what the program prints; it is appended to. Its folder must exist.
	LogFile string
}

// Process is a started program.
type Process struct {
	spec    Spec
	cmd     *exec.Cmd
	started time.Time
	logFrom int64
	done    chan struct{}

	mu       sync.Mutex
	stopping bool
	err      error
}

// Start starts a program. It returns once the program runs, not once it is ready.
func Start(spec Spec) (*Process, error) {
	log, err := os.OpenFile(spec.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: open its log: %w", spec.Name, err)
	}
	defer log.Close()

	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	cmd := exec.Command(spec.Path, spec.Args...) //nolint:noctx // Stop ends it, with a grace that a context does not give
	cmd.Env = append(baseEnv(), spec.Env...)
	cmd.Dir = filepath.Dir(spec.LogFile)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}

	if err := startFromForker(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p := &Process{spec: spec, cmd: cmd, started: time.Now(), logFrom: from, done: make(chan struct{})}
	go p.wait()
	return p, nil
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Name is the name given in the Spec.
func (p *Process) Name() string { return p.spec.Name }

// Started is when the program was started.
func (p *Process) Started() time.Time { return p.started }

// Done is closed when the program has ended and nothing is left of its process group.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says why the program ended, with the last lines that it printed. It is nil while the program
// runs, and after Stop.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Stop ends the program: SIGTERM, and SIGKILL when it has not ended after five seconds or when ctx is
// done. It returns when the program is gone; the error says that it had to be killed.
func (p *Process) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()

	select {
	case <-p.done:
		return nil
	default:
	}
	// The program may end in this moment; then there is nobody to signal, and Done follows.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)

	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return fmt.Errorf("%s did not end on SIGTERM and was killed", p.spec.Name)
}

// Kill ends the program at once, as if it were not ours: Err tells of it, and whoever keeps the program running
// starts it again.
func (p *Process) Kill() { p.signal(syscall.SIGKILL) }

// Terminate asks the program to end, and leaves it all the time that it takes. Err tells how it has ended.
func (p *Process) Terminate() { p.signal(syscall.SIGTERM) }

// Suspend makes the program stand still until Resume. Its connections stay, and nothing comes from them.
func (p *Process) Suspend() { p.signal(syscall.SIGSTOP) }

// Resume lets a program go on that stands still; others do not notice.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// signal ignores that the program has just ended: there is nobody to signal then, and Done follows.
func (p *Process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// ExitCode is how a program ended whose Done is closed: 128 and the number of the signal if one did it, as a shell
// has it.
func (p *Process) ExitCode() int {
	<-p.done
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Await probes a program until the probe succeeds. It fails as soon as the program exits, and when ctx
// is done, with what the last probe said.
func (p *Process) Await(ctx context.Context, probe func(context.Context) error) error {
	const interval = 50 * time.Millisecond
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.exitError()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w%s", p.spec.Name, errors.Join(context.Cause(ctx), err), p.lastLines())
		case <-ticker.C:
		}
	}
}

func (p *Process) exitError() error {
	if err := p.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%s was stopped", p.spec.Name)
}

func (p *Process) wait() {
	// Look before reaping: while the child is not reaped its pid, and so the number of its group, cannot
	// be given to somebody else.
	for {
		err := unix.Waitid(unix.P_PID, p.Pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-p.Pid(), unix.SIGKILL)
	err := p.cmd.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopping {
		cause := "exit status 0"
		if err != nil {
			cause = err.Error()
		}
		p.err = fmt.Errorf("%s ended: %s%s", p.spec.Name, cause, p.lastLines())
	}
	close(p.done)
}

// logFollows ends the first line of a message that goes on with lines of a log.
const logFollows = ", which ends with:"

// Brief is the message of an error without the lines of a log that it quotes: what stays the same when a program fails
// in the same way again.
func Brief(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return strings.TrimSuffix(line, logFollows)
}

// lastLines gives the end of what this run of the program printed, to be appended to a message.
func (p *Process) lastLines() string {
	const maxBytes = 16 << 10
	log, err := os.Open(p.spec.LogFile)
	if err != nil {
		return ""
	}
	defer log.Close()
	end, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	tail, err := io.ReadAll(io.NewSectionReader(log, max(p.logFrom, end-maxBytes), maxBytes))
	if err != nil {
		return ""
	}
	tail = bytes.TrimSpace(tail)
	if len(tail) == 0 {
		return "; it printed nothing"
	}
	return fmt.Sprintf("; see %s%s\n  %s", p.spec.LogFile, logFollows, strings.Join(telling(strings.Split(string(tail), "\n")), "\n  "))
}

// telling picks the lines of a log that tell most about the end of a program: the last ones, or those before the
// stacks of a Go program that panicked.
func telling(lines []string) []string {
	const most, before = 10, 3
	for i, l := range slices.Backward(lines) {
		if strings.HasPrefix(l, "panic: ") || strings.HasPrefix(l, "fatal error: ") {
			lines = lines[:i+1]
			return lines[max(0, len(lines)-before-1):]
		}
	}
	return lines[max(0, len(lines)-most):]
}

func baseEnv() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", Marker} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

type forkRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

// forker is the one thread that starts all children. The death signal of Linux is tied to the thread
// that forked: it is sent when that thread ends, and Go ends threads as it likes. This one is locked to
// a goroutine that never returns, so it ends with the process and not before.
var forker = sync.OnceValue(func() chan<- forkRequest {
	requests := make(chan forkRequest)
	go func() {
		runtime.LockOSThread()
		for r := range requests {
			r.reply <- r.cmd.Start()
		}
	}()
	return requests
})

func startFromForker(cmd *exec.Cmd) error {
	reply := make(chan error, 1)
	forker() <- forkRequest{cmd: cmd, reply: reply}
	return <-reply
}
