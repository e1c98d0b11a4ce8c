// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package chartrepo_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
)

func TestCacheIsAskedFirst(t *testing.T) {
	repo := chartrepotest.Start(t, packed("cni", "1.2.3"), packed("cni", "1.2.4"))
	other := chartrepotest.Start(t, chartrepotest.Package("cni", "1.2.3", map[string]string{"values.yaml": "other: true"}))
	options := all()
	options.Cache = filepath.Join(t.TempDir(), "new", "cache")
	fetch := func(version, from string) []byte {
		t.Helper()
		files, err := chartrepo.New(options).Complete(t.Context(), depending(version, from))
		if err != nil || len(files) != 1 {
			t.Fatalf("got %v, %v", names(files), err)
		}
		return files[0].Data
	}
	first := fetch("1.2.3", repo.URL)
	asked := repo.Requests()
	if again := fetch("1.2.3", repo.URL+"/"); !bytes.Equal(first, again) || repo.Requests() != asked {
		t.Errorf("asked %d times more", repo.Requests()-asked)
	}
	if from := fetch("1.2.3", other.URL); bytes.Equal(first, from) {
		t.Error("the chart of one repository was taken for that of another")
	}
	// The highest of a range may be another one today.
	if fetch("~1.2", repo.URL); repo.Requests() == asked {
		t.Error("a range was answered out of the cache")
	}

	// What somebody has spoilt is fetched again.
	entries, err := os.ReadDir(options.Cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if err := os.WriteFile(filepath.Join(options.Cache, entry.Name()), []byte("../../x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asked = repo.Requests()
	if mended := fetch("1.2.3", repo.URL); !bytes.Equal(first, mended) || repo.Requests() == asked {
		t.Error("a spoilt cache was believed")
	}
	if info, err := os.Stat(options.Cache); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others may read the cache: %v, %v", info.Mode(), err)
	}
}

func TestCacheThatCannotBeWrittenDoesNoHarm(t *testing.T) {
	repo := chartrepotest.Start(t, packed("cni", "1.2.3"))
	options := all()
	options.Cache = filepath.Join(t.TempDir(), "file", "cache")
	if err := os.WriteFile(filepath.Dir(options.Cache), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if files, err := chartrepo.New(options).Complete(t.Context(), depending("1.2.3", repo.URL)); err != nil || len(files) != 1 {
		t.Errorf("got %v, %v", names(files), err)
	}
}

func TestFolderStandsInForRepositories(t *testing.T) {
	folder := t.TempDir()
	for _, version := range []string{"1.2.3", "1.2.10", "1.3.0"} {
		if err := os.WriteFile(filepath.Join(folder, "cni-"+version+".tgz"), packed("cni", version), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "cni-9.9.9.tgz"), packed("cni", "6.6.6"), 0o600); err != nil {
		t.Fatal(err)
	}
	options := chartrepo.Options{Mirrors: []chartrepo.Mirror{
		chartrepo.FolderMirror("https://charts.example.org", folder), chartrepo.FolderMirror("oci://charts.example.org/a", folder),
	}}
	for _, tt := range []struct{ version, repository, want string }{
		{"1.2.3", "https://charts.example.org", "cni-1.2.3.tgz"},
		{"~1.2", "https://charts.example.org/", "cni-1.2.10.tgz"},
		{"1.3.0", "oci://charts.example.org/a", "cni-1.3.0.tgz"},
		{"2.0.0", "https://charts.example.org", folder + " has no cni-2.0.0.tgz"},
		{"9.9.9", "https://charts.example.org", `has version "6.6.6"`},
		{"1.2.3", "https://charts.example.org/below", "no such file"},
	} {
		files, err := chartrepo.New(options).Complete(t.Context(), depending(tt.version, tt.repository))
		if got := strings.Join(names(files), " "); err == nil && got != tt.want || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s from %s: got %s, %v; want %s", tt.version, tt.repository, got, err, tt.want)
		}
	}
}

func TestVersionsAreTheHighestInTheirRange(t *testing.T) {
	repo := chartrepotest.Start(t, packed("cni", "1.2.3"), packed("cni", "1.2.10"), packed("cni", "1.3.0"), packed("dns", "v0.1.0"))
	wanted := []*chart.Dependency{
		{Name: "cni", Version: "~1.2", Repository: repo.URL}, {Name: "dns", Repository: repo.URL}, {Name: "cni", Version: "1.2.3", Repository: repo.URL},
	}
	got, err := chartrepo.New(all()).Versions(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1.2.10", "v0.1.0", "1.2.3"}, got); diff != "" {
		t.Error(diff)
	}
}

// Who builds a stack shows a repository what Helm knows of it, and no other one.
func TestCredentialIsForOneRepository(t *testing.T) {
	repo, other := chartrepotest.Start(t, packed("cni", "1.2.3")), chartrepotest.Start(t, packed("cni", "1.2.3"))
	for _, r := range []*chartrepotest.Repository{repo, other} {
		r.Username, r.Password = "me", "s3cret"
	}
	options := all()
	options.Credential = func(repository string) auth.CredentialFunc {
		if !strings.HasPrefix(repository, repo.URL) {
			return nil
		}
		return func(context.Context, string) (auth.Credential, error) {
			return auth.Credential{Username: "me", Password: "s3cret"}, nil
		}
	}
	if files, err := chartrepo.New(options).Complete(t.Context(), depending("1.2.3", repo.URL)); err != nil || len(files) != 1 {
		t.Errorf("got %v, %v", names(files), err)
	}
	if files, err := chartrepo.New(options).Complete(t.Context(), depending("1.2.3", other.URL)); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("another repository: got %v, %v", names(files), err)
	}
}

func TestParseMirror(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example.org=oci://b.example.org/x": "",
		"@stable=https://a.example.org":               "",
		"https://a.example.org":                       "another form",
		"=https://a.example.org":                      "another form",
		"https://a.example.org=/charts":               "another form",
		"https://a.example.org=file:///charts":        "is a folder",
		"https://a.example.org=https://u:p@b.example": "with a user in it",
	} {
		mirror, err := chartrepo.ParseMirror(text)
		if want == "" && (err != nil || mirror.From+"="+mirror.To != text) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, %v; want %q", text, mirror, err, want)
		}
	}
}
