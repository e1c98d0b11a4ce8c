// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// lacking is a release as older producers make it: a chart of it depends on another one in a repository.
func lacking(tag, repository string) fstest.MapFS {
	files := releasetest.Multistage(tag)
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Mode: 0o644, Data: releasetest.Archive(map[string]string{
		"cni/Chart.yaml":            releasetest.Chart("cni", "v1") + "dependencies:\n- name: cilium\n  version: ~1.16.0\n  repository: " + repository + "\n",
		"cni/templates/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cni\n",
		"metrics-server/Chart.yaml": releasetest.Chart("metrics-server", "v1"),
	})}
	return files
}

// cilium is a chart that others depend on.
func cilium(version string) []byte {
	return chartrepotest.Package("cilium", version, map[string]string{"templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cilium\ndata:\n  version: {{ .Chart.Version | quote }}\n"})
}

// mirrorsIn returns what an output says that --chart-mirrors wants to hear.
func mirrorsIn(t *testing.T, output string) string {
	t.Helper()
	found := regexp.MustCompile(`--chart-mirrors (\S+)`).FindAllStringSubmatch(output, -1)
	if len(found) != 1 {
		t.Fatalf("it names %d mirrors:\n%s", len(found), output)
	}
	return found[0][1]
}

// openAsTheOperator has a release enter a store with the charts that it lacks, as the operator does with a setting.
func openAsTheOperator(t *testing.T, from source.Source, tag, mirror string) error {
	t.Helper()
	parsed, err := chartrepo.ParseMirror(mirror)
	must(t, err)
	client, err := web.Client(web.Options{PlainHTTP: true, Backoff: time.Millisecond})
	must(t, err)
	charts := chartrepo.New(chartrepo.Options{MirrorClient: client, Mirrors: []chartrepo.Mirror{parsed}})
	releases, err := store.Open(t.TempDir(), store.Options{Complete: charts.Complete})
	must(t, err)
	defer func() { must(t, releases.Close()) }()
	got, err := releases.Get(t.Context(), store.Want{Key: "test", Name: parseName(t, tag), From: from})
	if err != nil {
		return err
	}
	if incomplete, err := got.Release.Incomplete(); err != nil || len(incomplete) > 0 {
		t.Errorf("the release lacks %v, %v", incomplete, err)
	}
	return nil
}

// A release goes through a file into a network in which the repository of its charts is not to be had.
func TestChartsThatAReleaseLacksComeAlong(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	elsewhere := func() { t.Setenv("XDG_CACHE_HOME", t.TempDir()) }
	elsewhere()
	repository := chartrepotest.Start(t, cilium("1.16.6"), cilium("1.16.7"), cilium("1.17.0"))
	r := registrytest.Start(t, registrytest.Options{})
	old := openStacks(t, r, "old")
	_, err := old.Publish(t.Context(), parseName(t, placeTag), lacking(placeTag, repository.URL), created, nil)
	must(t, err)
	publishFiles(t, old, "docker-scs-1-35-v2", "")
	bundle := filepath.Join(t.TempDir(), "stacks.tar")
	from := "oci://" + r.Host + "/old"

	// Without TLS, a repository has to be named.
	stdout, stderr, code := runCsctl(t, "mirror", from, bundle, "--plain-http")
	if code != 1 || !strings.Contains(stderr, "release "+placeTag+": it depends on chart cilium ~1.16.0 from "+repository.URL) || !strings.Contains(stderr, "--charts=false") {
		t.Errorf("ends with %d:\n%s%s", code, stdout, stderr)
	}
	if stdout := mustCsctl(t, "list", bundle); strings.Contains(stdout, placeTag) || !strings.Contains(stdout, "docker-scs-1-35-v2") {
		t.Errorf("the bundle has\n%s", stdout)
	}
	again := []string{"mirror", from, bundle, "--plain-http", "--chart-mirrors", repository.URL + "=" + repository.URL}
	if stdout := mustCsctl(t, again...); !strings.Contains(stdout, "chart cilium 1.16.7 from "+repository.URL+" copied sha256:") || strings.Contains(stdout, "--chart-mirrors") {
		t.Errorf("got\n%s", stdout)
	}
	before, err := os.ReadFile(bundle)
	must(t, err)
	if stdout := mustCsctl(t, again...); !strings.Contains(stdout, "chart cilium 1.16.7 from "+repository.URL+" unchanged sha256:") {
		t.Errorf("got\n%s", stdout)
	}
	if after, err := os.ReadFile(bundle); err != nil || string(after) != string(before) {
		t.Errorf("the same again has changed the bundle: %v", err)
	}

	// Into a bundle that has the release without it.
	late := filepath.Join(t.TempDir(), "late.tar")
	mustCsctl(t, "mirror", from, late, "--plain-http", "--charts=false")
	again[2] = late
	if stdout := mustCsctl(t, again...); !strings.Contains(stdout, "chart cilium 1.16.7 from "+repository.URL+" copied sha256:") {
		t.Errorf("got\n%s", stdout)
	}
	if stdout := mustCsctl(t, again...); !strings.Contains(stdout, "chart cilium 1.16.7 from "+repository.URL+" unchanged sha256:") {
		t.Errorf("it is not in the bundle:\n%s", stdout)
	}

	// Here it is not to be had.
	repository.Set(t)
	asked := repository.Requests()
	elsewhere()
	into := "oci://" + r.Host + "/target"
	for _, state := range []string{" copied ", " unchanged "} {
		stdout = mustCsctl(t, "mirror", bundle, into, "--plain-http")
		if !strings.Contains(stdout, "chart cilium 1.16.7 from "+repository.URL+state) || !strings.Contains(stdout, placeTag+state) {
			t.Errorf("got\n%s, want%s", stdout, state)
		}
	}
	inRegistry := mirrorsIn(t, stdout)
	if !strings.HasPrefix(inRegistry, repository.URL+"=oci+http://"+r.Host+"/target/charts/127-0-0-1-") {
		t.Errorf("the mirror is %s", inRegistry)
	}
	if err := openAsTheOperator(t, openStacks(t, r, "target"), placeTag, inRegistry); err != nil {
		t.Errorf("with %s: %v", inRegistry, err)
	}
	// From one registry to another one inside.
	mustCsctl(t, "mirror", into, "oci://"+r.Host+"/second", "--plain-http")
	if err := openAsTheOperator(t, openStacks(t, r, "second"), placeTag, strings.Replace(inRegistry, "/target/", "/second/", 1)); err != nil {
		t.Errorf("in the second registry: %v", err)
	}

	folder := filepath.Join(t.TempDir(), "folder")
	stdout = mustCsctl(t, "mirror", bundle, folder)
	inFolder := mirrorsIn(t, stdout)
	path, _ := strings.CutPrefix(inFolder, repository.URL+"="+folder)
	server := httptest.NewServer(http.FileServer(http.Dir(folder)))
	defer server.Close()
	if err := openAsTheOperator(t, openStacks(t, r, "target"), placeTag, repository.URL+"="+server.URL+path); err != nil {
		t.Errorf("with the folder: %v", err)
	}
	mustCsctl(t, "mirror", folder, filepath.Join(t.TempDir(), "second.tar"))

	// And csctl shows what the operator would apply, beside the release or with the setting.
	for _, args := range [][]string{{bundle + "#" + placeTag}, {into + ":" + placeTag}, {folder + "/" + placeTag}, {from + ":" + placeTag, "--chart-mirrors", inRegistry}, {from + ":" + placeTag, "--chart-mirrors", inFolder}} {
		elsewhere()
		if stdout := mustCsctl(t, append([]string{"render", "--plain-http"}, args...)...); !strings.Contains(stdout, `version: 1.16.7`) {
			t.Errorf("csctl render %s has no chart of the repository in it:\n%s", args, stdout)
		}
	}
	if _, stderr, code := runCsctl(t, "render", "--plain-http", from+":"+placeTag); code == 0 || !strings.Contains(stderr, "cilium") {
		t.Errorf("without, it ends with %d: %s", code, stderr)
	}
	if repository.Requests() != asked {
		t.Errorf("the repository was asked %d times", repository.Requests()-asked)
	}
	mustCsctl(t, "mirror", bundle, "--images")
}

// One setting of the operator does for all repositories whose address can be a path.
func TestOneMirrorForAllRepositories(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	repository := chartrepotest.Start(t, cilium("1.16.6"))
	r := registrytest.Start(t, registrytest.Options{})
	releases := filepath.Join(t.TempDir(), "releases")
	tags := map[string]string{"docker-scs-1-35-v1": "https://charts.example.org/stable/", "docker-scs-1-35-v2": "https://helm.example.org"}
	args := []string{"mirror", releases, "oci://" + r.Host + "/to", "--plain-http"}
	for tag, named := range tags {
		writeFiles(t, filepath.Join(releases, tag), lacking(tag, named))
		args = append(args, "--chart-mirrors", named+"="+repository.URL)
	}
	mustCsctl(t, args...)
	for tag := range tags {
		if err := openAsTheOperator(t, openStacks(t, r, "to"), tag, "https://=oci+http://"+r.Host+"/to/charts"); err != nil {
			t.Error(err)
		}
	}
}

func TestOtherContentsOfAChartAreNotReplaced(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	repository := chartrepotest.Start(t, cilium("1.16.6"))
	releases := filepath.Join(t.TempDir(), "releases")
	writeFiles(t, filepath.Join(releases, placeTag), lacking(placeTag, repository.URL))
	r := registrytest.Start(t, registrytest.Options{})
	for name, to := range map[string]string{"Registry": "oci://" + r.Host + "/to", "Folder": t.TempDir() + "/to", "Bundle": t.TempDir() + "/to.tar"} {
		t.Run(name, func(t *testing.T) {
			for i, packed := range [][]byte{cilium("1.16.6"), chartrepotest.Package("cilium", "1.16.6", nil)} {
				t.Setenv("XDG_CACHE_HOME", t.TempDir())
				repository.Set(t, packed)
				_, stderr, code := runCsctl(t, "mirror", releases, to, "--plain-http", "--chart-mirrors", repository.URL+"="+repository.URL)
				if code != i || i == 1 && !strings.Contains(stderr, "is there with other contents") {
					t.Errorf("mirror %d ends with %d: %s", i, code, stderr)
				}
			}
			mustCsctl(t, "mirror", releases, to, "--plain-http", "--charts=false")
		})
	}
}

func TestPathsOfChartRepositories(t *testing.T) {
	for repository, want := range map[string]string{
		"https://helm.cilium.io":            "charts/helm.cilium.io",
		"https://helm.cilium.io/":           "charts/helm.cilium.io",
		"oci://ghcr.io/example/charts":      "charts/ghcr.io/example/charts",
		"https://example.github.io/a_b/c-d": "charts/example.github.io/a_b/c-d",
		"https://example.org:8443/Charts":   "charts/example-org-8443-charts-b5f75d14",
		"@stable":                           "charts/stable-2b0286ca",
		"https://example.org/../x":          "charts/example-org-x-",
	} {
		got := chartPath(repository)
		if !strings.HasPrefix(got, want) || !validPath.MatchString(got) {
			t.Errorf("%s has the path %s, want %s", repository, got, want)
		}
		if other := chartPath(repository + "x"); other == got {
			t.Errorf("%s and %sx have the same path %s", repository, repository, got)
		}
	}
}
