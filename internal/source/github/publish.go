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

	"github.com/google/go-github/v82/github"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Put implements source.Publisher. The files are uploaded to a draft, which nobody but those who may write to the
// repository sees, and which becomes a release when it is whole. Its title is the tag, because some readers list
// titles. A release whose version is not stable is a pre-release, so that GitHub does not call it the latest.
//
// A draft of that tag is finished, whoever began it: a file of it that is not as it should be is replaced, and one that
// the release does not have is an error.
func (s *Source) Put(ctx context.Context, name release.Name, files fs.FS, about source.Publication) (source.Published, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	contents, err := source.ReadFiles(files)
	if err != nil {
		return source.Published{}, fmt.Errorf("publish release %s: %w", name, err)
	}
	done, err := s.put(ctx, name, contents, about)
	if err != nil {
		return source.Published{}, s.failed(ctx, "publish release "+name.String(), err)
	}
	return done, nil
}

func (s *Source) put(ctx context.Context, name release.Name, files []source.File, about source.Publication) (source.Published, error) {
	sums := map[string]string{}
	for _, f := range files {
		sums[f.Name] = f.Sum
	}
	digest, err := source.DigestOf(sums)
	if err != nil {
		return source.Published{}, err
	}
	there, err := s.find(ctx, name)
	if err != nil {
		return source.Published{}, err
	}
	if there != nil && !there.GetDraft() {
		return source.Published{Digest: digest, Existed: true}, s.compare(ctx, name, sums)
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
	_, _, err = s.api.Repositories.EditRelease(ctx, s.owner, s.repository, there.GetID(), &github.RepositoryRelease{
		TagName: github.Ptr(name.String()), Name: github.Ptr(name.String()), Draft: github.Ptr(false), Prerelease: github.Ptr(name.Version.Channel != ""),
	})
	if err != nil {
		return source.Published{}, readOnly(err)
	}
	return source.Published{Digest: digest}, nil
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

// compare returns an error when the release that is published does not have exactly these files. Where GitHub does not know
// a digest, the asset is fetched.
func (s *Source) compare(ctx context.Context, name release.Name, sums map[string]string) error {
	assets, err := s.assets(ctx, name)
	if err != nil {
		return err
	}
	if len(assets) != len(sums) {
		return source.ErrPublished
	}
	for _, a := range assets {
		want, known := sums[a.GetName()]
		if !known {
			return source.ErrPublished
		}
		got := a.GetDigest()
		if !isSHA256(got) {
			if got, err = s.sum(ctx, a); err != nil {
				return err
			}
		}
		if got != "sha256:"+want {
			return source.ErrPublished
		}
	}
	return nil
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
	path := fmt.Sprintf("repos/%s/%s/releases/%d/assets?name=%s", s.owner, s.repository, draft.GetID(), url.QueryEscape(f.Name))
	req, err := s.api.NewUploadRequest(path, bytes.NewReader(f.Data), int64(len(f.Data)), "application/octet-stream")
	if err != nil {
		return false, err
	}
	got := &github.ReleaseAsset{}
	if _, err := s.api.Do(ctx, req, got); err != nil {
		return false, err
	}
	if digest := got.GetDigest(); got.GetSize() != len(f.Data) || isSHA256(digest) && digest != "sha256:"+f.Sum {
		return false, fmt.Errorf("GitHub got %d bytes of the digest %s in place of %d of sha256:%s", got.GetSize(), digest, len(f.Data), f.Sum)
	}
	return false, nil
}

// sum fetches an asset and returns its digest.
func (s *Source) sum(ctx context.Context, asset *github.ReleaseAsset) (string, error) {
	body, err := s.open(ctx, asset)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }() // only read from
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(body, source.MaxFileSize+1)); err != nil {
		return "", fmt.Errorf("%s: %w", asset.GetName(), err)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
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
