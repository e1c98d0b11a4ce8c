// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/leaderelection"
)

// lease is the lock of the leader, and knows until when this process may act as the leader.
//
// Losing a lease stops the controllers, but a process that was itself stopped, or that waits for an answer, finds
// out only afterwards, when another one leads already. So each request that changes anything is refused once the
// lease was not renewed for the deadline, which is shorter than the time after which others take it. See
// docs/decisions/0018.
type lease struct {
	resourcelock.Interface
	deadline time.Duration
	now      func() time.Time

	mu      sync.Mutex
	renewed time.Time // zero without the lease
	// term ends with the lease, and with it what is under way.
	term context.Context //nolint:containedctx // of many requests
	end  context.CancelFunc
	over *time.Timer
}

// newLease returns the lock that an operator with the settings takes before its controllers run.
func newLease(cfg *rest.Config, c Config) (*lease, error) {
	lock, err := leaderelection.NewResourceLock(rest.CopyConfig(cfg), noEvents{}, leaderelection.Options{
		LeaderElection:          true,
		LeaderElectionID:        leaseName,
		LeaderElectionNamespace: c.LeaderElectNamespace,
		RenewDeadline:           c.LeaderElectRenewDeadline,
	})
	if err != nil {
		return nil, err
	}
	return &lease{Interface: lock, deadline: c.LeaderElectRenewDeadline, now: time.Now}, nil
}

// Create implements resourcelock.Interface.
func (l *lease) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.note(record, func() error { return l.Interface.Create(ctx, record) })
}

// Update implements resourcelock.Interface.
func (l *lease) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.note(record, func() error { return l.Interface.Update(ctx, record) })
}

func (l *lease) note(record resourcelock.LeaderElectionRecord, write func() error) error {
	// From before the request: others count from when they see what it wrote.
	began := l.now()
	if record.HolderIdentity != l.Identity() {
		// To be given up. Whether that arrives or not, this process has stopped.
		l.set(time.Time{})
		return write()
	}
	if err := write(); err != nil {
		return err
	}
	l.set(began)
	return nil
}

func (l *lease) set(renewed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil && !l.held() {
		// The timer of a machine that sleeps stands still, so what belongs to a term that is over may still be under way.
		l.end()
	}
	if l.renewed = renewed; l.over != nil {
		l.over.Stop()
	}
	if !l.held() {
		if l.end != nil {
			l.end()
		}
		return
	}
	if l.term == nil || l.term.Err() != nil {
		l.term, l.end = context.WithCancel(context.Background())
	}
	l.over = time.AfterFunc(l.deadline-l.now().Sub(renewed), l.end)
}

// held tells whether this process is the leader. The caller has the lock.
func (l *lease) held() bool {
	now := l.now()
	// By the monotonic clock, which nobody sets, and by the wall clock, which goes on while the machine sleeps.
	return !l.renewed.IsZero() && now.Sub(l.renewed) < l.deadline && now.Round(0).Sub(l.renewed.Round(0)) < l.deadline
}

// during returns the context of a request that ends with the lease, and false without a lease.
func (l *lease) during(ctx context.Context) (context.Context, func(), bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held() {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.term, func() { cancel(errNotLeader) })
	return ctx, func() { stop(); cancel(nil) }, true
}

// errNotLeader is what requests of a replica end with that does not lead, or not any more.
var errNotLeader = errors.New("this replica does not hold the lease of the leader, so it changes nothing")

// Guard refuses requests that change something while this process is not the leader, and ends those that are under way
// when it ceases to be: one that waits for a connection would be sent later.
func (l *lease) Guard(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if !changes(r) {
			return next.RoundTrip(r)
		}
		ctx, done, held := l.during(r.Context())
		if !held {
			if r.Body != nil {
				_ = r.Body.Close() // as a RoundTripper has to
			}
			return nil, errNotLeader
		}
		response, err := next.RoundTrip(r.WithContext(ctx))
		if err != nil {
			defer done()
			if errors.Is(context.Cause(ctx), errNotLeader) {
				err = errNotLeader
			}
			return nil, err
		}
		response.Body = &answer{response.Body, done}
		return response, nil
	})
}

// answer is the body of a response, with whose end its request is done.
type answer struct {
	io.ReadCloser
	done func()
}

func (a *answer) Close() error {
	defer a.done()
	return a.ReadCloser.Close()
}

// changes tells whether a request to an API server is to change something. Questions about a user's rights have
// the form of objects that are created.
func changes(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return !strings.Contains(r.URL.Path, "/apis/authentication.k8s.io/") && !strings.Contains(r.URL.Path, "/apis/authorization.k8s.io/")
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// noEvents has no recorder: who leads stands in the lease, and logs tell when it changed.
type noEvents struct{}

func (noEvents) GetEventRecorderFor(string) record.EventRecorder { return nil }
func (noEvents) GetEventRecorder(string) events.EventRecorder    { return nil }
