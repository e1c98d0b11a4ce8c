// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// Pauses before a program that exited is started again, as a kubelet does with static pods.
const (
	firstRestart = time.Second
	lastRestart  = 30 * time.Second
	// steady is how long a program has to run for its next restart to come quickly again.
	steady = time.Minute
)

// program is a process that is started again when it exits, until it is stopped.
type program struct {
	spec process.Spec
	log  logr.Logger
	// changed is called when the state of the program may be another one. It may be nil.
	changed func()

	stopping context.CancelFunc
	finished chan struct{} // closed when the process is gone for good

	mu          sync.Mutex
	current     *process.Process
	exitCode    int // of the process before the current one
	disturbance Disturbance
	disturbed   chan struct{} // closed and replaced when the disturbance changes
}

// launch starts a program that runs until it is stopped. The error is about this first start only.
func launch(ctx context.Context, spec process.Spec, log logr.Logger, changed func()) (*program, error) {
	first, err := process.Start(spec)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &program{
		spec: spec, log: log.WithValues("program", spec.Name), changed: changed,
		stopping: cancel, finished: make(chan struct{}), current: first, disturbed: make(chan struct{}),
	}
	go p.supervise(ctx)
	return p, nil
}

func (p *program) tellChange() {
	if p.changed != nil {
		p.changed()
	}
}

func (p *program) process() *process.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// await returns when probe succeeds. It gives up when the program exits: what it printed then is more
// useful than to wait for its next start.
func (p *program) await(ctx context.Context, probe func(context.Context) error) error {
	return p.process().Await(ctx, probe)
}

// Stop ends the program for good: politely until ctx is done, then by force.
func (p *program) Stop(ctx context.Context) {
	p.stopping()
	// An error only says that force was needed.
	_ = p.process().Stop(ctx)
	<-p.finished
}

func (p *program) supervise(ctx context.Context) {
	defer close(p.finished)
	pause := firstRestart
	for {
		current := p.process()
		started := time.Now()
		p.attend(ctx, current)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > steady {
			pause = firstRestart
		}
		p.log.Info("exited and will be started again", "pause", pause.String(), "cause", process.Brief(current.Err()))
		p.tellChange()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastRestart)
		if !p.awaitPermission(ctx) {
			return
		}

		p.mu.Lock()
		// Stop may have come in between; it holds the process that has ended, and a new one would stay.
		if ctx.Err() != nil {
			p.mu.Unlock()
			return
		}
		next, err := process.Start(p.spec)
		if err == nil {
			p.current, p.exitCode = next, current.ExitCode()
		}
		p.mu.Unlock()
		if err != nil {
			p.log.Error(err, "start again")
		}
		p.tellChange()
	}
}
