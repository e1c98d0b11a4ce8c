// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
)

func openWith(t *testing.T, root string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func nameOf(t *testing.T, tag string) release.Name {
	t.Helper()
	n, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// signed returns a source with a release that the key has signed.
func signed(k *verifytest.Key) *sourcetest.Memory {
	files := releasetest.Multistage(tag)
	k.SignFiles(files)
	return published(files)
}

func TestUnsignedReleaseReachesNoParser(t *testing.T) {
	key, stranger := verifytest.NewKey(t), verifytest.NewKey(t)
	// None of these can be parsed, and each would say so.
	hostile := fstest.MapFS{release.MetadataFile: {Data: []byte("\t")}}
	byStranger := fstest.MapFS{release.MetadataFile: {Data: []byte("\t")}}
	stranger.SignFiles(byStranger)
	changed := fstest.MapFS{release.MetadataFile: {Data: []byte("a")}}
	key.SignFiles(changed)
	changed[release.MetadataFile].Data = []byte("\t")
	for name, files := range map[string]fstest.MapFS{"Unsigned": hostile, "ByStranger": byStranger, "ChangedLater": changed} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			var judged []error
			_, err := open(t, root).Get(t.Context(), store.Want{
				Key: "k", Name: nameOf(t, tag), From: published(files), Policy: verifytest.Policy(t, key),
				Judged: func(_ time.Duration, refused error) { judged = append(judged, refused) },
			})
			if len(judged) != 1 || judged[0] == nil {
				t.Errorf("told of the judgements %v, want one refusal", judged)
			}
			var refused *verify.RefusedError
			var invalid *release.InvalidError
			if !errors.As(err, &refused) || errors.As(err, &invalid) {
				t.Errorf("got %v, want a refusal", err)
			}
			if left := walk(t, root); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestPolicyThatChangesIsAskedAgain(t *testing.T) {
	first, second := verifytest.NewKey(t), verifytest.NewKey(t)
	root := t.TempDir()
	src := signed(first)
	want := store.Want{Key: key, Name: name(t), From: src}
	if got, err := open(t, root).Get(t.Context(), want); err != nil || got.Signer != nil {
		t.Fatalf("without a policy: got %v, %v", got.Signer, err)
	}
	src.Break(errDown)
	for _, s := range []*store.Store{open(t, root), open(t, root)} {
		want.Policy = verifytest.Policy(t, second)
		var refused *verify.RefusedError
		if _, err := s.Get(t.Context(), want); !errors.As(err, &refused) {
			t.Errorf("another key: got %v", err)
		}
		want.Policy = verifytest.Policy(t, second, first)
		if got, err := s.Get(t.Context(), want); err != nil || got.Signer == nil || got.Signer.Key == "" {
			t.Errorf("both keys: got %v, %v", got.Signer, err)
		}
		want.Policy, want.Optional = verifytest.Policy(t, second), true
		if got, err := s.Get(t.Context(), want); err != nil || got.Signer != nil {
			t.Errorf("not required: got %v, %v", got.Signer, err)
		}
		want.Optional = false
	}
}

// What is in the store is not fetched again for its files, but for who has signed them since.
func TestAReleaseThatIsSignedLaterIsAcceptedFromTheStore(t *testing.T) {
	k := verifytest.NewKey(t)
	root := t.TempDir()
	src := published(releasetest.Multistage(tag))
	want := store.Want{Key: key, Name: name(t), From: src}
	unsigned, err := open(t, root).Get(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	want.Policy, want.Pin = verifytest.Policy(t, k), unsigned.Pin
	var refused *verify.RefusedError
	if _, err := open(t, root).Get(t.Context(), want); !errors.As(err, &refused) {
		t.Fatalf("unsigned: got %v", err)
	}

	changed := releasetest.Multistage(tag)
	changed["more.yaml"] = &fstest.MapFile{Data: []byte("x: y")}
	k.SignFiles(changed)
	src.Publish(tag, changed)
	if _, err := open(t, root).Get(t.Context(), want); !errors.As(err, &refused) {
		t.Errorf("another release is signed: got %v", err)
	}

	files := releasetest.Multistage(tag)
	verifytest.NewKey(t).SignFiles(files)
	mine := releasetest.Multistage(tag)
	k.SignFiles(mine)
	files[verify.SignatureName(verify.SumsSignature, mine[verify.SumsSignature].Data)] = mine[verify.SumsSignature]
	src.Publish(tag, files)
	got, err := open(t, root).Get(t.Context(), want)
	if err != nil || got.Signer == nil || got.Pin != unsigned.Pin {
		t.Fatalf("signed: got %+v, %v", got, err)
	}
	// And it stays so when the source is away.
	src.Break(errDown)
	if got, err := open(t, root).Get(t.Context(), want); err != nil || got.Signer == nil {
		t.Errorf("from the store: got %+v, %v", got, err)
	}
}

// A source that keeps signatures apart, as a registry does.
type registry struct {
	*sourcetest.Memory
	signatures []verify.Signature
	err        error
	asked      int
}

func (r *registry) Signatures(context.Context, release.Name, string) ([]verify.Signature, error) {
	r.asked++
	return r.signatures, r.err
}

func TestSignaturesApartFromTheFiles(t *testing.T) {
	k := verifytest.NewKey(t)
	src := &registry{Memory: published(releasetest.Multistage(tag))}
	_, digest := get(t, open(t, t.TempDir()), "", src)
	root := t.TempDir()
	want := store.Want{Key: key, Name: name(t), From: src, Signatures: src.Signatures, Policy: verifytest.Policy(t, k)}

	var refused *verify.RefusedError
	if _, err := open(t, root).Get(t.Context(), want); !errors.As(err, &refused) {
		t.Errorf("unsigned: got %v", err)
	}
	src.err = errDown
	if _, err := open(t, root).Get(t.Context(), want); !errors.Is(err, errDown) {
		t.Errorf("signatures cannot be read: got %v", err)
	}
	src.err, src.signatures = nil, []verify.Signature{k.SignDigest(digest)}
	if got, err := open(t, root).Get(t.Context(), want); err != nil || got.Signer == nil {
		t.Errorf("signed: got %v, %v", got.Signer, err)
	}
	// They are kept with the release.
	src.err = errDown
	src.Break(errDown)
	if got, err := open(t, root).Get(t.Context(), want); err != nil || got.Signer == nil {
		t.Errorf("signed, source down: got %v, %v", got.Signer, err)
	}
}

func TestReleaseIsSignedAfterItWasFetched(t *testing.T) {
	k := verifytest.NewKey(t)
	root := t.TempDir()
	src := &registry{Memory: published(releasetest.Multistage(tag))}
	want := store.Want{Key: key, Name: name(t), From: src, Signatures: src.Signatures}
	got, err := open(t, root).Get(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	want.Policy = verifytest.Policy(t, k)
	src.signatures = []verify.Signature{k.SignDigest(got.Pin.Digest)}
	if got, err := open(t, root).Get(t.Context(), want); err != nil || got.Signer == nil {
		t.Errorf("signed meanwhile: got %v, %v", got.Signer, err)
	}
	src.err = errDown
	if got, err := open(t, root).Get(t.Context(), want); err != nil || got.Signer == nil {
		t.Errorf("the new signature was not kept: got %v, %v", got.Signer, err)
	}
}

// A source is not asked at each turn for signatures that it does not have.
func TestRefusalIsRemembered(t *testing.T) {
	src := &registry{Memory: published(releasetest.Multistage(tag))}
	want := store.Want{Key: key, Name: name(t), From: src, Signatures: src.Signatures}
	s := open(t, t.TempDir())
	if _, err := s.Get(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	want.Policy = verifytest.Policy(t, verifytest.NewKey(t))
	var refused *verify.RefusedError
	for range 20 {
		if _, err := s.Get(t.Context(), want); !errors.As(err, &refused) {
			t.Fatalf("got %v", err)
		}
	}
	if src.asked > 2 {
		t.Errorf("the source was asked %d times", src.asked)
	}
}

// What has to be fetched to see a signature is asked for less and less often, by however many who want the release.
func TestARefusedReleaseIsNotFetchedAllTheTime(t *testing.T) {
	k, folder := verifytest.NewKey(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openWith(t, folder, store.Options{})
		var fetched atomic.Int32
		src := fetcher(func(dst *os.Root) (string, error) {
			fetched.Add(1)
			time.Sleep(2 * time.Minute) // longer than a refusal is kept at first
			return copyOf(dst, releasetest.Multistage(tag))
		})
		want := store.Want{Key: key, Name: nameOf(t, tag), From: src}
		for range 100 {
			if _, err := s.Get(t.Context(), want); err == nil {
				break
			}
			time.Sleep(10 * time.Second)
		}
		want.Policy = verifytest.Policy(t, k)
		fetched.Store(0)
		for range 6 * 120 {
			if _, err := s.Get(t.Context(), want); err == nil {
				t.Fatal("nobody has signed it")
			}
			time.Sleep(10 * time.Second)
		}
		if n := fetched.Load(); n < 4 || n > 12 {
			t.Errorf("fetched %d times in two hours", n)
		}
	})
}

// Who may use a release without signatures does not wait behind sources that do not answer.
func TestSignaturesThatAreOptionalAreNotWaitedFor(t *testing.T) {
	s := openWith(t, t.TempDir(), store.Options{Patience: 100 * time.Millisecond})
	want := store.Want{Key: key, Name: nameOf(t, tag), From: published(releasetest.Multistage(tag)), Tenant: "a"}
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := s.Get(t.Context(), want); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	mayGoOn := make(chan struct{})
	defer close(mayGoOn)
	hanging := fetcher(func(*os.Root) (string, error) {
		<-mayGoOn
		return "", errDown
	})
	for i := range 8 {
		other := fmt.Sprintf("docker-scs-1-35-v%d", 20+i)
		if _, err := s.Get(t.Context(), store.Want{Key: "hanging", Name: nameOf(t, other), From: hanging, Tenant: "a"}); err == nil {
			t.Fatal("it does not hang")
		}
	}
	want.Policy, want.Optional = verifytest.Policy(t, verifytest.NewKey(t)), true
	want.Signatures = func(context.Context, release.Name, string) ([]verify.Signature, error) { return nil, nil }
	var pending *store.PendingError
	if _, err := s.Get(t.Context(), want); errors.As(err, &pending) {
		// A slow disk has its time, too.
		time.Sleep(5 * time.Second)
		_, err = s.Get(t.Context(), want)
		if err != nil {
			t.Error(err)
		}
	} else if err != nil {
		t.Error(err)
	}
}

// A signature speaks for a release under its own name and for the files in it, and for nothing else.
func TestSignatureOfSomethingElseDoesNotCount(t *testing.T) {
	k := verifytest.NewKey(t)
	complete := store.Options{Complete: func(context.Context, release.IncompleteChart) ([]release.File, error) {
		return []release.File{{Name: "cni-1.2.3.tgz", Data: []byte("packed")}}, nil
	}}
	older := releasetest.Multistage(tag)
	older[release.MetadataFile] = &fstest.MapFile{Data: []byte("versions: {clusterStack: v0, kubernetes: v1.35.4, components: {clusterAddon: v1}}")}
	otherMinor := releasetest.Multistage(tag)
	otherMinor[release.MetadataFile] = &fstest.MapFile{Data: []byte(releasetest.Metadata("v1", "v1.34.4"))}
	otherClass := releasetest.Multistage(tag)
	otherClass[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{"x/Chart.yaml": releasetest.Chart("x", "v0")})}
	for name, tt := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"OlderRelease":        {older, "versions.clusterStack is v0"},
		"OtherMinor":          {otherMinor, "versions.kubernetes is v1.34.4"},
		"OtherClass":          {otherClass, `the chart's version is "v0"`},
		"ChartsFromElsewhere": {incompleteFiles(), "pack them into charts/"},
	} {
		t.Run(name, func(t *testing.T) {
			k.SignFiles(tt.files)
			root := t.TempDir()
			s := openWith(t, root, complete)
			want := store.Want{Key: key, Name: nameOf(t, tag), From: published(tt.files), Policy: verifytest.Policy(t, k)}
			var judgement error
			want.Judged = func(_ time.Duration, refused error) { judgement = refused }
			var refused *verify.RefusedError
			if _, err := s.Get(t.Context(), want); !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if judgement == nil {
				t.Error("told of no refusal")
			}
			want.Judged = nil
			if left := walk(t, root); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			want.Optional = true
			if got, err := s.Get(t.Context(), want); err != nil || got.Signer != nil {
				t.Errorf("not required: got %v, %v", got.Signer, err)
			}
			// It is in the store now. Who demands a signature is not served from there either.
			want.Optional = false
			for _, s := range []*store.Store{s, openWith(t, root, complete)} {
				if _, err := s.Get(t.Context(), want); !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("from the store: got %v, want %q", err, tt.want)
				}
			}
		})
	}
}

// The list of checksums does not have what the store fetches itself, so nobody else may put anything there.
func TestReleaseBringsNoChartsThatTheStoreWouldFetch(t *testing.T) {
	k := verifytest.NewKey(t)
	files := releasetest.Multistage(tag)
	k.SignFiles(files)
	src := fetcher(func(dst *os.Root) (string, error) {
		if err := dst.MkdirAll(release.DependenciesFolder+"/cluster-addon/cni", 0o755); err != nil {
			return "", err
		}
		files[release.DependenciesFolder+"/cluster-addon/cni/evil-1.0.0.tgz"] = &fstest.MapFile{Data: []byte("x")}
		return "sha256:" + strings.Repeat("a", 64), writeAll(dst, files)
	})
	_, err := open(t, t.TempDir()).Get(t.Context(), store.Want{Key: key, Name: nameOf(t, tag), From: src, Policy: verifytest.Policy(t, k)})
	var invalid *release.InvalidError
	if !errors.As(err, &invalid) {
		t.Errorf("got %v", err)
	}
}

// Twenty releases that do not come, for one namespace, hold up none that does come for another, and at most four of them
// are fetched at a time.
func TestSlowFetchesHoldUpNobody(t *testing.T) {
	over := make(chan release.Name, 100)
	s := openWith(t, t.TempDir(), store.Options{Patience: time.Nanosecond, Fetched: func(n release.Name) { over <- n }})
	mayGoOn := make(chan struct{})
	src := &sourcetest.Memory{}
	var running, most atomic.Int32
	slow := func(tag string) store.Fetcher {
		return fetcher(func(dst *os.Root) (string, error) {
			now := running.Add(1)
			defer running.Add(-1)
			for before := most.Load(); before < now && !most.CompareAndSwap(before, now); before = most.Load() {
			}
			<-mayGoOn
			return copyOf(dst, releasetest.Legacy(tag))
		})
	}
	tags := make([]string, 20)
	for i := range tags {
		tags[i] = fmt.Sprintf("docker-scs-1-35-v%d", i+10)
		_, err := s.Get(t.Context(), store.Want{Key: key, Name: nameOf(t, tags[i]), From: slow(tags[i]), Tenant: "slow"})
		var pending *store.PendingError
		if !errors.As(err, &pending) {
			t.Fatalf("got %v, want that it is being fetched", err)
		}
	}
	src.Publish(tag, releasetest.Legacy(tag))
	good := store.Want{Key: key, Name: name(t), From: src, Tenant: "good"}
	if _, err := s.Get(t.Context(), good); err != nil {
		if n := <-over; n != good.Name {
			t.Errorf("%s was fetched first", n)
		}
		if _, err := s.Get(t.Context(), good); err != nil {
			t.Error(err)
		}
	}
	close(mayGoOn)
	for range tags {
		<-over
	}
	if n := most.Load(); n > 4 {
		t.Errorf("%d were fetched at a time", n)
	}
	for _, tag := range tags {
		if _, err := s.Get(t.Context(), store.Want{Key: key, Name: nameOf(t, tag), From: src}); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

// Whoever was told to wait learns what became of it.
func TestErrorOfAFetchIsKeptForWhoAskedForIt(t *testing.T) {
	over := make(chan release.Name, 1)
	s := openWith(t, t.TempDir(), store.Options{Patience: time.Nanosecond, Fetched: func(n release.Name) { over <- n }})
	src := &sourcetest.Memory{}
	src.Break(errDown)
	want := store.Want{Key: key, Name: name(t), From: fetcher(func(dst *os.Root) (string, error) { return src.Fetch(context.Background(), name(t), dst) })}
	_, err := s.Get(t.Context(), want)
	var pending *store.PendingError
	if errors.As(err, &pending) {
		<-over
		_, err = s.Get(t.Context(), want)
	}
	if !errors.Is(err, errDown) {
		t.Errorf("got %v", err)
	}
	src.Break(nil)
	src.Publish(tag, releasetest.Legacy(tag))
	if _, err = s.Get(t.Context(), want); errors.As(err, &pending) {
		<-over
		_, err = s.Get(t.Context(), want)
	}
	if err != nil {
		t.Errorf("when the source is back: %v", err)
	}
}

func TestQuota(t *testing.T) {
	one := len(noise(1 << 20))
	used := map[string]bool{}
	o := store.Options{Quota: int64(3*one + one/2), InUse: func(context.Context) (func(store.Stored) bool, error) {
		return func(s store.Stored) bool { return used[s.Name.String()] }, nil
	}}
	root := t.TempDir()
	s := openWith(t, root, o)
	bring := func(i int) error {
		tag := fmt.Sprintf("docker-scs-1-35-v%d", i)
		used[tag] = true
		files := releasetest.Legacy(tag)
		files["noise"] = &fstest.MapFile{Data: noise(1 << 20)}
		_, err := s.Get(t.Context(), store.Want{Key: key, Name: nameOf(t, tag), From: publishedAs(tag, files)})
		return err
	}
	for i := range 3 {
		if err := bring(i); err != nil {
			t.Fatal(err)
		}
	}
	var space *store.SpaceError
	if err := bring(3); !errors.As(err, &space) || !strings.Contains(err.Error(), "raise the quota") {
		t.Errorf("beyond the quota: got %v", err)
	}
	for i := range 3 {
		if err := bring(i); err != nil {
			t.Errorf("what is in the store: %v", err)
		}
	}
	// Restarted, it counts what is there, and goes by what is in use and not by what was fetched long ago.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openWith(t, root, o)
	if err := bring(3); !errors.As(err, &space) {
		t.Errorf("beyond the quota after a restart: got %v", err)
	}
}

// What is being fetched counts, too: many large releases at once fill no disk beyond the quota.
func TestQuotaCountsWhatIsBeingFetched(t *testing.T) {
	root := t.TempDir()
	s := openWith(t, root, store.Options{Quota: 3 << 20})
	writing, mayGoOn := make(chan struct{}), make(chan struct{})
	first := reserver(func(ctx context.Context, dst *os.Root) (string, error) {
		if err := store.Reserve(ctx, 2<<20); err != nil {
			return "", err
		}
		close(writing)
		<-mayGoOn
		return copyOf(dst, releasetest.Legacy(tag))
	})
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := s.Get(t.Context(), store.Want{Key: key, Name: nameOf(t, tag), From: first}); err != nil {
			t.Error(err)
		}
	})
	<-writing
	const other = "docker-scs-1-35-v2"
	size := int64(2 << 20)
	large := store.Want{Key: key, Name: nameOf(t, other), From: reserver(func(ctx context.Context, dst *os.Root) (string, error) {
		if err := store.Reserve(ctx, size); err != nil {
			return "", fmt.Errorf("write: %w", err)
		}
		return copyOf(dst, releasetest.Legacy(other))
	})}
	var space *store.SpaceError
	_, err := s.Get(t.Context(), large)
	if !errors.As(err, &space) || !strings.Contains(err.Error(), "being fetched this one takes more than 3 MiB") {
		t.Errorf("beyond the quota with what is being fetched: got %v", err)
	}
	// It stands in a condition: how much others take at the moment must not change it.
	size = 8 << 20
	if _, again := s.Get(t.Context(), large); again == nil || err == nil || again.Error() != err.Error() {
		t.Errorf("with other figures it says\n%v, before\n%v", again, err)
	}
	size = 2 << 20
	close(mayGoOn)
	group.Wait()
	// What the first one did not need in the end is free again, and so is what the second one did not get.
	for range 2 {
		if _, err := s.Get(t.Context(), large); err != nil {
			t.Errorf("when there is room: %v", err)
		}
	}
}

// reserver is a source that says what it is about to write.
type reserver func(ctx context.Context, dst *os.Root) (string, error)

func (f reserver) Fetch(ctx context.Context, _ release.Name, dst *os.Root) (string, error) {
	return f(ctx, dst)
}

func publishedAs(tag string, files fstest.MapFS) *sourcetest.Memory {
	src := &sourcetest.Memory{}
	src.Publish(tag, files)
	return src
}

func noise(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	return data
}

// What is in use stays, and so does for a while what is new: whoever fetched it says only later that he uses it.
func TestCollectKeepsWhatIsInUseAndWhatIsNew(t *testing.T) {
	root := t.TempDir()
	s := openWith(t, root, store.Options{InUse: func(context.Context) (func(store.Stored) bool, error) {
		return func(store.Stored) bool { return false }, nil
	}})
	get(t, s, "", published(releasetest.Multistage(tag)))
	removed, err := s.Collect(t.Context())
	if err != nil || len(removed) > 0 {
		t.Errorf("got %v, %v", removed, err)
	}
	down := openWith(t, root, store.Options{InUse: func(context.Context) (func(store.Stored) bool, error) { return nil, errDown }})
	if _, err := down.Collect(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("use is not known: got %v", err)
	}
	if len(stored(t, root)) == 0 {
		t.Error("the release is gone")
	}
}

// inSmallDisk names the folder of a store for this program, started by a test with a limit on the size of files.
const inSmallDisk = "STORE_TEST_SMALL_DISK_IN"

// A disk that takes no more: the release that was there stays usable, and the next comes in when there is room
// again. The limit on the size of files gives the same answer to a write as a full disk, to anybody.
func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	get(t, open(t, root), "", published(releasetest.Multistage(tag)))
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), inSmallDisk+"="+root)
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, path := range walk(t, root) {
		if strings.HasPrefix(path, filepath.Join(root, "tmp")) {
			t.Errorf("left behind: %s", path)
		}
	}
}

// onSmallDisk is the other process of that test.
func onSmallDisk(root string) error {
	src := &sourcetest.Memory{}
	n, err := release.ParseName("docker-scs-1-35-v2")
	if err != nil {
		return err
	}
	old, err := release.ParseName(tag)
	if err != nil {
		return err
	}
	files := releasetest.Legacy(n.String())
	files["noise"] = &fstest.MapFile{Data: noise(1 << 20)}
	src.Publish(n.String(), files)
	s, err := store.Open(root, store.Options{})
	if err != nil {
		return err
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGXFSZ) // or the process would end
	full := before
	full.Cur = 64 << 10
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return err
	}
	ctx := context.Background()
	_, _, err = take(ctx, s, key, n, "", src)
	var space *store.SpaceError
	if !errors.As(err, &space) {
		return fmt.Errorf("full disk: got %w", err)
	}
	if _, _, err := take(ctx, s, key, old, "", src); err != nil {
		return fmt.Errorf("what was there: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	if _, _, err := take(ctx, s, key, n, "", src); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	return s.Close()
}

// incomplete returns a release whose addon lacks a chart.
func incomplete() *sourcetest.Memory { return published(incompleteFiles()) }

func incompleteFiles() fstest.MapFS {
	files := releasetest.Legacy(tag)
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"a/Chart.yaml": releasetest.Chart("a", "1.0.0") + "dependencies:\n- {name: cni, version: 1.2.3, repository: https://charts.example.org}\n",
	})}
	return files
}

// completing answers with a chart that has the given contents.
func completing(asked *int, contents string) func(context.Context, release.IncompleteChart) ([]release.File, error) {
	return func(context.Context, release.IncompleteChart) ([]release.File, error) {
		*asked++
		return []release.File{{Name: "cni-1.2.3.tgz", Data: []byte(contents)}}, nil
	}
}

func TestMissingChartsAreFetchedOnEntryOnly(t *testing.T) {
	root, asked := t.TempDir(), 0
	want := store.Want{Key: key, Name: name(t), From: incomplete()}
	got, err := openWith(t, root, store.Options{Complete: completing(&asked, "packed")}).Get(t.Context(), want)
	if err != nil || got.Pin.Dependencies == "" {
		t.Fatalf("got %+v, %v", got.Pin, err)
	}
	want.Pin = got.Pin
	for range 2 {
		again, err := openWith(t, root, store.Options{Complete: completing(&asked, "other")}).Get(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		chart, err := again.Release.AddonChart(release.LegacyAddon)
		if err != nil {
			t.Fatal(err)
		}
		if data, _ := chart.File("charts/cni-1.2.3.tgz"); string(data) != "packed" {
			t.Errorf("got %q", data)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// Whoever publishes a release may own the repositories that its charts name.
func TestMissingChartsAreBounded(t *testing.T) {
	root, asked := t.TempDir(), 0
	var invalid *release.InvalidError
	s := openWith(t, root, store.Options{Complete: completing(&asked, string(make([]byte, 64<<20+1)))})
	if _, err := s.Get(t.Context(), store.Want{Key: key, Name: name(t), From: incomplete()}); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("got %v", err)
	}
	if left := walk(t, root); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestMissingChartsThatChangedAreNotTaken(t *testing.T) {
	asked := 0
	want := store.Want{Key: key, Name: name(t), From: incomplete()}
	got, err := openWith(t, t.TempDir(), store.Options{Complete: completing(&asked, "packed")}).Get(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	want.Pin = got.Pin
	root := t.TempDir()
	var moved *store.MovedError
	if _, err := openWith(t, root, store.Options{Complete: completing(&asked, "evil")}).Get(t.Context(), want); !errors.As(err, &moved) {
		t.Errorf("got %v", err)
	}
	if left := walk(t, root); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if again, err := openWith(t, root, store.Options{Complete: completing(&asked, "packed")}).Get(t.Context(), want); err != nil || again.Pin != got.Pin {
		t.Errorf("the same charts again: got %+v, %v", again.Pin, err)
	}
}

func TestMissingChartsStayInTheStore(t *testing.T) {
	for _, name := range []string{"../evil.tgz", "/evil.tgz", "a/evil.tgz", "..", ""} {
		root := t.TempDir()
		s := openWith(t, root, store.Options{Complete: func(context.Context, release.IncompleteChart) ([]release.File, error) {
			return []release.File{{Name: name, Data: []byte("x")}}, nil
		}})
		if _, err := s.Get(t.Context(), store.Want{Key: key, Name: nameOf(t, tag), From: incomplete()}); err == nil {
			t.Errorf("%q was taken for the name of a file", name)
		}
		if left := walk(t, root); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}
