// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// process is a worker, seen from outside.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	// last is what the worker said before it died.
	last *head

	// renders and idleSince are the pool's.
	renders   int
	idleSince time.Time

	mu     sync.Mutex
	killed error // why, when we did it

	gone chan struct{} // closed when the process has ended
}

// startProcess starts this program again as a worker. The process ends with the calling thread.
func startProcess(memory int64) (*process, error) {
	w := &process{last: &head{}, gone: make(chan struct{})}
	// The program that runs, even if another one has been put in its place.
	w.cmd = exec.Command("/proc/self/exe") //nolint:noctx // it outlives the render that it is started for
	w.cmd.Args = []string{workerName, strconv.FormatInt(memory, 10)}
	w.cmd.Env = []string{} // nil would mean ours
	w.cmd.Dir = "/"
	w.cmd.Stderr = w.last
	// A group of its own: an interrupt at the terminal is meant for us, who still need workers to end well.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.in, w.out = in, bufio.NewReaderSize(out, 64<<10)
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = w.cmd.Wait() // its state says it all
		close(w.gone)
	}()
	return w, nil
}

// limits bound one conversation with a worker.
type limits struct {
	cpu  time.Duration // none when it is zero
	wall time.Duration
}

// overstayedError is why a worker was killed while it rendered.
type overstayedError struct{ reason string }

func (e *overstayedError) Error() string { return e.reason }

// diedError says that a worker ended before it had answered.
type diedError struct {
	// reason is set when the chart is to blame.
	reason string
	state  string
}

func (e *diedError) Error() string {
	if e.reason != "" {
		return e.reason
	}
	return "the renderer ended without an answer: " + e.state
}

// greet waits until a worker is ready.
func (w *process) greet(ctx context.Context, wall time.Duration) error {
	return w.guarded(ctx, limits{wall: wall}, func() error {
		var greeting hello
		if err := receiveInto(w.out, &greeting); err != nil {
			return err
		}
		if greeting.Problem != "" {
			w.kill(fmt.Errorf("it cannot confine itself, and charts are foreign code; the kernel has to support seccomp, and the security profile of the Pod to allow it, as RuntimeDefault does: %s", greeting.Problem))
			return errors.New(greeting.Problem)
		}
		return nil
	})
}

// render has one conversation with a worker. have are the charts that the request names.
func (w *process) render(asked request, have charts, known *render.Results) (*render.Result, error) {
	if err := send(w.in, asked); err != nil {
		return nil, err
	}
	var k key
	for {
		var said answer
		if err := receiveInto(w.out, &said); err != nil {
			return nil, err
		}
		switch {
		case said.Lacking != nil:
			wanted := charts{}
			for _, digest := range said.Lacking {
				wanted[digest] = have[digest]
			}
			if err := send(w.in, wanted); err != nil {
				return nil, err
			}
		case said.Key != nil:
			k = *said.Key
			result, found := known.Get(k.Digest)
			if err := send(w.in, decision{Render: !found}); err != nil || found {
				return result, err
			}
		case said.Invalid != nil:
			return nil, said.Invalid
		case said.Result != nil:
			result := said.Result.unpack()
			if k.Known {
				known.Put(k.Digest, result)
			}
			return result, nil
		default:
			return nil, errors.New("an answer without content")
		}
	}
}

// guarded talks with the worker, and kills it when that exceeds the limits. An error of talk that is no
// *render.InvalidError costs the worker its life as well: nobody knows where in the conversation it is.
func (w *process) guarded(ctx context.Context, l limits, talk func() error) error {
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		w.watch(ctx, l, stop)
	}()
	err := talk()
	close(stop)
	<-watched
	var invalid *render.InvalidError
	if err == nil || errors.As(err, &invalid) {
		return err
	}
	return w.autopsy(err)
}

// watch kills the worker when it exceeds the limits before stop is closed, or when ctx ends.
func (w *process) watch(ctx context.Context, l limits, stop <-chan struct{}) {
	wall := time.NewTimer(l.wall)
	defer wall.Stop()
	// Computing on one core, a worker cannot have used up its time before so much has passed.
	cpu := time.NewTimer(l.cpu)
	defer cpu.Stop()
	if l.cpu == 0 {
		cpu.Stop()
	}
	start := w.cpuTime()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			w.kill(ctx.Err())
			return
		case <-wall.C:
			w.kill(&overstayedError{fmt.Sprintf("takes longer than %s", l.wall)})
			return
		case <-cpu.C:
			left := l.cpu - (w.cpuTime() - start)
			if left <= 0 {
				w.kill(&overstayedError{fmt.Sprintf("takes more than %s of processor time", l.cpu)})
				return
			}
			cpu.Reset(left)
		}
	}
}

// cpuTime is the processor time that all threads of the worker have used. It is zero when the kernel does not
// say; the limit on the time in all is left then.
func (w *process) cpuTime() time.Duration {
	// How the kernel names the clock of a process: clock_getcpuclockid(3) does the same.
	const scheduled = 2
	clock := int32(^w.cmd.Process.Pid<<3 | scheduled)
	var used unix.Timespec
	if err := unix.ClockGettime(clock, &used); err != nil {
		return 0
	}
	return time.Duration(used.Nano())
}

// kill ends the worker. Of several reasons the first counts.
func (w *process) kill(reason error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.killed == nil {
		w.killed = reason
	}
	// The worker has ended by itself when this fails.
	_ = w.cmd.Process.Kill()
}

func (w *process) alive() bool {
	select {
	case <-w.gone:
		return false
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killed == nil
}

// autopsy finds out why a conversation broke off.
func (w *process) autopsy(err error) error {
	// When the pipes broke, it is ending by itself, and shall say why.
	broken := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EPIPE)
	if !broken {
		w.kill(nil)
	}
	<-w.gone
	w.mu.Lock()
	defer w.mu.Unlock()
	var overstayed *overstayedError
	switch said := w.last.String(); {
	case errors.As(w.killed, &overstayed):
		return &diedError{reason: overstayed.reason}
	case w.killed != nil:
		return w.killed
	case !broken:
		return &diedError{state: err.Error()}
	case outOfMemory.MatchString(said):
		return &diedError{reason: fmt.Sprintf("needs more than %s MiB of memory", w.memory())}
	case strings.Contains(said, "stack exceeds"):
		return &diedError{reason: "nests too deep"}
	case w.cmd.ProcessState.ExitCode() == crashed:
		// What it said may hold values.
		return &diedError{reason: "makes the renderer crash"}
	default:
		return &diedError{state: w.cmd.ProcessState.String()}
	}
}

// outOfMemory matches what Go's runtime says when it gets no more memory, in its several places.
var outOfMemory = regexp.MustCompile(`out of memory|cannot allocate memory|cannot map pages|errno=12|failed to (reserve|allocate)`)

// crashed is the exit code of a Go program that panics or runs into a fatal error.
const crashed = 2

func (w *process) memory() string {
	bytes, _ := strconv.ParseInt(w.cmd.Args[1], 10, 64)
	return strconv.FormatInt(bytes>>20, 10)
}

// head keeps the beginning of what is written to it.
type head struct {
	mu   sync.Mutex
	text []byte
}

func (h *head) Write(p []byte) (int, error) {
	const enough = 4 << 10
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, p[:min(len(p), enough-len(h.text))]...)
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.text)
}
