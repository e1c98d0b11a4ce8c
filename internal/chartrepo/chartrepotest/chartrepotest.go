// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package chartrepotest has chart repositories for tests, on loopback.
package chartrepotest

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

// Repository is a chart repository.
type Repository struct {
	URL string
	// Username and Password are who may read, everybody if empty.
	Username, Password string

	mu       sync.Mutex
	files    map[string][]byte
	requests int
}

// Start starts a repository with some packages of charts. It ends with the test.
func Start(t testing.TB, packages ...[]byte) *Repository {
	t.Helper()
	r := &Repository{}
	r.Set(t, packages...)
	server := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// Set replaces the packages.
func (r *Repository) Set(t testing.TB, packages ...[]byte) {
	t.Helper()
	type entry struct {
		Version string   `json:"version"`
		Digest  string   `json:"digest"`
		URLs    []string `json:"urls"`
	}
	entries, files := map[string][]entry{}, map[string][]byte{}
	for _, packed := range packages {
		name, version, err := release.ReadPackage(packed)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(packed)
		file := name + "-" + version + ".tgz"
		files[file] = packed
		entries[name] = append(entries[name], entry{version, hex.EncodeToString(sum[:]), []string{file}})
	}
	var err error
	if files["index.yaml"], err = yaml.Marshal(map[string]any{"apiVersion": "v1", "entries": entries}); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = files
}

// Requests is how often the repository was asked for something.
func (r *Repository) Requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func (r *Repository) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if user, password, _ := req.BasicAuth(); r.Username != "" && (user != r.Username || password != r.Password) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	data, found := r.files[strings.TrimPrefix(req.URL.Path, "/")]
	if !found {
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(data)
}

// Package returns the package of a chart with further files, by their path in it.
func Package(name, version string, files map[string]string) []byte {
	all := map[string]string{name + "/Chart.yaml": releasetest.Chart(name, version)}
	for file, data := range files {
		all[name+"/"+file] = data
	}
	return releasetest.Archive(all)
}
