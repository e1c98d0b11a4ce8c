// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// csctl runs the program with settings of its own, and returns what it says.
func csctl(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = Run(args, strings.NewReader(""), &out, &err)
	return out.String(), err.String(), code
}

// mustCsctl is csctl for what has to succeed.
func mustCsctl(t testing.TB, args ...string) string {
	t.Helper()
	stdout, stderr, code := csctl(t, args...)
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
	sum, err := src.Publish(t.Context(), parseName(t, tag), files, time.Unix(0, 0), nil)
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
			_, stderr, code := csctl(t, "mirror", "oci://"+r.Host+"/from:"+placeTag+"@"+was, to, "--plain-http", dryRun)
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
