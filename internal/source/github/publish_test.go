// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github/githubtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
)

func TestSharedBehaviourOfPublishers(t *testing.T) {
	sourcetest.RunPublisher(t, func(t *testing.T) sourcetest.Publisher { return open(t, githubtest.Start(t), githubtest.Token) })
}

func put(t *testing.T, f *githubtest.Forge, tag string, files fstest.MapFS) (source.Published, error) {
	t.Helper()
	name, err := release.ParseName(tag)
	must(t, err)
	return open(t, f, githubtest.Token).Put(t.Context(), name, files, source.Publication{})
}

func TestTitleIsTheTagAndOnlyStableVersionsAreTheLatest(t *testing.T) {
	f := githubtest.Start(t)
	for tag, pre := range map[string]bool{"docker-scs-1-35-v1": false, "docker-scs-1-35-v0-sha-abc1234": true} {
		_, err := put(t, f, tag, releasetest.Multistage(tag))
		must(t, err)
		if p := f.Releases[len(f.Releases)-1]; p.Name != tag || p.Prerelease != pre || p.Draft {
			t.Errorf("got %+v", p)
		}
	}
}

func TestPublishingGoesOnWhereItWasCutOff(t *testing.T) {
	f := githubtest.Start(t)
	uploads := 0
	f.Harm = func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasPrefix(req.URL.Path, "/api/uploads/") {
			return false
		}
		if uploads++; uploads < 3 {
			return false
		}
		p := f.Releases[0]
		p.Assets = append(p.Assets, githubtest.Asset{ID: 7, Name: req.URL.Query().Get("name"), State: "starter"})
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	if _, err := put(t, f, tag, releasetest.Multistage(tag)); err == nil || !strings.Contains(err.Error(), "502") {
		t.Fatalf("got %v", err)
	}
	offers, err := open(t, f, githubtest.Token).List(t.Context())
	if err != nil || len(offers) > 0 {
		t.Fatalf("half a release is offered: %v, %v", offers, err)
	}
	f.Harm = nil
	var there []string
	name, err := release.ParseName(tag)
	must(t, err)
	_, err = open(t, f, githubtest.Token).Put(t.Context(), name, releasetest.Multistage(tag), source.Publication{Uploaded: func(file string, _ int64, existed bool) {
		if existed {
			there = append(there, file)
		}
	}})
	must(t, err)
	if len(there) != 2 || len(f.Releases) != 1 {
		t.Errorf("%v were there, and there are %d releases", there, len(f.Releases))
	}
	if _, _, err := fetch(t, open(t, f, githubtest.Token)); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBePublishedSaysWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		harm func(*githubtest.Forge)
		want string
		is   error
	}{
		"ForeignFileInTheDraft": {harm: func(f *githubtest.Forge) {
			f.Publish(tag, fstest.MapFS{"notes.txt": {Data: []byte("x")}}).Draft = true
		}, want: "delete that file or the draft"},
		"ReadOnlyToken": {harm: func(f *githubtest.Forge) {
			f.Harm = func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method == http.MethodPost {
					http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
				}
				return req.Method == http.MethodPost
			}
		}, want: "Contents: write", is: source.ErrUnauthorized},
		"ListIsDown": {harm: func(f *githubtest.Forge) {
			f.Harm = func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
		}, want: "500"},
	} {
		t.Run(name, func(t *testing.T) {
			f := githubtest.Start(t)
			tc.harm(f)
			before := len(f.Releases)
			_, err := put(t, f, tag, releasetest.Multistage(tag))
			if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %v", err)
			}
			if len(f.Releases) != before {
				t.Error("something was made")
			}
		})
	}
}

func TestContentsAreComparedWhereGitHubKnowsNoDigest(t *testing.T) {
	f := githubtest.Start(t)
	p := f.Publish(tag, releasetest.Multistage(tag))
	for i := range p.Assets {
		p.Assets[i].Digest = ""
	}
	if done, err := put(t, f, tag, releasetest.Multistage(tag)); err != nil || !done.Existed {
		t.Errorf("got %+v, %v", done, err)
	}
	if _, err := put(t, f, tag, releasetest.Legacy(tag)); !errors.Is(err, source.ErrPublished) {
		t.Errorf("got %v", err)
	}
}
