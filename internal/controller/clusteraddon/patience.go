// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
)

// An API server that accepts requests and never answers must cost the other clusters nothing. Three things see to
// that. A pass works on its turn, of which there are as many as objects worked on at a time; one that waits for an
// answer for a while gives its turn to another, and goes on waiting beside it. Only so many may wait like that; what
// comes beyond is given up at once. And a pass whose request was not answered in time is given up as a whole, and its
// cluster left alone for a while, which doubles each time. So it is with charts that take long. Turns, places beside them and
// places to wait for one are shared out among namespaces: one whose clusters or charts hang, however many, holds up itself.
const (
	// stall is for how long a pass waits for an answer on its turn.
	stall = 500 * time.Millisecond
	// longRender is for how long a pass renders on its turn, or waits for a worker to do so. A render itself does not take
	// so long, unless its chart is one that is going to be killed.
	longRender = 5 * time.Second
	// waiters is how many passes may wait for answers for each one that works, and queueing how many for a turn.
	waiters  = 6
	queueing = 4
	// firstPause and longestPause bound for how long a cluster is left alone that did not answer.
	firstPause   = 10 * time.Second
	longestPause = 5 * time.Minute
	// probeTimeout is how long a cluster that did not answer has for its next answer.
	probeTimeout = 5 * time.Second
)

// workersFor returns how many passes there are at a time when so many of them work. There is always one more than can
// wait, who finds out that there is no place for another.
func workersFor(n int) int { return n*(1+waiters+queueing) + 1 }

// turns are what passes work on. Nil is as many as there are.
type turns struct {
	working *fair.Queue
	// waiting are those that wait beside their turn, and queueing those that wait for one.
	waiting  *fair.Queue
	queueing *fair.Queue
}

func newTurns(n int) *turns {
	shared := func(all int) *fair.Queue {
		return fair.New(fair.Limits{All: all * 3 / 4, One: all / 2, First: all})
	}
	return &turns{
		working: fair.New(fair.Limits{All: n, One: n}),
		waiting: shared(n * waiters), queueing: shared(n * queueing),
	}
}

// take waits for a turn of a namespace. The error is errQueue when too many do.
func (t *turns) take(ctx context.Context, namespace string) (*turn, error) {
	if t == nil {
		return &turn{}, nil
	}
	done, free := t.working.Try(namespace)
	if !free {
		leave, may := t.queueing.Try(namespace)
		if !may {
			return nil, errQueue
		}
		defer leave()
		var err error
		if done, err = t.working.Wait(ctx, fair.For(namespace)); err != nil {
			return nil, err
		}
	}
	return &turn{turns: t, namespace: namespace, done: done}, nil
}

// turn is that of one pass.
type turn struct {
	turns     *turns
	namespace string

	mu sync.Mutex
	// done ends the turn, or the wait beside it.
	done  func()
	aside bool
	over  bool
}

// stepAside gives the turn to another pass, while this one waits beside it. It answers false when too many wait.
func (t *turn) stepAside() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns == nil || t.aside || t.over {
		return true
	}
	waited, may := t.turns.waiting.Try(t.namespace)
	if may {
		t.done()
		t.done, t.aside = waited, true
	}
	return may
}

// end is called when the pass is over.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns != nil && !t.over {
		t.done()
	}
	t.over = true
}

// errSilent ends a pass whose cluster does not answer.
var errSilent = errors.New("the API server of the cluster does not answer in time")

// errCrowded ends a render for which there is no place. It is nobody's fault, and tried again.
var errCrowded = errors.New("waits for a turn to render, as many charts of this namespace do; if that lasts, find out which of them take long")

// errQueue ends a pass for which there is no place even among those that wait for a turn.
var errQueue = errors.New("too many passes of the namespace wait for a turn")

// notYet returns after how long such a pass is tried again. It is another time for each, so that they come one by one.
func notYet() time.Duration { return 100*time.Millisecond + rand.N(2*time.Second) }

// patience is that with one API server.
type patience struct {
	mu     sync.Mutex
	asking int
	timer  *time.Timer
	turn   *turn
	giveUp context.CancelCauseFunc
	pause  time.Duration
	until  time.Time
	silent bool
	now    func() time.Time
}

// begin starts a pass, whose requests are those of the context that it returns.
func (p *patience) begin(ctx context.Context, t *turn) (context.Context, context.CancelFunc) {
	ctx, giveUp := context.WithCancelCause(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn, p.giveUp, p.silent = t, giveUp, false
	return ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.turn, p.giveUp = nil, nil
		giveUp(nil)
	}
}

// left returns for how long the cluster is still to be left alone.
func (p *patience) left() time.Duration {
	left, _ := p.experience()
	return left
}

// experience returns for how long the cluster is still to be left alone, and whether it left a request unanswered last.
func (p *patience) experience() (left time.Duration, doubtful bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.until.Sub(p.now())), p.pause > 0
}

// lost tells whether the pass that was begun last was given up.
func (p *patience) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.silent
}

// roundTripper is around each request to the API server.
func (p *patience) roundTripper(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		p.asked()
		response, err := next.RoundTrip(r)
		unanswered := err
		if cause := context.Cause(r.Context()); err != nil && cause != nil {
			unanswered = cause // Whoever asked may have given up for a reason of its own, such as a Job that takes long.
		}
		p.answered(unanswered)
		return response, err
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (p *patience) asked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking++; p.asking == 1 {
		p.timer = time.AfterFunc(stall, p.stalled)
	}
}

func (p *patience) answered(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking--; p.asking == 0 {
		p.timer.Stop()
	} else {
		p.timer.Reset(stall)
	}
	var timeout net.Error
	switch {
	case err == nil:
		p.pause = 0
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		p.lose()
	}
}

// stalled is called when no answer came for a while.
func (p *patience) stalled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking > 0 && p.turn != nil && !p.turn.stepAside() {
		p.lose()
	}
}

// lose gives up the pass.
func (p *patience) lose() {
	if p.giveUp == nil || p.silent {
		return
	}
	p.silent = true
	p.pause = min(max(firstPause, 2*p.pause), longestPause)
	p.until = p.now().Add(spread(p.pause))
	p.giveUp(errSilent)
}
