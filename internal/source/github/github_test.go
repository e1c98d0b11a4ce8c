// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

const tag, token = "docker-scs-1-35-v1", "ghp_secret"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// forge speaks the part of GitHub's API that is about releases, with the storage of assets on a server of
// its own.
type forge struct {
	api, storage *httptest.Server

	mu       sync.Mutex
	releases []*published
	// limit is how many requests are left, below zero for no limit. An answer that says only that nothing
	// has changed is free.
	limit  int
	counts map[string]int
	leaked []string
	// serve, if set, answers for the storage.
	serve http.HandlerFunc
}

type published struct {
	Tag        string `json:"tag_name"`
	Name       any    `json:"name"`
	Draft      bool   `json:"draft"`
	Prerelease bool   `json:"prerelease"`
	Published  string `json:"published_at"`
	Assets     []item `json:"assets"`

	files fs.FS
}

type item struct {
	ID     uint32 `json:"id"`
	Name   string `json:"name"`
	Size   int    `json:"size"`
	State  string `json:"state"`
	Digest string `json:"digest,omitempty"`
}

func start(t *testing.T) *forge {
	t.Helper()
	f := &forge{limit: -1, counts: map[string]int{}}
	f.storage = httptest.NewServer(http.HandlerFunc(f.store))
	f.api = httptest.NewServer(http.HandlerFunc(f.answer))
	t.Cleanup(f.storage.Close)
	t.Cleanup(f.api.Close)
	return f
}

func (f *forge) publish(tag string, files fstest.MapFS) *published {
	p := &published{Tag: tag, Name: "A title that somebody wrote", Published: "2026-03-01T12:00:00Z", files: files}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum, id := sha256.Sum256(files[name].Data), fnv.New32a()
		_, _ = id.Write([]byte(tag + "/" + name))
		p.Assets = append(p.Assets, item{ID: id.Sum32(), Name: name, Size: len(files[name].Data), State: "uploaded", Digest: "sha256:" + hex.EncodeToString(sum[:])})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.releases = append(f.releases, p)
	return p
}

func (f *forge) answer(w http.ResponseWriter, req *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path, _ := strings.CutPrefix(req.URL.Path, "/api/v3/repos/o/r")
	f.counts[path]++
	if req.Header.Get("Authorization") != "Bearer "+token {
		http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
		return
	}
	w.Header().Set("X-RateLimit-Limit", "60")
	w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(max(f.limit, 0)))
	w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(30*time.Minute).Unix(), 10))
	if f.limit < 0 {
		w.Header().Set("X-RateLimit-Remaining", "59")
	}
	switch rest, isTag := strings.CutPrefix(path, "/releases/tags/"); {
	case path == "":
		f.send(w, req, map[string]string{"name": "r"})
	case path == "/releases":
		size, _ := strconv.Atoi(req.URL.Query().Get("per_page"))
		page, _ := strconv.Atoi(req.URL.Query().Get("page"))
		page = max(page, 1)
		begin, end := min((page-1)*size, len(f.releases)), min(page*size, len(f.releases))
		if end < len(f.releases) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?per_page=%d&page=%d>; rel="next"`, f.api.URL, req.URL.Path, size, page+1))
		}
		f.send(w, req, append([]*published{}, f.releases[begin:end]...))
	case isTag:
		i := slices.IndexFunc(f.releases, func(p *published) bool { return p.Tag == rest })
		if i < 0 {
			http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
			return
		}
		f.send(w, req, f.releases[i])
	default:
		http.Redirect(w, req, f.storage.URL+path+"?signature=secret", http.StatusFound)
	}
}

func (f *forge) send(w http.ResponseWriter, req *http.Request, value any) {
	data, _ := json.Marshal(value)
	sum := sha256.Sum256(data)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	w.Header().Set("Etag", etag)
	if req.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if f.limit == 0 {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"message":"API rate limit exceeded"}`))
		return
	}
	f.limit--
	f.counts["charged"]++
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

func (f *forge) store(w http.ResponseWriter, req *http.Request) {
	f.mu.Lock()
	for _, header := range []string{"Authorization", "Cookie", "Referer"} {
		if value := req.Header.Get(header); value != "" {
			f.leaked = append(f.leaked, header+": "+value)
		}
	}
	serve := f.serve
	f.mu.Unlock()
	if serve != nil {
		serve(w, req)
		return
	}
	f.contents(w, req, func(b []byte) []byte { return b })
}

func (f *forge) contents(w http.ResponseWriter, req *http.Request, change func([]byte) []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.releases {
		for _, a := range p.Assets {
			if strings.HasSuffix(req.URL.Path, fmt.Sprintf("/%d", a.ID)) {
				data, _ := fs.ReadFile(p.files, a.Name)
				_, _ = w.Write(change(slices.Clone(data)))
				return
			}
		}
	}
	w.WriteHeader(http.StatusNotFound)
}

func open(t *testing.T, f *forge, token string) *github.Source {
	t.Helper()
	src, err := github.New("o", "r", github.Options{
		Token: token, APIURL: f.api.URL,
		Web: web.Options{PlainHTTP: true, Answer: 2 * time.Second, Window: 500 * time.Millisecond, MinPerWindow: 1 << 10, Backoff: time.Millisecond},
	})
	must(t, err)
	return src
}

func fetch(t *testing.T, src source.Source) (fs.FS, string, error) {
	t.Helper()
	name, err := release.ParseName(tag)
	must(t, err)
	dst, err := os.OpenRoot(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, dst.Close()) })
	sum, err := src.Fetch(t.Context(), name, dst)
	return dst.FS(), sum, err
}

func TestSharedBehaviour(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, releases map[string]fstest.MapFS) source.Source {
		f := start(t)
		for tag, files := range releases {
			f.publish(tag, files)
		}
		return open(t, f, token)
	})
}

func TestTagsDecideAndDraftsDoNotExist(t *testing.T) {
	f := start(t)
	f.publish("docker-scs-1-35-v1", releasetest.Multistage(tag)).Name = nil
	f.publish("docker-scs-1-35-v2", releasetest.Multistage(tag)).Name = "docker-scs-1-35-v9"
	f.publish("docker-scs-1-35-v3", releasetest.Multistage(tag)).Draft = true
	f.publish("docker-scs-1-35-v4-beta-0", releasetest.Multistage(tag)).Prerelease = true
	offers, err := open(t, f, token).List(t.Context())
	must(t, err)
	var got []string
	for _, offer := range offers {
		got = append(got, offer.Name.String())
		if want := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC); !offer.Published.Equal(want) {
			t.Errorf("%s published at %s", offer.Name, offer.Published)
		}
	}
	if want := []string{"docker-scs-1-35-v1", "docker-scs-1-35-v2", "docker-scs-1-35-v4-beta-0"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestUnchangedListCostsNothing(t *testing.T) {
	f := start(t)
	for i := range 250 {
		f.publish(fmt.Sprintf("docker-scs-1-35-v%d", i), nil)
	}
	f.limit = 60
	src := open(t, f, token)
	for range 100 {
		offers, err := src.List(t.Context())
		must(t, err)
		if len(offers) != 250 {
			t.Fatalf("got %d releases", len(offers))
		}
	}
	if charged := f.counts["charged"]; charged != 3 {
		t.Errorf("100 lists of three pages were charged as %d requests, want 3", charged)
	}
}

func TestRateLimitIsHonoured(t *testing.T) {
	f := start(t)
	f.publish(tag, releasetest.Multistage(tag))
	f.limit = 0
	src := open(t, f, token)
	for range 10 {
		_, err := src.List(t.Context())
		if after := source.RetryAfter(err); after < 25*time.Minute || after > 31*time.Minute {
			t.Fatalf("got %v, wait %s; the limit is reset in half an hour", err, after)
		}
	}
	if n := f.counts["/releases"]; n != 1 {
		t.Errorf("asked %d times although the limit was used up", n)
	}
}

func TestTokenStaysWithTheAPI(t *testing.T) {
	f := start(t)
	f.publish(tag, releasetest.Multistage(tag))
	_, _, err := fetch(t, open(t, f, token))
	must(t, err)
	if len(f.leaked) > 0 {
		t.Errorf("the storage saw %v", f.leaked)
	}
	f.serve = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }
	_, _, err = fetch(t, open(t, f, token))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestMissingRepositoryIsNotAMissingRelease(t *testing.T) {
	f := start(t)
	f.publish(tag, releasetest.Multistage(tag))
	src := open(t, f, "ghp_wrong")
	if _, err := src.List(t.Context()); !errors.Is(err, source.ErrUnauthorized) {
		t.Errorf("List: got %v", err)
	}
	if _, _, err := fetch(t, src); !errors.Is(err, source.ErrUnauthorized) || errors.Is(err, source.ErrNotFound) {
		t.Errorf("Fetch: got %v", err)
	}
}

func TestResolveSaysWhatFetchWouldReturn(t *testing.T) {
	f := start(t)
	p := f.publish(tag, releasetest.Multistage(tag))
	src := open(t, f, token)
	_, want, err := fetch(t, src)
	must(t, err)
	name, err := release.ParseName(tag)
	must(t, err)
	if got, err := src.Resolve(t.Context(), name); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	p.Assets[0].Digest = ""
	if _, err := src.Resolve(t.Context(), name); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without a digest: %v", err)
	}
	if _, got, err := fetch(t, src); err != nil || got != want {
		t.Errorf("fetched without a digest: %s, %v", got, err)
	}
}

func TestFaults(t *testing.T) {
	serve := func(change func([]byte) []byte) func(*forge, *published) {
		return func(f *forge, _ *published) {
			f.serve = func(w http.ResponseWriter, req *http.Request) { f.contents(w, req, change) }
		}
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	for name, tc := range map[string]struct {
		harm func(*forge, *published)
		want string
	}{
		"CutOff":       {serve(half), "bytes"},
		"CutOffDigest": {func(f *forge, p *published) { serve(half)(f, p); p.Assets[0].Digest = "" }, "bytes"},
		"TooLong":      {serve(func(b []byte) []byte { return append(b, 'x') }), "is larger than"},
		"FlippedByte":  {serve(func(b []byte) []byte { b[0] ^= 1; return b }), "want sha256:"},
		"Oversized":    {func(_ *forge, p *published) { p.Assets[0].Size = source.MaxFileSize + 1 }, "larger than 64 MiB"},
		"Uploading":    {func(_ *forge, p *published) { p.Assets[0].State = "starter" }, "still being uploaded"},
		"NoAssets":     {func(_ *forge, p *published) { p.Assets = nil }, "no assets"},
		"Twice":        {func(_ *forge, p *published) { p.Assets = append(p.Assets, p.Assets[0]) }, "two assets"},
		"Escapes":      {func(_ *forge, p *published) { p.Assets[0].Name = "../../etc/passwd" }, "cannot be called"},
		"StorageDown": {func(f *forge, _ *published) {
			f.serve = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		}, "503"},
		"Replaced": {func(f *forge, p *published) {
			f.serve = func(w http.ResponseWriter, req *http.Request) {
				f.contents(w, req, func(b []byte) []byte { return b })
				f.mu.Lock()
				p.Assets[len(p.Assets)-1].Digest = "sha256:" + strings.Repeat("0", 64)
				f.mu.Unlock()
			}
		}, "changed while they were fetched"},
		"TooManyAssets": {func(_ *forge, p *published) {
			for i := range source.MaxFiles {
				p.Assets = append(p.Assets, item{Name: fmt.Sprintf("zz%d", i), State: "uploaded"})
			}
		}, "more than 64 assets"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			p := f.publish(tag, releasetest.Multistage(tag))
			tc.harm(f, p)
			if _, _, err := fetch(t, open(t, f, token)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestForgeThatSpeaksNonsense(t *testing.T) {
	for name, answer := range map[string]string{
		"NoJSON":  "<html>",
		"Object":  "{}",
		"Null":    "null",
		"Nothing": "",
		"Numbers": `[{"tag_name":7}]`,
		"Endless": "[" + strings.Repeat(" ", 11<<20) + "]",
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
			defer server.Close()
			src, err := github.New("o", "r", github.Options{APIURL: server.URL, Web: web.Options{PlainHTTP: true, Backoff: time.Millisecond}})
			must(t, err)
			offers, err := src.List(t.Context())
			if (err == nil) != (name == "Null" || name == "Nothing") || len(offers) > 0 {
				t.Errorf("got %v, %v", offers, err)
			}
		})
	}
}

func TestNamesOfRepositories(t *testing.T) {
	for _, bad := range [][2]string{{"", "r"}, {"o", ""}, {"o", ".."}, {"o/x", "r"}, {"o", "r?x"}, {"o", "r#"}} {
		if _, err := github.New(bad[0], bad[1], github.Options{}); err == nil {
			t.Errorf("%v is a repository", bad)
		}
	}
	if _, err := github.New("o", "r", github.Options{APIURL: "ghe"}); err == nil {
		t.Error("ghe is a URL")
	}
}
