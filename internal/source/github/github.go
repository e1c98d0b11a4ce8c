// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package github is the source of releases that are releases of a repository on GitHub or on a GitHub
// Enterprise Server, with the files as their assets.
//
// The tag of such a release is its name; the title, which anybody may edit, does not matter. Drafts do not
// exist yet. Pre-releases do: whether a release is for everybody its version says.
package github

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v82/github"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// Limits on what the API may answer.
const (
	perPage = 100
	// maxPages is what GitHub has itself: 10,000 releases.
	maxPages = 100
)

// Options are settings whose zero value works: a public repository on github.com.
type Options struct {
	// Token is shown to the API, and not to where it redirects to.
	Token string
	// APIURL is that of a GitHub Enterprise Server; its path /api/v3/ may be left out.
	APIURL string
	Web    web.Options
	// Timeout bounds each operation as a whole, 10 minutes by default.
	Timeout time.Duration
}

// Source reads releases from a repository.
type Source struct {
	owner, repository string
	api               *github.Client
	http              *http.Client
	timeout           time.Duration
	// origins are those of the API and of its uploads.
	origins []*url.URL
}

var _ interface {
	source.Source
	source.Resolver
	source.Publisher
} = (*Source)(nil)

// New returns the source of the releases of a repository. It makes no request.
func New(owner, repository string, o Options) (*Source, error) {
	for what, name := range map[string]string{"owner": owner, "repository": repository} {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/?#%\\ \t\r\n") {
			return nil, fmt.Errorf("%q is not the name of a GitHub %s", name, what)
		}
	}
	client, err := web.Client(o.Web)
	if err != nil {
		return nil, err
	}
	s := &Source{owner: owner, repository: repository, http: client, timeout: o.Timeout}
	if s.timeout <= 0 {
		s.timeout = 10 * time.Minute
	}
	api := *client // which shares the transport that is put in place below
	base := github.NewClient(nil)
	if o.APIURL != "" {
		if base, err = base.WithEnterpriseURLs(o.APIURL, uploadURL(o.APIURL)); err != nil || base.BaseURL.Host == "" {
			return nil, fmt.Errorf("%q is not the URL of a GitHub API", o.APIURL)
		}
		// The library adds to it what only Enterprise Servers have.
		if base.UploadURL, err = url.Parse(uploadURL(o.APIURL)); err != nil {
			return nil, fmt.Errorf("%q is not the URL of a GitHub API", o.APIURL)
		}
	}
	s.origins = []*url.URL{base.BaseURL, base.UploadURL}
	if o.APIURL != "" {
		// Some have the uploads under a name of their own below that of the server.
		s.origins = append(s.origins, &url.URL{Scheme: base.BaseURL.Scheme, Host: "uploads." + base.BaseURL.Host})
	}
	client.Transport = &token{next: client.Transport, token: o.Token, origins: s.origins}
	api.Transport = &memory{next: client.Transport}
	s.api = github.NewClient(&api)
	s.api.BaseURL, s.api.UploadURL, s.api.UserAgent = base.BaseURL, base.UploadURL, o.Web.UserAgent
	return s, nil
}

// uploadURL returns where the server with an API takes uploads.
func uploadURL(api string) string {
	u, err := url.Parse(api)
	if err != nil {
		return api
	}
	if rest, is := strings.CutPrefix(u.Host, "api."); is {
		u.Host = "uploads." + rest
		return u.String()
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/api/v3") + "/api/uploads/"
	return u.String()
}

// String returns what people call the source.
func (s *Source) String() string { return Location(s.owner, s.repository, s.api.BaseURL.String()) }

// Location names a repository for people.
func Location(owner, repository, apiURL string) string {
	host := "github.com"
	if _, rest, is := strings.Cut(apiURL, "://"); is {
		host, _, _ = strings.Cut(rest, "/")
		if name, is := strings.CutPrefix(host, "api."); is && (name == "github.com" || strings.HasSuffix(name, ".ghe.com")) {
			host = name
		}
	}
	return fmt.Sprintf("github://%s/%s/%s", host, owner, repository)
}

// List implements source.Source.
func (s *Source) List(ctx context.Context) ([]source.Offer, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var offers []source.Offer
	options := &github.ListOptions{PerPage: perPage}
	for range maxPages {
		page, resp, err := s.api.Repositories.ListReleases(ctx, s.owner, s.repository, options)
		if err != nil {
			if isNotFound(err) {
				err = s.unknownRepository()
			}
			return nil, s.failed(ctx, "list releases", err)
		}
		for _, r := range page {
			if name, err := release.ParseName(r.GetTagName()); err == nil && !r.GetDraft() {
				offers = append(offers, source.Offer{Name: name, Published: r.GetPublishedAt().Time})
			}
		}
		if resp.NextPage == 0 {
			// A release that appeared while we turned a page has moved another one onto two pages.
			slices.SortFunc(offers, func(a, b source.Offer) int { return strings.Compare(a.Name.String(), b.Name.String()) })
			return slices.CompactFunc(offers, func(a, b source.Offer) bool { return a.Name == b.Name }), nil
		}
		options.Page = resp.NextPage
	}
	return nil, fmt.Errorf("list releases from %s: more than %d", s, maxPages*perPage)
}

// Resolve implements source.Resolver. GitHub knows the digests of assets that were uploaded since 2025; for
// a release with an older one it is an error.
func (s *Source) Resolve(ctx context.Context, name release.Name) (string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	assets, err := s.assets(ctx, name)
	if err != nil {
		return "", s.failed(ctx, "release "+name.String(), err)
	}
	sums := map[string]string{}
	for _, a := range assets {
		if verify.Signs(a.GetName()) {
			continue // no part of the digest
		}
		sum, is := strings.CutPrefix(a.GetDigest(), "sha256:")
		if !is {
			return "", fmt.Errorf("release %s from %s: %w: GitHub does not know the digest of %s", name, s, errors.ErrUnsupported, a.GetName())
		}
		sums[a.GetName()] = sum
	}
	return source.DigestOf(sums)
}

// Fetch implements source.Source.
func (s *Source) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	digest, err := s.fetch(ctx, name, dst)
	if err != nil {
		return "", s.failed(ctx, "fetch release "+name.String(), err)
	}
	return digest, nil
}

func (s *Source) fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	assets, err := s.assets(ctx, name)
	if err != nil {
		return "", err
	}
	sums := map[string]string{}
	for _, asset := range assets {
		if sums[asset.GetName()], err = s.save(ctx, asset, dst); err != nil {
			return "", err
		}
	}
	// Somebody may have replaced assets meanwhile. Half of one release and half of another must not go as a
	// third. An unchanged answer costs nothing.
	again, err := s.assets(ctx, name)
	if err != nil {
		return "", err
	}
	if !slices.EqualFunc(assets, again, func(a, b *github.ReleaseAsset) bool {
		return a.GetID() == b.GetID() && a.GetName() == b.GetName() && a.GetSize() == b.GetSize() && a.GetDigest() == b.GetDigest()
	}) {
		return "", errors.New("its assets changed while they were fetched")
	}
	return source.DigestOf(sums)
}

// assets returns what a release consists of, within the limits of a release.
func (s *Source) assets(ctx context.Context, name release.Name) ([]*github.ReleaseAsset, error) {
	r, _, err := s.api.Repositories.GetReleaseByTag(ctx, s.owner, s.repository, name.String())
	if isNotFound(err) {
		return nil, s.missing(ctx)
	}
	if err != nil {
		return nil, err
	}
	if r.GetDraft() || r.GetTagName() != name.String() {
		return nil, source.ErrNotFound
	}
	malformed := func(format string, args ...any) error {
		return &source.MalformedError{Name: name, Reason: fmt.Errorf(format, args...)}
	}
	// A signature whose upload was cut off is none, and takes nothing from a release that was published before it.
	assets := slices.DeleteFunc(r.Assets, func(a *github.ReleaseAsset) bool { return verify.Signs(a.GetName()) && !isWhole(a) })
	total := 0
	slices.SortFunc(assets, func(a, b *github.ReleaseAsset) int { return strings.Compare(a.GetName(), b.GetName()) })
	for i, a := range assets {
		if err := source.CheckFileName(a.GetName()); err != nil {
			return nil, malformed("%w", err)
		}
		if i > 0 && assets[i-1].GetName() == a.GetName() {
			return nil, malformed("it has two assets %s", a.GetName())
		}
		if !isWhole(a) {
			return nil, fmt.Errorf("%s is still being uploaded", a.GetName())
		}
		if a.GetSize() < 0 || a.GetSize() > source.MaxFileSize {
			return nil, malformed("%s is larger than %d MiB", a.GetName(), source.MaxFileSize>>20)
		}
		total += a.GetSize()
	}
	switch {
	case len(assets) == 0:
		return nil, malformed("it has no assets")
	case len(assets) > source.MaxFiles:
		return nil, malformed("it has more than %d assets", source.MaxFiles)
	case total > source.MaxTotalSize:
		return nil, malformed("it is larger than %d MiB", source.MaxTotalSize>>20)
	}
	return assets, nil
}

// isWhole tells whether all of an asset was uploaded.
func isWhole(a *github.ReleaseAsset) bool { return a.GetState() == "" || a.GetState() == "uploaded" }

// missing says what a 404 for a release means. GitHub says the same of a repository that is not there, and
// of one that the token may not see.
func (s *Source) missing(ctx context.Context) error {
	_, _, err := s.api.Repositories.Get(ctx, s.owner, s.repository)
	switch {
	case isNotFound(err):
		return s.unknownRepository()
	case err != nil:
		return err
	}
	return source.ErrNotFound
}

func (s *Source) unknownRepository() error {
	return fmt.Errorf("%w: there is no repository %s/%s, or the token may not read it", source.ErrUnauthorized, s.owner, s.repository)
}

// open asks for the contents of an asset.
func (s *Source) open(ctx context.Context, asset *github.ReleaseAsset) (io.ReadCloser, error) {
	// Not its own URL, which could be any: an asset is asked for where the API is.
	path := fmt.Sprintf("repos/%s/%s/releases/assets/%d", s.owner, s.repository, asset.GetID())
	req, err := s.api.NewRequest(http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/octet-stream")
	resp, err := s.http.Do(req.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", asset.GetName(), web.Cause(err))
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close() // what went wrong is known by then
		return nil, answered(asset.GetName(), resp)
	}
	return resp.Body, nil
}

// save writes an asset to a file and returns its sha256 sum.
func (s *Source) save(ctx context.Context, asset *github.ReleaseAsset, dst *os.Root) (string, error) {
	name := asset.GetName()
	body, err := s.open(ctx, asset)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }() // only read from
	size, sum, err := source.Save(ctx, dst, name, body, int64(asset.GetSize()))
	if err != nil {
		return "", err
	}
	if size != int64(asset.GetSize()) {
		return "", fmt.Errorf("%s: got %d of %d bytes", name, size, asset.GetSize())
	}
	if want := asset.GetDigest(); want != "" && want != "sha256:"+sum && isSHA256(want) {
		return "", fmt.Errorf("%s: got contents of the digest sha256:%s, want %s", name, sum, want)
	}
	return sum, nil
}

func isSHA256(digest string) bool {
	sum, is := strings.CutPrefix(digest, "sha256:")
	decoded, err := hex.DecodeString(sum)
	return is && err == nil && len(decoded) == sha256.Size
}

func (s *Source) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("GitHub needed more than %s", s.timeout))
}

// failed says what could not be had, and sorts errors by what cures them.
func (s *Source) failed(ctx context.Context, what string, err error) error {
	return s.failedAt(ctx, what, "from", err)
}

// failedAt is failed for what happens in another direction.
func (s *Source) failedAt(ctx context.Context, what, direction string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s %s: %w", what, direction, s, context.Cause(ctx))
	}
	var limit *github.RateLimitError
	var abuse *github.AbuseRateLimitError
	var answer *github.ErrorResponse
	switch {
	case errors.As(err, &limit):
		err = &source.LaterError{After: max(time.Until(limit.Rate.Reset.Time), time.Second), Err: errRateLimit}
	case errors.As(err, &abuse):
		err = &source.LaterError{After: max(abuse.GetRetryAfter(), time.Minute), Err: errRateLimit}
	case errors.As(err, &answer) && answer.Response != nil:
		err = answered("", answer.Response)
	default:
		err = web.Cause(err)
	}
	return fmt.Errorf("%s %s %s: %w", what, direction, s, err)
}

var errRateLimit = errors.New("the rate limit of GitHub is used up; with a token it is 5,000 requests an hour in place of 60")

// answered says what an answer other than a success means.
func answered(what string, resp *http.Response) error {
	if what != "" {
		what += ": "
	}
	err := fmt.Errorf("%sthe server answered %d (%s)", what, resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		err = fmt.Errorf("%w: %w: check the token", source.ErrUnauthorized, err)
	}
	if after := web.RetryAfter(resp.Header, time.Now()); after > 0 {
		return &source.LaterError{After: after, Err: err}
	}
	return err
}

func isNotFound(err error) bool {
	var answer *github.ErrorResponse
	return errors.As(err, &answer) && answer.Response != nil && answer.Response.StatusCode == http.StatusNotFound
}
