// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
)

// chartsFolder is where a place keeps, beside its releases, the charts that these depend on and do not bring along: below it
// each repository of charts has a path of its own, which takes its place when it is named as a mirror.
const chartsFolder = "charts"

// validPath is what registries take as the path of a repository.
var validPath = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)

// notInPaths is what stands in URLs and not in such a path.
var notInPaths = regexp.MustCompile(`[^a-z0-9]+`)

// chartPath returns the path for the charts of a repository: what its URL has behind the scheme. Where that is no path, such
// as with a port, the rest is made one by a checksum.
func chartPath(repository string) string {
	path := repository
	if _, rest, is := strings.Cut(repository, "://"); is {
		path = rest
	}
	path = strings.Trim(path, "/")
	if !validPath.MatchString(path) {
		sum := sha256.Sum256([]byte(strings.TrimSuffix(repository, "/")))
		path = strings.Trim(notInPaths.ReplaceAllString(strings.ToLower(path), "-")+"-"+hex.EncodeToString(sum[:4]), "-")
	}
	return chartsFolder + "/" + path
}

// shelf is where the charts are taken from that releases of a place lack: what the place keeps beside them comes first, and
// then the repositories that the charts name.
type shelf struct {
	place *place
	// charts say how repositories are asked.
	charts chartOptions

	repositories *chartrepo.Repositories
}

// shelf returns where the charts are taken from that releases of the place lack. They are somebody else's: only what the
// operator asks is asked, and mirrors.
func (p *place) shelf(flags placeFlags, mirrors []string) (*shelf, error) {
	settings, err := flags.settings()
	s := &shelf{place: p, charts: chartsOfOthers(settings)}
	s.charts.mirrors = mirrors
	s.charts.beside = func(ctx context.Context, dependency *chart.Dependency) ([]byte, string, error) {
		packed, version, err := s.kept(ctx, dependency)
		if errors.Is(err, source.ErrNotFound) {
			return nil, "", nil
		}
		return packed, version, err
	}
	return s, err
}

// fetch returns the charts that a chart lacks.
func (s *shelf) fetch(ctx context.Context, lacking release.IncompleteChart) ([]release.File, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	return s.repositories.Complete(ctx, lacking)
}

// get returns the package of a chart, and its exact version.
func (s *shelf) get(ctx context.Context, dependency *chart.Dependency) (packed []byte, version string, err error) {
	if err := s.open(); err != nil {
		return nil, "", err
	}
	return s.repositories.Fetch(ctx, dependency)
}

// open prepares the repositories, once there is a chart that is lacking.
func (s *shelf) open() (err error) {
	if s.repositories == nil {
		s.repositories, err = s.charts.repositories()
	}
	return err
}

// kept returns a chart that the place keeps. The error wraps source.ErrNotFound when it keeps none.
func (s *shelf) kept(ctx context.Context, dependency *chart.Dependency) (packed []byte, version string, err error) {
	path := chartPath(dependency.Repository)
	switch from := s.place.source.(type) {
	case *oci.Source:
		charts, err := from.Charts(path + "/" + dependency.Name)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %w", source.ErrNotFound, err)
		}
		versions, err := charts.Versions(ctx)
		if err != nil {
			return nil, "", err
		}
		exact, err := chartrepo.Highest(versions, dependency.Version)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %w", source.ErrNotFound, err)
		}
		packed, _, err = charts.Get(ctx, exact)
		if err != nil {
			return nil, "", err
		}
		return s.checked(dependency, packed)
	default:
		folder := filepath.Join(s.place.location, filepath.FromSlash(path))
		if _, err := os.Stat(folder); s.place.kind != placeFolder || err != nil {
			return nil, "", source.ErrNotFound
		}
		mirror := chartrepo.New(chartrepo.Options{Mirrors: []chartrepo.Mirror{chartrepo.FolderMirror(dependency.Repository, folder)}})
		packed, version, err := mirror.Fetch(ctx, dependency)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %w", source.ErrNotFound, err)
		}
		return packed, version, nil
	}
}

// checked returns a package that has the chart in it that is meant.
func (*shelf) checked(dependency *chart.Dependency, packed []byte) ([]byte, string, error) {
	name, version, err := release.ReadPackage(packed)
	if err == nil && (name != dependency.Name || !chartlock.Matches(dependency.Version, version)) {
		err = fmt.Errorf("the package of %s %s has %q %q in it", dependency.Name, dependency.Version, name, version)
	}
	return packed, version, err
}

// mirroredChart is what mirror tells programs about a chart.
type mirroredChart struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Repository string `json:"repository"`
	// Digest is that of the package.
	Digest string `json:"digest"`
	// State is copied or unchanged.
	State string `json:"state"`
	// Mirror is where the charts of the repository are to be had now, as it is given to --chart-mirrors. A bundle is no mirror.
	Mirror string `json:"mirror,omitempty"`
}

func (c mirroredChart) String() string {
	return fmt.Sprintf("chart %s %s from %s", visibleName(c.Name), visibleName(c.Version), visibleName(c.Repository))
}

// takesCharts tells whether a place has room for charts beside its releases.
func (p *place) takesCharts() bool { return p.kind != placeGitHub }

// takeCharts puts the charts that a release lacks beside the releases of the target.
func (t *target) takeCharts(ctx context.Context, from *shelf, incomplete []release.IncompleteChart) ([]mirroredChart, error) {
	var done []mirroredChart
	for _, lacking := range incomplete {
		wanted, err := chartrepo.Wanted(lacking)
		if err != nil {
			return nil, err
		}
		for _, dependency := range wanted {
			one, err := t.takeChart(ctx, from, dependency)
			if err != nil {
				return nil, fmt.Errorf("it depends on %w (--charts=false copies it without)", err)
			}
			if !slices.ContainsFunc(done, func(c mirroredChart) bool {
				return c.Repository == one.Repository && c.Name == one.Name && c.Version == one.Version
			}) {
				done = append(done, one)
			}
		}
	}
	return done, nil
}

func (t *target) takeChart(ctx context.Context, from *shelf, dependency *chart.Dependency) (mirroredChart, error) {
	packed, version, err := from.get(ctx, dependency)
	if err != nil {
		return mirroredChart{}, err
	}
	one := mirroredChart{Name: dependency.Name, Version: version, Repository: dependency.Repository, State: stateCopied}
	put, err := t.putChart(ctx, chartPath(dependency.Repository), one, packed)
	if err != nil {
		return mirroredChart{}, fmt.Errorf("%s: %w", one, err)
	}
	if one.Digest = put.Digest; put.Existed {
		one.State = stateUnchanged
	}
	one.Mirror = t.mirrorOf(dependency.Repository)
	return one, nil
}

func (t *target) putChart(ctx context.Context, path string, one mirroredChart, packed []byte) (source.Published, error) {
	metadata, err := chartMetadata(packed)
	if err != nil {
		return source.Published{}, err
	}
	registry, is := t.source.(*oci.Source)
	if !is {
		return putIntoRepository(filepath.Join(t.location, filepath.FromSlash(path)), one, packed)
	}
	charts, err := registry.Charts(path + "/" + one.Name)
	if err != nil {
		return source.Published{}, err
	}
	text, err := json.Marshal(metadata)
	if err != nil {
		return source.Published{}, err
	}
	return charts.Put(ctx, one.Name, one.Version, text, packed)
}

// mirrorOf returns what --chart-mirrors wants to hear about a repository, empty if the target is none that can be asked.
func (t *target) mirrorOf(repository string) string {
	switch t.kind {
	case placeRegistry:
		scheme := "oci://"
		if t.plainHTTP {
			scheme = "oci+http://"
		}
		return repository + "=" + scheme + t.location + "/" + chartPath(repository)
	case placeFolder:
		return repository + "=" + filepath.Join(t.location, filepath.FromSlash(chartPath(repository)))
	case placeBundle, placeGitHub:
	}
	return ""
}

// chartMetadata returns the Chart.yaml of a package.
func chartMetadata(packed []byte) (map[string]any, error) {
	files, err := release.OpenPackage(packed)
	if err != nil {
		return nil, err
	}
	data, _ := files.File("Chart.yaml")
	metadata := map[string]any{}
	return metadata, foreignyaml.Unmarshal(data, &metadata)
}

// putIntoRepository puts a package into a folder that is a chart repository: served by HTTP, it can be asked by anybody.
func putIntoRepository(folder string, one mirroredChart, packed []byte) (source.Published, error) {
	sum := sha256.Sum256(packed)
	done := source.Published{Digest: "sha256:" + hex.EncodeToString(sum[:])}
	name := one.Name + "-" + one.Version + ".tgz"
	if !release.ValidFileName(name) {
		return source.Published{}, fmt.Errorf("%q cannot be the name of a file", name)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return source.Published{}, err
	}
	there, err := os.ReadFile(filepath.Join(folder, name))
	switch {
	case err == nil && string(there) == string(packed):
		done.Existed = true
	case err == nil:
		return source.Published{}, fmt.Errorf("%s is there with other contents", filepath.Join(folder, name))
	case !errors.Is(err, os.ErrNotExist):
		return source.Published{}, err
	default:
		if err := dir.WriteFile(filepath.Join(folder, name), packed); err != nil {
			return source.Published{}, err
		}
	}
	// Also of what was there: a call may have been cut off in between.
	return done, indexRepository(folder)
}

// indexRepository writes the index.yaml of a folder with packages. The same packages have the same index.
func indexRepository(folder string) error {
	files, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	entries := map[string][]map[string]any{}
	for _, file := range files {
		if !file.Type().IsRegular() || !strings.HasSuffix(file.Name(), ".tgz") {
			continue
		}
		packed, err := os.ReadFile(filepath.Join(folder, file.Name()))
		if err != nil {
			return err
		}
		entry, err := chartMetadata(packed)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(folder, file.Name()), err)
		}
		sum := sha256.Sum256(packed)
		entry["digest"], entry["urls"] = hex.EncodeToString(sum[:]), []string{file.Name()}
		name, _ := entry["name"].(string)
		entries[name] = append(entries[name], entry)
	}
	for _, versions := range entries {
		// The newest first, as Helm has it.
		slices.SortStableFunc(versions, func(a, b map[string]any) int { return versionOf(b).Compare(versionOf(a)) })
	}
	text, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "entries": entries})
	if err != nil {
		return err
	}
	index := filepath.Join(folder, "index.yaml")
	if there, err := os.ReadFile(index); err == nil && string(there) == string(text) {
		return nil
	}
	return dir.WriteFile(index, text)
}

// versionOf returns the version of an entry, the lowest if it is none.
func versionOf(entry map[string]any) *semver.Version {
	text, _ := entry["version"].(string)
	version, err := semver.NewVersion(text)
	if err != nil {
		return semver.New(0, 0, 0, "", "")
	}
	return version
}
