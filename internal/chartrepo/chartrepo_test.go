// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package chartrepo_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

// packed returns the package of a chart.
func packed(name, version string) []byte {
	return releasetest.Archive(map[string]string{name + "/Chart.yaml": releasetest.Chart(name, version)})
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// repository is a chart repository on loopback.
type repository struct {
	*httptest.Server
	files    map[string][]byte
	requests atomic.Int64
}

func serve(t *testing.T, files map[string][]byte) *repository {
	t.Helper()
	r := &repository{files: files}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		data, found := r.files[strings.TrimPrefix(req.URL.Path, "/")]
		if !found {
			http.NotFound(w, req)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(r.Close)
	return r
}

// charts returns the files of a repository with CNI charts of some versions.
func charts(versions ...string) map[string][]byte {
	files := map[string][]byte{}
	var entries []string
	for _, v := range versions {
		data := packed("cni", v)
		files["cni-"+v+".tgz"] = data
		entries = append(entries, fmt.Sprintf("  - version: %q\n    digest: %s\n    urls: [cni-%s.tgz]\n", v, sum(data), v))
	}
	files["index.yaml"] = []byte("apiVersion: v1\nentries:\n  cni:\n" + strings.Join(entries, ""))
	return files
}

// depending returns a chart that lacks a chart of the given version.
func depending(version, repository string) release.IncompleteChart {
	text, err := yaml.Marshal(map[string]any{"name": "addon", "dependencies": []map[string]string{{"name": "cni", "version": version, "repository": repository}}})
	if err != nil {
		panic(err)
	}
	return release.IncompleteChart{Folder: "cluster-addon/addon", Metadata: text, Missing: []string{"cni"}}
}

// lock adds a lock file that Helm could have written.
func lock(t *testing.T, c release.IncompleteChart, version string) release.IncompleteChart {
	t.Helper()
	var list struct {
		Dependencies []*chart.Dependency `json:"dependencies"`
	}
	if err := yaml.Unmarshal(c.Metadata, &list); err != nil {
		t.Fatal(err)
	}
	locked := []*chart.Dependency{{Name: "cni", Version: version, Repository: list.Dependencies[0].Repository}}
	both, err := json.Marshal([2][]*chart.Dependency{list.Dependencies, locked})
	if err != nil {
		t.Fatal(err)
	}
	if c.Lock, err = yaml.Marshal(chart.Lock{Digest: "sha256:" + sum(both), Dependencies: locked}); err != nil {
		t.Fatal(err)
	}
	return c
}

func all() chartrepo.Options {
	return chartrepo.Options{Client: http.DefaultClient, MirrorClient: http.DefaultClient, Allowed: []string{"http://"}}
}

func TestDependenciesAreFetched(t *testing.T) {
	for name, tt := range map[string]struct {
		why     string
		files   map[string][]byte
		version string
		locked  string
		want    string
	}{
		"ExactVersion":    {"", charts("1.2.3", "1.2.4"), "1.2.3", "", "cni-1.2.3.tgz"},
		"HighestInRange":  {"", charts("1.2.9", "1.2.10", "1.3.0"), "~1.2", "", "cni-1.2.10.tgz"},
		"AnyVersion":      {"", charts("1.2.3", "0.9.0"), "", "", "cni-1.2.3.tgz"},
		"LockDecides":     {"Who published the release tried it with this one.", charts("1.2.3", "1.2.4"), "~1.2", "1.2.3", "cni-1.2.3.tgz"},
		"VersionWithV":    {"", charts("v1.2.3"), "v1.2.3", "", "cni-v1.2.3.tgz"},
		"PreRelease":      {"Helm takes one only where the range names one.", charts("1.2.3", "1.3.0-rc.1"), ">=1.2.0", "", "cni-1.2.3.tgz"},
		"IndexIsJSON":     {"", asJSON(charts("1.2.3")), "1.2.3", "", "cni-1.2.3.tgz"},
		"IndexHasNoSum":   {"", edit(charts("1.2.3"), "index.yaml", "digest:", "x:"), "1.2.3", "", "cni-1.2.3.tgz"},
		"IndexHasAPrefix": {"", edit(charts("1.2.3"), "index.yaml", "digest: ", "digest: sha256:"), "1.2.3", "", "cni-1.2.3.tgz"},
	} {
		t.Run(name, func(t *testing.T) {
			repo := serve(t, tt.files)
			give := depending(tt.version, repo.URL)
			if tt.locked != "" {
				give = lock(t, give, tt.locked)
			}
			files, err := chartrepo.New(all()).Complete(t.Context(), give)
			if err != nil || len(files) != 1 || files[0].Name != tt.want {
				t.Errorf("got %v, %v; want %s. %s", names(files), err, tt.want, tt.why)
			}
		})
	}
}

func names(files []release.File) (all []string) {
	for _, f := range files {
		all = append(all, f.Name)
	}
	return all
}

func asJSON(files map[string][]byte) map[string][]byte {
	text, err := yaml.YAMLToJSON(files["index.yaml"])
	if err != nil {
		panic(err)
	}
	files["index.yaml"] = text
	return files
}

func edit(files map[string][]byte, name, old, replacement string) map[string][]byte {
	files = maps.Clone(files)
	files[name] = []byte(strings.ReplaceAll(string(files[name]), old, replacement))
	return files
}

func TestDependenciesThatAreNotTaken(t *testing.T) {
	big := charts("1.2.3")
	big["index.yaml"] = append(big["index.yaml"], strings.Repeat("# much\n", 9<<20)...)
	for name, tt := range map[string]struct {
		files map[string][]byte
		give  func(url string) release.IncompleteChart
		want  string
		final bool // nothing but another release or setting cures it
	}{
		"NoSuchVersion":       {files: charts("1.2.3"), give: exactly("2.0.0"), want: "no such version"},
		"NoSuchChart":         {files: map[string][]byte{"index.yaml": []byte("entries: {}")}, give: exactly("1.2.3"), want: "no such version"},
		"NoIndex":             {give: exactly("1.2.3"), want: "404"},
		"IndexIsRubbish":      {files: map[string][]byte{"index.yaml": []byte("\t")}, give: exactly("1.2.3"), want: "cannot be read"},
		"IndexIsTooLarge":     {files: big, give: exactly("1.2.3"), want: "too large"},
		"WrongChecksum":       {files: edit(charts("1.2.3"), "index.yaml", "digest: ", "digest: 00"), give: exactly("1.2.3"), want: "another checksum"},
		"OtherChartInside":    {files: edit(withFile(charts("1.2.3"), "cni-1.2.3.tgz", packed("evil", "1.2.3")), "index.yaml", "digest:", "x:"), give: exactly("1.2.3"), want: `the chart "evil"`, final: true},
		"OtherVersionInside":  {files: edit(withFile(charts("1.2.3"), "cni-1.2.3.tgz", packed("cni", "6.6.6")), "index.yaml", "digest:", "x:"), give: exactly("1.2.3"), want: `version "6.6.6"`, final: true},
		"NoArchive":           {files: edit(withFile(charts("1.2.3"), "cni-1.2.3.tgz", []byte("x")), "index.yaml", "digest:", "x:"), give: exactly("1.2.3"), want: "not a gzip archive", final: true},
		"ChartIsMissing":      {files: withFile(charts("1.2.3"), "cni-1.2.3.tgz", nil), give: exactly("1.2.3"), want: "checksum"},
		"IndexLeadsToAFile":   {files: edit(charts("1.2.3"), "index.yaml", "[cni-1.2.3.tgz]", "[\"file:///etc/passwd\"]"), give: exactly("1.2.3"), want: "leads to"},
		"IndexLeadsElsewhere": {files: edit(charts("1.2.3"), "index.yaml", "[cni-1.2.3.tgz]", "[\"https://elsewhere.test/x.tgz\"]"), give: exactly("1.2.3"), want: "not allowed", final: true},
		"IndexContradicts":    {files: edit(charts("1.2.3"), "index.yaml", "  cni:\n", "  cni:\n  - {version: 1.2.3, urls: [evil.tgz]}\n"), give: exactly("1.2.3"), want: "twice"},
		"BesideTheChart":      {give: at("file://../cni"), want: `"csctl create" has made`, final: true},
		"NoRepository":        {give: at(""), want: `"csctl create" has made`, final: true},
		"NameOfSomebodysHelm": {give: at("@stable"), want: "write the URL", final: true},
		"NotAllowed":          {give: at("https://charts.example.org"), want: "--chart-repositories", final: true},
		"OtherScheme":         {give: at("ftp://charts.example.org"), want: "not allowed", final: true},
		"LockDoesNotFit": {files: charts("1.2.3"), give: func(url string) release.IncompleteChart {
			c := depending("1.2.3", url)
			c.Lock = []byte("digest: sha256:00\ndependencies:\n- {name: cni, version: 1.2.3}\n")
			return c
		}, want: "csctl dependency update", final: true},
		"LockIsShort": {files: charts("1.2.3"), give: func(url string) release.IncompleteChart {
			c := depending("1.2.3", url)
			c.Lock = []byte("digest: sha256:00\n")
			return c
		}, want: "does not fit", final: true},
		"LockIsRubbish": {files: charts("1.2.3"), give: func(url string) release.IncompleteChart {
			c := depending("1.2.3", url)
			c.Lock = []byte("\t")
			return c
		}, want: "cannot be read", final: true},
		"NullInTheList": {give: func(string) release.IncompleteChart {
			return release.IncompleteChart{Metadata: []byte("dependencies: [null]"), Missing: []string{"cni"}}
		}, want: "empty", final: true},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := chartrepo.New(all()).Complete(t.Context(), tt.give(serve(t, tt.files).URL))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, %v; want %q", names(files), err, tt.want)
			}
			var permanent interface{ Permanent() bool }
			if errors.As(err, &permanent) != tt.final {
				t.Errorf("tried again: %t, want %t (%v)", !errors.As(err, &permanent), !tt.final, err)
			}
		})
	}
}

// Whoever publishes a release may own the repositories that its charts name.
func TestRepositoriesWithoutEnd(t *testing.T) {
	two := charts("1.2.3", "1.2.4")
	both := func(url string) release.IncompleteChart {
		return release.IncompleteChart{Missing: []string{"cni"}, Metadata: fmt.Appendf(nil, "dependencies:\n- {name: cni, version: 1.2.3, repository: %[1]q}\n- {name: cni, version: 1.2.4, repository: %[1]q}\n", url)}
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		give   func(url string) release.IncompleteChart
		size   int64
		tags   int
		time   time.Duration
		want   string
		final  bool // nothing but another release cures it
	}{
		"LargeTogether": {
			answer: func(w http.ResponseWriter, req *http.Request) {
				_, _ = w.Write(two[strings.TrimPrefix(req.URL.Path, "/")])
			},
			give: both, size: int64(len(two["cni-1.2.3.tgz"])) + 1, time: time.Minute,
			want: "together", final: true,
		},
		"ManyTags": {
			answer: func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Link", `</v2/x/cni/tags/list?last=b>; rel="next"`)
				_, _ = w.Write([]byte(`{"name":"x/cni","tags":["a","b"]}`))
			},
			give: func(string) release.IncompleteChart { return depending("~1.2", "oci://charts.example.org/x") },
			size: 1 << 20, tags: 9, time: time.Minute,
			want: "more than 9 tags", final: true,
		},
		"NoAnswer": {
			answer: func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
			give:   exactly("1.2.3"), size: 1 << 20, time: 100 * time.Millisecond,
			want: "needed more than 100ms",
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tt.answer)
			t.Cleanup(server.Close)
			options := all()
			options.Mirrors = []chartrepo.Mirror{{From: "oci://charts.example.org", To: "oci+http://" + strings.TrimPrefix(server.URL, "http://")}}
			repositories := chartrepo.New(options)
			repositories.Limit(tt.size, tt.tags, tt.time)
			files, err := repositories.Complete(t.Context(), tt.give(server.URL))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, %v; want %q", names(files), err, tt.want)
			}
			var permanent interface{ Permanent() bool }
			if errors.As(err, &permanent) != tt.final {
				t.Errorf("tried again: %t, want %t (%v)", !errors.As(err, &permanent), !tt.final, err)
			}
		})
	}
}

func exactly(version string) func(string) release.IncompleteChart {
	return func(url string) release.IncompleteChart { return depending(version, url) }
}

func at(repository string) func(string) release.IncompleteChart {
	return func(string) release.IncompleteChart { return depending("1.2.3", repository) }
}

func withFile(files map[string][]byte, name string, data []byte) map[string][]byte {
	files[name] = data
	return files
}

func TestMirrorTakesThePlaceOfARepository(t *testing.T) {
	mirror := serve(t, map[string][]byte{})
	for name, data := range charts("1.2.3") {
		mirror.files["example/"+name] = data
	}
	// As many repositories do, this one says of its charts where they are at the original place.
	mirror.files["example/index.yaml"] = []byte(strings.ReplaceAll(string(mirror.files["example/index.yaml"]), "[cni-", "[https://charts.example.org/cni-"))
	mirrored := []chartrepo.Mirror{{From: "https://charts.example.org", To: mirror.URL + "/example/"}, {From: "@example", To: mirror.URL + "/example"}}
	for _, repository := range []string{"https://charts.example.org", "https://charts.example.org/", "@example"} {
		o := chartrepo.Options{MirrorClient: http.DefaultClient, Mirrors: mirrored}
		files, err := chartrepo.New(o).Complete(t.Context(), depending("1.2.3", repository))
		if err != nil || len(files) != 1 {
			t.Errorf("%s: got %v, %v", repository, names(files), err)
		}
	}
	for _, repository := range []string{"https://charts.example.org.evil.test", "https://charts.example.org@evil.test", "https://charts.example.org/../x", "https://charts.example.org/%2e%2e/x", "@example2"} {
		o := chartrepo.Options{MirrorClient: http.DefaultClient, Mirrors: mirrored}
		before := mirror.requests.Load()
		if files, err := chartrepo.New(o).Complete(t.Context(), depending("1.2.3", repository)); err == nil {
			t.Errorf("%s: got %v", repository, names(files))
		}
		if mirror.requests.Load() != before {
			t.Errorf("%s was taken for what is mirrored", repository)
		}
	}
}

// What stands beside a release is somebody else's as well, and counts like what is fetched.
func TestChartsBesideCountWithinTheLimits(t *testing.T) {
	repo := serve(t, charts("1.2.3"))
	beside := map[string][]byte{"cni": []byte("packed")}
	o := all()
	o.Beside = func(_ context.Context, d *chart.Dependency) ([]byte, string, error) {
		if packed := beside[d.Name]; packed != nil {
			return packed, "1.2.3", nil
		}
		return nil, "", nil
	}
	files, err := chartrepo.New(o).Complete(t.Context(), depending("1.2.3", repo.URL))
	if err != nil || len(files) != 1 || string(files[0].Data) != "packed" || repo.requests.Load() != 0 {
		t.Errorf("got %v, %v, with %d requests", names(files), err, repo.requests.Load())
	}
	beside["cni"] = make([]byte, 64<<20+1)
	if _, err := chartrepo.New(o).Complete(t.Context(), depending("1.2.3", repo.URL)); err == nil || !strings.Contains(err.Error(), "larger than 64 MiB together") {
		t.Errorf("got %v", err)
	}
	beside["cni"] = nil
	files, err = chartrepo.New(o).Complete(t.Context(), depending("1.2.3", repo.URL))
	if err != nil || len(files) != 1 {
		t.Errorf("got %v, %v", names(files), err)
	}
}

// In whatever order they are set, as flags are: that for one repository, and that for all.
func TestTheLongestMirrorCounts(t *testing.T) {
	one, all := serve(t, charts("1.2.3")), serve(t, map[string][]byte{})
	mirrors := []chartrepo.Mirror{{From: "https://", To: all.URL}, {From: "https://charts.example.org", To: all.URL}, {From: "https://charts.example.org/Infra", To: one.URL}}
	for range 2 {
		o := chartrepo.Options{MirrorClient: http.DefaultClient, Mirrors: mirrors}
		files, err := chartrepo.New(o).Complete(t.Context(), depending("1.2.3", "https://charts.example.org/Infra"))
		if err != nil || len(files) != 1 {
			t.Errorf("got %v, %v", names(files), err)
		}
		slices.Reverse(mirrors)
	}
}

func TestSignedURLsAreNotTold(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	redirects := httptest.NewServer(http.RedirectHandler(gone.URL+"/index.yaml?X-Signature=hidden", http.StatusFound))
	t.Cleanup(redirects.Close)
	_, err := chartrepo.New(all()).Complete(t.Context(), depending("1.2.3", redirects.URL))
	if err == nil || strings.Contains(err.Error(), "hidden") || !strings.Contains(err.Error(), strings.TrimPrefix(gone.URL, "http://")) {
		t.Errorf("got %v", err)
	}
}

func TestAliasesShareOneFile(t *testing.T) {
	repo := serve(t, charts("1.2.3"))
	c := release.IncompleteChart{Missing: []string{"cni"}, Metadata: fmt.Appendf(nil,
		"dependencies:\n- {name: cni, alias: a, version: 1.2.3, repository: %[1]q}\n- {name: cni, alias: b, version: 1.2.3, repository: %[1]q}\n", repo.URL)}
	files, err := chartrepo.New(all()).Complete(t.Context(), c)
	if err != nil || len(files) != 1 {
		t.Errorf("got %v, %v", names(files), err)
	}
}
