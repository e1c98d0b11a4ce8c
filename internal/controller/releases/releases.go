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
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Options are settings whose zero value is an operator with one source for all ClusterStacks.
type Options struct {
	// Build makes the source that a ClusterStack names, with the contents of the Secret named there.
	Build func(spec v1alpha1.ReleaseSource, secret map[string][]byte) (source.Source, error)
	// Secret reads a Secret, past any cache.
	Secret func(ctx context.Context, key client.ObjectKey) (*corev1.Secret, error)
	// Namespace returns the UID of a namespace, past any cache. Without it, two of one name that follow each other are the
	// same.
	Namespace func(ctx context.Context, name string) (types.UID, error)
	// Directory is what the paths of directories in ClusterStacks are relative to.
	Directory string
	// Rules say whose signatures releases must have. Without them, nobody's.
	Rules *Rules
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
	incarnations  incarnations
	questions     *questions

	mu      sync.Mutex
	built   map[string]built
	pollers map[string]*poller
	broken  map[broken]malformed
	// fetched has the digests of what is being fetched or was fetched last.
	fetched map[broken]string
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
		reader: reader, store: st, fixed: src, key: key, location: o.Location, options: o, questions: newQuestions(),
		// One pending change is enough: who is told looks at the newest answers.
		changes: make(chan event.GenericEvent, 1),
		built:   map[string]built{}, pollers: map[string]*poller{}, broken: map[broken]malformed{}, fetched: map[broken]string{},
	}
	if r.options.Rules == nil {
		r.options.Rules = &Rules{}
	}
	if r.location == "" {
		r.location = key
	}
	return r
}

// Opened is a release that was opened.
type Opened struct {
	*release.Release
	// Pinned is what has to be opened from now on.
	Pinned Pinned
	// Signer is who has signed it, or nil when nobody was asked for or nobody has to have.
	Signer *verify.Signer
}

// Open opens the release of a ClusterStackRelease with the digest that is fixed in it. Without that
// object, or as long as it has no digest, it is whatever the store has or the source offers.
//
// The error wraps source.ErrNotFound when the source has no such release, and a *store.PendingError while it is
// being fetched.
func (r *Releases) Open(ctx context.Context, namespace string, name release.Name) (*release.Release, string, error) {
	o, obj, err := r.Origin(ctx, namespace, name)
	if err != nil {
		return nil, "", err
	}
	opened, err := r.OpenFrom(ctx, o, name, PinOf(obj).For(o.Location))
	return opened.Release, opened.Pinned.Digest, err
}

// OpenPinned opens a release with the given digest, or any if that is empty.
func (r *Releases) OpenPinned(ctx context.Context, namespace string, name release.Name, digest string) (*release.Release, string, error) {
	o, obj, err := r.Origin(ctx, namespace, name)
	if err != nil {
		return nil, "", err
	}
	pin := store.Pin{Digest: digest}
	if fixed := PinOf(obj).For(o.Location); fixed.Digest == digest {
		pin = fixed
	}
	opened, err := r.OpenFrom(ctx, o, name, pin)
	return opened.Release, opened.Pinned.Digest, err
}

// OpenFrom opens a release from an origin. Without a digest in the pin it is the one that the source offers now, or what
// the store has when the source cannot be asked.
func (r *Releases) OpenFrom(ctx context.Context, o Origin, name release.Name, pin store.Pin) (Opened, error) {
	which := broken{key: o.Key, name: name, pinned: pin.Digest}
	want := store.Want{Key: o.Key, Name: name, Pin: pin, From: &fetcher{releases: r, origin: o, which: which}}
	if known, malformed := r.isBroken(which); malformed || pin.Digest == "" {
		// The store may have an earlier content of that name, which was deleted because it was corrected.
		want.Offered = func(ctx context.Context) (string, error) {
			// Others may want the release, too, who do not wait for our turns.
			ctx, cancel := context.WithTimeout(ctx, 2*offerTimeout)
			defer cancel()
			digest, err := r.Offered(ctx, o, name)
			if err != nil {
				return "", nil //nolint:nilerr // whoever fetches it is told
			}
			if malformed && digest != "" && digest == known.digest {
				return "", known.err // to fetch it again would change nothing
			}
			return digest, nil
		}
	}
	if o.Stack != nil {
		want.Tenant = o.Stack.Namespace
	}
	var err error
	if want.Policy, want.Optional, err = r.options.Rules.Policy(ctx, o.Stack); err != nil {
		return Opened{}, err
	}
	optional := want.Optional
	want.Judged = func(took time.Duration, err error) { observeVerification(took, optional, err) }
	if r.signs(o) {
		want.Signatures = func(ctx context.Context, name release.Name, digest string) ([]verify.Signature, error) {
			src, _, err := r.source(ctx, o)
			if err != nil {
				return nil, err
			}
			signer, ok := src.(source.Signer)
			if !ok {
				return nil, nil
			}
			return signer.Signatures(ctx, name, digest)
		}
	}
	got, err := r.store.Get(ctx, want)
	r.remember(which, err)
	if err != nil {
		return Opened{}, fmt.Errorf("%s: %w", o.Location, err)
	}
	return Opened{
		Release: got.Release,
		Pinned:  Pinned{Source: o.Location, Digest: got.Pin.Digest, Dependencies: got.Pin.Dependencies},
		Signer:  got.Signer,
	}, nil
}

// signs reports whether the source of an origin keeps signatures apart from the files of releases.
func (r *Releases) signs(o Origin) bool {
	switch {
	case o.gone:
		return strings.HasPrefix(o.Location, "oci://")
	case o.spec != nil:
		return o.spec.OCI != nil
	}
	_, ok := r.fixed.(source.Signer)
	return ok
}

// Offered returns the digest of what the source of an origin has now under a name. It is empty when the source
// cannot tell without being asked for all of it. It waits for its turn, and then for so long as one small request takes.
func (r *Releases) Offered(ctx context.Context, o Origin, name release.Name) (string, error) {
	done, err := r.questions.wait(ctx, o)
	if err != nil {
		return "", err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	src, _, err := r.source(ctx, o)
	if err != nil {
		return "", err
	}
	resolver, ok := src.(source.Resolver)
	if !ok {
		return "", nil
	}
	return resolver.Resolve(ctx, name)
}

// fetcher is an origin as the store sees it. What the source is, and its credentials, is found out only
// when the store does not have the release.
type fetcher struct {
	releases *Releases
	origin   Origin
	which    broken
}

// Fetch implements store.Fetcher.
func (f *fetcher) Fetch(ctx context.Context, name release.Name, dst *os.Root) (digest string, err error) {
	src, _, err := f.releases.source(ctx, f.origin)
	if err != nil {
		return "", err
	}
	began := time.Now()
	defer func() {
		observeSource(f.origin, "fetch", began, err)
		f.releases.mu.Lock()
		defer f.releases.mu.Unlock()
		f.releases.fetched[f.which] = digest
	}()
	defer panicked.Into(&err) // before it is counted as what came of it
	ctx = source.WithReserve(ctx, func(n int64) error { return store.Reserve(ctx, n) })
	// What is pinned may be there although its name has gone or stands for something else by now.
	if addressed, ok := src.(source.Addressed); ok && f.which.pinned != "" {
		if err := addressed.FetchDigest(ctx, name, f.which.pinned, dst); !errors.Is(err, source.ErrNotFound) {
			return f.which.pinned, err
		}
	}
	return src.Fetch(ctx, name, dst)
}

// broken names what was asked for and turned out to be malformed; malformed is why, and what it was.
type (
	broken struct {
		key    string
		name   release.Name
		pinned string
	}
	malformed struct {
		digest string
		err    error
	}
)

// maxBroken bounds the memory for releases that cannot be used.
const maxBroken = 1000

// remember keeps in mind that a release is malformed, so that it is not fetched again and again.
func (r *Releases) remember(which broken, err error) {
	if Pending(err) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	digest := r.fetched[which]
	delete(r.fetched, which)
	var permanent interface{ Permanent() bool }
	if err == nil || !errors.As(err, &permanent) || !permanent.Permanent() {
		delete(r.broken, which)
		return
	}
	if digest == "" {
		return // said already by somebody else who waited for the same fetch
	}
	if len(r.broken) >= maxBroken {
		clear(r.broken)
	}
	r.broken[which] = malformed{digest: digest, err: err}
}

// isBroken returns what was wrong with a release when it was fetched last, if something was.
func (r *Releases) isBroken(which broken) (malformed, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, found := r.broken[which]
	return known, found
}

// Moved tells whether an error says that the source offers something else under the name of a release
// whose digest is fixed.
func Moved(err error) bool {
	var moved *store.MovedError
	return errors.As(err, &moved)
}

// Pending tells whether an error says that a release is being fetched.
func Pending(err error) bool {
	var pending *store.PendingError
	return errors.As(err, &pending)
}

// Refused tells whether an error says that a release lacks a signature that counts.
func Refused(err error) bool {
	var refused *verify.RefusedError
	return errors.As(err, &refused)
}
