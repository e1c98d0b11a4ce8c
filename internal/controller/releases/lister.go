// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Listing is what a source had to offer when it was asked last.
type Listing struct {
	// Offers are the releases at the source, sorted by name. While the source does not answer they are
	// those that it had last.
	Offers []source.Offer
	// At is when the source had these; zero when it has not answered yet.
	At time.Time
	// Err is why the source could not be asked the last time, or nil.
	Err error
	// Asked is false as long as the source was never asked.
	Asked bool
}

// Lister asks a source for its releases at intervals, once for all who want to know, and tells when
// the answer changes. Nothing depends on its memory: after a restart it asks again.
type Lister struct {
	list     func(context.Context) ([]source.Offer, error)
	interval time.Duration
	changes  chan event.GenericEvent

	mu   sync.Mutex
	last Listing
}

// NewLister returns a Lister that calls list at each interval once it was started.
func NewLister(list func(context.Context) ([]source.Offer, error), interval time.Duration) *Lister {
	// One pending change is enough: who is told looks at the newest answer.
	return &Lister{list: list, interval: interval, changes: make(chan event.GenericEvent, 1)}
}

// Last returns the newest answer.
func (l *Lister) Last() Listing {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Interval returns the time between two questions.
func (l *Lister) Interval() time.Duration { return l.interval }

// Changes carries an event, about no object in particular, after each change of the answer.
func (l *Lister) Changes() <-chan event.GenericEvent { return l.changes }

// Refresh asks the source now.
func (l *Lister) Refresh(ctx context.Context) {
	offers, err := l.list(ctx)
	if ctx.Err() != nil {
		return // being stopped says nothing about the source
	}
	l.mu.Lock()
	next := l.last
	next.Asked, next.Err = true, err
	if err == nil {
		next.Offers, next.At = slices.Clone(offers), time.Now()
		slices.SortFunc(next.Offers, func(a, b source.Offer) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	}
	changed := !same(l.last, next)
	l.last = next
	l.mu.Unlock()
	if !changed {
		return
	}
	log := ctrl.LoggerFrom(ctx)
	if err != nil {
		log.Error(err, "Listing the releases of the source failed")
	} else {
		log.Info("The source offers other releases than before", "releases", len(next.Offers))
	}
	select {
	case l.changes <- event.GenericEvent{Object: &metav1.PartialObjectMetadata{}}:
	default:
	}
}

func same(a, b Listing) bool {
	if a.Asked != b.Asked || (a.Err == nil) != (b.Err == nil) || !slices.EqualFunc(a.Offers, b.Offers, sameOffer) {
		return false
	}
	return a.Err == nil || a.Err.Error() == b.Err.Error()
}

func sameOffer(a, b source.Offer) bool { return a.Name == b.Name && a.Published.Equal(b.Published) }

// retry is how soon a source is asked again that did not answer; it doubles up to the interval.
const retry = 5 * time.Second

// Start asks at each interval until ctx ends. It is a runnable of the manager.
func (l *Lister) Start(ctx context.Context) error {
	pause := retry
	for {
		l.Refresh(ctx)
		next := l.interval
		if l.Last().Err != nil {
			next, pause = min(pause, l.interval), min(2*pause, l.interval)
		} else {
			pause = retry
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// NeedLeaderElection tells the manager that only the leader, whose controllers want to know, asks.
func (l *Lister) NeedLeaderElection() bool { return true }
