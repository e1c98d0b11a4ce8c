// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// created is when releases of these tests were made.
var created = time.Unix(0, 0)

// runCsctl runs the program with settings of its own, and returns what it says.
func runCsctl(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = Run(args, strings.NewReader(""), &out, &err)
	return out.String(), err.String(), code
}

// mustCsctl is runCsctl for what has to succeed.
func mustCsctl(t testing.TB, args ...string) string {
	t.Helper()
	stdout, stderr, code := runCsctl(t, args...)
	if code != 0 {
		t.Fatalf("csctl %s ends with %d:\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// openStacks opens a repository of a registry without TLS.
func openStacks(t testing.TB, r *registrytest.Registry, repository string) *oci.Source {
	t.Helper()
	src, err := oci.New(r.Host+"/"+repository, oci.Options{Web: web.Options{PlainHTTP: true, Backoff: time.Millisecond}})
	must(t, err)
	return src
}

// publishFiles puts a release into a repository, with one more file if there is one.
func publishFiles(t testing.TB, src *oci.Source, tag, more string) string {
	t.Helper()
	files := releasetest.Multistage(tag)
	if more != "" {
		files["more.txt"] = &fstest.MapFile{Data: []byte(more)}
	}
	sum, err := src.Publish(t.Context(), parseName(t, tag), files, created, nil)
	must(t, err)
	return sum
}

// Whoever may write to a repository can move a tag between two requests.
func TestMirrorOfADigestCopiesThatDigest(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	name := parseName(t, placeTag)
	var asked atomic.Int32
	var moving atomic.Bool
	var other []byte
	r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if moving.Load() && strings.HasSuffix(req.URL.Path, "/from/manifests/"+placeTag) && asked.Add(1) == 2 {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
				w.Header().Set("Content-Length", strconv.Itoa(len(other)))
				if req.Method == http.MethodGet {
					_, _ = w.Write(other)
				}
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	publishFiles(t, openStacks(t, r, "other"), placeTag, "another release")
	other = manifestOf(t, r, "other", placeTag)
	sum := publishFiles(t, openStacks(t, r, "from"), placeTag, "")
	// So that the blobs of the other one are there.
	publishFiles(t, openStacks(t, r, "to"), "docker-scs-1-35-v9", "another release")
	pinned := "oci://" + r.Host + "/from:" + placeTag + "@" + sum
	moving.Store(true)
	mustCsctl(t, "mirror", pinned, "oci://"+r.Host+"/to", "--plain-http")
	if got, err := openStacks(t, r, "to").Resolve(t.Context(), name); err != nil || got != sum {
		t.Errorf("got %s, %v; want %s", got, err, sum)
	}
}

func TestMirrorTellsOfATagThatHasMoved(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := registrytest.Start(t, registrytest.Options{})
	was := publishFiles(t, openStacks(t, r, "was"), placeTag, "before")
	now := publishFiles(t, openStacks(t, r, "from"), placeTag, "now")
	for _, to := range []string{"oci://" + r.Host + "/to", t.TempDir() + "/new.tar", t.TempDir() + "/folder"} {
		for _, dryRun := range []string{"--dry-run=false", "--dry-run"} {
			_, stderr, code := runCsctl(t, "mirror", "oci://"+r.Host+"/from:"+placeTag+"@"+was, to, "--plain-http", dryRun)
			if code == 0 || !strings.Contains(stderr, "is not "+was+" any more: it is "+now) {
				t.Errorf("to %s, %s: ends with %d: %s", to, dryRun, code, stderr)
			}
		}
	}
}

// manifestOf returns the manifest that a registry without TLS has under a tag.
func manifestOf(t testing.TB, r *registrytest.Registry, repository, tag string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Host+"/v2/"+repository+"/manifests/"+tag, http.NoBody)
	must(t, err)
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }() // only read from
	var data bytes.Buffer
	_, err = data.ReadFrom(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", req.URL, data.String())
	}
	return data.Bytes()
}

// spoiled is a registry with four releases in the repository "from": v1 and v4 are good, v2 is no release, and of v3 a file
// is lost. An artifact that refers to v4 is lost in part, and another one is not.
func spoiled(t testing.TB) (r *registrytest.Registry, tag func(string) string) {
	t.Helper()
	tag = func(version string) string { return "docker-scs-1-35-" + version }
	lost := digest.FromString("lost").Encoded()
	r = registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method != http.MethodPut && strings.Contains(req.URL.Path, "/from/") && strings.HasSuffix(req.URL.Path, lost) {
				http.NotFound(w, req)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	from := openStacks(t, r, "from")
	publishFiles(t, from, tag("v1"), "")
	put(t, r, "from", tag("v2"), ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	publishFiles(t, from, tag("v3"), "lost")
	sum := publishFiles(t, from, tag("v4"), "")
	for _, bundle := range []string{"lost", "signature"} {
		must(t, from.AddSignature(t.Context(), parseName(t, tag("v4")), sum, []byte(bundle), created))
	}
	return r, tag
}

// put puts a manifest into a registry as it is.
func put(t testing.TB, r *registrytest.Registry, repository, tag, mediaType, manifest string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+r.Host+"/v2/"+repository+"/manifests/"+tag, strings.NewReader(manifest))
	must(t, err)
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", req.URL, resp.Status)
	}
}

func TestMirrorGoesOnBehindWhatCannotBeCopied(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r, tag := spoiled(t)
	for name, to := range map[string]string{
		"Registry": "oci://" + r.Host + "/to",
		"Bundle":   filepath.Join(t.TempDir(), "stacks.tar"),
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := runCsctl(t, "mirror", "oci://"+r.Host+"/from", to, "--plain-http")
			if code != 1 {
				t.Errorf("ends with %d", code)
			}
			for _, want := range []string{tag("v1") + " copied sha256:", tag("v4") + " copied sha256:", "with 1 signatures"} {
				if !strings.Contains(stdout, want) {
					t.Errorf("it does not say %q:\n%s", want, stdout)
				}
			}
			for _, want := range []string{"Error: 3 of 4 releases not copied", "release " + tag("v2") + ": the artifact is of type", "release " + tag("v3") + " from oci://", "release " + tag("v4") + ": copy sha256:"} {
				if !strings.Contains(stderr, want) {
					t.Errorf("it does not say %q:\n%s", want, stderr)
				}
			}
			if strings.Contains(stdout, tag("v2")) || strings.Contains(stdout, tag("v3")) {
				t.Errorf("it is said to have copied what it cannot:\n%s", stdout)
			}
			listed := mustCsctl(t, "list", to, "--plain-http", "--signed")
			if strings.Count(listed, "docker-scs") != 2 || strings.Count(listed, " yes") != 1 {
				t.Errorf("there are now\n%s", listed)
			}
			// For programs.
			stdout, _, code = runCsctl(t, "mirror", "oci://"+r.Host+"/from", to, "--plain-http", "-o", "json")
			var told struct{ Releases []mirrored }
			must(t, json.Unmarshal([]byte(stdout), &told))
			var states []string
			for _, one := range told.Releases {
				states = append(states, one.State)
				if (one.State == stateFailed) != (one.Error != "") || (one.Release == tag("v4")) != (len(one.Left) == 1) {
					t.Errorf("%s: error %q, left %q", one.Release, one.Error, one.Left)
				}
			}
			if code != 1 || !slices.Equal(states, []string{"unchanged", "failed", "failed", "unchanged"}) {
				t.Errorf("a second time it ends with %d, %q", code, states)
			}
		})
	}
}

func TestListShowsWhatIsKnown(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	var refusing atomic.Bool
	r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if refusing.Load() && strings.HasSuffix(req.URL.Path, "/manifests/docker-scs-1-35-v3") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	from := openStacks(t, r, "from")
	for _, tag := range []string{"docker-scs-1-35-v1", "docker-scs-1-35-v3"} {
		publishFiles(t, from, tag, "")
	}
	put(t, r, "from", "docker-scs-1-35-v2", ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	refusing.Store(true)
	stdout, stderr, code := runCsctl(t, "list", "oci://"+r.Host+"/from", "--plain-http", "--signed")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if code != 1 || len(lines) != 4 {
		t.Fatalf("ends with %d:\n%s%s", code, stdout, stderr)
	}
	for i, want := range []string{"SIGNED", "no", "no", "unknown"} {
		if !strings.HasSuffix(strings.TrimRight(lines[i], " "), want) {
			t.Errorf("line %d is %q, want %s at the end", i, lines[i], want)
		}
	}
	for _, want := range []string{"2 of 3 releases could not be looked at", "docker-scs-1-35-v2: the artifact is of type", "release docker-scs-1-35-v3 from"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it does not say %q:\n%s", want, stderr)
		}
	}
}
