// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github/githubtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

const tag = "docker-scs-1-35-v1"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, f *githubtest.Forge, token string) *github.Source {
	t.Helper()
	src, err := github.New(githubtest.Owner, githubtest.Repository, github.Options{
		Token: token, APIURL: f.URL(),
		Web: web.Options{PlainHTTP: true, Backoff: time.Millisecond},
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
		f := githubtest.Start(t)
		for tag, files := range releases {
			f.Publish(tag, files)
		}
		return open(t, f, githubtest.Token)
	})
}

func TestTagsDecideAndDraftsDoNotExist(t *testing.T) {
	f := githubtest.Start(t)
	f.Publish("docker-scs-1-35-v1", releasetest.Multistage(tag)).Name = nil
	f.Publish("docker-scs-1-35-v2", releasetest.Multistage(tag)).Name = "docker-scs-1-35-v9"
	f.Publish("docker-scs-1-35-v3", releasetest.Multistage(tag)).Draft = true
	f.Publish("docker-scs-1-35-v4-beta-0", releasetest.Multistage(tag)).Prerelease = true
	offers, err := open(t, f, githubtest.Token).List(t.Context())
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
	f := githubtest.Start(t)
	for i := range 250 {
		f.Publish(fmt.Sprintf("docker-scs-1-35-v%d", i), nil)
	}
	f.Limit = 60
	src := open(t, f, githubtest.Token)
	for range 100 {
		offers, err := src.List(t.Context())
		must(t, err)
		if len(offers) != 250 {
			t.Fatalf("got %d releases", len(offers))
		}
	}
	if charged := f.Requests[githubtest.Charged]; charged != 3 {
		t.Errorf("100 lists of three pages were charged as %d requests, want 3", charged)
	}
}

func TestRateLimitIsHonoured(t *testing.T) {
	f := githubtest.Start(t)
	f.Publish(tag, releasetest.Multistage(tag))
	f.Limit = 0
	src := open(t, f, githubtest.Token)
	for range 10 {
		_, err := src.List(t.Context())
		if after := source.RetryAfter(err); after < 25*time.Minute || after > 31*time.Minute {
			t.Fatalf("got %v, wait %s; the limit is reset in half an hour", err, after)
		}
	}
	if n := f.Requests["/releases"]; n != 1 {
		t.Errorf("asked %d times although the limit was used up", n)
	}
}

func TestTokenStaysWithTheAPI(t *testing.T) {
	f := githubtest.Start(t)
	f.Publish(tag, releasetest.Multistage(tag))
	_, _, err := fetch(t, open(t, f, githubtest.Token))
	must(t, err)
	if len(f.Leaked) > 0 {
		t.Errorf("the storage saw %v", f.Leaked)
	}
	f.Storage = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }
	_, _, err = fetch(t, open(t, f, githubtest.Token))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestMissingRepositoryIsNotAMissingRelease(t *testing.T) {
	f := githubtest.Start(t)
	f.Publish(tag, releasetest.Multistage(tag))
	src := open(t, f, "ghp_wrong")
	if _, err := src.List(t.Context()); !errors.Is(err, source.ErrUnauthorized) {
		t.Errorf("List: got %v", err)
	}
	if _, _, err := fetch(t, src); !errors.Is(err, source.ErrUnauthorized) || errors.Is(err, source.ErrNotFound) {
		t.Errorf("Fetch: got %v", err)
	}
}

func TestResolveSaysWhatFetchWouldReturn(t *testing.T) {
	f := githubtest.Start(t)
	p := f.Publish(tag, releasetest.Multistage(tag))
	src := open(t, f, githubtest.Token)
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
	serve := func(change func([]byte) []byte) func(*githubtest.Forge, *githubtest.Release) {
		return func(f *githubtest.Forge, _ *githubtest.Release) {
			f.Storage = func(w http.ResponseWriter, req *http.Request) { f.Contents(w, req, change) }
		}
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	for name, tc := range map[string]struct {
		harm func(*githubtest.Forge, *githubtest.Release)
		want string
	}{
		"CutOff":       {serve(half), "bytes"},
		"CutOffDigest": {func(f *githubtest.Forge, p *githubtest.Release) { serve(half)(f, p); p.Assets[0].Digest = "" }, "bytes"},
		"TooLong":      {serve(func(b []byte) []byte { return append(b, 'x') }), "is larger than"},
		"FlippedByte":  {serve(func(b []byte) []byte { b[0] ^= 1; return b }), "want sha256:"},
		"Oversized":    {func(_ *githubtest.Forge, p *githubtest.Release) { p.Assets[0].Size = source.MaxFileSize + 1 }, "larger than 64 MiB"},
		"Uploading":    {func(_ *githubtest.Forge, p *githubtest.Release) { p.Assets[0].State = "starter" }, "still being uploaded"},
		"NoAssets":     {func(_ *githubtest.Forge, p *githubtest.Release) { p.Assets = nil }, "no assets"},
		"Twice":        {func(_ *githubtest.Forge, p *githubtest.Release) { p.Assets = append(p.Assets, p.Assets[0]) }, "two assets"},
		"Escapes":      {func(_ *githubtest.Forge, p *githubtest.Release) { p.Assets[0].Name = "../../etc/passwd" }, "cannot be called"},
		"StorageDown": {func(f *githubtest.Forge, _ *githubtest.Release) {
			f.Storage = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		}, "503"},
		"Replaced": {func(f *githubtest.Forge, p *githubtest.Release) {
			f.Storage = func(w http.ResponseWriter, req *http.Request) {
				f.Contents(w, req, func(b []byte) []byte { return b })
				f.Lock()
				p.Assets[len(p.Assets)-1].Digest = "sha256:" + strings.Repeat("0", 64)
				f.Unlock()
			}
		}, "changed while they were fetched"},
		"TooManyAssets": {func(_ *githubtest.Forge, p *githubtest.Release) {
			for i := range source.MaxFiles {
				p.Assets = append(p.Assets, githubtest.Asset{Name: fmt.Sprintf("zz%d", i), State: "uploaded"})
			}
		}, "more than 64 assets"},
	} {
		t.Run(name, func(t *testing.T) {
			f := githubtest.Start(t)
			p := f.Publish(tag, releasetest.Multistage(tag))
			tc.harm(f, p)
			if _, _, err := fetch(t, open(t, f, githubtest.Token)); err == nil || !strings.Contains(err.Error(), tc.want) {
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
