// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package githubtest has a forge for tests, on loopback: it speaks the part of GitHub's API that is about releases, and
// keeps assets on a server of its own, to which it redirects. It has one repository.
package githubtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

// Owner and Repository are the one repository that a forge has, and Token is what it asks for.
const (
	Owner      = "o"
	Repository = "r"
	Token      = "ghp_secret"
)

// Forge is a GitHub Enterprise Server. Its fields are read and written under its lock.
type Forge struct {
	sync.Mutex
	// Releases of the repository, the newest last.
	Releases []*Release
	// Limit is how many requests are left, below zero for no limit. An answer that says only that nothing
	// has changed is free.
	Limit int
	// Reset is after how long it may be asked again.
	Reset time.Duration
	// Requests are counted by their paths below the repository, and those that Limit counts as Charged.
	Requests map[string]int
	// Leaked is what the storage got to see of the headers that are for the API.
	Leaked []string
	// Storage, if set, answers in place of the storage.
	Storage http.HandlerFunc
	// PerPage, if set, is how many releases are on a page at most.
	PerPage int

	api, storage *httptest.Server
}

// Charged is the key in Requests of all that the limit counts.
const Charged = "charged"

// Release is a release as the API tells of it.
type Release struct {
	Tag        string  `json:"tag_name"`
	Name       any     `json:"name"`
	Draft      bool    `json:"draft"`
	Prerelease bool    `json:"prerelease"`
	Published  string  `json:"published_at"`
	Assets     []Asset `json:"assets"`

	files fs.FS
}

// Asset is a file of a release as the API tells of it.
type Asset struct {
	ID     uint32 `json:"id"`
	Name   string `json:"name"`
	Size   int    `json:"size"`
	State  string `json:"state"`
	Digest string `json:"digest,omitempty"`
}

// Start starts a forge without releases, which ends with the test.
func Start(t testing.TB) *Forge {
	t.Helper()
	return start(t, (*httptest.Server).Start)
}

// StartTLS is Start with TLS, on both servers.
func StartTLS(t testing.TB) *Forge {
	t.Helper()
	return start(t, (*httptest.Server).StartTLS)
}

func start(t testing.TB, begin func(*httptest.Server)) *Forge {
	f := &Forge{Limit: -1, Reset: 30 * time.Minute, Requests: map[string]int{}}
	f.storage = httptest.NewUnstartedServer(http.HandlerFunc(f.store))
	f.api = httptest.NewUnstartedServer(http.HandlerFunc(f.answer))
	for _, server := range []*httptest.Server{f.storage, f.api} {
		begin(server)
		t.Cleanup(server.Close)
	}
	return f
}

// URL is that of the API.
func (f *Forge) URL() string { return f.api.URL }

// CA is the certificate of the authority of both servers in PEM, when they have TLS.
func (f *Forge) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.api.Certificate().Raw})
}

// Publish makes a release appear.
func (f *Forge) Publish(tag string, files fstest.MapFS) *Release {
	p := &Release{Tag: tag, Name: "A title that somebody wrote", Published: "2026-03-01T12:00:00Z", files: files}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum, id := sha256.Sum256(files[name].Data), fnv.New32a()
		_, _ = id.Write([]byte(tag + "/" + name))
		p.Assets = append(p.Assets, Asset{ID: id.Sum32(), Name: name, Size: len(files[name].Data), State: "uploaded", Digest: "sha256:" + hex.EncodeToString(sum[:])})
	}
	f.Lock()
	defer f.Unlock()
	f.Releases = append(f.Releases, p)
	return p
}

func (f *Forge) answer(w http.ResponseWriter, req *http.Request) {
	f.Lock()
	defer f.Unlock()
	path, _ := strings.CutPrefix(req.URL.Path, "/api/v3/repos/"+Owner+"/"+Repository)
	f.Requests[path]++
	if req.Header.Get("Authorization") != "Bearer "+Token {
		http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
		return
	}
	w.Header().Set("X-RateLimit-Limit", "60")
	w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(max(f.Limit, 0)))
	w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(f.Reset).Unix(), 10))
	if f.Limit < 0 {
		w.Header().Set("X-RateLimit-Remaining", "59")
	}
	switch rest, isTag := strings.CutPrefix(path, "/releases/tags/"); {
	case path == "":
		f.send(w, req, map[string]string{"name": Repository})
	case path == "/releases":
		f.page(w, req)
	case isTag:
		i := slices.IndexFunc(f.Releases, func(p *Release) bool { return p.Tag == rest })
		if i < 0 {
			http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
			return
		}
		f.send(w, req, f.Releases[i])
	default:
		http.Redirect(w, req, f.storage.URL+path+"?signature=secret", http.StatusFound)
	}
}

func (f *Forge) page(w http.ResponseWriter, req *http.Request) {
	size, _ := strconv.Atoi(req.URL.Query().Get("per_page"))
	page, _ := strconv.Atoi(req.URL.Query().Get("page"))
	page = max(page, 1)
	if f.PerPage > 0 {
		size = min(size, f.PerPage)
	}
	begin, end := min((page-1)*size, len(f.Releases)), min(page*size, len(f.Releases))
	if end < len(f.Releases) {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?per_page=%d&page=%d>; rel="next"`, f.api.URL, req.URL.Path, size, page+1))
	}
	f.send(w, req, append([]*Release{}, f.Releases[begin:end]...))
}

func (f *Forge) send(w http.ResponseWriter, req *http.Request, value any) {
	data, _ := json.Marshal(value)
	sum := sha256.Sum256(data)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	w.Header().Set("Etag", etag)
	if req.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if f.Limit == 0 {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"message":"API rate limit exceeded"}`))
		return
	}
	f.Limit--
	f.Requests[Charged]++
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

func (f *Forge) store(w http.ResponseWriter, req *http.Request) {
	f.Lock()
	for _, header := range []string{"Authorization", "Cookie", "Referer"} {
		if value := req.Header.Get(header); value != "" {
			f.Leaked = append(f.Leaked, header+": "+value)
		}
	}
	serve := f.Storage
	f.Unlock()
	if serve != nil {
		serve(w, req)
		return
	}
	f.Contents(w, req, func(b []byte) []byte { return b })
}

// Contents answers for the storage with the contents of the asset that is asked for, changed.
func (f *Forge) Contents(w http.ResponseWriter, req *http.Request, change func([]byte) []byte) {
	f.Lock()
	defer f.Unlock()
	for _, p := range f.Releases {
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
