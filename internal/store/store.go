// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package store keeps verified releases on disk.
//
// A release enters once: fetched to a temporary folder, digest and signature checked, opened as a proof
// that it can be, completed by the charts that it depends on, flushed to disk, made visible by one
// rename. It never changes after that, so readers take no lock and need no source. Several processes
// may share a store. What lies in it is compared with its checksums when a process opens it first; a
// damaged copy is thrown away and fetched again.
// Which release to open, and what to do when it cannot be had, is the caller's.
package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Fetcher writes the files of a release into dst and returns their digest, "sha256:...".
type Fetcher interface {
	Fetch(ctx context.Context, name release.Name, dst *os.Root) (digest string, err error)
}

// Pin is what is fixed about a release; what is empty is not.
type Pin struct {
	// Digest is that of the release, as its source gives it: "sha256:" with 64 hexadecimal digits.
	Digest string
	// Dependencies is a digest of the same form over the charts that were fetched to complete the release. It is
	// empty, too, when there were none.
	Dependencies string
}

// Want is a release that somebody wants.
type Want struct {
	// Key says which source From is, such as "directory:/releases", so that equally named releases of
	// different sources are kept apart.
	Key  string
	Name release.Name
	// Pin is what the release must be. As long as it is empty, the store keeps to what it fetched first.
	Pin  Pin
	From Fetcher
	// Offered, if set, is asked before anything else which digest the source has now: the release is that one, if the pin
	// has no digest and the answer is not empty. An error is that of the release. It is asked by no caller, like the
	// Fetcher, and may take its time.
	Offered func(ctx context.Context) (digest string, err error)
	// Tenant is for whom it is, such as a namespace. Fetches for one do not keep those for others waiting.
	Tenant string

	// Policy says whose signature the release must have. Without one, none is needed.
	Policy *verify.Policy
	// Optional lets a release through that the policy refuses.
	Optional bool
	// Signatures asks for the signatures of a release at a source that keeps them apart from its files. It is nil
	// for all others: their releases bring a list of checksums along.
	Signatures func(ctx context.Context, name release.Name, digest string) ([]verify.Signature, error)
	// Judged, if set, is told each time that the policy was asked how long that took, and why it refused, if it did; and
	// when the signature that it took does not speak for what the release is used as.
	Judged func(took time.Duration, refused error)
}

// Got is a release that the store has.
type Got struct {
	Release *release.Release
	Pin     Pin
	// Signer is who has signed it, by the policy that was asked for, or nobody.
	Signer *verify.Signer
}

// Options are settings whose zero value works.
type Options struct {
	// Quota is how many bytes releases may take on disk, those that are being fetched included; 0 means as many as fit.
	Quota int64
	// Patience is for how long callers wait for a release that has to be fetched, from when the first of them asked for it:
	// then they get a *PendingError. 0 means until it is there. The fetch goes on meanwhile.
	Patience time.Duration
	// Fetched is called when a fetch is over that a caller did not wait for, whatever came of it.
	Fetched func(name release.Name)
	// InUse returns a function that says which releases must stay. Without it, all stay.
	InUse func(ctx context.Context) (func(Stored) bool, error)
	// Complete fetches the charts that a chart of a release depends on and does not bring along. Without it,
	// releases have to be complete.
	Complete func(ctx context.Context, chart release.IncompleteChart) ([]release.File, error)
}

// Store is a folder of releases. It may be used concurrently.
//
// On disk, with the digest that the source gave as the last folder's name:
//
//	releases/<source>/<release tag>/<digest>/record    checksums, signatures
//	releases/<source>/<release tag>/<digest>/files/    the files of the release
//	tmp/<process>/<fetch>/
type Store struct {
	root    string
	options Options
	tmp     *tempFolder
	// running ends with Close, and all fetches with it.
	running context.Context //nolint:containedctx // fetches outlive the calls that ask for them
	stop    context.CancelFunc
	fetches sync.WaitGroup
	turns   *fair.Queue
	// discards keeps two from taking the same release out, and from counting it twice.
	discards sync.Mutex

	mu      sync.Mutex
	opened  []*entry           // most recently used last
	flights map[flight]*result // fetches that are going on, or that nobody has asked the result of
	used    map[string]time.Time
	size    int64 // of what is in the store
	// incoming is what is being fetched.
	incoming int64
	began    time.Time
}

// ref names a release in the store.
type ref struct {
	key    string
	name   release.Name
	digest string // empty: whichever the store has
}

// flight names what a fetch is to bring.
type flight struct {
	ref
	dependencies, policy string
	optional             bool
}

// result is what came of a fetch.
type result struct {
	began   time.Time
	over    chan struct{} // closed when the rest is set
	got     Got
	err     error
	overAt  time.Time
	awaited bool // somebody waits for it
	turn    *fair.Turn
}

// entry is a release in memory.
type entry struct {
	ref          ref
	rel          *release.Release
	dependencies string

	// What follows is guarded by the mutex of the store. A record is replaced, never changed.
	record   *record
	verdicts map[string]verdict // by the fingerprints of policies
}

// verdict is what a policy says about a release: a signer, or why there is none.
type verdict struct {
	signer *verify.Signer
	err    error
	// until is when a refusal is forgotten, because signatures may be added, and kept how long that is after the answer.
	until time.Time
	kept  time.Duration
}

// For refusalKept a source is not asked again for other signatures. Where they are among the files all of these have to be
// fetched, and that is asked for less and less often, up to longestRefusal.
const (
	refusalKept    = time.Minute
	longestRefusal = 16 * time.Minute
)

// maxOpened bounds the memory for parsed releases, in bytes. A release is some megabytes as a rule, so this
// holds all that are in use at a time; but one may be a hundred times as large.
const maxOpened = 64 << 20

// fetches bounds what all sources together cost: connections, memory and room. Sources that do not answer keep nobody else
// waiting, as long as not that many namespaces have such.
var fetches = fair.Limits{All: 16, One: 4, First: 32}

// resultKept is how long the error of a fetch is kept for whoever wanted it, who may have gone.
const resultKept = 10 * time.Minute

// MovedError says that a source offers other files under the name of a release than those that were
// fetched from it before.
type MovedError struct {
	Source  string
	Name    release.Name
	Pinned  string
	Offered string
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("release %s was published again with other contents: %s now has %s, in use is %s; publish a new version instead, or restore the old one",
		e.Name, e.Source, e.Offered, e.Pinned)
}

// PendingError says that a release is being fetched.
type PendingError struct {
	Source string
	Name   release.Name
}

func (e *PendingError) Error() string {
	return fmt.Sprintf("release %s is being fetched from %s", e.Name, e.Source)
}

// SpaceError says that there is no place for a release. Those that are in the store already stay usable.
type SpaceError struct {
	Folder string
	Reason error
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("no place for another release in the store %s: %v; releases that are there already stay usable", e.Folder, e.Reason)
}
func (e *SpaceError) Unwrap() error { return e.Reason }

// Open opens the store in the folder root, which it creates if need be, and removes what processes
// that are gone have left half done. Of a folder that cannot be written to, the releases in it can be used.
func Open(root string, o Options) (*Store, error) {
	root = filepath.Clean(root)
	if err := os.MkdirAll(filepath.Join(root, "releases"), 0o755); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{root: root, options: o, flights: map[flight]*result{}, used: map[string]time.Time{}, began: time.Now(), turns: fair.New(fetches)}
	var err error
	if s.tmp, err = newTempFolder(filepath.Join(root, "tmp")); err != nil && !noSpace(err) {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	if s.size, err = sizeOf(filepath.Join(root, "releases")); err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	s.running, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Fetching returns how many releases are being fetched now.
func (s *Store) Fetching() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, f := range s.flights {
		if f.overAt.IsZero() {
			n++
		}
	}
	return n
}

// Size returns how many bytes the releases in the store take.
func (s *Store) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// Close ends all fetches and removes temporary files. Releases that were opened stay usable, the store does not.
func (s *Store) Close() error {
	s.stop()
	s.fetches.Wait()
	return s.tmp.remove()
}

// Get returns a release. When the store has it, no request is made but that of Want.Offered; otherwise it is fetched and kept.
//
// The error wraps that of the Fetcher; is a *MovedError when the source offers another digest than the
// pinned one, a *PendingError when the fetch takes its time, a *SpaceError when there is no place for the
// release; or wraps a *release.InvalidError or *verify.RefusedError.
func (s *Store) Get(ctx context.Context, want Want) (Got, error) {
	for _, digest := range []string{want.Pin.Digest, want.Pin.Dependencies} {
		if digest != "" && !validDigest(digest) {
			return Got{}, fmt.Errorf("release %s: %q is not a digest of the form sha256:<64 hexadecimal digits>", want.Name, digest)
		}
	}
	if want.Offered == nil {
		if got, ok := s.remembered(want); ok {
			return got, nil
		}
	}
	id, f := s.start(want)
	var late <-chan time.Time
	if s.options.Patience > 0 {
		// Whoever asks again and again for what takes long does not wait each time.
		timer := time.NewTimer(s.options.Patience - time.Since(f.began))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-f.over:
	case <-ctx.Done():
		return Got{}, context.Cause(ctx)
	case <-late:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.overAt.IsZero() {
		f.awaited = false
		return Got{}, &PendingError{Source: want.Key, Name: want.Name}
	}
	// Also when it came late: nobody is told of what ended while he waited.
	if s.flights[id] == f {
		delete(s.flights, id)
	}
	return f.got, f.err
}

// start begins to get a release, unless that is going on already.
func (s *Store) start(want Want) (flight, *result) {
	id := flight{ref: ref{want.Key, want.Name, want.Pin.Digest}, dependencies: want.Pin.Dependencies, optional: want.Optional}
	if want.Policy != nil {
		id.policy = want.Policy.Fingerprint()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, f := range s.flights {
		if !f.overAt.IsZero() && time.Since(f.overAt) > resultKept {
			delete(s.flights, other)
		}
	}
	if f, busy := s.flights[id]; busy {
		s.turns.Join(f.turn, want.Tenant)
		return id, f
	}
	f := &result{began: time.Now(), over: make(chan struct{}), awaited: true, turn: fair.For(want.Tenant)}
	s.flights[id] = f
	s.fetches.Go(func() {
		got, err := func() (got Got, err error) {
			defer panicked.Into(&err)
			// Not the caller's context: others may wait for the same release.
			return s.obtain(s.running, want, f.turn)
		}()
		s.mu.Lock()
		f.got, f.err, f.overAt = got, err, time.Now()
		awaited := f.awaited
		close(f.over)
		s.mu.Unlock()
		if !awaited && s.options.Fetched != nil {
			s.options.Fetched(want.Name)
		}
	})
	return id, f
}

// obtain returns a release from disk or from its source.
func (s *Store) obtain(ctx context.Context, want Want, turn *fair.Turn) (Got, error) {
	if want.Offered != nil {
		digest, err := want.Offered(ctx)
		if err != nil {
			return Got{}, err
		}
		if want.Pin.Digest == "" && validDigest(digest) {
			want.Pin.Digest = digest
		}
	}
	e, err := s.load(want)
	var damaged *damagedError
	switch {
	case errors.As(err, &damaged):
		// Whatever the reason, what was written is not what is there. The source may have it again.
		if err := s.discard(damaged.folder); err != nil {
			return Got{}, fmt.Errorf("%w; remove it to have the release fetched again: %w", damaged, err)
		}
		e = nil
	case err != nil:
		return Got{}, fmt.Errorf("store: release %s: %w", want.Name, err)
	}
	if e == nil {
		if e, err = s.fetch(ctx, want, turn); err != nil {
			if noSpace(err) {
				err = &SpaceError{Folder: s.root, Reason: err}
			}
			if damaged != nil {
				err = fmt.Errorf("%w (%v)", err, damaged) //nolint:errorlint // the release is not to blame
			}
			return Got{}, err
		}
	}
	if err := e.fits(want); err != nil {
		return Got{}, err
	}
	s.remember(e)
	signer, err := s.verify(ctx, want, e)
	return e.got(signer), err
}

// fits reports that a release is complete, but in another way than the pin says.
func (e *entry) fits(want Want) error {
	if pinned := want.Pin.Dependencies; pinned != "" && pinned != e.dependencies {
		return &MovedError{Source: "the repositories of charts that it depends on", Name: want.Name, Pinned: pinned, Offered: cmp.Or(e.dependencies, "nothing")}
	}
	return nil
}

func (e *entry) got(signer *verify.Signer) Got {
	return Got{Release: e.rel, Pin: Pin{Digest: e.ref.digest, Dependencies: e.dependencies}, Signer: signer}
}

// load returns a release from memory or disk, or nil when the store does not have it.
func (s *Store) load(want Want) (*entry, error) {
	r := ref{want.Key, want.Name, want.Pin.Digest}
	if r.digest == "" {
		digest, err := s.firstDigest(r)
		if err != nil || digest == "" {
			return nil, err
		}
		r.digest = digest
	}
	if e := s.inMemory(r); e != nil {
		return e, nil
	}
	folder := s.folder(r)
	rec, err := readRecord(folder)
	if errors.Is(err, fs.ErrNotExist) && missing(folder) {
		return nil, nil
	}
	if err == nil {
		err = rec.check(filepath.Join(folder, filesFolder))
	}
	var rel *release.Release
	if err == nil {
		rel, err = openFolder(filepath.Join(folder, filesFolder), r.name)
	}
	if err != nil {
		// It was fine when it came in, so the release is not to blame, and the error must not say so.
		return nil, &damagedError{name: r.name, folder: folder, reason: err.Error()}
	}
	return &entry{ref: r, rel: rel, dependencies: rec.Dependencies, record: rec}, nil
}

// damagedError says that the copy of a release on disk is not as it was written.
type damagedError struct {
	name   release.Name
	folder string
	reason string
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("the stored copy of release %s in %s is damaged: %s", e.name, e.folder, e.reason)
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// firstDigest returns the digest that was stored first under the name, or "".
func (s *Store) firstDigest(r ref) (string, error) {
	entries, err := os.ReadDir(s.nameFolder(r))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	type stored struct {
		digest string
		at     int64
	}
	var all []stored
	for _, e := range entries {
		digest := digestPrefix + e.Name()
		if !validDigest(digest) {
			continue // not put there by us
		}
		// The files are as old as the entry; its folder is touched when signatures come in later.
		info, err := os.Stat(filepath.Join(s.nameFolder(r), e.Name(), filesFolder))
		if err != nil {
			continue // damaged, or just being removed
		}
		all = append(all, stored{digest: digest, at: info.ModTime().UnixNano()})
	}
	if len(all) == 0 {
		return "", nil
	}
	first := slices.MinFunc(all, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.digest, b.digest))
	})
	return first.digest, nil
}

// fetch brings a release in when it is its turn.
func (s *Store) fetch(ctx context.Context, want Want, turn *fair.Turn) (*entry, error) {
	done, err := s.turns.Wait(ctx, turn)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, room := s.withRoom(ctx)
	defer room.free()
	tmp, err := s.tmp.make()
	if err != nil {
		return nil, fmt.Errorf("store release %s: %w", want.Name, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // what may stay goes with the folder of this process
	files := filepath.Join(tmp, filesFolder)
	if err := os.Mkdir(files, 0o755); err != nil {
		return nil, fmt.Errorf("store release %s: %w", want.Name, err)
	}
	digest, err := fetchInto(ctx, files, want.Name, want.From)
	if err != nil {
		return nil, err
	}
	if !validDigest(digest) {
		return nil, fmt.Errorf("fetch release %s from %s: got the digest %q, which has another form than sha256:<64 hexadecimal digits>", want.Name, want.Key, digest)
	}
	if want.Pin.Digest != "" && digest != want.Pin.Digest {
		return nil, &MovedError{Source: want.Key, Name: want.Name, Pinned: want.Pin.Digest, Offered: digest}
	}
	r := ref{want.Key, want.Name, digest}
	rec := &record{}
	if rec.Files, err = checksums(files); err != nil {
		return nil, fmt.Errorf("release %s from %s: %w", want.Name, want.Key, err)
	}
	for file := range rec.Files {
		// Only we put charts there, which no list of checksums has.
		if strings.HasPrefix(file, release.DependenciesFolder+"/") {
			return nil, &release.InvalidError{Name: want.Name, File: release.DependenciesFolder, Reason: errors.New("a release cannot bring this folder along")}
		}
	}
	// Whether anybody may read on is decided before a parser sees a byte.
	if err := vouch(ctx, want, digest, rec, files); err != nil {
		return nil, err
	}
	rel, err := openFolder(files, want.Name)
	if err != nil {
		return nil, err
	}
	if want.Policy != nil && !want.Optional {
		// What is signed under another name is an old release, or somebody else's, and what comes from elsewhere nobody
		// has signed: it is not even fetched.
		if err := signedAs(want, digest, rel, s.lacks(rel)); err != nil {
			return nil, err
		}
	}
	if rel, err = s.complete(ctx, rel, rec, files); err != nil {
		return nil, err
	}
	e := &entry{ref: r, rel: rel, dependencies: rec.Dependencies, record: rec}
	if err := e.fits(want); err != nil {
		return nil, err
	}
	if err := rec.write(tmp); err != nil {
		return nil, fmt.Errorf("store release %s: %w", want.Name, err)
	}
	if err := s.publish(ctx, tmp, r, room); err != nil {
		return nil, fmt.Errorf("store release %s: %w", want.Name, err)
	}
	return e, nil
}

// vouch collects what speaks for a release and asks the policy.
func vouch(ctx context.Context, want Want, digest string, rec *record, files string) error {
	var err error
	if want.Signatures != nil {
		rec.Signatures, err = want.Signatures(ctx, want.Name, digest)
	} else {
		err = rec.takeSums(files)
	}
	if want.Policy == nil {
		// Signatures are only kept, for the day on which there is a policy. They can be asked for then, too.
		return nil
	}
	if err != nil {
		return fmt.Errorf("signatures of release %s: %w", want.Name, err)
	}
	_, err = judge(want, digest, rec)
	return err
}

// signedAs returns an error when a signature of the digest would not speak for all that the release is used as: when
// its files say that they are another release, or charts belong to it that came from elsewhere. A lock file in the
// release does not vouch for these, since it names versions and not contents.
func signedAs(want Want, digest string, rel *release.Release, dependencies bool) error {
	refused := &verify.RefusedError{Subject: digest, Wanted: want.Policy.String()}
	for _, contradiction := range rel.Contradictions {
		refused.Reasons = append(refused.Reasons, "what is signed is another release: "+contradiction)
	}
	if dependencies {
		refused.Reasons = append(refused.Reasons, "it depends on charts that it does not bring along, which nobody has signed: pack them into charts/ before you sign the release (\"csctl create\" does that)")
	}
	if len(refused.Reasons) == 0 {
		return nil
	}
	if want.Judged != nil {
		want.Judged(0, refused)
	}
	return fmt.Errorf("release %s: %w", want.Name, refused)
}

// lacks reports whether charts would be fetched to complete a release.
func (s *Store) lacks(rel *release.Release) bool {
	incomplete, err := rel.Incomplete()
	return err == nil && len(incomplete) > 0 && s.options.Complete != nil
}

// judge returns who has signed a release according to the policy. It is nobody when the policy is optional and
// refuses it.
func judge(want Want, digest string, rec *record) (*verify.Signer, error) {
	var (
		signer verify.Signer
		err    error
	)
	began := time.Now()
	if want.Signatures != nil {
		signer, err = want.Policy.Verify(verify.Subject{Digest: digest}, rec.Signatures)
	} else {
		signer, err = want.Policy.VerifySums(rec.sums())
	}
	if want.Judged != nil {
		want.Judged(time.Since(began), err)
	}
	var refused *verify.RefusedError
	if errors.As(err, &refused) && want.Optional {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", want.Name, err)
	}
	return &signer, nil
}

// verify asks the policy about a release that is in the store. When it refuses, the source may have newer
// signatures.
func (s *Store) verify(ctx context.Context, want Want, e *entry) (*verify.Signer, error) {
	if want.Policy == nil {
		return nil, nil
	}
	if v, known := s.verdict(want, e); known {
		return v.signer, v.err
	}
	s.mu.Lock()
	rec := e.record
	s.mu.Unlock()
	v := verdict{}
	if err := signedAs(want, e.ref.digest, e.rel, e.dependencies != ""); err == nil {
		v.signer, v.err = judge(want, e.ref.digest, rec)
		// To look for signatures among the files takes a fetch: not each minute of a release that is used without them.
		if v.signer == nil && (want.Signatures != nil || v.err != nil) {
			v.signer, v.err = s.askAgain(ctx, want, e, rec, v.err)
		}
	} else if !want.Optional {
		v.err = err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.verdicts == nil {
		e.verdicts = map[string]verdict{}
	}
	v.kept = refusalKept
	if want.Signatures == nil {
		v.kept = min(max(2*e.verdicts[want.verdictKey()].kept, refusalKept), longestRefusal)
	}
	// From now on, however long the answer took.
	v.until = time.Now().Add(v.kept)
	e.verdicts[want.verdictKey()] = v
	return v.signer, v.err
}

// askAgain asks the source for newer signatures of a release that was refused.
func (s *Store) askAgain(ctx context.Context, want Want, e *entry, rec *record, refused error) (*verify.Signer, error) {
	if refused == nil {
		// It may be used as it is, and shall not wait behind what other sources do not answer.
		done, ok := s.turns.Try(want.Tenant)
		if !ok {
			return nil, nil
		}
		defer done()
	} else {
		done, err := s.turns.Wait(ctx, fair.For(want.Tenant))
		if err != nil {
			return nil, err
		}
		defer done()
	}
	var err error
	fresh := *rec
	if want.Signatures != nil {
		fresh.Signatures, err = want.Signatures(ctx, want.Name, e.ref.digest)
	} else {
		err = s.sumsAgain(ctx, want, e.ref.digest, &fresh)
	}
	if err != nil && refused != nil {
		return nil, fmt.Errorf("%w; asking for newer signatures: %w", refused, err)
	}
	if err != nil {
		return nil, nil // the policy is optional
	}
	signer, err := judge(want, e.ref.digest, &fresh)
	if signer == nil {
		return nil, err
	}
	s.mu.Lock()
	e.record = &fresh
	s.mu.Unlock()
	if err := s.rewrite(e.ref, &fresh); err != nil && !noSpace(err) {
		return nil, fmt.Errorf("store the signatures of release %s: %w", want.Name, err)
	}
	return signer, nil
}

// sumsAgain fetches the list of checksums and its signatures as the source has them now, if what it has is still the same
// release.
func (s *Store) sumsAgain(ctx context.Context, want Want, digest string, rec *record) error {
	ctx, room := s.withRoom(ctx)
	defer room.free()
	tmp, err := s.tmp.make()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // as in fetch
	now, err := fetchInto(ctx, tmp, want.Name, want.From)
	if err != nil || now != digest {
		return err
	}
	fetched := &record{}
	if fetched.Files, err = checksums(tmp); err != nil {
		return err
	}
	if err := fetched.takeSums(tmp); err != nil {
		return err
	}
	// They are for the files that are in the store, which the list is compared with.
	rec.SumsList, rec.Signatures = fetched.SumsList, fetched.Signatures
	return nil
}

func (w Want) verdictKey() string { return fmt.Sprintf("%s %t", w.Policy.Fingerprint(), w.Optional) }

// verdict returns what the policy said before.
func (s *Store) verdict(want Want, e *entry) (verdict, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, known := e.verdicts[want.verdictKey()]
	return v, known && (v.signer != nil || time.Now().Before(v.until))
}

// maxCompleted bounds, in bytes, what is fetched to complete a release: all of it is held in memory.
const maxCompleted = 64 << 20

// complete fetches the charts that the release depends on and does not bring along.
func (s *Store) complete(ctx context.Context, rel *release.Release, rec *record, files string) (*release.Release, error) {
	incomplete, err := rel.Incomplete()
	if err != nil || len(incomplete) == 0 || s.options.Complete == nil {
		return rel, err
	}
	size := 0
	for _, chart := range incomplete {
		fetched, err := s.options.Complete(ctx, chart)
		if err != nil {
			return nil, fmt.Errorf("release %s: dependencies of chart %s: %w", rel.Name, chart.Folder, err)
		}
		folder := filepath.Join(files, release.DependenciesFolder, filepath.FromSlash(chart.Folder))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
		for _, file := range fetched {
			if !release.ValidFileName(file.Name) {
				return nil, fmt.Errorf("release %s: dependencies of chart %s: %q cannot be the name of a file", rel.Name, chart.Folder, file.Name)
			}
			if size += len(file.Data); size > maxCompleted {
				return nil, &release.InvalidError{Name: rel.Name, File: release.DependenciesFolder, Reason: fmt.Errorf("the charts that it does not bring along are larger than %d MiB", maxCompleted>>20)}
			}
			if err := Reserve(ctx, int64(len(file.Data))); err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(folder, file.Name), file.Data, 0o644); err != nil {
				return nil, err
			}
		}
	}
	all, err := checksums(files)
	if err != nil {
		return nil, err
	}
	rec.complete(all)
	return openFolder(files, rel.Name)
}

func fetchInto(ctx context.Context, folder string, name release.Name, from Fetcher) (string, error) {
	dst, err := os.OpenRoot(folder)
	if err != nil {
		return "", err
	}
	defer func() { _ = dst.Close() }() // the files in it are closed and flushed on their own
	return from.Fetch(ctx, name, dst)
}

func openFolder(folder string, name release.Name) (*release.Release, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read from
	return release.Open(root.FS(), name)
}

// publish makes a fetched folder visible. After a crash at any instant, even of the machine, the
// release is wholly there or not at all.
func (s *Store) publish(ctx context.Context, tmp string, r ref, room *room) error {
	if err := flushFolder(tmp); err != nil {
		return err
	}
	size, err := sizeOf(tmp)
	if err != nil {
		return err
	}
	if err := room.settle(ctx, size); err != nil {
		return err
	}
	parent := s.nameFolder(r)
	// Whoever removes the last release of a name removes the folder of the name, too, perhaps right now.
	for range 10 {
		if err = os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
		if err = os.Rename(tmp, s.folder(r)); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	// Another process was faster with the same release, which is as good.
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	room.keep(size, s.folder(r))
	// A new folder lasts only when all folders above it have been flushed.
	for folder := parent; ; folder = filepath.Dir(folder) {
		if err := flush(folder); err != nil || folder == s.root {
			return err
		}
	}
}

// rewrite replaces the record of a release that is in the store.
func (s *Store) rewrite(r ref, rec *record) error {
	tmp, err := s.tmp.make()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // as in fetch
	if err := rec.write(tmp); err != nil {
		return err
	}
	if err := flush(filepath.Join(tmp, recordFile)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(tmp, recordFile), filepath.Join(s.folder(r), recordFile)); err != nil {
		return err
	}
	return flush(s.folder(r))
}

// flushFolder brings a folder and all in it to the disk, and makes its files read-only.
func flushFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		if entry.IsDir() {
			if err := flushFolder(path); err != nil {
				return err
			}
			continue
		}
		if err := flush(path); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o444); err != nil {
			return err
		}
	}
	return flush(folder)
}

func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// noSpace tells whether an error says that the disk takes no more.
func noSpace(err error) bool {
	return slices.ContainsFunc([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EFBIG, errQuota}, func(target error) bool {
		return errors.Is(err, target)
	})
}

func (s *Store) nameFolder(r ref) string {
	return filepath.Join(s.root, "releases", keyFolder(r.key), r.name.String())
}

func (s *Store) folder(r ref) string {
	return filepath.Join(s.nameFolder(r), strings.TrimPrefix(r.digest, digestPrefix))
}

// keyFolder returns a name for the folder of a source that a person can recognise.
func keyFolder(key string) string {
	folder := url.PathEscape(key)
	if folder != "" && folder[0] != '.' && len(folder) <= 200 {
		return folder
	}
	sum := sha256.Sum256([]byte(key))
	return ".sha256-" + hex.EncodeToString(sum[:])
}

const digestPrefix = "sha256:"

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func validDigest(s string) bool { return digestForm.MatchString(s) }

// remembered returns a release that is in memory, if the policy is known to let it through.
func (s *Store) remembered(want Want) (Got, bool) {
	r := ref{want.Key, want.Name, want.Pin.Digest}
	if r.digest == "" {
		// Which one that is the disk knows.
		digest, err := s.firstDigest(r)
		if err != nil || digest == "" {
			return Got{}, false
		}
		r.digest = digest
	}
	e := s.inMemory(r)
	if e == nil || e.fits(want) != nil {
		return Got{}, false
	}
	if want.Policy == nil {
		return e.got(nil), true
	}
	v, known := s.verdict(want, e)
	return e.got(v.signer), known && v.err == nil
}

func (s *Store) inMemory(r ref) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.opened, func(e *entry) bool { return e.ref == r })
	if i < 0 {
		return nil
	}
	found := s.opened[i]
	s.opened = append(slices.Delete(s.opened, i, i+1), found)
	s.used[s.folder(r)] = time.Now()
	return found
}

func (s *Store) remember(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = slices.DeleteFunc(s.opened, func(other *entry) bool { return other.ref == e.ref })
	s.opened = append(s.opened, e)
	s.used[s.folder(e.ref)] = time.Now()
	size := 0
	for _, e := range s.opened {
		size += e.rel.Size()
	}
	for size > maxOpened && len(s.opened) > 1 {
		size -= s.opened[0].rel.Size()
		s.opened = slices.Delete(s.opened, 0, 1)
	}
}
