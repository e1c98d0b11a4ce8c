// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package githubtest has a forge for tests, on loopback: it speaks the part of GitHub's API that is about releases, and
// keeps assets on a server of its own, to which it redirects. Drafts can be made, filled and published. It has one repository.
package githubtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/fnv"
	"io"
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
	// Harm, if set, may answer in place of the API. It returns false for what the API shall answer.
	Harm func(w http.ResponseWriter, req *http.Request) bool
	// PerPage, if set, is how many releases are on a page at most.
	PerPage int

	api, storage *httptest.Server
}

// Charged is the key in Requests of all that the limit counts.
const Charged = "charged"

// Release is a release as the API tells of it.
type Release struct {
	ID         int64   `json:"id"`
	Tag        string  `json:"tag_name"`
	Name       any     `json:"name"`
	Draft      bool    `json:"draft"`
	Prerelease bool    `json:"prerelease"`
	Published  string  `json:"published_at,omitempty"`
	Assets     []Asset `json:"assets"`
	// UploadURL is a template of where its files are uploaded to.
	UploadURL string `json:"upload_url,omitempty"`

	files fstest.MapFS
}

// Files returns the contents of the assets that are whole, by name.
func (p *Release) Files() fstest.MapFS {
	files := fstest.MapFS{}
	for _, a := range p.Assets {
		if a.State == "uploaded" {
			files[a.Name] = p.files[a.Name]
		}
	}
	return files
}

// Rewrite puts other contents of the same size in the place of those of an asset.
func (p *Release) Rewrite(i int) {
	data := slices.Clone(p.files[p.Assets[i].Name].Data)
	data[0] ^= 1
	p.files[p.Assets[i].Name] = &fstest.MapFile{Data: data}
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
		p.add(name, files[name].Data)
	}
	f.Lock()
	defer f.Unlock()
	p.ID = int64(len(f.Releases) + 1)
	p.UploadURL = f.uploadURL(p.ID)
	f.Releases = append(f.Releases, p)
	return p
}

func (f *Forge) uploadURL(id int64) string {
	return fmt.Sprintf("%s/api/uploads/repos/%s/%s/releases/%d/assets{?name,label}", f.api.URL, Owner, Repository, id)
}

// add puts up an asset.
func (p *Release) add(name string, data []byte) Asset {
	sum, id := sha256.Sum256(data), fnv.New32a()
	_, _ = fmt.Fprintf(id, "%s/%d/%s", p.Tag, p.ID, name)
	a := Asset{ID: id.Sum32(), Name: name, Size: len(data), State: "uploaded", Digest: "sha256:" + hex.EncodeToString(sum[:])}
	p.Assets = append(p.Assets, a)
	return a
}

func (f *Forge) answer(w http.ResponseWriter, req *http.Request) {
	f.Lock()
	defer f.Unlock()
	path, _ := strings.CutPrefix(req.URL.Path, "/api/v3/repos/"+Owner+"/"+Repository)
	f.Requests[path]++
	if f.Harm != nil && f.Harm(w, req) {
		return
	}
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
	if req.Method != http.MethodGet {
		f.change(w, req)
		return
	}
	var id int64
	switch rest, isTag := strings.CutPrefix(path, "/releases/tags/"); {
	case scan(path, "/releases/%d/assets", &id):
		i := slices.IndexFunc(f.Releases, func(p *Release) bool { return p.ID == id })
		if i < 0 {
			http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
			return
		}
		f.send(w, req, f.Releases[i].Assets)
	case path == "":
		f.send(w, req, map[string]string{"name": Repository})
	case path == "/releases":
		f.page(w, req)
	case isTag:
		i := slices.IndexFunc(f.Releases, func(p *Release) bool { return p.Tag == rest && !p.Draft })
		if i < 0 {
			http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
			return
		}
		f.send(w, req, f.Releases[i])
	default:
		http.Redirect(w, req, f.storage.URL+path+"?signature=secret", http.StatusFound)
	}
}

// change answers what writes to the repository.
func (f *Forge) change(w http.ResponseWriter, req *http.Request) {
	path := strings.TrimPrefix(strings.TrimPrefix(req.URL.Path, "/api/uploads"), "/api/v3")
	path = strings.TrimPrefix(path, "/repos/"+Owner+"/"+Repository+"/releases")
	var id int64
	var asset uint32
	reply := func(code int, value any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(value) // who does not read it asks again
	}
	release := func() *Release {
		i := slices.IndexFunc(f.Releases, func(p *Release) bool { return p.ID == id })
		if i < 0 {
			reply(http.StatusNotFound, map[string]string{"message": "Not Found"})
			return nil
		}
		return f.Releases[i]
	}
	exists := func(resource string) {
		reply(http.StatusUnprocessableEntity, map[string]any{"message": "Validation Failed", "errors": []map[string]string{{"resource": resource, "code": "already_exists"}}})
	}
	switch {
	case req.Method == http.MethodPost && path == "":
		p := &Release{ID: int64(len(f.Releases) + 1), files: fstest.MapFS{}, Assets: []Asset{}}
		_ = json.NewDecoder(req.Body).Decode(p) // the client is a library
		p.UploadURL = f.uploadURL(p.ID)
		f.Releases = append(f.Releases, p)
		reply(http.StatusCreated, p)
	case req.Method == http.MethodPost && scan(path, "/%d/assets", &id):
		p := release()
		if p == nil {
			return
		}
		name := req.URL.Query().Get("name")
		if slices.ContainsFunc(p.Assets, func(a Asset) bool { return a.Name == name }) {
			exists("ReleaseAsset")
			return
		}
		data, err := io.ReadAll(req.Body)
		if err != nil { // cut off: it is there, and is none
			a := p.add(name, data)
			p.Assets[len(p.Assets)-1].State, p.Assets[len(p.Assets)-1].Digest = "starter", ""
			reply(http.StatusBadRequest, a)
			return
		}
		p.files[name] = &fstest.MapFile{Data: data, Mode: 0o644}
		reply(http.StatusCreated, p.add(name, data))
	case req.Method == http.MethodPatch && scan(path, "/%d", &id):
		p := release()
		if p == nil {
			return
		}
		if slices.ContainsFunc(f.Releases, func(other *Release) bool { return other != p && other.Tag == p.Tag && !other.Draft }) {
			exists("Release")
			return
		}
		_ = json.NewDecoder(req.Body).Decode(p) // the client is a library
		if !p.Draft && p.Published == "" {
			p.Published = "2026-03-02T12:00:00Z"
		}
		reply(http.StatusOK, p)
	case req.Method == http.MethodDelete && scan(path, "/assets/%d", &asset):
		for _, p := range f.Releases {
			p.Assets = slices.DeleteFunc(p.Assets, func(a Asset) bool { return a.ID == asset })
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		reply(http.StatusNotFound, map[string]string{"message": "Not Found"})
	}
}

// scan reads a number from a path that has exactly this form.
func scan[T int64 | uint32](path, form string, into *T) bool {
	n, err := fmt.Sscanf(path, form, into)
	return err == nil && n == 1 && fmt.Sprintf(form, *into) == path
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
