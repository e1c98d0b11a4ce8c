// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github/githubtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

const placeTag = "docker-scs-1-35-v1"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parseName(t testing.TB, tag string) release.Name {
	t.Helper()
	name, err := release.ParseName(tag)
	must(t, err)
	return name
}

// writeFiles writes the files of a release into a folder.
func writeFiles(t testing.TB, folder string, files fstest.MapFS) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(folder), 0o755))
	must(t, os.CopyFS(folder, files))
	return folder
}

func TestPlacesAsPeopleNameThem(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	must(t, err)
	writeFiles(t, "releases/"+placeTag, releasetest.Multistage(placeTag))
	writeFiles(t, "unpacked", releasetest.Multistage(placeTag))
	must(t, os.WriteFile("file", nil, 0o600))
	must(t, os.Mkdir("releases.d", 0o700))
	name := parseName(t, placeTag)
	sum := "sha256:" + strings.Repeat("0", 64)
	for text, want := range map[string]struct {
		place placeName
		err   string
	}{
		"oci://registry.example.org/a/b":                               {place: placeName{kind: placeRegistry, location: "registry.example.org/a/b"}},
		"oci://127.0.0.1:5000/stacks:" + placeTag:                      {place: placeName{kind: placeRegistry, location: "127.0.0.1:5000/stacks", release: name}},
		"oci://127.0.0.1:5000/stacks:" + placeTag + "@" + sum:          {place: placeName{kind: placeRegistry, location: "127.0.0.1:5000/stacks", release: name, digest: sum}},
		"oci://registry.example.org/stacks@" + sum:                     {err: "name the release beside its digest"},
		"oci://registry.example.org/stacks:" + placeTag + "@sha256:ab": {err: "is not a digest"},
		"oci://registry.example.org/stacks:latest":                     {err: "is not the name of a release"},
		"github://o/r": {place: placeName{kind: placeGitHub, location: "https://github.com/o/r"}},
		"github://git.example.org/o/r#" + placeTag:             {place: placeName{kind: placeGitHub, location: "https://git.example.org/o/r", release: name}},
		"https://github.com/o/r.git":                           {place: placeName{kind: placeGitHub, location: "https://github.com/o/r"}},
		"https://git.example.org/o/r/releases/tag/" + placeTag: {place: placeName{kind: placeGitHub, location: "https://git.example.org/o/r", release: name}},
		"https://www.github.com/o/r":                           {place: placeName{kind: placeGitHub, location: "https://github.com/o/r"}},
		"github://GitHub.com/o/R":                              {place: placeName{kind: placeGitHub, location: "https://github.com/o/R"}},
		"https://octocorp.ghe.com/o/r":                         {place: placeName{kind: placeGitHub, location: "https://octocorp.ghe.com/o/r"}},
		"https://api.octocorp.ghe.com/o/r":                     {err: "such as https://octocorp.ghe.com/o/r"},
		"https://api.github.com/o/r":                           {err: "such as https://github.com/o/r"},
		"https://raw.githubusercontent.com/o/r":                {err: "is not where repositories are on GitHub"},
		"ghcr.io/org/repo":                                     {err: "did you mean oci://ghcr.io/org/repo? For a folder write ./ghcr.io/org/repo"},
		"registry.example.org/x":                               {err: "did you mean oci://registry.example.org/x?"},
		"ghcr.io/org/repo/" + placeTag:                         {err: "did you mean oci://"},
		"localhost:5000/x":                                     {err: "did you mean oci://localhost:5000/x?"},
		"github.com/o/r":                                       {err: "did you mean https://github.com/o/r?"},
		"git@github.com:o/r.git":                               {err: "did you mean github://github.com/o/r?"},
		"./ghcr.io/org/repo":                                   {place: placeName{kind: placeFolder, location: here + "/ghcr.io/org/repo"}},
		"releases.d/new":                                       {place: placeName{kind: placeFolder, location: here + "/releases.d/new"}},
		".release/new":                                         {place: placeName{kind: placeFolder, location: here + "/.release/new"}},
		"v1.2":                                                 {place: placeName{kind: placeFolder, location: here + "/v1.2"}},
		"https://github.com/o":                                 {err: "is not a repository on GitHub"},
		"https://me:secret@github.com/o/r":                     {err: "is not a repository on GitHub"},
		"s3://bucket":                                          {err: "is not a place"},
		"":                                                     {err: "a place is missing"},
		"releases":                                             {place: placeName{kind: placeFolder, location: here + "/releases"}},
		"releases/" + placeTag:                                 {place: placeName{kind: placeFolder, location: here + "/releases", release: name}},
		"not/there":                                            {place: placeName{kind: placeFolder, location: here + "/not/there"}},
		"not/there/" + placeTag:                                {place: placeName{kind: placeFolder, location: here + "/not/there", release: name}},
		"unpacked":                                             {err: "is not called like one"},
		"file":                                                 {err: "neither a folder nor a bundle"},
		"stacks.tar":                                           {place: placeName{kind: placeBundle, location: "stacks.tar"}},
		"stacks.tar#" + placeTag:                               {place: placeName{kind: placeBundle, location: "stacks.tar", release: name}},
		"stacks.tar#x":                                         {err: "is not the name of a release"},
	} {
		t.Run(text, func(t *testing.T) {
			got, err := parsePlace(text)
			if want.err != "" {
				if err == nil || !strings.Contains(err.Error(), want.err) || strings.Contains(err.Error(), "secret@") && want.err == "" {
					t.Errorf("got %v, want %q", err, want.err)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(want.place, got, cmp.AllowUnexported(placeName{}), cmp.Comparer(func(a, b release.Name) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			if again, err := parsePlace(got.String()); err != nil || again != got {
				t.Errorf("%s is read as %v, %v", got, again, err)
			}
		})
	}
}

// publishTo puts a release into a registry.
func publishTo(t testing.TB, r *registrytest.Registry, c oci.Credentials, tag string) string {
	t.Helper()
	src, err := oci.New(r.Host+"/stacks", oci.Options{Credentials: c, Web: web.Options{PlainHTTP: r.CA == nil, CA: r.CA}})
	must(t, err)
	sum, err := src.Publish(t.Context(), parseName(t, tag), releasetest.Multistage(tag), time.Now(), nil)
	must(t, err)
	return sum
}

func TestPlacesAreOpenedWithTheCredentialsThatAreThere(t *testing.T) {
	given := oci.Credentials{Username: "me", Password: "secret"}
	r := registrytest.Start(t, registrytest.Options{TLS: true, Username: given.Username, Password: given.Password})
	sum := publishTo(t, r, given, placeTag)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(ca, r.CA, 0o600))
	config := func(t *testing.T, text string) {
		folder := t.TempDir()
		must(t, os.WriteFile(filepath.Join(folder, "config.json"), []byte(text), 0o600))
		t.Setenv("DOCKER_CONFIG", folder)
	}
	for name, tc := range map[string]struct {
		set  func(t *testing.T)
		want error
	}{
		"Environment": {set: func(t *testing.T) { t.Setenv("OCI_USERNAME", "me"); t.Setenv("OCI_PASSWORD", "secret\n") }},
		"EnvironmentForThisRegistry": {set: func(t *testing.T) {
			t.Setenv("OCI_USERNAME", "me")
			t.Setenv("OCI_PASSWORD", "secret")
			t.Setenv("OCI_REPOSITORY", r.Host+"/else")
		}},
		"EnvironmentForAnotherRegistry": {set: func(t *testing.T) {
			t.Setenv("OCI_USERNAME", "me")
			t.Setenv("OCI_PASSWORD", "secret")
			t.Setenv("OCI_REGISTRY", "registry.example.org")
		}, want: source.ErrUnauthorized},
		"Docker": {set: func(t *testing.T) { config(t, fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6c2VjcmV0"}}}`, r.Host)) }},
		"DockerHelper": {set: func(t *testing.T) {
			folder := t.TempDir()
			must(t, os.WriteFile(filepath.Join(folder, "docker-credential-test"), []byte("#!/bin/sh\necho '{\"Username\":\"me\",\"Secret\":\"secret\"}'\n"), 0o700))
			t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
			config(t, fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, r.Host))
		}},
		"None": {want: source.ErrUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			config(t, "{}")
			if tc.set != nil {
				tc.set(t)
			}
			flags := placeFlags{caFile: ca}
			p, err := flags.open(t.Context(), "oci://"+r.Host+"/stacks:"+placeTag)
			must(t, err)
			err = p.with(t.Context(), func(got fetched) error {
				if got.digest != sum || got.release.Name.String() != placeTag {
					t.Errorf("got %s of the digest %s", got.release.Name, got.digest)
				}
				return nil
			})
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestPlacesOfAllKindsGiveTheirReleases(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := registrytest.Start(t, registrytest.Options{})
	sum := publishTo(t, r, oci.Credentials{}, placeTag)
	forge := githubtest.Start(t)
	forge.Publish(placeTag, releasetest.Multistage(placeTag))
	t.Setenv("GIT_ACCESS_TOKEN", githubtest.Token)
	t.Setenv("GIT_HOST", strings.TrimPrefix(forge.URL(), "http://"))
	folder := writeFiles(t, filepath.Join(t.TempDir(), placeTag), releasetest.Multistage(placeTag))
	for name, text := range map[string]string{
		"Registry": "oci://" + r.Host + "/stacks:" + placeTag,
		"Pinned":   "oci://" + r.Host + "/stacks:" + placeTag + "@" + sum,
		"GitHub":   forge.URL() + "/" + githubtest.Owner + "/" + githubtest.Repository + "#" + placeTag,
		"Folder":   folder,
	} {
		t.Run(name, func(t *testing.T) {
			flags := placeFlags{plainHTTP: true}
			p, err := flags.open(t.Context(), text)
			must(t, err)
			must(t, p.with(t.Context(), func(got fetched) error {
				if got.release.Name != parseName(t, placeTag) {
					t.Errorf("got %s", got.release.Name)
				}
				_, err := os.Stat(filepath.Join(got.folder, release.MetadataFile))
				return err
			}))
			p.release = release.Name{}
			if err := p.with(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "names no release") {
				t.Errorf("without a release: %v", err)
			}
		})
	}
}

func TestADigestThatWasNamedIsDemanded(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := registrytest.Start(t, registrytest.Options{})
	publishTo(t, r, oci.Credentials{}, placeTag)
	flags := placeFlags{plainHTTP: true}
	p, err := flags.open(t.Context(), "oci://"+r.Host+"/stacks:"+placeTag+"@sha256:"+strings.Repeat("0", 64))
	must(t, err)
	if err := p.with(t.Context(), func(fetched) error { return nil }); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// The API of GitHub Enterprise Cloud is on a host of its own, and so is where it takes uploads.
func TestAPIOfGitHubs(t *testing.T) {
	for place, want := range map[string]string{
		"github://o/r":                     "github://github.com/o/r",
		"https://www.github.com/o/r":       "github://github.com/o/r",
		"https://octocorp.ghe.com/o/r":     "github://octocorp.ghe.com/o/r",
		"https://git.example.org/o/r":      "github://git.example.org/o/r",
		"https://git.example.org:8443/o/r": "github://git.example.org:8443/o/r",
	} {
		flags := placeFlags{}
		p, err := flags.open(t.Context(), place)
		must(t, err)
		if got := fmt.Sprint(p.source); got != want {
			t.Errorf("%s is %s, want %s", place, got, want)
		}
	}
	for host, want := range map[string]string{"octocorp.ghe.com": "https://api.octocorp.ghe.com/", "git.example.org": "https://git.example.org/api/v3/"} {
		if got := apiOf("https", host); got != want {
			t.Errorf("the API of %s is %s, want %s", host, got, want)
		}
	}
}

// A registry that was written with https:// in place of oci:// is asked like a GitHub.
func TestTheTokenOfGitHubIsShownToNoOtherHost(t *testing.T) {
	t.Setenv("GIT_ACCESS_TOKEN", "secret")
	for name, tt := range map[string]struct{ host, meant, want string }{
		"GitHub":     {"github.com", "", "secret"},
		"Registry":   {"registry.example.org", "", ""},
		"Enterprise": {"git.example.org", "git.example.org", "secret"},
		"Another":    {"github.com", "git.example.org", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GIT_HOST", tt.meant)
			if got := githubToken(tt.host); got != tt.want {
				t.Errorf("%s is shown %q, want %q", tt.host, got, tt.want)
			}
		})
	}
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header.Get("Authorization")
		http.NotFound(w, r)
	}))
	defer server.Close()
	flags := placeFlags{plainHTTP: true}
	p, err := flags.open(t.Context(), server.URL+"/kaas/stacks")
	must(t, err)
	if _, err := p.source.List(t.Context()); err == nil {
		t.Error("a server that is no GitHub has releases")
	}
	if got := <-asked; got != "" {
		t.Errorf("it was shown %q", got)
	}
}
