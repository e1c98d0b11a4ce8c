// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sourcetest has the behaviour that all sources share, as a test, and a source in memory for
// the tests of those who use one.
package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Memory is a source in memory. The zero value is an empty one. It may be used concurrently.
type Memory struct {
	mu        sync.Mutex
	releases  map[string]fstest.MapFS
	published map[string]time.Time
	down      error
}

var (
	_ source.Source   = (*Memory)(nil)
	_ source.Resolver = (*Memory)(nil)
)

// Publish puts files up under a tag, in place of those that were there.
func (m *Memory) Publish(tag string, files fstest.MapFS) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.releases == nil {
		m.releases, m.published = map[string]fstest.MapFS{}, map[string]time.Time{}
	}
	m.releases[tag] = maps.Clone(files)
	m.published[tag] = time.Now()
}

// Withdraw takes a release back.
func (m *Memory) Withdraw(tag string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.releases, tag)
}

// Break makes the source answer with err from now on; nil mends it.
func (m *Memory) Break(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = err
}

// List implements source.Source.
func (m *Memory) List(ctx context.Context) ([]source.Offer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.down, ctx.Err()); err != nil {
		return nil, err
	}
	var offers []source.Offer
	for tag := range m.releases {
		if name, err := release.ParseName(tag); err == nil {
			offers = append(offers, source.Offer{Name: name, Published: m.published[tag]})
		}
	}
	return offers, nil
}

// Resolve implements source.Resolver.
func (m *Memory) Resolve(ctx context.Context, name release.Name) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.down, ctx.Err()); err != nil {
		return "", err
	}
	files, found := m.releases[name.String()]
	if !found {
		return "", fmt.Errorf("release %s: %w", name, source.ErrNotFound)
	}
	return source.Digest(files)
}

// Fetch implements source.Source.
func (m *Memory) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	m.mu.Lock()
	files, found := m.releases[name.String()]
	err := errors.Join(m.down, ctx.Err())
	m.mu.Unlock()
	if err != nil {
		return "", err
	}
	if !found {
		return "", fmt.Errorf("release %s: %w", name, source.ErrNotFound)
	}
	for file, content := range files {
		if err := dst.WriteFile(file, content.Data, 0o644); err != nil {
			return "", err
		}
	}
	return source.Digest(files)
}

// Run checks the behaviour that all sources share. serve returns a source over the given releases,
// by tag; it takes down in t.Cleanup what it set up.
func Run(t *testing.T, serve func(t *testing.T, releases map[string]fstest.MapFS) source.Source) {
	const tag, other = "docker-scs-1-35-v1", "docker-scs-1-35-v0-sha-abc1234"
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("ListsReleases", func(t *testing.T) {
		src := serve(t, map[string]fstest.MapFS{tag: releasetest.Multistage(tag), other: releasetest.Legacy(other)})
		if diff := cmp.Diff([]string{other, tag}, list(t, src)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("ListsManyReleases", func(t *testing.T) {
		releases := map[string]fstest.MapFS{}
		for i := range 150 {
			tag := fmt.Sprintf("docker-scs-1-35-v%d", i)
			releases[tag] = releasetest.Legacy(tag)
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(releases)), list(t, serve(t, releases))); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("ListsNothingWhenThereIsNothing", func(t *testing.T) {
		if got := list(t, serve(t, nil)); len(got) > 0 {
			t.Errorf("got %v", got)
		}
	})

	t.Run("SkipsForeignNames", func(t *testing.T) {
		foreign := fstest.MapFS{"metadata.yaml": {Data: []byte("x")}}
		src := serve(t, map[string]fstest.MapFS{
			tag:                           releasetest.Multistage(tag),
			"openstack-csp-helper-v0.2.0": foreign,
			"openstack-scs-1-29-v2-test":  foreign,
			"latest":                      foreign,
		})
		if diff := cmp.Diff([]string{tag}, list(t, src)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("FetchesAllFiles", func(t *testing.T) {
		want := releasetest.Multistage(tag)
		want["topology-docker.yaml"] = &fstest.MapFile{Data: []byte("whatever else there is")}
		_, got := fetch(t, serve(t, map[string]fstest.MapFS{tag: want}), name)
		var names []string
		for file := range want {
			names = append(names, file)
			data, err := fs.ReadFile(got, file)
			if err != nil || !bytes.Equal(data, want[file].Data) {
				t.Errorf("%s: got %d bytes, %v; want %d bytes", file, len(data), err, len(want[file].Data))
			}
		}
		entries, err := fs.ReadDir(got, ".")
		if err != nil || len(entries) != len(names) {
			t.Errorf("got %v, %v; want %v", entries, err, names)
		}
		if _, err := release.Open(got, name); err != nil {
			t.Error(err)
		}
	})

	t.Run("DigestFollowsContents", func(t *testing.T) {
		first, _ := fetch(t, serve(t, map[string]fstest.MapFS{tag: releasetest.Multistage(tag)}), name)
		changed := releasetest.Multistage(tag)
		changed["hashes.json"] = &fstest.MapFile{Data: []byte("{}")}
		src := serve(t, map[string]fstest.MapFS{tag: changed})
		second, _ := fetch(t, src, name)
		again, _ := fetch(t, src, name)
		if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(first) {
			t.Errorf("digest %q has another form", first)
		}
		if first == second || second != again {
			t.Errorf("got %s for one release, %s and %s for another", first, second, again)
		}
	})

	t.Run("SaysThatAReleaseIsNotThere", func(t *testing.T) {
		src := serve(t, map[string]fstest.MapFS{other: releasetest.Legacy(other)})
		if _, err := src.Fetch(t.Context(), name, folder(t)); !errors.Is(err, source.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})

	t.Run("StopsWhenCancelled", func(t *testing.T) {
		src := serve(t, map[string]fstest.MapFS{tag: releasetest.Multistage(tag)})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := src.List(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("List: got %v", err)
		}
		if _, err := src.Fetch(ctx, name, folder(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("Fetch: got %v", err)
		}
	})
}

func list(t *testing.T, src source.Source) (tags []string) {
	t.Helper()
	offers, err := src.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, offer := range offers {
		tags = append(tags, offer.Name.String())
	}
	slices.Sort(tags)
	return tags
}

func fetch(t *testing.T, src source.Source, name release.Name) (digest string, files fs.FS) {
	t.Helper()
	dst := folder(t)
	digest, err := src.Fetch(t.Context(), name, dst)
	if err != nil {
		t.Fatal(err)
	}
	return digest, dst.FS()
}

func folder(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return root
}
