// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEmbeddedModuleIsTheModule(t *testing.T) {
	for name, embedded := range map[string][]byte{"go.mod": goMod, "go.sum": goSum} {
		want, err := os.ReadFile(filepath.Join("..", "..", "..", "binaries", name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(embedded)); diff != "" {
			t.Errorf("the copy of binaries/%s differs; run go generate ./internal/sandbox/binaries\n%s", name, diff)
		}
	}
}

func TestPinned(t *testing.T) {
	v := Pinned()
	for name, version := range map[string]string{"Kubernetes": v.Kubernetes, "etcd": v.Etcd, "Cluster API": v.ClusterAPI} {
		if !strings.HasPrefix(version, "v") {
			t.Errorf("%s: no version in the module: %q", name, version)
		}
	}
}

func TestBuildArgsTellTheVersion(t *testing.T) {
	args := strings.Join(buildArgs(), " ")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=" + Pinned().Kubernetes,
		"-X k8s.io/component-base/version.gitMajor=1",
		"-X sigs.k8s.io/cluster-api/version.gitVersion=" + Pinned().ClusterAPI,
	} {
		if !strings.Contains(args, want) {
			t.Errorf("%q lacks %q", args, want)
		}
	}
}

func TestKey(t *testing.T) {
	if sandboxBundle.key("go1.26.1") == sandboxBundle.key("go1.26.2") {
		t.Error("another Go builds other programs, under the same key")
	}
	if first, second := sandboxBundle.key("go1.26.1"), sandboxBundle.key("go1.26.1"); first != second {
		t.Errorf("the key is not stable: %s, then %s", first, second)
	}
}

func TestAssetsFolder(t *testing.T) {
	complete := func(t *testing.T) string {
		dir := t.TempDir()
		for _, p := range sandboxBundle.programs {
			write(t, filepath.Join(dir, "bin", p.name), 0o755)
		}
		for _, p := range sandboxBundle.providers {
			for _, part := range p.parts {
				write(t, filepath.Join(dir, "manifests", p.name, part, "kustomization.yaml"), 0o644)
			}
		}
		return dir
	}
	for name, tc := range map[string]struct {
		why    string
		damage func(t *testing.T, dir string)
		want   string
	}{
		"Complete":         {why: "Used as it is, without the go command."},
		"ProgramMissing":   {damage: func(t *testing.T, dir string) { remove(t, dir, "bin/etcd") }, want: "lacks bin/etcd"},
		"NotExecutable":    {why: "A program unpacked without its mode cannot be started.", damage: func(t *testing.T, dir string) { chmod(t, dir, "bin/etcd") }, want: "lacks bin/etcd"},
		"ManifestsMissing": {damage: func(t *testing.T, dir string) { remove(t, dir, "manifests/core/crd") }, want: "lacks manifests/core/crd"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := complete(t)
			if tc.damage != nil {
				tc.damage(t, dir)
			}
			t.Setenv(AssetsVariable, dir)
			t.Setenv("PATH", "")
			set, err := Ensure(t.Context(), func(string) {})
			if tc.want == "" {
				if err != nil || set.Etcd != filepath.Join(dir, "bin", "etcd") {
					t.Errorf("got %v, %v (%s)", set, err, tc.why)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), AssetsVariable) {
				t.Errorf("got %v, want %q (%s)", err, tc.want, tc.why)
			}
		})
	}
}

// A sandbox runs without clusterctl; who asks for it is told that it is not there.
func TestClusterctlOfAnAssetsFolder(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(AssetsVariable, dir)
	_, err := Clusterctl(t.Context(), func(string) {})
	if err == nil || !strings.Contains(err.Error(), "lacks bin/clusterctl") {
		t.Errorf("got %v from an empty folder", err)
	}
	want := filepath.Join(dir, "bin", "clusterctl")
	write(t, want, 0o755)
	if got, err := Clusterctl(t.Context(), func(string) {}); got != want || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestWithoutGoTheCureIsNamed(t *testing.T) {
	t.Setenv(AssetsVariable, "")
	t.Setenv("PATH", "")
	_, err := Ensure(t.Context(), func(string) {})
	if err == nil || !strings.Contains(err.Error(), "install Go") {
		t.Errorf("got %v", err)
	}
}

func TestWithoutModulesTheCauseAndTheCureAreNamed(t *testing.T) {
	t.Setenv(AssetsVariable, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOPROXY", "off")
	_, err := Ensure(t.Context(), func(string) {})
	for _, want := range []string{"sigs.k8s.io/cluster-api@v", "disabled by GOPROXY=off", AssetsVariable} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestLockHoldsTheSecondBuilder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.lock")
	unlock, err := lock(t.Context(), file, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("seen waiting")
	if _, err := lock(waiting, file, func(string) { cancel(stop) }); !errors.Is(err, stop) {
		t.Errorf("the second builder got %v", err)
	}
	unlock()
	again, err := lock(t.Context(), file, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestLeftoversOfAKilledBuildAreRemoved(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "abc.tmp-1", "bin", "etcd"), 0o755)
	write(t, filepath.Join(root, "other.tmp-1", "bin", "etcd"), 0o755)
	if err := removeLeftovers(filepath.Join(root, "abc")); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(root, "abc.tmp-1")) || !exists(filepath.Join(root, "other.tmp-1")) {
		t.Error("removed the wrong folder, or none")
	}
}

func write(t *testing.T, file string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, file), 0o644); err != nil {
		t.Fatal(err)
	}
}
