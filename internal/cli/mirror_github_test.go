// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github/githubtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
)

// startForge starts a forge that csctl knows, and returns the name of its repository as a place.
func startForge(t *testing.T) (forge *githubtest.Forge, place string) {
	t.Helper()
	forge = githubtest.Start(t)
	host := strings.TrimPrefix(forge.URL(), "http://")
	t.Setenv("GIT_ACCESS_TOKEN", githubtest.Token)
	t.Setenv("GIT_HOST", host)
	return forge, "github://" + host + "/" + githubtest.Owner + "/" + githubtest.Repository
}

// pulled returns the files of a release at a place, by name.
func pulled(t *testing.T, place string) map[string]string {
	t.Helper()
	folder := t.TempDir()
	mustCsctl(t, "pull", place, "--plain-http", "--output", folder)
	found, err := filepath.Glob(folder + "/*/*")
	must(t, err)
	files := map[string]string{}
	for _, file := range found {
		data, err := os.ReadFile(file)
		must(t, err)
		files[filepath.Base(file)] = string(data)
	}
	return files
}

// mirrorTwice copies releases, and once more, which changes nothing.
func mirrorTwice(t *testing.T, from, to string, changes func() int, tags ...string) {
	t.Helper()
	for i, state := range []string{"copied", "unchanged"} {
		before := changes()
		stdout := mustCsctl(t, "mirror", from, to, "--plain-http")
		for _, tag := range tags {
			if !strings.Contains(stdout, tag+" "+state+" sha256:") {
				t.Errorf("call %d says\n%s, want %s %s", i, stdout, tag, state)
			}
		}
		if after := changes(); i == 1 && after != before {
			t.Errorf("the same again has changed something %d times", after-before)
		}
		if stdout := mustCsctl(t, "mirror", from, to, "--plain-http", "--dry-run"); strings.Contains(stdout, "wanted") {
			t.Errorf("after call %d there is still to be copied:\n%s", i, stdout)
		}
	}
	for _, tag := range tags {
		at := map[bool]string{true: "#", false: ":"}
		names := func(place string) string { return place + at[!strings.HasPrefix(place, "oci://")] + tag }
		if diff := cmp.Diff(pulled(t, names(from)), pulled(t, names(to))); diff != "" {
			t.Errorf("%s has other files: %s", tag, diff)
		}
	}
}

var bothTags = []string{"docker-scs-1-35-v1", "docker-scs-1-35-v0-beta-2"}

// countingRegistry is a registry that counts what changes it.
func countingRegistry(t *testing.T) (*registrytest.Registry, func() int) {
	t.Helper()
	var changes atomic.Int64
	return registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method != http.MethodGet && req.Method != http.MethodHead {
				changes.Add(1)
			}
			next.ServeHTTP(w, req)
		})
	}}), func() int { return int(changes.Load()) }
}

func TestMirrorFromGitHub(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	forge, place := startForge(t)
	for _, tag := range bothTags {
		forge.Publish(tag, releasetest.Multistage(tag))
	}
	t.Run("Registry", func(t *testing.T) {
		r, changes := countingRegistry(t)
		mirrorTwice(t, place, "oci://"+r.Host+"/stacks", changes, bothTags...)
	})
	t.Run("Bundle", func(t *testing.T) {
		bundle := filepath.Join(t.TempDir(), "stacks.tar")
		replaced, last := 0, ""
		mirrorTwice(t, place, bundle, func() int {
			data, _ := os.ReadFile(bundle)
			if last != string(data) {
				replaced, last = replaced+1, string(data)
			}
			return replaced
		}, bothTags...)
	})
}

func TestMirrorToGitHub(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := registrytest.Start(t, registrytest.Options{})
	for _, tag := range bothTags {
		publishFiles(t, openStacks(t, r, "stacks"), tag, "")
	}
	forge, place := startForge(t)
	var changes int
	forge.Harm = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			changes++
		}
		return false
	}
	mirrorTwice(t, "oci://"+r.Host+"/stacks", place, func() int {
		forge.Lock()
		defer forge.Unlock()
		return changes
	}, bothTags...)
	forge.Lock()
	defer forge.Unlock()
	for _, p := range forge.Releases {
		if p.Draft || p.Prerelease != strings.Contains(p.Tag, "beta") {
			t.Errorf("%s: a draft is %t, a pre-release is %t", p.Tag, p.Draft, p.Prerelease)
		}
	}
}

// What does not go with a release to GitHub is said.
func TestMirrorToGitHubTellsWhatIsLeft(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := registrytest.Start(t, registrytest.Options{})
	stacks := openStacks(t, r, "stacks")
	repository := chartrepotest.Start(t)
	sum, err := stacks.Publish(t.Context(), parseName(t, placeTag), lacking(placeTag, repository.URL), created, nil)
	must(t, err)
	must(t, stacks.AddSignature(t.Context(), parseName(t, placeTag), sum, []byte("signature"), created))
	_, place := startForge(t)
	_, stderr, code := runCsctl(t, "mirror", "oci://"+r.Host+"/stacks", place, "--plain-http")
	for _, want := range []string{
		"Warning: " + placeTag + " depends on charts for which there is no room in ", ": cilium\n",
		"Warning: " + placeTag + " is signed in oci://", "sign a folder of it before it is published there",
	} {
		if code != 0 || !strings.Contains(stderr, want) {
			t.Errorf("ends with %d and does not say %q:\n%s", code, want, stderr)
		}
	}
}
