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
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// Limits on bytes read. The largest indexes in public use have some 20 MiB.
const (
	maxIndex    = 50 << 20
	maxManifest = 4 << 20
	maxChart    = 64 << 20
	// maxDependencies is for one chart.
	maxDependencies = 100
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
	// To takes the place of From. Beside http, https and oci it may begin with oci+http, for a registry without TLS.
	To string
}

// Options are settings whose zero value allows nothing.
type Options struct {
	// Client talks to repositories that charts name.
	Client *http.Client
	// MirrorClient talks to mirrors, which an administrator has chosen.
	MirrorClient *http.Client
	// MirrorCredential says who to be at a mirror, by its host and port; nil is nobody anywhere. Repositories that charts
	// name are never shown credentials: whoever publishes a release could read what only the administrator may.
	MirrorCredential auth.CredentialFunc
	// Allowed are the repositories that may be asked: "https://" and "oci://" stand for all of these, any other one
	// for itself and what is below it.
	Allowed []string
	Mirrors []Mirror
}

// Repositories fetches charts. It may be used concurrently.
type Repositories struct {
	options Options
	limits  limits
}

// New returns a Repositories.
func New(o Options) *Repositories {
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
	wanted, err := resolve(incomplete)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.limits.time, fmt.Errorf("the repositories of all charts that are missing needed more than %s", r.limits.time))
	defer cancel()
	call := &call{Repositories: r, indexes: map[string]*index{}}
	var files []release.File
	size := int64(0)
	for _, dependency := range wanted {
		packed, version, err := call.fetch(ctx, dependency)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if size += int64(len(packed)); err == nil && size > r.limits.size {
			err = refused("all charts that are missing are larger than %d MiB together: pack them into charts/ before you publish the release", r.limits.size>>20)
		}
		if err != nil {
			// Without the URL to which a server may have redirected us: its signature would open it to all readers.
			return nil, fmt.Errorf("chart %s %s from %s: %w", dependency.Name, dependency.Version, dependency.Repository, web.Cause(err))
		}
		file := release.File{Name: fmt.Sprintf("%s-%s.tgz", dependency.Name, version), Data: packed}
		if !release.ValidFileName(file.Name) {
			return nil, refused("chart %s from %s has the version %q", dependency.Name, dependency.Repository, version)
		}
		// The same chart may be listed twice, under two aliases.
		if !slices.ContainsFunc(files, func(f release.File) bool { return f.Name == file.Name }) {
			files = append(files, file)
		}
	}
	return files, nil
}

// resolve returns the dependencies that are missing, with the version of the lock file.
func resolve(incomplete release.IncompleteChart) ([]*chart.Dependency, error) {
	var list struct {
		Dependencies []*chart.Dependency `json:"dependencies"`
	}
	if err := foreignyaml.Unmarshal(incomplete.Metadata, &list); err != nil {
		return nil, refused("the list of dependencies cannot be read: %v", err)
	}
	if len(list.Dependencies) > maxDependencies {
		return nil, refused("more than %d dependencies", maxDependencies)
	}
	locked := list.Dependencies
	if incomplete.Lock != nil {
		var lock chart.Lock
		if err := foreignyaml.Unmarshal(incomplete.Lock, &lock); err != nil {
			return nil, refused("the lock file cannot be read: %v", err)
		}
		if !fits(lock, list.Dependencies) {
			return nil, refused("the lock file does not fit the list of dependencies: run \"helm dependency update\" and publish a new release")
		}
		locked = lock.Dependencies
	}
	var wanted []*chart.Dependency
	for i, dependency := range list.Dependencies {
		if dependency == nil || locked[i] == nil {
			return nil, refused("a dependency is empty")
		}
		if !slices.Contains(incomplete.Missing, dependency.Name) {
			continue
		}
		wanted = append(wanted, &chart.Dependency{Name: dependency.Name, Repository: dependency.Repository, Version: locked[i].Version})
	}
	return wanted, nil
}

// fits compares the digest in a lock file, as Helm does: over both lists, or in older ones over the first.
func fits(lock chart.Lock, wanted []*chart.Dependency) bool {
	if len(lock.Dependencies) != len(wanted) {
		return false
	}
	for i, dependency := range wanted {
		if dependency == nil || lock.Dependencies[i] == nil || lock.Dependencies[i].Name != dependency.Name {
			return false
		}
	}
	both, err := json.Marshal([2][]*chart.Dependency{wanted, lock.Dependencies})
	if err != nil {
		return false
	}
	first, err := json.Marshal(map[string][]*chart.Dependency{"dependencies": wanted})
	if err != nil {
		return false
	}
	return lock.Digest == digestOf(both) || lock.Digest == digestOf(first)
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
	var packed []byte
	if isOCI(repository.url) {
		packed, err = c.pull(ctx, repository, dependency.Name, dependency.Version)
	} else {
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
	if !matches(dependency.Version, version) {
		return nil, "", refused("the package has version %q in it", version)
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
		return place{}, refused("it lies beside the chart, and the release did not bring it along: pack it into charts/ before you publish the release (helm dependency build)")
	case !strings.Contains(repository, "://"):
		return place{}, refused("%q is a name that only somebody's own Helm knows: write the URL of the repository, or have the administrator map the name to one (--chart-mirrors)", repository)
	}
	for _, allowed := range r.options.Allowed {
		if _, ok := below(allowed, repository); ok {
			return place{url: repository, client: r.options.Client}, nil
		}
	}
	return place{}, refused("the repository is not allowed: pack the chart into charts/ before you publish the release, or have the administrator allow the repository (--chart-repositories) or map it to a mirror (--chart-mirrors)")
}

// below reports whether url is base or below it, and what comes after base. A base such as "https://" has everything
// of that scheme below it.
func below(base, url string) (rest string, ok bool) {
	if base == "" {
		return "", false
	}
	if strings.HasSuffix(base, "://") {
		rest, ok := strings.CutPrefix(url, base)
		return "/" + rest, ok
	}
	rest, ok = strings.CutPrefix(strings.TrimSuffix(url, "/"), strings.TrimSuffix(base, "/"))
	// A step up would lead out of what is allowed.
	return rest, ok && (rest == "" || rest[0] == '/') && !strings.Contains(rest, "/..") && !strings.Contains(rest, "%")
}

var errTooLarge = errors.New("the answer is too large")

// trimmed returns a message of a foreign server so that it fits into a status.
func trimmed(data []byte) string {
	return string(bytes.ToValidUTF8(data[:min(len(data), 200)], []byte("?")))
}
