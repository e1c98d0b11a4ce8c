// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package chartrepo fetches the charts that a chart depends on and does not bring along.
//
// Which these are the chart says in Chart.yaml, and in Chart.lock which versions exactly. They come from chart
// repositories (HTTP) and registries (OCI), of which an administrator says which may be asked, and for which he may
// name a mirror. What is done with them is the caller's.
package chartrepo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// Limits on bytes read. The largest indexes in public use have some 20 MiB.
const (
	maxIndex    = 50 << 20
	maxManifest = 4 << 20
	maxChart    = 64 << 20
)

// limits are those on all that one chart lacks. Each of its repositories may belong to whoever has published the release.
type limits struct {
	size int64
	tags int // in one repository of a registry
	time time.Duration
}

// Mirror is where the charts of a repository are to be had instead.
type Mirror struct {
	// From is the repository, or the beginning of its URL up to a slash. Names such as "@stable" are taken whole.
	From string
	// To takes the place of From. Beside http, https and oci it may begin with oci+http, for a registry without TLS, and
	// with file, for a folder of packages that are called <chart>-<version>.tgz.
	To string
}

// ParseMirror reads a mirror of the form <repository>=<URL>, for which a folder is not taken.
func ParseMirror(text string) (Mirror, error) {
	from, to, ok := strings.Cut(text, "=")
	if !ok || from == "" || !strings.Contains(to, "://") {
		return Mirror{}, fmt.Errorf("%q has another form than <repository>=<URL of the mirror>", text)
	}
	// It would stand in messages that everybody reads whose release lacks a chart.
	if u, err := url.Parse(to); err != nil || u.User != nil {
		return Mirror{}, fmt.Errorf("the mirror of %s is no URL, or one with a user in it", from)
	}
	if strings.HasPrefix(to, folderScheme) {
		return Mirror{}, fmt.Errorf("the mirror of %s is a folder", from)
	}
	return Mirror{From: from, To: to}, nil
}

const folderScheme = "file://"

// FolderMirror says that the charts of a repository are in a folder.
func FolderMirror(from, folder string) Mirror {
	return Mirror{From: from, To: folderScheme + filepath.ToSlash(folder)}
}

// Options are settings whose zero value allows nothing.
type Options struct {
	// Client talks to repositories that charts name.
	Client *http.Client
	// MirrorClient talks to mirrors, which an administrator has chosen.
	MirrorClient *http.Client
	// MirrorCredential says who to be at a mirror, by its host and port; nil is nobody anywhere.
	MirrorCredential auth.CredentialFunc
	// Credential says who to be at a repository that a chart names, by its URL; nil is nobody anywhere. It is for people who
	// build their own charts. An operator has none: whoever publishes a release could read what only the administrator may.
	Credential func(repository string) auth.CredentialFunc
	// Allowed are the repositories that may be asked: "https://" and "oci://" stand for all of these, any other one
	// for itself and what is below it.
	Allowed []string
	// Mirrors take the place of repositories. Of several for one repository the one with the longest address counts.
	Mirrors []Mirror
	// Beside, if set, is asked for a chart before its repository, and returns no package when it has none. Its error is told when
	// the repository has none either.
	Beside func(ctx context.Context, dependency *chart.Dependency) (packed []byte, version string, err error)
	// Cache is a folder for packages that were fetched in an exact version, "" for none. What is in it is not asked for
	// again: a version of a chart does not change.
	Cache string
}

// Repositories fetches charts. It may be used concurrently.
type Repositories struct {
	options Options
	limits  limits
}

// New returns a Repositories.
func New(o Options) *Repositories {
	// The longest counts.
	o.Mirrors = slices.SortedStableFunc(slices.Values(o.Mirrors), func(a, b Mirror) int { return len(b.From) - len(a.From) })
	return &Repositories{options: o, limits: limits{size: maxChart, tags: 100_000, time: 10 * time.Minute}}
}

// refusedError says that only another release, or another setting, cures something.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// Permanent reports that trying again is useless.
func (e *refusedError) Permanent() bool { return true }

func refused(format string, args ...any) error {
	return &refusedError{fmt.Sprintf(format, args...)}
}

// Complete returns the packages of the charts that are missing, named <chart>-<version>.tgz. The lock file of the chart
// decides on versions, if there is one; it has to fit the chart.
func (r *Repositories) Complete(ctx context.Context, incomplete release.IncompleteChart) ([]release.File, error) {
	wanted, err := Wanted(incomplete)
	if err != nil {
		return nil, err
	}
	var files []release.File
	err = r.fetchAll(ctx, wanted, func(dependency *chart.Dependency, packed []byte, version string) error {
		file := release.File{Name: fmt.Sprintf("%s-%s.tgz", dependency.Name, version), Data: packed}
		if !release.ValidFileName(file.Name) {
			return refused("chart %s from %s has the version %q", dependency.Name, dependency.Repository, version)
		}
		// The same chart may be listed twice, under two aliases.
		if !slices.ContainsFunc(files, func(f release.File) bool { return f.Name == file.Name }) {
			files = append(files, file)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return files, nil
}

// Versions returns the version of each dependency that is the highest in its range.
func (r *Repositories) Versions(ctx context.Context, dependencies []*chart.Dependency) ([]string, error) {
	var versions []string
	err := r.fetchAll(ctx, dependencies, func(_ *chart.Dependency, _ []byte, version string) error {
		versions = append(versions, version)
		return nil
	})
	return versions, err
}

// Fetch returns the package of a chart, and its exact version.
func (r *Repositories) Fetch(ctx context.Context, dependency *chart.Dependency) (packed []byte, version string, err error) {
	err = r.fetchAll(ctx, []*chart.Dependency{dependency}, func(_ *chart.Dependency, got []byte, exact string) error {
		packed, version = got, exact
		return nil
	})
	return packed, version, err
}

// fetchAll fetches charts one after the other, within the limits on all together.
func (r *Repositories) fetchAll(ctx context.Context, wanted []*chart.Dependency, take func(dependency *chart.Dependency, packed []byte, version string) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.limits.time, fmt.Errorf("the repositories of all charts that are missing needed more than %s", r.limits.time))
	defer cancel()
	call := &call{Repositories: r, indexes: map[string]*index{}}
	size := int64(0)
	for _, dependency := range wanted {
		packed, version, err, beside := call.obtain(ctx, dependency)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if size += int64(len(packed)); err == nil && size > r.limits.size {
			err = refused("all charts that are missing are larger than %d MiB together: pack them into charts/ before you publish the release", r.limits.size>>20)
		}
		if err != nil {
			// Without the URL to which a server may have redirected us: its signature would open it to all readers.
			err = web.Cause(err)
			if beside != nil {
				err = fmt.Errorf("%w; and beside the release: %w", err, web.Cause(beside))
			}
			return fmt.Errorf("chart %s %s from %s: %w", dependency.Name, dependency.Version, dependency.Repository, err)
		}
		if err := take(dependency, packed, version); err != nil {
			return err
		}
	}
	return nil
}

// obtain returns a chart from beside the release or from its repository, and why either does not give it.
func (c *call) obtain(ctx context.Context, dependency *chart.Dependency) (packed []byte, version string, err, beside error) {
	if c.options.Beside != nil {
		if packed, version, beside = c.options.Beside(ctx, dependency); beside == nil && packed != nil {
			return packed, version, nil, nil
		}
	}
	packed, version, err = c.fetch(ctx, dependency)
	return packed, version, err, beside
}

// Wanted returns the dependencies that are missing, with the version of the lock file.
func Wanted(incomplete release.IncompleteChart) ([]*chart.Dependency, error) {
	all, err := chartlock.Resolve(incomplete.Metadata, incomplete.Lock)
	if errors.Is(err, chartlock.ErrOutdated) {
		return nil, refused("%v: run \"csctl dependency update\" on the stack, and publish a release that \"csctl create\" makes of it", err)
	}
	if err != nil {
		return nil, refused("%v", err)
	}
	var wanted []*chart.Dependency
	for _, dependency := range all {
		if slices.Contains(incomplete.Missing, dependency.Name) {
			wanted = append(wanted, dependency)
		}
	}
	return wanted, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// call is one completion of one chart: an index is read once.
type call struct {
	*Repositories
	indexes map[string]*index
}

// fetch returns the package of a chart, and its exact version.
func (c *call) fetch(ctx context.Context, dependency *chart.Dependency) ([]byte, string, error) {
	repository, err := c.locate(dependency.Repository)
	if err != nil {
		return nil, "", err
	}
	key := cacheKey(repository.url, dependency)
	packed, cached := c.cached(key)
	switch {
	case cached:
	case strings.HasPrefix(repository.url, folderScheme):
		packed, err = c.open(repository.url, dependency.Name, dependency.Version)
		key = "" // it is as near as the cache
	case isOCI(repository.url):
		packed, err = c.pull(ctx, repository, dependency.Name, dependency.Version)
	default:
		packed, err = c.download(ctx, repository, dependency.Name, dependency.Version)
	}
	if err != nil {
		return nil, "", err
	}
	name, version, err := release.ReadPackage(packed)
	if err != nil {
		return nil, "", refused("%v", err)
	}
	if name != dependency.Name {
		return nil, "", refused("the package has the chart %q in it", name)
	}
	if !chartlock.Matches(dependency.Version, version) {
		return nil, "", refused("the package has version %q in it", version)
	}
	if !cached {
		c.remember(key, packed)
	}
	return packed, version, nil
}

func isOCI(url string) bool {
	return strings.HasPrefix(url, "oci://") || strings.HasPrefix(url, "oci+http://")
}

// place is where something is to be had, and who asks there.
type place struct {
	url        string
	client     *http.Client
	credential auth.CredentialFunc
}

// locate returns the place at which the charts of a repository are to be had.
func (r *Repositories) locate(repository string) (place, error) {
	for _, mirror := range r.options.Mirrors {
		if rest, ok := below(mirror.From, repository); ok {
			return place{strings.TrimSuffix(mirror.To, "/") + rest, r.options.MirrorClient, r.options.MirrorCredential}, nil
		}
	}
	switch {
	case repository == "" || strings.HasPrefix(repository, "file:"):
		return place{}, refused("it lies beside the chart, and the release did not bring it along: publish a release that \"csctl create\" has made, which packs such charts")
	case !strings.Contains(repository, "://"):
		return place{}, refused("%q is a name that only somebody's own Helm knows: write the URL of the repository, or have the administrator map the name to one (--chart-mirrors)", repository)
	}
	for _, allowed := range r.options.Allowed {
		if _, ok := below(allowed, repository); ok {
			at := place{url: repository, client: r.options.Client}
			if r.options.Credential != nil {
				at.credential = r.options.Credential(repository)
			}
			return at, nil
		}
	}
	return place{}, refused("the repository is not allowed: publish a release that \"csctl create\" has made, which packs the chart into it, or have the administrator allow the repository (--chart-repositories) or map it to a mirror (--chart-mirrors)")
}

// below reports whether url is base or below it, and what comes after base. A base such as "https://" has everything
// of that scheme below it.
func below(base, url string) (rest string, ok bool) {
	if base == "" {
		return "", false
	}
	if strings.HasSuffix(base, "://") {
		rest, ok = strings.CutPrefix(url, base)
		rest = "/" + rest
	} else {
		rest, ok = strings.CutPrefix(strings.TrimSuffix(url, "/"), strings.TrimSuffix(base, "/"))
	}
	// A step up would lead out of what is allowed.
	return rest, ok && (rest == "" || rest[0] == '/') && !strings.Contains(rest, "/..") && !strings.Contains(rest, "%")
}

var errTooLarge = errors.New("the answer is too large")

// trimmed returns a message of a foreign server so that it fits into a status.
func trimmed(data []byte) string {
	return string(bytes.ToValidUTF8(data[:min(len(data), 200)], []byte("?")))
}
