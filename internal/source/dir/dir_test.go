// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
)

const tag = "docker-scs-1-35-v1"

func TestSharedBehaviour(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, releases map[string]fstest.MapFS) source.Source {
		path := t.TempDir()
		for tag, files := range releases {
			publish(t, path, tag, files)
		}
		return dir.New(path)
	})
}

func publish(t *testing.T, path, tag string, files fs.FS) {
	t.Helper()
	if err := os.CopyFS(filepath.Join(path, tag), files); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fetch(t *testing.T, path string) (*os.Root, error) {
	t.Helper()
	name, err := release.ParseName(tag)
	must(t, err)
	dst, err := os.OpenRoot(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, dst.Close()) })
	_, err = dir.New(path).Fetch(t.Context(), name, dst)
	return dst, err
}

func TestMissingFolderIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent")
	if _, err := dir.New(path).List(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("List: got %v; an empty list would have releases removed", err)
	}
	if _, err := fetch(t, path); err == nil || errors.Is(err, source.ErrNotFound) {
		t.Errorf("Fetch: got %v; that the source is gone says nothing about the release", err)
	}
}

func TestReleaseThatIsBeingCopiedIsNotThereYet(t *testing.T) {
	path := t.TempDir()
	files := releasetest.Multistage(tag)
	delete(files, release.MetadataFile)
	publish(t, path, tag, files)
	names, err := dir.New(path).List(t.Context())
	if err != nil || len(names) > 0 {
		t.Errorf("List: got %v, %v", names, err)
	}
	if _, err := fetch(t, path); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("Fetch: got %v", err)
	}
}

func TestLinksStayInside(t *testing.T) {
	t.Run("Inside", func(t *testing.T) {
		path := t.TempDir()
		publish(t, path, "data", releasetest.Multistage(tag))
		must(t, os.Symlink("data", filepath.Join(path, tag)))
		if _, err := fetch(t, path); err != nil {
			t.Error(err)
		}
	})
	t.Run("Outside", func(t *testing.T) {
		path, secret := t.TempDir(), filepath.Join(t.TempDir(), "secret")
		publish(t, path, tag, releasetest.Multistage(tag))
		must(t, os.WriteFile(secret, []byte("secret"), 0o600))
		must(t, os.Symlink(secret, filepath.Join(path, tag, "extra.yaml")))
		dst, err := fetch(t, path)
		if err == nil || !strings.Contains(err.Error(), "extra.yaml") {
			t.Errorf("got %v", err)
		}
		if data, err := dst.ReadFile("extra.yaml"); err == nil {
			t.Errorf("read %q", data)
		}
	})
}

func TestFoldersInsideAreLeftOut(t *testing.T) {
	path := t.TempDir()
	publish(t, path, tag, releasetest.Multistage(tag))
	must(t, os.MkdirAll(filepath.Join(path, tag, "unpacked", "cni"), 0o755))
	dst, err := fetch(t, path)
	must(t, err)
	if _, err := dst.Stat("unpacked"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestTooManyFiles(t *testing.T) {
	path := t.TempDir()
	files := releasetest.Multistage(tag)
	for i := range source.MaxFiles {
		files[strings.Repeat("x", i+1)] = &fstest.MapFile{}
	}
	publish(t, path, tag, files)
	if _, err := fetch(t, path); err == nil || !strings.Contains(err.Error(), "more than 64 files") {
		t.Errorf("got %v", err)
	}
}

func TestResolveFollowsContents(t *testing.T) {
	path := t.TempDir()
	publish(t, path, tag, releasetest.Multistage(tag))
	src := dir.New(path)
	name, err := release.ParseName(tag)
	must(t, err)
	dst, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer func() { must(t, dst.Close()) }()
	want, err := src.Fetch(t.Context(), name, dst)
	must(t, err)
	for range 2 {
		if got, err := src.Resolve(t.Context(), name); err != nil || got != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
	must(t, os.WriteFile(filepath.Join(path, tag, "more.yaml"), []byte("x"), 0o600))
	if got, err := src.Resolve(t.Context(), name); err != nil || got == want {
		t.Errorf("after a change: %s, %v", got, err)
	}
	must(t, os.RemoveAll(filepath.Join(path, tag)))
	if _, err := src.Resolve(t.Context(), name); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("gone: %v", err)
	}
}
