// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github/githubtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
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

// With nobody at the keyboard, a draft is what anybody who may write to the repository has made of it.
func TestADraftThatIsChangedWhileItIsFilledIsNotPublished(t *testing.T) {
	foreign := githubtest.Asset{ID: 7, Name: "notes.txt", Size: 1, State: "uploaded", Digest: "sha256:" + strings.Repeat("0", 64)}
	for name, tc := range map[string]struct {
		change func(p *githubtest.Release)
		want   string
	}{
		"AFileMore":            {func(p *githubtest.Release) { p.Assets = append(p.Assets, foreign) }, "notes.txt was added"},
		"AFileTwice":           {func(p *githubtest.Release) { p.Assets = append(p.Assets, p.Assets[0]) }, "was added"},
		"AFileLess":            {func(p *githubtest.Release) { p.Assets = p.Assets[1:] }, "is gone"},
		"CutOff":               {func(p *githubtest.Release) { p.Assets[0].Size-- }, "is not whole"},
		"StillUploaded":        {func(p *githubtest.Release) { p.Assets[0].State = "starter" }, "is not whole"},
		"OtherContents":        {func(p *githubtest.Release) { p.Assets[0].Digest = foreign.Digest }, "has other contents"},
		"OtherContentsUnnamed": {func(p *githubtest.Release) { p.Rewrite(0); p.Assets[0].Digest = "" }, "has other contents"},
	} {
		t.Run(name, func(t *testing.T) {
			f := githubtest.Start(t)
			uploads := 0
			f.Harm = func(_ http.ResponseWriter, req *http.Request) bool {
				switch {
				case strings.HasPrefix(req.URL.Path, "/api/uploads/"):
					uploads++
				case uploads == len(releasetest.Multistage(tag)):
					uploads = 0
					tc.change(f.Releases[0])
				}
				return false
			}
			_, err := put(t, f, tag, releasetest.Multistage(tag))
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "the draft of it was changed") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if !f.Releases[0].Draft {
				t.Error("it is published")
			}
		})
	}
}

func TestADraftThatIsChangedWhileItIsPublishedIsReported(t *testing.T) {
	f := githubtest.Start(t)
	f.Harm = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPatch {
			f.Releases[0].Assets = f.Releases[0].Assets[1:]
		}
		return false
	}
	if _, err := put(t, f, tag, releasetest.Multistage(tag)); !errors.Is(err, source.ErrPublished) || !strings.Contains(err.Error(), "somebody changed it while it was published") {
		t.Errorf("got %v", err)
	}
}

func TestASignatureThatIsCutOffTakesNothingFromARelease(t *testing.T) {
	f := githubtest.Start(t)
	_, err := put(t, f, tag, releasetest.Multistage(tag))
	must(t, err)
	signed, k := releasetest.Multistage(tag), verifytest.NewKey(t)
	k.SignFiles(signed)
	f.Harm = func(w http.ResponseWriter, req *http.Request) bool {
		if name := req.URL.Query().Get("name"); name == verify.SumsSignature {
			f.Releases[0].Assets = append(f.Releases[0].Assets, githubtest.Asset{ID: 7, Name: name, State: "starter"})
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	}
	if _, err := put(t, f, tag, signed); err == nil || !strings.Contains(err.Error(), "502") {
		t.Fatalf("got %v", err)
	}
	f.Harm = nil
	if _, _, err := fetch(t, open(t, f, githubtest.Token)); err != nil {
		t.Errorf("the release cannot be had any more: %v", err)
	}
	if done, err := put(t, f, tag, signed); err != nil || !done.Signed {
		t.Errorf("once more: %+v, %v", done, err)
	}
	if got := f.Releases[0].Files()[verify.SumsSignature]; got == nil || string(got.Data) != string(signed[verify.SumsSignature].Data) {
		t.Errorf("the signature is %v", got)
	}
}

func TestALeftoverDraftIsNotPublishedAsOurs(t *testing.T) {
	f := githubtest.Start(t)
	// Of another publication, with a file of the same name and size, whose digest GitHub does not know.
	other := releasetest.Multistage(tag)
	other[release.MetadataFile] = &fstest.MapFile{Data: []byte(strings.Repeat("#", len(other[release.MetadataFile].Data)))}
	draft := f.Publish(tag, other)
	draft.Draft = true
	for i := range draft.Assets {
		draft.Assets[i].Digest = ""
	}
	_, err := put(t, f, tag, releasetest.Multistage(tag))
	must(t, err)
	if got := draft.Files()[release.MetadataFile]; draft.Draft || strings.HasPrefix(string(got.Data), "#") {
		t.Errorf("published: %t, with %s", !draft.Draft, got.Data)
	}
}

func TestFilesAreUploadedOnlyToWhereTheAPIIs(t *testing.T) {
	var seen []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen = append(seen, req.Method+" "+req.Header.Get("Authorization"))
		w.WriteHeader(http.StatusCreated)
	}))
	defer elsewhere.Close()
	for name, tc := range map[string]struct {
		url  func(f *githubtest.Forge, p *githubtest.Release) string
		want string // a part of the error
	}{
		"AsTheAPISays": {url: func(_ *githubtest.Forge, p *githubtest.Release) string { return p.UploadURL }},
		"NotSaid":      {url: func(*githubtest.Forge, *githubtest.Release) string { return "" }},
		"AnotherPathOfTheSameServer": {url: func(f *githubtest.Forge, p *githubtest.Release) string {
			return strings.Replace(p.UploadURL, "/api/uploads/", "/api/v3/", 1)
		}},
		"AnotherServer": {url: func(*githubtest.Forge, *githubtest.Release) string { return elsewhere.URL + "/assets{?name,label}" }, want: "nothing is sent there"},
		"AnotherPort":   {url: func(*githubtest.Forge, *githubtest.Release) string { return "http://127.0.0.1:1/assets{?name,label}" }, want: "nothing is sent there"},
		"TLSThatIsNotThere": {url: func(_ *githubtest.Forge, p *githubtest.Release) string {
			return strings.Replace(p.UploadURL, "http://", "https://", 1)
		}, want: "nothing is sent there"},
		"WithAName": {url: func(_ *githubtest.Forge, p *githubtest.Release) string {
			return strings.Replace(p.UploadURL, "http://", "http://me@", 1)
		}, want: "nothing is sent there"},
		"NoURL": {url: func(*githubtest.Forge, *githubtest.Release) string { return "http://[" }, want: "nothing is sent there"},
	} {
		t.Run(name, func(t *testing.T) {
			f := githubtest.Start(t)
			draft := f.Publish(tag, fstest.MapFS{})
			draft.Draft = true
			draft.UploadURL = tc.url(f, draft)
			_, err := put(t, f, tag, releasetest.Multistage(tag))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if draft.Draft != (tc.want != "") || len(seen) > 0 {
				t.Errorf("published: %t; elsewhere got %v", !draft.Draft, seen)
			}
		})
	}
}

func TestWhichServersTakeUploads(t *testing.T) {
	const path = "/repos/o/r/releases/7/assets"
	for name, tc := range map[string]struct {
		api, says string
		refused   bool
	}{
		"GitHub":                     {says: "https://uploads.github.com" + path},
		"GitHubItself":               {says: "https://api.github.com" + path},
		"NotGitHub":                  {says: "https://uploads.github.com.example.org" + path, refused: true},
		"PagesOfGitHub":              {says: "https://uploads.github.io" + path, refused: true},
		"GitHubWithoutTLS":           {says: "http://uploads.github.com" + path, refused: true},
		"EnterpriseServer":           {api: "https://ghe.example.org/api/v3/", says: "https://ghe.example.org/api/uploads" + path},
		"EnterpriseServerAtAnother":  {api: "https://ghe.example.org/api/v3/", says: "https://uploads.ghe.example.org" + path},
		"EnterpriseServerAtGitHub":   {api: "https://ghe.example.org/api/v3/", says: "https://uploads.github.com" + path, refused: true},
		"EnterpriseServerNextDoor":   {api: "https://ghe.example.org/api/v3/", says: "https://uploads.example.org" + path, refused: true},
		"EnterpriseServerOtherPort":  {api: "https://ghe.example.org/api/v3/", says: "https://ghe.example.org:8443" + path, refused: true},
		"EnterpriseCloud":            {api: "https://api.us.example.org/", says: "https://uploads.us.example.org" + path},
		"EnterpriseCloudOfAnother":   {api: "https://api.us.example.org/", says: "https://uploads.eu.example.org" + path, refused: true},
		"ATemplateThatIsNotFinished": {says: "https://uploads.github.com" + path + "?x=y", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			src, err := github.New("o", "r", github.Options{Token: "t", APIURL: tc.api})
			must(t, err)
			got, err := github.Uploads(src, tc.says+"{?name,label}")
			if tc.refused != (err != nil) || !tc.refused && got != tc.says {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}

func TestErrorsOfPublishingSayWhere(t *testing.T) {
	f := githubtest.Start(t)
	f.Publish(tag, releasetest.Legacy(tag))
	_, err := put(t, f, tag, releasetest.Multistage(tag))
	if want := "publish release " + tag + " in github://" + strings.TrimPrefix(f.URL(), "http://") + "/o/r: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s...", err, want)
	}
}
