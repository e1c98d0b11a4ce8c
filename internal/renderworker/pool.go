// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// Options are settings whose zero value works.
type Options struct {
	// Workers is how many renders there are at a time: as many as there are cores by default, and at least
	// two, so that a chart that takes long does not hold up the others. When all of them are taken there is one more
	// for a tenant who has none.
	Workers int
	// CPU is how much processor time a render may take, 15 seconds by default.
	CPU time.Duration
	// Wall is how long a render may take in all, two minutes by default. It is only there for a worker that
	// is stuck without computing.
	Wall time.Duration
	// Memory is what a worker may write to, in bytes, 512 MiB by default. Go's runtime and the program
	// itself need about 100 MiB of it.
	Memory int64
	// Renders is how many a worker does before another takes its place, 200 by default. What a chart may
	// have left behind in the process is gone then.
	Renders int
	// Idle is how long a worker that has nothing to do is kept, a minute by default.
	Idle time.Duration
	// Results is how many results are remembered, 256 by default.
	Results int
}

func (o Options) withDefaults() Options {
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	o.Workers = max(o.Workers, 2)
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&o.CPU, 15*time.Second)
	set(&o.Wall, 2*time.Minute)
	set(&o.Idle, time.Minute)
	if o.Memory == 0 {
		o.Memory = 512 << 20
	}
	if o.Renders == 0 {
		o.Renders = 200
	}
	if o.Results == 0 {
		o.Results = 256
	}
	return o
}

// suspicion is how long charts that overstayed have to share one part of the workers.
const suspicion = time.Hour

// ErrClosed is the error of renders that were asked for after Close, or cut off by it.
var ErrClosed = errors.New("the renderer is closed")

// Pool renders in workers. It is safe for concurrent use.
type Pool struct {
	options Options
	digests *render.Digests
	results *render.Results
	queue   *queue
	start   chan func()

	mu     sync.Mutex
	closed bool
	all    map[*process]struct{}
	idle   []*process // the last one was used last
}

// New returns a Pool. Workers are started when there is something to render.
func New(o Options) *Pool {
	o = o.withDefaults()
	p := &Pool{
		options: o,
		digests: render.NewDigests(),
		results: render.NewResults(o.Results),
		queue:   newQueue(o.Workers),
		start:   make(chan func()),
		all:     map[*process]struct{}{},
	}
	go func() {
		// The kernel ends workers together with the thread that started them. Go ends threads as it likes,
		// but not one that is locked to a goroutine.
		runtime.LockOSThread()
		for do := range p.start {
			do()
		}
	}()
	return p
}

// Close ends all workers. Renders that are under way fail.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for w := range p.all {
		w.kill(ErrClosed)
	}
	close(p.start)
}

// Render does what in.Render does. The chart must not be changed afterwards. Of several tenants, as package fair has them
// from ctx, it is the turn of whoever has the fewest renders; that it has come is told as fair.OnTurn says.
//
// An error that a release or a Cluster is to blame for is a *render.InvalidError; so is one that says that
// the render takes too much time or memory. All others are worth another try.
func (p *Pool) Render(ctx context.Context, in render.Input) (*render.Result, error) {
	chart := p.digests.Of(in.Chart)
	done, err := p.queue.wait(ctx, fair.Tenant(ctx), chart)
	if err != nil {
		return nil, err
	}
	defer done()
	fair.Begun(ctx)

	// A worker can be ended by somebody else, such as a kernel that lacks memory.
	const attempts = 2
	for attempt := 1; ; attempt++ {
		result, err := p.attempt(ctx, in, chart)
		var died *diedError
		if errors.As(err, &died) {
			p.queue.suspect(chart)
		}
		switch {
		case err == nil:
			return result, nil
		case died == nil:
			return nil, err
		case died.reason != "":
			return nil, &render.InvalidError{Subject: in.Subject, Reason: died.reason}
		case attempt == attempts:
			return nil, fmt.Errorf("render %s: %w", in.Subject, err)
		}
	}
}

// Load returns how many renders wait for a worker, and how many have one.
func (p *Pool) Load() (waiting, running int) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	return len(p.queue.waiting), p.options.Workers - p.queue.free
}

// Check reports whether this machine lets workers work.
func (p *Pool) Check(ctx context.Context) error {
	w, err := p.take(ctx)
	if err != nil {
		return err
	}
	p.giveBack(w)
	return nil
}

func (p *Pool) attempt(ctx context.Context, in render.Input, chart render.Digest) (*render.Result, error) {
	w, err := p.take(ctx)
	if err != nil {
		return nil, err
	}
	asked := request{Input: in, Chart: chart}
	have := charts{chart: in.Chart}
	for _, files := range in.Neighbours {
		digest := p.digests.Of(files)
		asked.Neighbours = append(asked.Neighbours, digest)
		have[digest] = files
	}
	asked.Input.Chart, asked.Input.Neighbours = nil, nil

	var result *render.Result
	w.renders++
	err = w.guarded(ctx, limits{cpu: p.options.CPU, wall: p.options.Wall}, func() (err error) {
		result, err = w.render(asked, have, p.results)
		return err
	})
	p.giveBack(w)
	return result, err
}

// take returns a worker that nobody else uses.
func (p *Pool) take(ctx context.Context) (*process, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	for len(p.idle) > 0 {
		w := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if w.alive() {
			p.mu.Unlock()
			return w, nil
		}
		delete(p.all, w)
	}
	p.mu.Unlock()

	w, err := p.newProcess()
	if err != nil {
		return nil, fmt.Errorf("start a renderer: %w", err)
	}
	if err := w.greet(ctx, p.options.Wall); err != nil {
		p.giveBack(w)
		return nil, fmt.Errorf("start a renderer: %w", err)
	}
	return w, nil
}

func (p *Pool) newProcess() (*process, error) {
	var w *process
	var err error
	started := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	p.start <- func() {
		w, err = startProcess(p.options.Memory)
		close(started)
	}
	<-started
	if err == nil {
		p.all[w] = struct{}{}
	}
	return w, err
}

// giveBack keeps a worker for the next render, unless it has served its time.
func (p *Pool) giveBack(w *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !w.alive() || w.renders >= p.options.Renders {
		w.kill(ErrClosed)
		delete(p.all, w)
		return
	}
	w.idleSince = time.Now()
	p.idle = append(p.idle, w)
	time.AfterFunc(p.options.Idle, p.dismiss)
}

// dismiss ends workers that have had nothing to do for long.
func (p *Pool) dismiss() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 && time.Since(p.idle[0].idleSince) >= p.options.Idle {
		p.idle[0].kill(ErrClosed)
		delete(p.all, p.idle[0])
		p.idle = p.idle[1:]
	}
}

// workers returns the process ids of all workers.
func (p *Pool) workers() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []int
	for w := range p.all {
		ids = append(ids, w.cmd.Process.Pid)
	}
	return ids
}

// queue hands out the right to use a worker to the tenant who has the fewest, and else in the order of asking. Charts that
// have overstayed lately share half of the workers among them, so that the others go on.
type queue struct {
	mu       sync.Mutex
	free     int // of the workers; -1 when there is one more at work for a tenant who had none
	doubtful int // how many may be used by suspects
	of       map[string]int
	waiting  []*ticket
	suspects map[render.Digest]time.Time
}

type ticket struct {
	tenant  string
	chart   render.Digest
	granted chan struct{}
	// suspect says that it counts as one as long as it is used.
	suspect bool
}

func newQueue(workers int) *queue {
	return &queue{free: workers, doubtful: workers / 2, of: map[string]int{}, suspects: map[render.Digest]time.Time{}}
}

// wait waits for a turn. The function that it returns ends it.
func (q *queue) wait(ctx context.Context, tenant string, chart render.Digest) (done func(), err error) {
	t := &ticket{tenant: tenant, chart: chart, granted: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, t)
	q.grant()
	q.mu.Unlock()
	select {
	case <-t.granted:
	case <-ctx.Done():
		q.mu.Lock()
		defer q.mu.Unlock()
		for i, other := range q.waiting {
			if other == t {
				q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
				return nil, ctx.Err()
			}
		}
		q.giveBack(t)
		return nil, ctx.Err()
	}
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.giveBack(t)
	}, nil
}

func (q *queue) giveBack(t *ticket) {
	q.free++
	if q.of[t.tenant]--; q.of[t.tenant] == 0 {
		delete(q.of, t.tenant)
	}
	if t.suspect {
		q.doubtful++
	}
	q.grant()
}

// grant gives free workers to those who wait.
func (q *queue) grant() {
	for q.free >= 0 {
		next := -1
		for i, t := range q.waiting {
			has := q.of[t.tenant]
			if q.free == 0 && has > 0 || next >= 0 && has >= q.of[q.waiting[next].tenant] {
				continue
			}
			if t.suspect = time.Since(q.suspects[t.chart]) < suspicion; !t.suspect || q.doubtful > 0 {
				next = i
			}
		}
		if next < 0 {
			return
		}
		t := q.waiting[next]
		q.waiting = slices.Delete(q.waiting, next, next+1)
		q.free--
		q.of[t.tenant]++
		if t.suspect {
			q.doubtful--
		}
		close(t.granted)
	}
}

// suspect notes that a chart has overstayed.
func (q *queue) suspect(chart render.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for other, since := range q.suspects {
		if time.Since(since) >= suspicion {
			delete(q.suspects, other)
		}
	}
	q.suspects[chart] = time.Now()
}
