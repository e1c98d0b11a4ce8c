// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
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

// Listing returns what the source of a ClusterStack offers, as it is known. Changes tells when that has
// changed. From the first question on the source is asked at intervals, once for all ClusterStacks that
// name the same one, until none of them is left.
func (r *Releases) Listing(ctx context.Context, stack *v1alpha1.ClusterStack) Listing {
	if err := r.meet(ctx, stack); err != nil {
		return Listing{Asked: true, Err: unasked(err, !apierrors.IsNotFound(err))}
	}
	o := r.Of(stack)
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.pollers[o.settings]
	if !ok {
		p = &poller{releases: r, origin: o, published: map[release.Name]time.Time{}, hurry: make(chan struct{}, 1)}
		r.pollers[o.settings] = p
		if r.running != nil {
			r.run(r.running, p) //nolint:contextcheck // a poller outlives whoever asked first
		}
	}
	return p.answer(o.Poll)
}

// Changes carries an event, about no object in particular, after each change of what a source offers.
func (r *Releases) Changes() <-chan event.GenericEvent { return r.changes }

// Start asks the sources until ctx ends. It is a runnable of the manager.
func (r *Releases) Start(ctx context.Context) error {
	r.mu.Lock()
	r.running = ctx
	for _, p := range r.pollers {
		r.run(ctx, p)
	}
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.running = nil // nothing is started any more
	r.mu.Unlock()
	r.wait.Wait()
	return nil
}

// NeedLeaderElection tells the manager that only the leader, whose controllers want to know, asks.
func (r *Releases) NeedLeaderElection() bool { return true }

func (r *Releases) run(ctx context.Context, p *poller) { r.wait.Go(func() { p.run(ctx) }) }

// users are the ClusterStacks whose releases come from a source.
func (r *Releases) users(ctx context.Context, settings string) ([]v1alpha1.ClusterStack, error) {
	stacks := &v1alpha1.ClusterStackList{}
	if err := r.reader.List(ctx, stacks); err != nil {
		return nil, fmt.Errorf("list ClusterStacks: %w", err)
	}
	return slices.DeleteFunc(stacks.Items, func(stack v1alpha1.ClusterStack) bool {
		return !stack.Spec.AutoSubscribe || r.Of(&stack).settings != settings
	}), nil
}

// poller asks one source for its releases. Nothing depends on its memory: after a restart it asks again.
type poller struct {
	releases *Releases
	origin   Origin
	// published has what a source had to be asked for release by release.
	published map[release.Name]time.Time

	// hurry ends the pause between two questions.
	hurry chan struct{}

	mu   sync.Mutex
	last Listing
	// interval is how often the source is asked at present, zero before the first answer.
	interval time.Duration
}

// answer returns what the source had last. Somebody who wants it asked more often does not wait for a pause to end
// that was meant for others; a source that does not answer, or wants to be left alone, is not asked the more for it.
func (p *poller) answer(interval time.Duration) Listing {
	p.mu.Lock()
	defer p.mu.Unlock()
	if interval < p.interval && p.last.Err == nil {
		select {
		case p.hurry <- struct{}{}:
		default:
		}
	}
	return p.last
}

const (
	// retry is how soon a source is asked again that did not answer; it doubles up to the interval.
	retry = 5 * time.Second
	// look is how often the credentials are looked at that a source does not accept.
	look = 10 * time.Second
)

// run asks at each interval until ctx ends or nobody wants to know.
func (p *poller) run(ctx context.Context) {
	pause := retry
	for {
		users, ok := p.users(ctx)
		if !ok {
			return
		}
		interval := p.origin.Poll
		for i := range users {
			interval = min(interval, p.releases.Of(&users[i]).Poll)
		}
		p.mu.Lock()
		p.interval = interval
		p.mu.Unlock()
		version, err := p.ask(ctx, users)
		next := wait.Jitter(interval, 0.1)
		if err != nil {
			next, pause = min(pause, interval), min(2*pause, interval)
			// Asking sooner than it says would only make it wait longer.
			next = max(next, source.RetryAfter(err))
			select {
			case <-p.hurry: // said before we knew
			default:
			}
		} else {
			pause = retry
		}
		if !p.sleep(ctx, next, version, errors.Is(err, source.ErrUnauthorized)) {
			return
		}
	}
}

// users returns who wants to know. When nobody does, or ctx has ended, ok is false and the poller is gone.
func (p *poller) users(ctx context.Context) (users []v1alpha1.ClusterStack, ok bool) {
	// Under the lock, or a ClusterStack could be handed a poller that has just given up.
	p.releases.mu.Lock()
	defer p.releases.mu.Unlock()
	users, err := p.releases.users(ctx, p.origin.settings)
	if ctx.Err() == nil && (err != nil || len(users) > 0) {
		return users, true
	}
	if p.releases.pollers[p.origin.settings] == p {
		delete(p.releases.pollers, p.origin.settings)
		delete(p.releases.built, p.origin.settings)
	}
	return nil, false
}

// sleep waits for a time, or until somebody is in a hurry, or until the credentials have changed that the source
// did not accept.
func (p *poller) sleep(ctx context.Context, pause time.Duration, version string, refused bool) bool {
	end := time.Now().Add(pause)
	refused = refused && p.origin.spec != nil && p.origin.spec.SecretRef != nil
	for {
		left := time.Until(end)
		if left <= 0 {
			return true
		}
		if refused {
			left = min(left, look)
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-p.hurry:
			timer.Stop()
			return true
		case <-timer.C:
		}
		if refused {
			if _, now, _ := p.releases.secret(ctx, p.origin); now != "" && now != version {
				return true
			}
		}
	}
}

// ask asks the source now and returns the version of the credentials that it was asked with.
func (p *poller) ask(ctx context.Context, users []v1alpha1.ClusterStack) (string, error) {
	done, err := p.turn(ctx, users)
	if err != nil {
		return "", err // being stopped
	}
	defer done()
	began := time.Now()
	offers, version, err := p.list(ctx, users)
	if ctx.Err() != nil {
		return version, ctx.Err() // being stopped says nothing about the source
	}
	observeSource(p.origin, "list", began, err)
	p.mu.Lock()
	before := p.last
	p.last.Asked, p.last.Err = true, err
	if err == nil {
		slices.SortFunc(offers, func(a, b source.Offer) int { return strings.Compare(a.Name.String(), b.Name.String()) })
		p.last.Offers, p.last.At = offers, time.Now()
	}
	changed := !same(before, p.last)
	p.mu.Unlock()
	if changed {
		p.tell(ctx, err, len(offers))
	}
	return version, err
}

// UnusableError is why a source cannot even be asked: its settings or its credentials are missing or wrong.
type UnusableError struct{ Err error }

func (e *UnusableError) Error() string { return e.Err.Error() }

// Unwrap returns what is missing or wrong.
func (e *UnusableError) Unwrap() error { return e.Err }

// UnreadError is why a source was not asked although nothing is known to be wrong with its settings and credentials: the
// API server did not hand out what is needed. It may the next time.
type UnreadError struct{ Err error }

func (e *UnreadError) Error() string { return e.Err.Error() }

// Unwrap returns what the API server said, or why it said nothing.
func (e *UnreadError) Unwrap() error { return e.Err }

// unasked words why a source was not asked.
func unasked(err error, unread bool) error {
	if unread {
		return &UnreadError{err}
	}
	return &UnusableError{err}
}

// turn waits until the source may be asked on behalf of whoever wants to know.
func (p *poller) turn(ctx context.Context, users []v1alpha1.ClusterStack) (done func(), err error) {
	var namespaces []string
	for i := range users {
		namespaces = append(namespaces, users[i].Namespace)
	}
	p.mu.Lock()
	queue := p.releases.questions.lists
	if p.last.Err != nil {
		queue = p.releases.questions.doubtful
	}
	p.mu.Unlock()
	slices.Sort(namespaces)
	return queue.Wait(ctx, fair.For(slices.Compact(namespaces)...))
}

// list asks the source for its releases, and returns the version of the credentials that it was asked with.
func (p *poller) list(ctx context.Context, users []v1alpha1.ClusterStack) (offers []source.Offer, version string, err error) {
	defer panicked.Into(&err)
	src, version, err := p.releases.source(ctx, p.origin)
	if err != nil {
		// A Secret that was read has a version, and so has one that is not there.
		spec := p.origin.spec
		unread := spec != nil && spec.SecretRef != nil && version == "" && p.releases.options.Build != nil
		return nil, version, unasked(err, unread)
	}
	if offers, err = src.List(ctx); err != nil {
		return nil, version, err
	}
	offers, err = p.date(ctx, src, offers, users)
	return offers, version, err
}

func (p *poller) tell(ctx context.Context, err error, offers int) {
	log := ctrl.LoggerFrom(ctx).WithValues("source", p.origin.Location)
	if err != nil {
		step.Trace(ctrl.LoggerInto(ctx, log), "list", err)
		log.Error(err, "Listing the releases of a source failed")
	} else {
		log.Info("A source offers other releases than before", "releases", offers)
	}
	select {
	case p.releases.changes <- event.GenericEvent{Object: &metav1.PartialObjectMetadata{}}:
	default:
	}
}

// date finds out when releases were published, of a source that has to be asked for each: only of those of
// which nothing else says which is newer, and for ClusterStacks that want to know, and only once.
func (p *poller) date(ctx context.Context, src source.Source, offers []source.Offer, users []v1alpha1.ClusterStack) ([]source.Offer, error) {
	dated, ok := src.(source.Dated)
	if !ok {
		return offers, nil
	}
	undated := map[release.Name]bool{}
	for i := range users {
		for _, name := range undecided(&users[i], offers) {
			undated[name] = true
		}
	}
	for i := range offers {
		name := offers[i].Name
		if !offers[i].Published.IsZero() || !undated[name] {
			continue
		}
		at, known := p.published[name]
		if !known {
			var err error
			at, err = dated.Published(ctx, name)
			var malformed *source.MalformedError
			if err != nil && !errors.Is(err, source.ErrNotFound) && !errors.As(err, &malformed) {
				return nil, err // without it another release could be taken for the newest
			}
			p.published[name] = at
		}
		offers[i].Published = at
	}
	return offers, nil
}

// undecided returns the releases for a ClusterStack of which the versions do not tell which is the newest.
func undecided(stack *v1alpha1.ClusterStack, offers []source.Offer) []release.Name {
	spec := stack.Spec
	if spec.Channel != v1alpha1.ChannelCustom {
		return nil
	}
	prefix := release.Name{Provider: spec.Provider, Stack: spec.Name, Kubernetes: spec.KubernetesVersion}.Prefix()
	var names []release.Name
	for _, offer := range offers {
		if offer.Name.Prefix() == prefix && offer.Name.Version.Channel != "" {
			names = append(names, offer.Name)
		}
	}
	if names = release.Newest(names); len(names) > 1 {
		return names
	}
	return nil
}

func same(a, b Listing) bool {
	if a.Asked != b.Asked || (a.Err == nil) != (b.Err == nil) || !slices.EqualFunc(a.Offers, b.Offers, sameOffer) {
		return false
	}
	return a.Err == nil || a.Err.Error() == b.Err.Error()
}

func sameOffer(a, b source.Offer) bool { return a.Name == b.Name && a.Published.Equal(b.Published) }
