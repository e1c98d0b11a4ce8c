// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"weak"

	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

const (
	tag = "docker-scs-1-35-v1"
	key = "directory:/releases"
)

// crashIn tells this program, started by a test, in which store to die while fetching.
const crashIn = "STORE_TEST_CRASH_IN"

func TestMain(m *testing.M) {
	if root := os.Getenv(inSmallDisk); root != "" {
		if err := onSmallDisk(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if root := os.Getenv(crashIn); root != "" {
		crash(root)
	}
	os.Exit(m.Run())
}

func name(t testing.TB) release.Name {
	t.Helper()
	n, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func open(t *testing.T, root string) *store.Store {
	t.Helper()
	s, err := store.Open(root, store.Options{})
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

// take asks a store for a release that nobody has to have signed.
func take(ctx context.Context, s *store.Store, key string, name release.Name, pinned string, from store.Fetcher) (*release.Release, string, error) {
	got, err := s.Get(ctx, store.Want{Key: key, Name: name, Pin: store.Pin{Digest: pinned}, From: from})
	return got.Release, got.Pin.Digest, err
}

func get(t *testing.T, s *store.Store, pinned string, from store.Fetcher) (*release.Release, string) {
	t.Helper()
	rel, digest, err := take(t.Context(), s, key, name(t), pinned, from)
	if err != nil {
		t.Fatal(err)
	}
	return rel, digest
}

func published(files fstest.MapFS) *sourcetest.Memory {
	src := &sourcetest.Memory{}
	src.Publish(tag, files)
	return src
}

// changed is a release that differs from releasetest.Multistage.
func changed() fstest.MapFS {
	files := releasetest.Multistage(tag)
	files["hashes.json"] = &fstest.MapFile{Data: []byte("{}")}
	return files
}

var errDown = errors.New("source is down")

func TestReleaseOutlivesItsSource(t *testing.T) {
	root := t.TempDir()
	src := published(releasetest.Multistage(tag))
	first := open(t, root)
	rel, digest := get(t, first, "", src)
	if rel.Name != name(t) || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("got %s, %s", rel.Name, digest)
	}
	src.Break(errDown)

	if again, _ := get(t, first, digest, src); again != rel {
		t.Error("the release was read again in the same process")
	}
	restarted := open(t, root)
	for _, pinned := range []string{"", digest} {
		again, got := get(t, restarted, pinned, src)
		if again.Name != rel.Name || got != digest {
			t.Errorf("after a restart, pinned %q: got %s, %s", pinned, again.Name, got)
		}
	}
}

func TestMovedTagIsNeverFollowed(t *testing.T) {
	root := t.TempDir()
	src := published(releasetest.Multistage(tag))
	s := open(t, root)
	_, digest := get(t, s, "", src)
	src.Publish(tag, changed())

	if _, got := get(t, open(t, root), "", src); got != digest {
		t.Errorf("a store that has the release took %s", got)
	}
	_, _, err := take(t.Context(), open(t, t.TempDir()), key, name(t), digest, src)
	var moved *store.MovedError
	if !errors.As(err, &moved) || moved.Pinned != digest || moved.Offered == digest || moved.Name != name(t) {
		t.Errorf("a store that lacks the release: got %v", err)
	}
	for _, path := range walk(t, root) {
		if strings.HasSuffix(path, "hashes.json") {
			t.Errorf("%s is of the other release", path)
		}
	}
}

func TestTwoContentsUnderOneName(t *testing.T) {
	s := open(t, t.TempDir())
	_, first := get(t, s, "", published(releasetest.Multistage(tag)))
	second, err := source.Digest(changed())
	if err != nil {
		t.Fatal(err)
	}
	if _, got := get(t, s, second, published(changed())); got != second {
		t.Errorf("got %s, want the pinned %s", got, second)
	}
	if _, got := get(t, s, "", published(changed())); got != first {
		t.Errorf("unpinned: got %s, want the first, %s", got, first)
	}
}

func TestSourcesAreKeptApart(t *testing.T) {
	s := open(t, t.TempDir())
	for _, key := range []string{"directory:/a", "directory:/b", "..", "", ".", strings.Repeat("x", 500)} {
		files := releasetest.Multistage(tag)
		files["from"] = &fstest.MapFile{Data: []byte(key)}
		want, err := source.Digest(files)
		if err != nil {
			t.Fatal(err)
		}
		if _, got, err := take(t.Context(), s, key, name(t), "", published(files)); err != nil || got != want {
			t.Errorf("key %.20q: got %s, %v; want %s", key, got, err, want)
		}
	}
}

func TestNothingIsStoredAfterAnError(t *testing.T) {
	malformed := releasetest.Multistage(tag)
	delete(malformed, release.MetadataFile)
	var invalid *release.InvalidError
	for label, tt := range map[string]struct {
		from   store.Fetcher
		pinned string
		want   func(error) bool
	}{
		"NotPublished":    {from: &sourcetest.Memory{}, want: func(err error) bool { return errors.Is(err, source.ErrNotFound) }},
		"Malformed":       {from: published(malformed), want: func(err error) bool { return errors.As(err, &invalid) }},
		"CutOff":          {from: fetcher(cutOff), want: func(err error) bool { return errors.Is(err, errDown) }},
		"OddDigest":       {from: fetcher(oddDigest), want: func(err error) bool { return strings.Contains(err.Error(), `digest "../../evil"`) }},
		"PinnedOddDigest": {from: published(changed()), pinned: "sha256:../../evil", want: func(err error) bool { return strings.Contains(err.Error(), "is not a digest") }},
	} {
		t.Run(label, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root)
			rel, _, err := take(t.Context(), s, key, name(t), tt.pinned, tt.from)
			if rel != nil || err == nil || !tt.want(err) {
				t.Errorf("got %v, %v", rel, err)
			}
			if files := walk(t, root); len(files) > 0 {
				t.Errorf("left behind: %v", files)
			}
			get(t, s, "", published(releasetest.Multistage(tag)))
		})
	}
}

type fetcher func(dst *os.Root) (string, error)

func (f fetcher) Fetch(_ context.Context, _ release.Name, dst *os.Root) (string, error) {
	return f(dst)
}

func writeAll(dst *os.Root, files fstest.MapFS) error {
	for file, content := range files {
		if err := dst.WriteFile(file, content.Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func cutOff(dst *os.Root) (string, error) {
	return "", errors.Join(dst.WriteFile(release.MetadataFile, []byte("versions:"), 0o644), errDown)
}

func oddDigest(dst *os.Root) (string, error) {
	return "../../evil", writeAll(dst, releasetest.Multistage(tag))
}

// Whatever lies in the store: one changed byte is found when a process opens the release first, and the release is
// fetched again.
func TestChangedByteIsFoundAndFetchedAgain(t *testing.T) {
	root := t.TempDir()
	src := published(releasetest.Multistage(tag))
	_, digest := get(t, open(t, root), "", src)
	for _, path := range stored(t, root) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			before := flip(t, path)
			if _, got := get(t, open(t, root), digest, src); got != digest {
				t.Errorf("got %s, want %s", got, digest)
			}
			after, err := os.ReadFile(path)
			if err != nil || filepath.Base(path) != "record" && !bytes.Equal(after, before) {
				t.Errorf("the changed byte is still there (%v)", err)
			}
		})
	}
	for name, harm := range map[string]func(folder string) error{
		"FileRemoved":   func(folder string) error { return os.Remove(filepath.Join(folder, "files", release.MetadataFile)) },
		"FileAdded":     func(folder string) error { return os.WriteFile(filepath.Join(folder, "files", "x"), nil, 0o644) },
		"FileCutOff":    func(folder string) error { return truncate(filepath.Join(folder, "files", release.MetadataFile)) },
		"LinkInstead":   func(folder string) error { return os.Symlink("/etc/passwd", filepath.Join(folder, "files", "y")) },
		"RecordRemoved": func(folder string) error { return os.Remove(filepath.Join(folder, "record")) },
		"FilesRemoved":  func(folder string) error { return os.RemoveAll(filepath.Join(folder, "files")) },
		"AllRemoved":    os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			if err := harm(filepath.Dir(recordOf(t, root))); err != nil {
				t.Fatal(err)
			}
			if _, got := get(t, open(t, root), digest, src); got != digest {
				t.Errorf("got %s, want %s", got, digest)
			}
		})
	}
}

func TestDamagedCopyIsNotTheReleasesFault(t *testing.T) {
	root := t.TempDir()
	src := published(releasetest.Multistage(tag))
	_, digest := get(t, open(t, root), "", src)
	if err := truncate(filepath.Join(filepath.Dir(recordOf(t, root)), "files", release.MetadataFile)); err != nil {
		t.Fatal(err)
	}
	src.Break(errDown)
	_, _, err := take(t.Context(), open(t, root), key, name(t), digest, src)
	var invalid *release.InvalidError
	if !errors.Is(err, errDown) || errors.As(err, &invalid) || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("got %v", err)
	}
}

func truncate(path string) error {
	return errors.Join(os.Chmod(path, 0o644), os.Truncate(path, 3))
}

// flip changes one byte in the middle of a file, and returns what was there.
func flip(t *testing.T, path string) []byte {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	after := bytes.Clone(before)
	after[len(after)/2] ^= 1
	if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, after, 0o644)); err != nil {
		t.Fatal(err)
	}
	return before
}

// stored returns the files of the releases in a store.
func stored(t *testing.T, root string) []string {
	t.Helper()
	return walk(t, filepath.Join(root, "releases"))
}

func recordOf(t *testing.T, root string) string {
	t.Helper()
	for _, path := range stored(t, root) {
		if filepath.Base(path) == "record" {
			return path
		}
	}
	t.Fatal("the store has no release")
	return ""
}

func TestManyAskAtOnce(t *testing.T) {
	root := t.TempDir()
	src := published(releasetest.Multistage(tag))
	var group sync.WaitGroup
	digests := make([]string, 40)
	stores := []*store.Store{open(t, root), open(t, root)} // as two processes would
	for i := range digests {
		group.Go(func() {
			rel, digest, err := take(t.Context(), stores[i%2], key, name(t), "", src)
			if err != nil || rel.Name.String() != tag {
				t.Errorf("got %v, %v", rel, err)
			}
			digests[i] = digest
		})
	}
	group.Wait()
	for _, digest := range digests {
		if digest != digests[0] {
			t.Errorf("got %s and %s", digests[0], digest)
		}
	}
}

func TestOnesCancelIsNotTheOthers(t *testing.T) {
	s := open(t, t.TempDir())
	started, mayGoOn := make(chan struct{}), make(chan struct{})
	slow := fetcher(func(dst *os.Root) (string, error) {
		close(started)
		<-mayGoOn
		return copyOf(dst, releasetest.Multistage(tag))
	})
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if _, _, err := take(ctx, s, key, name(t), "", slow); !errors.Is(err, context.Canceled) {
			t.Errorf("the first: got %v", err)
		}
	})
	<-started
	group.Go(func() {
		// It would be told that there is no such release if it had to ask the source itself.
		if _, _, err := take(t.Context(), s, key, name(t), "", &sourcetest.Memory{}); err != nil {
			t.Errorf("the second: got %v", err)
		}
	})
	cancel()
	close(mayGoOn)
	group.Wait()
}

func copyOf(dst *os.Root, files fstest.MapFS) (string, error) {
	if err := writeAll(dst, files); err != nil {
		return "", err
	}
	return source.Digest(dst.FS())
}

// Not even a few releases stay in memory that are as large as releases can be.
func TestMoreReleasesThanAreHeldInMemory(t *testing.T) {
	noise := make([]byte, 5<<20) // does not pack
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	s := open(t, t.TempDir())
	src := &sourcetest.Memory{}
	var names []release.Name
	for i := range 7 {
		tag := fmt.Sprintf("docker-scs-1-35-v%d", i+1)
		files := releasetest.Legacy(tag)
		files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
			"c/Chart.yaml": releasetest.Chart("c", "v1"), "c/a": string(noise), "c/b": string(noise), "c/c": string(noise),
		})}
		src.Publish(tag, files)
		n, err := release.ParseName(tag)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
	}
	held := map[release.Name]weak.Pointer[release.Release]{}
	for range 2 {
		for _, n := range names {
			rel, _, err := take(t.Context(), s, key, n, "", src)
			if err != nil || rel.Name != n {
				t.Fatalf("got %v, %v", rel, err)
			}
			held[n] = weak.Make(rel)
		}
	}
	runtime.GC()
	size := 0
	for _, pointer := range held {
		if rel := pointer.Value(); rel != nil {
			size += rel.Size()
		}
	}
	if size == 0 || size > 64<<20 {
		t.Errorf("%d MiB of releases are in memory", size>>20)
	}
	if _, _, err := take(t.Context(), s, key, names[0], "", src); err != nil {
		t.Error(err)
	}
}

// Somebody cleans up while we run.
func TestTemporaryFolderIsRemoved(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	if err := os.RemoveAll(filepath.Join(root, "tmp")); err != nil {
		t.Fatal(err)
	}
	get(t, s, "", published(releasetest.Multistage(tag)))
	// Its new folder is as safe as the first one.
	_, _, err := take(t.Context(), s, "directory:/other", name(t), "", fetcher(func(dst *os.Root) (string, error) {
		open(t, root)
		return copyOf(dst, changed())
	}))
	if err != nil {
		t.Error(err)
	}
}

func TestKilledWhileFetching(t *testing.T) {
	root := t.TempDir()
	for range 3 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), crashIn+"="+root)
		err := child.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child was to be killed, but %v", err)
		}
	}
	if len(walk(t, root)) == 0 {
		t.Fatal("the children left nothing behind, so this test shows nothing")
	}
	alive := open(t, root)
	_, _, err := take(t.Context(), alive, key, name(t), "", fetcher(func(dst *os.Root) (string, error) {
		if err := writeAll(dst, changed()); err != nil {
			return "", err
		}
		// Another process starts while this one is fetching.
		open(t, root)
		return source.Digest(dst.FS())
	}))
	if err != nil {
		t.Errorf("the temporary folder of a living process was touched: %v", err)
	}
	for _, path := range walk(t, root) {
		if strings.HasPrefix(path, filepath.Join(root, "tmp")) {
			t.Errorf("left behind: %s", path)
		}
	}
}

// crash ends this process in the middle of a fetch.
func crash(root string) {
	s, err := store.Open(root, store.Options{})
	if err != nil {
		panic(err)
	}
	n, err := release.ParseName(tag)
	if err != nil {
		panic(err)
	}
	_, _, err = take(context.Background(), s, key, n, "", fetcher(func(dst *os.Root) (string, error) {
		if err := dst.WriteFile(release.MetadataFile, []byte("half"), 0o644); err != nil {
			return "", err
		}
		return "", syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}))
	panic(fmt.Sprintf("still alive: %v", err))
}

// walk returns the files below root.
func walk(t *testing.T, root string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// faulty is a source whose library panics.
type faulty struct{}

func (faulty) Fetch(context.Context, release.Name, *os.Root) (string, error) { panic("hunter2") }

// A panic is an error of the release that it came to light with. The process and all other releases go on, and the next try
// begins anew.
func TestPanicIsAnErrorOfTheRelease(t *testing.T) {
	s := open(t, t.TempDir())
	ask := func(context.Context) (string, error) { panic("hunter2") }
	for about, want := range map[string]store.Want{
		"Fetching": {Key: key, Name: name(t), From: faulty{}},
		"Asking":   {Key: key, Name: name(t), From: published(releasetest.Multistage(tag)), Offered: ask},
	} {
		for range 2 * 16 { // more often than there are turns
			_, err := s.Get(t.Context(), want)
			var defect *panicked.Error
			if !errors.As(err, &defect) || strings.Contains(err.Error(), "hunter2") || len(defect.Stack) == 0 {
				t.Fatalf("%s: got %v", about, err)
			}
		}
	}
	get(t, s, "", published(releasetest.Multistage(tag)))
}
