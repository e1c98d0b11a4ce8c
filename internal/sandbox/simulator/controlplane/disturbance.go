// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// Disturbance is what is wrong with a program; the zero value means nothing.
type Disturbance struct {
	// Down programs are killed and not started again, Hung ones stand still.
	Down, Hung bool
	// Pause is how long the program stands still before it runs for a moment each time; 0 if it does not.
	Pause time.Duration
}

// moment is how long a slow program runs between two pauses.
const moment = 100 * time.Millisecond

// State is how a program is.
type State struct {
	// Running programs have a process, Started then; Hung ones stand still.
	Running, Hung bool
	Started       time.Time
	// ExitCode is how the last process ended that did: 128 and the number of the signal if one did it.
	ExitCode int
}

// Disturb changes what is wrong with the programs of a machine. It does nothing to an etcd that is shared.
func (m *Member) Disturb(etcd, apiServer Disturbance) {
	if m.etcd != nil {
		m.etcd.disturb(etcd)
	}
	m.apiServer.disturb(apiServer)
}

// EtcdState tells how etcd is; false says that the machine has none.
func (m *Member) EtcdState() (State, bool) {
	if m.etcd == nil {
		return State{}, false
	}
	return m.etcd.state(), true
}

// APIServerState tells how the API server is.
func (m *Member) APIServerState() State { return m.apiServer.state() }

func (p *program) disturb(d Disturbance) {
	p.mu.Lock()
	known := p.disturbance == d
	if !known {
		p.disturbance = d
		close(p.disturbed)
		p.disturbed = make(chan struct{})
	}
	p.mu.Unlock()
	if !known {
		p.log.Info("disturbed", "down", d.Down, "hung", d.Hung, "pause", d.Pause.String())
		p.tellChange()
	}
}

// wrong is what is wrong with the program until the channel is closed.
func (p *program) wrong() (Disturbance, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.disturbance, p.disturbed
}

func (p *program) state() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{Started: p.current.Started(), ExitCode: p.exitCode}
	select {
	case <-p.current.Done():
		s.ExitCode = p.current.ExitCode()
	default:
		s.Running, s.Hung = true, p.disturbance.Hung
	}
	return s
}

// attend does to a process what is wrong with the program, until the process has ended.
func (p *program) attend(ctx context.Context, current *process.Process) {
	suspended := false
	for ctx.Err() == nil {
		d, changed := p.wrong()
		var beat <-chan time.Time
		switch {
		case d.Down:
			current.Kill()
		case d.Hung:
			current.Suspend()
		case d.Pause > 0:
			if suspended = !suspended; suspended {
				current.Suspend()
				beat = time.After(d.Pause)
			} else {
				current.Resume()
				beat = time.After(moment)
			}
		default:
			current.Resume()
		}
		select {
		case <-current.Done():
			return
		case <-ctx.Done():
		case <-changed:
		case <-beat:
		}
	}
	current.Resume() // or it could not end when it is asked to
	<-current.Done()
}

// awaitPermission returns when nothing keeps the program from being started; false says that it never will be.
func (p *program) awaitPermission(ctx context.Context) bool {
	for {
		d, changed := p.wrong()
		if !d.Down {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}
