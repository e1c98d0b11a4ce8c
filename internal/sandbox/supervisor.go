// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// Component is one program of the management side, as status shows it.
type Component struct {
	Name string `json:"name"`
	// State is Starting, Ready, or Restarting after the program exited.
	State    string    `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Address  string    `json:"address,omitempty"`
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts,omitempty"`
	// LastError is why the program exited the last time, if it did.
	LastError string `json:"lastError,omitempty"`
}

// The states of a Component.
const (
	StateStarting   = "Starting"
	StateReady      = "Ready"
	StateRestarting = "Restarting"
)

// program is what the supervisor needs to run a component.
type program struct {
	name    string
	address string
	path    string
	args    []string
	env     []string
	ready   func(context.Context) error
}

// supervisor runs programs, and starts again what exits.
type supervisor struct {
	logDir string
	log    logr.Logger
	// changed is called after each change of a component, never twice at once.
	changed func([]Component)
	// atOnce leaves out the pauses between the exit of a program and its next start.
	atOnce bool

	// life ends when the supervisor is to stop: nothing is started after that.
	life context.Context //nolint:containedctx // the supervisor's own life, longer than that of any call
	end  context.CancelFunc
	wg   sync.WaitGroup

	mu         sync.Mutex
	components []Component
}

func newSupervisor(logDir string, log logr.Logger, changed func([]Component)) *supervisor {
	life, end := context.WithCancel(context.Background()) // its life is longer than any call's; stop ends it
	return &supervisor{logDir: logDir, log: log, changed: changed, life: life, end: end}
}

// start starts a program and returns when it is ready. From then on it is kept running until stop.
func (s *supervisor) start(ctx context.Context, p program) error {
	s.mu.Lock()
	index := len(s.components)
	s.components = append(s.components, Component{Name: p.name, Address: p.address, State: StateStarting, Since: time.Now()})
	s.mu.Unlock()

	child, err := s.launch(p, index)
	if err != nil {
		return err
	}
	if err := child.Await(ctx, p.ready); err != nil {
		s.halt(child) //nolint:contextcheck // also, and above all, when ctx has ended
		return err
	}
	s.set(index, func(c *Component) { c.State = StateReady })
	s.wg.Go(func() { s.keep(p, index, child) }) //nolint:contextcheck // beyond the start that ctx bounds
	return nil
}

// startFunc runs a part of this very process as if it were a program: it returns when run has called ready, and
// keeps it running until stop.
func (s *supervisor) startFunc(ctx context.Context, name, address string, run func(ctx context.Context, ready func()) error) error {
	if s.life.Err() != nil {
		return fmt.Errorf("start %s: the sandbox is stopping", name)
	}
	s.mu.Lock()
	index := len(s.components)
	s.components = append(s.components, Component{Name: name, Address: address})
	s.mu.Unlock()

	up, failed := make(chan struct{}), make(chan error, 1)
	var first sync.Once
	ready := func() {
		s.set(index, func(c *Component) { c.State = StateReady })
		first.Do(func() { close(up) })
	}
	s.wg.Go(func() {
		var pauses backoff
		for {
			begin := time.Now()
			s.set(index, func(c *Component) {
				c.PID, c.Since = os.Getpid(), begin
				if c.State == "" {
					c.State = StateStarting
				}
			})
			err := run(s.life, ready)
			if s.life.Err() != nil {
				return
			}
			if err == nil {
				err = errors.New("it ended by itself")
			}
			select {
			case <-up:
			default: // nobody relies on it yet: whoever starts it is to know
				failed <- err
				return
			}
			pause := pauses.next(time.Since(begin))
			s.log.Error(err, "Part of the sandbox ended, starting it again", "part", name, "pause", pause.String())
			s.set(index, func(c *Component) {
				c.State, c.PID, c.Restarts, c.LastError = StateRestarting, 0, c.Restarts+1, err.Error()
			})
			if !s.sleep(pause) {
				return
			}
		}
	})
	select {
	case <-up:
		return nil
	case err := <-failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s is not ready: %w", name, context.Cause(ctx))
	case <-s.life.Done():
		return fmt.Errorf("start %s: the sandbox is stopping", name)
	}
}

// backoff are the pauses between the exit of a program and its next start: none the first time, growing up
// to half a minute for one that exits soon again.
type backoff struct{ last time.Duration }

func (b *backoff) next(ran time.Duration) time.Duration {
	const calm, longest = time.Minute, 30 * time.Second
	if ran > calm {
		b.last = 0
		return 0
	}
	pause := b.last
	b.last = min(max(2*pause, time.Second), longest)
	return pause
}

// sleep waits, and says whether the supervisor is still to go on.
func (s *supervisor) sleep(d time.Duration) bool {
	if s.atOnce {
		d = 0
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.life.Done():
		return false
	case <-timer.C:
		return s.life.Err() == nil
	}
}

// keep starts a program again when it exits.
func (s *supervisor) keep(p program, index int, child *process.Process) {
	var pauses backoff
	for {
		select {
		case <-s.life.Done():
			s.halt(child)
			return
		case <-child.Done():
		}
		cause := child.Err()
		pause := pauses.next(time.Since(child.Started()))
		s.log.Error(cause, "Program exited, starting it again", "program", p.name, "pause", pause.String())
		s.set(index, func(c *Component) {
			c.State, c.PID, c.Restarts = StateRestarting, 0, c.Restarts+1
			if cause != nil {
				c.LastError = cause.Error()
			}
		})
		for {
			if !s.sleep(pause) {
				return
			}
			again, err := s.launch(p, index)
			if err == nil {
				child = again
				break
			}
			pause = pauses.next(0)
			s.log.Error(err, "Program does not start", "program", p.name, "pause", pause.String())
		}
		// When it exits before it is ready the next turn sees that; when we are to end, the select does.
		if err := child.Await(s.life, p.ready); err == nil {
			s.log.Info("Program is ready again", "program", p.name, "pid", child.Pid())
			s.set(index, func(c *Component) { c.State = StateReady })
		}
	}
}

func (s *supervisor) launch(p program, index int) (*process.Process, error) {
	if s.life.Err() != nil {
		return nil, fmt.Errorf("start %s: the sandbox is stopping", p.name)
	}
	child, err := process.Start(process.Spec{
		Name: p.name, Path: p.path, Args: p.args, Env: p.env,
		LogFile: filepath.Join(s.logDir, p.name+".log"),
	})
	if err != nil {
		return nil, err
	}
	s.set(index, func(c *Component) { c.PID, c.Since = child.Pid(), child.Started() })
	return child, nil
}

// halt ends a program at once: what it holds is about to be removed.
func (s *supervisor) halt(child *process.Process) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.life))
	cancel()
	_ = child.Stop(ctx) // that it had to be killed is no news
}

// stop ends all programs, and returns when they are gone.
func (s *supervisor) stop() {
	s.end()
	s.wg.Wait()
}

func (s *supervisor) set(index int, change func(*Component)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.components[index])
	if s.changed != nil {
		s.changed(slices.Clone(s.components))
	}
}
