// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package releases answers the questions about releases that several controllers have: where does a
// release come from, what is in it, what do the sources offer, and who uses what.
package releases

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// Options are settings whose zero value is an operator with one source for all ClusterStacks.
type Options struct {
	// Build makes the source that a ClusterStack names, with the contents of the Secret named there.
	Build func(spec v1alpha1.ReleaseSource, secret map[string][]byte) (source.Source, error)
	// Secret reads a Secret, past any cache.
	Secret func(ctx context.Context, key client.ObjectKey) (*corev1.Secret, error)
	// Directory is what the paths of directories in ClusterStacks are relative to.
	Directory string
	// Location names the source of the operator, if that differs from its key.
	Location string

	// Poll is how often a source is asked for new releases, DirectoryPoll how often a directory of a
	// ClusterStack, DefaultPoll how often the source of the operator.
	Poll, DirectoryPoll, DefaultPoll time.Duration
}

// Releases opens releases through the store, and watches what their sources offer. It can be shared.
type Releases struct {
	reader client.Reader
	store  *store.Store
	// fixed is the source of the operator; nil when it has none.
	fixed         source.Source
	key, location string
	options       Options
	changes       chan event.GenericEvent

	mu      sync.Mutex
	built   map[string]built
	pollers map[string]*poller
	// fetched are the digests of what was just fetched, broken what of it turned out to be malformed.
	fetched map[which]string
	broken  map[which]malformed
	// running is the context of the pollers, nil until they may run.
	running context.Context //nolint:containedctx // pollers come and go for as long as it lasts
	wait    sync.WaitGroup
}

// New returns the releases of the operator's source, which may be nil. The key names that source and its
// credentials in the store and for people, such as "directory:/releases". The reader reads
// ClusterStacks and ClusterStackReleases.
func New(reader client.Reader, st *store.Store, src source.Source, key string) *Releases {
	return NewWith(reader, st, src, key, Options{})
}

// NewWith is New for an operator whose ClusterStacks may name sources of their own.
func NewWith(reader client.Reader, st *store.Store, src source.Source, key string, o Options) *Releases {
	for _, interval := range []*time.Duration{&o.Poll, &o.DirectoryPoll, &o.DefaultPoll} {
		if *interval <= 0 {
			*interval = 5 * time.Minute
		}
	}
	r := &Releases{
		reader: reader, store: st, fixed: src, key: key, location: o.Location, options: o,
		// One pending change is enough: who is told looks at the newest answers.
		changes: make(chan event.GenericEvent, 1),
		built:   map[string]built{}, pollers: map[string]*poller{}, fetched: map[which]string{}, broken: map[which]malformed{},
	}
	if r.location == "" {
		r.location = key
	}
	return r
}

// Open opens the release of a ClusterStackRelease with the digest that is fixed in it. Without that
// object, or as long as it has no digest, it is whatever the store has or the source offers.
//
// The error wraps source.ErrNotFound when the source has no such release.
func (r *Releases) Open(ctx context.Context, namespace string, name release.Name) (*release.Release, string, error) {
	o, obj, err := r.Origin(ctx, namespace, name)
	if err != nil {
		return nil, "", err
	}
	return r.OpenFrom(ctx, o, name, Pin(obj, o.Location))
}

// OpenPinned opens a release with the given digest, or any if that is empty.
func (r *Releases) OpenPinned(ctx context.Context, namespace string, name release.Name, digest string) (*release.Release, string, error) {
	o, _, err := r.Origin(ctx, namespace, name)
	if err != nil {
		return nil, "", err
	}
	return r.OpenFrom(ctx, o, name, digest)
}

// OpenFrom opens a release from an origin with the given digest, or any if that is empty.
func (r *Releases) OpenFrom(ctx context.Context, o Origin, name release.Name, digest string) (*release.Release, string, error) {
	w := which{key: o.Key, name: name}
	if err := r.stillBroken(ctx, o, w); err != nil {
		return nil, "", err
	}
	got, err := r.store.Get(ctx, store.Want{
		Key: o.Key, Name: name, Pin: store.Pin{Digest: digest}, From: &fetcher{releases: r, origin: o, pinned: digest},
	})
	r.remember(w, err)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", o.Location, err)
	}
	return got.Release, got.Pin.Digest, nil
}

// fetcher is an origin as the store sees it. What the source is, and its credentials, is found out only
// when the store does not have the release.
type fetcher struct {
	releases *Releases
	origin   Origin
	pinned   string
}

// Fetch implements store.Fetcher.
func (f *fetcher) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	src, _, err := f.releases.source(ctx, f.origin)
	if err != nil {
		return "", err
	}
	// What is pinned may be there although its name has gone or stands for something else by now.
	if addressed, ok := src.(source.Addressed); ok && f.pinned != "" {
		if err := addressed.FetchDigest(ctx, name, f.pinned, dst); !errors.Is(err, source.ErrNotFound) {
			return f.pinned, err
		}
	}
	digest, err := src.Fetch(ctx, name, dst)
	if err == nil {
		f.releases.mu.Lock()
		defer f.releases.mu.Unlock()
		f.releases.fetched[which{key: f.origin.Key, name: name}] = digest
	}
	return digest, err
}

// which names a release at a source.
type which struct {
	key  string
	name release.Name
}

// malformed is why a release cannot be used, and the digest of what was looked at.
type malformed struct {
	digest string
	err    error
}

// remember keeps in mind that a release is malformed, so that it is not fetched again and again.
func (r *Releases) remember(w which, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	digest := r.fetched[w]
	delete(r.fetched, w)
	var invalid *release.InvalidError
	if digest != "" && errors.As(err, &invalid) {
		r.broken[w] = malformed{digest: digest, err: err}
	} else {
		delete(r.broken, w)
	}
}

// stillBroken returns what was wrong with a release, as long as its source has the same one.
func (r *Releases) stillBroken(ctx context.Context, o Origin, w which) error {
	r.mu.Lock()
	known, found := r.broken[w]
	r.mu.Unlock()
	if !found {
		return nil
	}
	src, _, err := r.source(ctx, o)
	if err != nil {
		return nil //nolint:nilerr // whoever fetches it is told
	}
	resolver, ok := src.(source.Resolver)
	if !ok {
		return nil
	}
	if digest, err := resolver.Resolve(ctx, w.name); err != nil || digest != known.digest {
		return nil //nolint:nilerr // as above
	}
	return fmt.Errorf("%s: %w", o.Location, known.err)
}

// Pin returns the digest that a ClusterStackRelease has fixed for a source. Digests of different sources
// cannot be compared, so a release that gets another source starts anew.
func Pin(obj *v1alpha1.ClusterStackRelease, source string) string {
	if obj.Status.Source != source {
		return ""
	}
	return obj.Status.Digest
}

// Moved tells whether an error says that the source offers something else under the name of a release
// whose digest is fixed.
func Moved(err error) bool {
	var moved *store.MovedError
	return errors.As(err, &moved)
}
