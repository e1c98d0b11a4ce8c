// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// TestMain lets the test binary be a process that writes a bundle, and that can be killed.
func TestMain(m *testing.M) {
	if from, to := os.Getenv("TEST_BUNDLE_FROM"), os.Getenv("TEST_BUNDLE_TO"); from != "" {
		if err := bundleAll(context.Background(), from, to); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err) // that is all that can be done
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// bundleAll copies all releases of a repository without TLS into a bundle.
func bundleAll(ctx context.Context, repository, file string) error {
	from, err := oci.New(repository, oci.Options{Web: web.Options{PlainHTTP: true, Backoff: 1}})
	if err != nil {
		return err
	}
	offers, err := from.List(ctx)
	if err != nil {
		return err
	}
	draft, err := oci.OpenDraft(ctx, file)
	if err != nil {
		return err
	}
	for _, offer := range offers {
		if _, err := from.Copy(ctx, offer.Name, draft.Source, oci.CopyOptions{}); err != nil {
			return errors.Join(err, draft.Leave())
		}
	}
	return errors.Join(draft.Write(), draft.Discard())
}

// bundled returns the releases of a bundle with their digests and the number of their signatures, after it has read all of
// them, and fails when something in it belongs to none.
func bundled(t *testing.T, file string) []string {
	t.Helper()
	src, err := oci.Bundle(t.Context(), file)
	must(t, err)
	offers, err := src.List(t.Context())
	must(t, err)
	var all []string
	for _, offer := range offers {
		dst, err := os.OpenRoot(t.TempDir())
		must(t, err)
		sum, err := src.Fetch(t.Context(), offer.Name, dst)
		must(t, errors.Join(err, dst.Close()))
		signatures, err := src.Signatures(t.Context(), offer.Name, sum)
		must(t, err)
		all = append(all, fmt.Sprintf("%s %s %d", offer.Name, sum, len(signatures)))
	}
	slices.Sort(all)
	return all
}

// entries returns the names of what is in a tar archive.
func entries(t *testing.T, file string) (names []string) {
	t.Helper()
	in, err := os.Open(file)
	must(t, err)
	defer func() { must(t, in.Close()) }()
	for archive := tar.NewReader(in); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		must(t, err)
		names = append(names, header.Name)
	}
}

// killer is a registry with two releases, of which one has a signature, that can kill who asks it for the nth time.
type killer struct {
	*registrytest.Registry
	mu     sync.Mutex
	victim *exec.Cmd
	at     int
	asked  int
}

func startKiller(t *testing.T) *killer {
	t.Helper()
	k := &killer{}
	k.Registry = registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.asked++; k.victim != nil && k.asked == k.at {
				must(t, k.victim.Process.Kill())
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, req)
		})
	}})
	src := open(t, k.Registry, oci.Credentials{})
	for _, tag := range []string{"docker-scs-1-35-v1", "docker-scs-1-35-v2"} {
		sum, err := src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
		must(t, err)
		if tag == "docker-scs-1-35-v2" {
			must(t, src.AddSignature(t.Context(), parse(t, tag), sum, []byte("signature"), created))
		}
	}
	return k
}

// run has another process write a bundle, which is killed when it asks for the nth time, and tells whether it came to its end.
func (k *killer) run(t *testing.T, file string, at int) (finished bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_BUNDLE_FROM="+k.Host+"/kaas/cluster-stacks", "TEST_BUNDLE_TO="+file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	k.mu.Lock()
	k.victim, k.at, k.asked = cmd, at, 0
	must(t, cmd.Start())
	k.mu.Unlock()
	err := cmd.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.victim = nil
	if killed := k.asked >= at; killed == (err == nil) {
		t.Fatalf("asked %d times: %v: %s", k.asked, err, &stderr)
	}
	return err == nil
}

// TestBundleKilledAtAnyRequest: there is the old bundle or the new one, and whoever writes it again succeeds.
func TestBundleKilledAtAnyRequest(t *testing.T) {
	k := startKiller(t)
	whole := filepath.Join(t.TempDir(), "whole.tar")
	must(t, bundleAll(t.Context(), k.Host+"/kaas/cluster-stacks", whole))
	want := bundled(t, whole)
	if len(want) != 2 || !strings.HasSuffix(want[1], " 1") {
		t.Fatalf("got %q", want)
	}
	// An older bundle, which has the release v9 and lacks the others.
	older, err := oci.OpenDraft(t.Context(), filepath.Join(t.TempDir(), "older.tar"))
	must(t, err)
	_, err = older.Put(t.Context(), parse(t, "docker-scs-1-35-v9"), releasetest.Multistage("docker-scs-1-35-v9"), publication)
	must(t, errors.Join(err, older.Write(), older.Discard()))
	before, err := os.ReadFile(older.String())
	must(t, err)
	for _, start := range [][]byte{nil, before} {
		for n, finished := 1, false; !finished; n++ {
			file := filepath.Join(t.TempDir(), "stacks.tar")
			if start != nil {
				must(t, os.WriteFile(file, start, 0o600))
			}
			finished = k.run(t, file, n)
			if data, err := os.ReadFile(file); !finished && (start == nil) != errors.Is(err, os.ErrNotExist) || !finished && !bytes.Equal(data, start) {
				t.Errorf("killed at request %d: the bundle has changed: %v", n, err)
			}
			must(t, bundleAll(t.Context(), k.Host+"/kaas/cluster-stacks", file))
			if got := bundled(t, file); !slices.Equal(got[:2], want) || len(got) != map[bool]int{true: 2, false: 3}[start == nil] {
				t.Errorf("killed at request %d, the next one wrote %q, want %q", n, got, want)
			}
			if left, err := filepath.Glob(filepath.Dir(file) + "/*"); err != nil || len(left) != 1 {
				t.Errorf("killed at request %d: there is %q now, %v", n, left, err)
			}
		}
	}
}

var publication = source.Publication{Created: created}

func TestBundleIsWrittenByOneAtATime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stacks.tar")
	first, err := oci.OpenDraft(t.Context(), file)
	must(t, err)
	link := filepath.Join(t.TempDir(), "link.tar")
	must(t, os.Symlink(file, link))
	for _, name := range []string{file, filepath.Dir(file) + "/../" + filepath.Base(filepath.Dir(file)) + "/stacks.tar"} {
		if _, err := oci.OpenDraft(t.Context(), name); !errors.Is(err, oci.ErrDrafted) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err = first.Put(t.Context(), parse(t, tag), releasetest.Multistage(tag), publication)
	must(t, errors.Join(err, first.Write(), first.Discard()))
	second, err := oci.OpenDraft(t.Context(), link)
	must(t, err)
	if _, err := oci.OpenDraft(t.Context(), file); !errors.Is(err, oci.ErrDrafted) {
		t.Errorf("through a link: got %v", err)
	}
	must(t, second.Leave())
	if got := bundled(t, file); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	if left, err := filepath.Glob(file + "*"); err != nil || len(left) != 1 {
		t.Errorf("there is %q now, %v", left, err)
	}
}

// What an abandoned draft has in it is no part of a bundle, however new it is, and of what is broken nothing is taken.
func TestAbandonedDraftIsNotWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stacks.tar")
	put := func(tag string, files fstest.MapFS) *oci.Draft {
		draft, err := oci.OpenDraft(t.Context(), file)
		must(t, err)
		_, err = draft.Put(t.Context(), parse(t, tag), files, publication)
		must(t, err)
		return draft
	}
	big := strings.Repeat("0123456789", 1000)
	abandoned := releasetest.Multistage("docker-scs-1-35-v1")
	abandoned["big.txt"] = &fstest.MapFile{Data: []byte(big)}
	must(t, put("docker-scs-1-35-v1", abandoned).Leave())
	// As a machine leaves it that loses power.
	blobs, err := filepath.Glob(file + ".partial/blobs/sha256/*")
	must(t, err)
	if len(blobs) == 0 {
		t.Fatal("nothing is left of the draft")
	}
	for _, blob := range blobs {
		must(t, os.Chmod(blob, 0o600))
		must(t, os.Truncate(blob, 1))
	}
	for _, name := range []string{"index.json", "oci-layout", "bundle.tar"} {
		must(t, os.WriteFile(filepath.Join(file+".partial", name), []byte("{"), 0o600))
	}
	draft := put("docker-scs-1-35-v2", func() fstest.MapFS {
		files := releasetest.Multistage("docker-scs-1-35-v2")
		files["big.txt"] = &fstest.MapFile{Data: []byte(big)}
		return files
	}())
	must(t, errors.Join(draft.Write(), draft.Discard()))
	got := bundled(t, file)
	if len(got) != 1 || !strings.HasPrefix(got[0], "docker-scs-1-35-v2 ") {
		t.Errorf("got %q", got)
	}
	// Layout, index, manifest, configuration and files.
	if names := entries(t, file); len(names) != 4+len(releasetest.Multistage(tag))+1 {
		t.Errorf("the bundle has in it %q", names)
	}
}

// What was copied and is in no bundle is not copied again.
func TestDraftGoesOnWithWhatIsThere(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	src := open(t, r, oci.Credentials{})
	_, err := src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
	must(t, err)
	file := filepath.Join(t.TempDir(), "stacks.tar")
	for i := range 2 {
		draft, err := oci.OpenDraft(t.Context(), file)
		must(t, err)
		copied := 0
		_, err = src.Copy(t.Context(), parse(t, tag), draft.Source, oci.CopyOptions{Uploaded: func(_ string, _ int64, there bool) {
			if !there {
				copied++
			}
		}})
		must(t, errors.Join(err, draft.Leave()))
		if want := []int{len(releasetest.Multistage(tag)), 0}[i]; copied != want {
			t.Errorf("call %d has copied %d files, want %d", i, copied, want)
		}
	}
}

func TestDamagedBundleIsNotAddedTo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stacks.tar")
	draft, err := oci.OpenDraft(t.Context(), file)
	must(t, err)
	files := fstest.MapFS{release.MetadataFile: {Data: []byte("a text that is easily found")}}
	_, err = draft.Put(t.Context(), parse(t, tag), files, publication)
	must(t, errors.Join(err, draft.Write(), draft.Discard()))
	data, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, bytes.Replace(data, []byte("easily"), []byte("hardly"), 1), 0o600))
	if _, err := oci.OpenDraft(t.Context(), file); err == nil || !strings.Contains(err.Error(), "it is damaged: blobs/sha256/") {
		t.Errorf("got %v", err)
	}
}
