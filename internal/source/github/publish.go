// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-github/v82/github"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// Put implements source.Publisher. The files are uploaded to a draft, which nobody but those who may write to the
// repository sees, and which becomes a release when it is whole. Its title is the tag, because some readers list
// titles. A release whose version is not stable is a pre-release, so that GitHub does not call it the latest.
//
// A draft of that tag is finished, whoever began it: a file of it that is not as it should be is replaced, and one that
// the release does not have is an error. Before it becomes a release its files are asked for once more, and compared one
// by one, since anybody who may write to the repository may have changed them meanwhile; and afterwards once again. GitHub
// knows no way to publish a draft only as it was seen, so what changes between the two is reported and not prevented.
//
// Signatures that a published release lacks are uploaded to it.
func (s *Source) Put(ctx context.Context, name release.Name, files fs.FS, about source.Publication) (source.Published, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	contents, err := source.ReadFiles(files)
	if err != nil {
		return source.Published{}, fmt.Errorf("publish release %s: %w", name, err)
	}
	done, err := s.put(ctx, name, contents, about)
	if err != nil {
		return source.Published{}, s.failedAt(ctx, "publish release "+name.String(), "in", err)
	}
	return done, nil
}

func (s *Source) put(ctx context.Context, name release.Name, files []source.File, about source.Publication) (source.Published, error) {
	digest, err := source.DigestOf(source.SumsOf(files))
	if err != nil {
		return source.Published{}, err
	}
	there, err := s.find(ctx, name)
	if err != nil {
		return source.Published{}, err
	}
	if there != nil && !there.GetDraft() {
		signed, err := s.sign(ctx, name, there, files)
		return source.Published{Digest: digest, Existed: true, Signed: signed}, err
	}
	if there == nil {
		there, _, err = s.api.Repositories.CreateRelease(ctx, s.owner, s.repository, &github.RepositoryRelease{
			TagName: github.Ptr(name.String()), Name: github.Ptr(name.String()), Draft: github.Ptr(true), Prerelease: github.Ptr(name.Version.Channel != ""),
		})
		if err != nil {
			return source.Published{}, readOnly(err)
		}
	}
	if err := s.fill(ctx, there, files, about); err != nil {
		return source.Published{}, err
	}
	if err := s.recheck(ctx, there, files); err != nil {
		return source.Published{}, err
	}
	_, _, err = s.api.Repositories.EditRelease(ctx, s.owner, s.repository, there.GetID(), &github.RepositoryRelease{
		TagName: github.Ptr(name.String()), Name: github.Ptr(name.String()), Draft: github.Ptr(false), Prerelease: github.Ptr(name.Version.Channel != ""),
	})
	if err != nil {
		return source.Published{}, readOnly(err)
	}
	published, err := s.listed(ctx, there)
	if err != nil {
		return source.Published{}, fmt.Errorf("it is published, and could not be looked at afterwards: %w", err)
	}
	if err := s.sameContents(ctx, published, files); err != nil {
		return source.Published{}, fmt.Errorf("somebody changed it while it was published: look at it, and delete it if it is not as it should be: %w", err)
	}
	return source.Published{Digest: digest}, nil
}

// recheck returns an error unless a draft has exactly these files, by name, size and digest. Where GitHub does not know a
// digest, the asset is fetched.
func (s *Source) recheck(ctx context.Context, draft *github.RepositoryRelease, files []source.File) error {
	there, err := s.listed(ctx, draft)
	if err != nil {
		return err
	}
	changed := func(name, what string) error {
		return fmt.Errorf("the draft of it was changed while it was filled: %s %s; see who else publishes it, and begin again", name, what)
	}
	found := map[string]bool{}
	for _, a := range there {
		i := slices.IndexFunc(files, func(f source.File) bool { return f.Name == a.GetName() })
		switch {
		case i < 0 || found[a.GetName()]:
			return changed(a.GetName(), "was added")
		case a.GetState() != "uploaded" || a.GetSize() != len(files[i].Data):
			return changed(a.GetName(), "is not whole")
		}
		found[a.GetName()] = true
		digest, err := s.digest(ctx, a)
		if err != nil {
			return err
		}
		if digest != "sha256:"+files[i].Sum {
			return changed(a.GetName(), "has other contents")
		}
	}
	for _, f := range files {
		if !found[f.Name] {
			return changed(f.Name, "is gone")
		}
	}
	return nil
}

// listed returns all assets that a draft or a release has now.
func (s *Source) listed(ctx context.Context, of *github.RepositoryRelease) ([]*github.ReleaseAsset, error) {
	var assets []*github.ReleaseAsset
	options := &github.ListOptions{PerPage: perPage}
	for range maxPages {
		page, resp, err := s.api.Repositories.ListReleaseAssets(ctx, s.owner, s.repository, of.GetID(), options)
		if err != nil {
			return nil, err
		}
		assets = append(assets, page...)
		if resp.NextPage == 0 {
			return assets, nil
		}
		options.Page = resp.NextPage
	}
	return nil, fmt.Errorf("it has more than %d files", maxPages*perPage)
}

// sign uploads the signatures that a published release with the same contents lacks.
func (s *Source) sign(ctx context.Context, name release.Name, published *github.RepositoryRelease, files []source.File) (signed bool, err error) {
	assets, err := s.compare(ctx, name, files)
	if err != nil {
		return false, err
	}
	var there []source.File
	for _, a := range assets {
		if !verify.Signs(a.GetName()) {
			continue
		}
		f, err := s.read(ctx, a)
		if err != nil {
			return false, err
		}
		there = append(there, f)
	}
	lacking, err := source.Lacking(there, files)
	if err != nil {
		return false, err
	}
	if len(lacking) == 0 {
		return false, nil
	}
	all, err := s.listed(ctx, published)
	if err != nil {
		return false, err
	}
	for _, f := range lacking {
		// One whose upload was cut off is in the way.
		for _, a := range all {
			if a.GetName() != f.Name || isWhole(a) {
				continue
			}
			if _, err := s.api.Repositories.DeleteReleaseAsset(ctx, s.owner, s.repository, a.GetID()); err != nil {
				return false, readOnly(err)
			}
		}
		if err := s.upload(ctx, published, f); err != nil {
			return false, fmt.Errorf("%s: %w", f.Name, readOnly(err))
		}
	}
	return true, nil
}

// find returns the release or the draft of a tag, or nil. Only the list has drafts. Of several drafts the oldest counts, so
// that two who publish at the same time fill the same one from the second call on.
func (s *Source) find(ctx context.Context, name release.Name) (*github.RepositoryRelease, error) {
	var draft *github.RepositoryRelease
	options := &github.ListOptions{PerPage: perPage}
	for range maxPages {
		page, resp, err := s.api.Repositories.ListReleases(ctx, s.owner, s.repository, options)
		if isNotFound(err) {
			return nil, s.unknownRepository()
		}
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			switch {
			case r.GetTagName() != name.String():
			case !r.GetDraft():
				return r, nil
			case draft == nil || r.GetID() < draft.GetID():
				draft = r
			}
		}
		if resp.NextPage == 0 {
			return draft, nil
		}
		options.Page = resp.NextPage
	}
	return nil, fmt.Errorf("the repository has more than %d releases", maxPages*perPage)
}

// compare returns the assets of the release that is published, and an error when it has other contents than these files.
func (s *Source) compare(ctx context.Context, name release.Name, files []source.File) ([]*github.ReleaseAsset, error) {
	assets, err := s.assets(ctx, name)
	if err != nil {
		return nil, err
	}
	return assets, s.sameContents(ctx, assets, files)
}

// sameContents returns an error when assets have other contents than these files.
func (s *Source) sameContents(ctx context.Context, assets []*github.ReleaseAsset, files []source.File) error {
	sums := map[string]string{}
	for _, a := range assets {
		if verify.Signs(a.GetName()) {
			continue
		}
		digest, err := s.digest(ctx, a)
		if err != nil {
			return err
		}
		sums[a.GetName()] = strings.TrimPrefix(digest, "sha256:")
	}
	if !source.SameContents(sums, source.SumsOf(files)) {
		return source.ErrPublished
	}
	return nil
}

// digest returns that of an asset. Where GitHub does not know it, the asset is fetched.
func (s *Source) digest(ctx context.Context, a *github.ReleaseAsset) (string, error) {
	if digest := a.GetDigest(); isSHA256(digest) {
		return digest, nil
	}
	f, err := s.read(ctx, a)
	return "sha256:" + f.Sum, err
}

// fill uploads to a draft what it lacks.
func (s *Source) fill(ctx context.Context, draft *github.RepositoryRelease, files []source.File, about source.Publication) error {
	for _, a := range draft.Assets {
		if !slices.ContainsFunc(files, func(f source.File) bool { return f.Name == a.GetName() }) {
			return fmt.Errorf("there is a draft of it with the file %s, which the release does not have: delete that file or the draft", a.GetName())
		}
	}
	for _, f := range files {
		there, err := s.replace(ctx, draft, f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		if about.Uploaded != nil {
			about.Uploaded(f.Name, int64(len(f.Data)), there)
		}
	}
	return nil
}

// replace uploads a file unless the draft has it already.
func (s *Source) replace(ctx context.Context, draft *github.RepositoryRelease, f source.File) (there bool, err error) {
	for _, a := range draft.Assets {
		if a.GetName() != f.Name {
			continue
		}
		// One whose upload was cut off is there, too, and in the way.
		if a.GetState() == "uploaded" && a.GetSize() == len(f.Data) && a.GetDigest() == "sha256:"+f.Sum {
			return true, nil
		}
		if _, err := s.api.Repositories.DeleteReleaseAsset(ctx, s.owner, s.repository, a.GetID()); err != nil {
			return false, err
		}
	}
	return false, s.upload(ctx, draft, f)
}

// upload adds a file to a draft or a release that has none of its name.
func (s *Source) upload(ctx context.Context, to *github.RepositoryRelease, f source.File) error {
	where, err := s.uploads(to)
	if err != nil {
		return err
	}
	req, err := s.api.NewUploadRequest(where+"?name="+url.QueryEscape(f.Name), bytes.NewReader(f.Data), int64(len(f.Data)), "application/octet-stream")
	if err != nil {
		return err
	}
	got := &github.ReleaseAsset{}
	if _, err := s.api.Do(ctx, req, got); err != nil {
		return err
	}
	if digest := got.GetDigest(); got.GetSize() != len(f.Data) || isSHA256(digest) && digest != "sha256:"+f.Sum {
		return fmt.Errorf("GitHub got %d bytes of the digest %s in place of %d of sha256:%s", got.GetSize(), digest, len(f.Data), f.Sum)
	}
	return nil
}

// uploads returns where the files of a release are uploaded to. The API says so; but files and token go only where the API
// itself is, or where GitHub has the uploads that belong to it.
func (s *Source) uploads(to *github.RepositoryRelease) (string, error) {
	template, _, _ := strings.Cut(to.GetUploadURL(), "{") // what may be appended
	if template == "" {
		return fmt.Sprintf("repos/%s/%s/releases/%d/assets", s.owner, s.repository, to.GetID()), nil
	}
	u, err := url.Parse(template)
	if err != nil || u.RawQuery != "" || u.Fragment != "" || u.User != nil || !slices.ContainsFunc(s.origins, func(o *url.URL) bool { return web.SameOrigin(o, u) }) {
		return "", fmt.Errorf("the API says to upload to %.200q, which does not belong to %s: nothing is sent there; see who answers in place of GitHub", template, s.api.BaseURL.Host)
	}
	return u.String(), nil
}

// read fetches an asset into memory.
func (s *Source) read(ctx context.Context, asset *github.ReleaseAsset) (source.File, error) {
	body, err := s.open(ctx, asset)
	if err != nil {
		return source.File{}, err
	}
	defer func() { _ = body.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(body, source.MaxFileSize+1))
	if err != nil {
		return source.File{}, fmt.Errorf("%s: %w", asset.GetName(), err)
	}
	sum := sha256.Sum256(data)
	return source.File{Name: asset.GetName(), Data: data, Sum: hex.EncodeToString(sum[:])}, nil
}

// readOnly says what a 404 means for who may read.
func readOnly(err error) error {
	if isNotFound(err) {
		return fmt.Errorf("%w: the token may not write to the repository; it needs the permission \"Contents: write\"", source.ErrUnauthorized)
	}
	var answer *github.ErrorResponse
	if errors.As(err, &answer) && answer.Response != nil && answer.Response.StatusCode == http.StatusUnprocessableEntity {
		for _, e := range answer.Errors {
			if e.Code == "already_exists" {
				return errors.New("somebody else has just published it; the same again compares it with this one")
			}
		}
		return fmt.Errorf("GitHub refuses it (%d): %.300s", answer.Response.StatusCode, answer.Message)
	}
	return err
}
