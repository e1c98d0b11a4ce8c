// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Fetch returns the packages of the charts that a chart lacks, named <chart>-<version>.tgz, in the versions of its lock
// file.
type Fetch func(ctx context.Context, lacking release.IncompleteChart) ([]release.File, error)

// Choose returns a version for each dependency: the highest in its range.
type Choose func(ctx context.Context, dependencies []*chart.Dependency) ([]string, error)

// Complete adds to each chart of the stack the charts that it depends on and does not bring along, so that a release of it
// lacks nothing. What lies in charts/ stays as it is, and has to be what Chart.yaml and Chart.lock ask for. Charts that are
// named by file:// are taken out of the stack, and the rest is fetched.
//
// Which charts these are must not depend on the day of the build: a range of versions needs a Chart.lock.
func (s *Stack) Complete(ctx context.Context, fetch Fetch) error {
	added := map[string]map[string][]byte{}
	for _, folder := range s.Charts() {
		files, err := s.lacking(ctx, folder, fetch, 0)
		if err != nil {
			return err
		}
		if len(files) > 0 {
			added[folder] = files
		}
	}
	s.dependencies = added
	return nil
}

// maxNested is how many charts may be named by file:// one out of the other.
const maxNested = 8

// lacking returns the files that belong into charts/ of the chart in a folder and are not there.
func (s *Stack) lacking(ctx context.Context, folder string, fetch Fetch, depth int) (map[string][]byte, error) {
	if depth > maxNested {
		return nil, fmt.Errorf("%s: charts that are named by file:// lead from one to the next more than %d times", folder, maxNested)
	}
	list, err := s.dependenciesOf(folder)
	if err != nil || len(list.wanted) == 0 {
		return nil, err
	}
	files := map[string][]byte{}
	remote := list.IncompleteChart
	remote.Missing = nil
	for i, dependency := range list.wanted {
		if !slices.Contains(list.Missing, dependency.Name) {
			if err := list.checkVendored(list.exact[i]); err != nil {
				return nil, err
			}
			continue
		}
		switch at, inside, err := localChart(folder, dependency); {
		case err != nil:
			return nil, list.errorf("%w", err)
		case inside:
			nested, err := s.local(ctx, at, dependency, fetch, depth)
			if err != nil {
				return nil, list.errorf("dependency %s: %w", dependency.Name, err)
			}
			maps.Copy(files, below(path.Join("charts", dependency.Name), nested))
		case !chartlock.Exact(list.exact[i].Version):
			return nil, list.errorf("dependency %s: %q is a range of versions, and which one is meant would depend on the day: %s, or name an exact version",
				dependency.Name, dependency.Version, "write a lock file with \"csctl dependency update\"")
		default:
			remote.Missing = append(remote.Missing, dependency.Name)
		}
	}
	if len(remote.Missing) == 0 {
		return files, nil
	}
	slices.Sort(remote.Missing)
	remote.Missing = slices.Compact(remote.Missing)
	fetched, err := fetch(ctx, remote)
	if err != nil {
		return nil, list.errorf("%w", err)
	}
	for _, file := range fetched {
		files[path.Join("charts", file.Name)] = file.Data
	}
	return files, nil
}

// local returns the files of a chart in the stack that another one depends on, with all that it depends on itself.
func (s *Stack) local(ctx context.Context, at string, dependency *chart.Dependency, fetch Fetch, depth int) (map[string][]byte, error) {
	files, err := s.chartFiles(at)
	if err != nil {
		return nil, err
	}
	name, version, err := chartHeader(files["Chart.yaml"])
	switch {
	case files["Chart.yaml"] == nil:
		return nil, fmt.Errorf("%s is not a chart: it has no Chart.yaml", at)
	case err != nil:
		return nil, fmt.Errorf("%s/Chart.yaml: %w", at, err)
	case name != dependency.Name:
		return nil, fmt.Errorf("%s/Chart.yaml: the chart is called %q", at, name)
	// A tag becomes the version of the release, which no range has to know.
	case !tagForm.MatchString(version) && !chartlock.Matches(dependency.Version, version):
		return nil, fmt.Errorf("%s/Chart.yaml: the chart has the version %s, and not %s", at, version, dependency.Version)
	}
	nested, err := s.lacking(ctx, at, fetch, depth+1)
	if err != nil {
		return nil, err
	}
	maps.Copy(files, nested)
	return files, nil
}

// localChart returns the folder of the stack that a dependency of the chart in another folder names by file://.
func localChart(folder string, dependency *chart.Dependency) (at string, local bool, err error) {
	rest, local := strings.CutPrefix(dependency.Repository, "file://")
	switch {
	case dependency.Repository == "":
		return "", false, fmt.Errorf("dependency %s: it is not in charts/, and no repository is named", dependency.Name)
	case !local:
		return "", false, nil
	}
	at = path.Join(folder, rest)
	if path.IsAbs(rest) || at == "." || at == ".." || strings.HasPrefix(at, "../") {
		return "", true, fmt.Errorf("dependency %s: %s is outside of the stack: put a link to it into the stack, and name that", dependency.Name, dependency.Repository)
	}
	return at, true, nil
}

// dependencyList is what a chart of the stack says about the charts that it depends on.
type dependencyList struct {
	release.IncompleteChart
	// file and lockFile are where it says so, relative to the stack.
	file, lockFile string
	chart          release.Chart
	// wanted are all, and exact the same ones in the versions of the lock file, if there is one.
	wanted, exact []*chart.Dependency
}

func (l *dependencyList) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: "+format, append([]any{l.file}, args...)...)
}

// dependenciesOf reads the dependencies of the chart in a folder.
func (s *Stack) dependenciesOf(folder string) (*dependencyList, error) {
	list, err := s.listOf(folder)
	if err != nil || len(list.wanted) == 0 {
		return list, err
	}
	list.exact, err = chartlock.Resolve(list.Metadata, list.Lock)
	if errors.Is(err, chartlock.ErrOutdated) {
		return nil, fmt.Errorf("%s: %w in %s: run \"csctl dependency update\"", list.lockFile, err, path.Base(list.file))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", list.lockFile, err)
	}
	return list, nil
}

// besideAddons returns the folders, outside of that of the addons, from which addons take charts in by file://, sorted.
// What cannot be read has none, and Complete says why.
func (s *Stack) besideAddons() []string {
	folders := s.Charts()[1:]
	for i := 0; i < len(folders); i++ {
		list, err := s.listOf(folders[i])
		if err != nil {
			continue
		}
		for _, dependency := range list.wanted {
			at, local, err := localChart(folders[i], dependency)
			if err == nil && local && slices.Contains(list.Missing, dependency.Name) && !slices.Contains(folders, at) {
				folders = append(folders, at)
			}
		}
	}
	// What is inside of that folder belongs to the addons anyway.
	beside := slices.DeleteFunc(folders, func(folder string) bool { return folder == addonDir || strings.HasPrefix(folder, addonDir+"/") })
	slices.Sort(beside)
	return beside
}

// listOf is dependenciesOf without a look at the lock file.
func (s *Stack) listOf(folder string) (*dependencyList, error) {
	files, err := s.Chart(folder)
	if err != nil {
		return nil, err
	}
	list := &dependencyList{chart: files}
	if list.IncompleteChart, err = list.chart.Incomplete(); err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	list.Folder = folder
	list.file, list.lockFile = path.Join(folder, list.MetadataFile), path.Join(folder, list.LockFile)
	if list.wanted, err = chartlock.Read(list.Metadata); err != nil {
		return nil, list.errorf("%w", err)
	}
	return list, nil
}

// checkVendored refuses a chart in charts/ that is not the one that is asked for: somebody has raised a version and
// forgotten to fetch it.
func (l *dependencyList) checkVendored(wanted *chart.Dependency) error {
	var others []string
	for _, chart := range VendoredIn(l.chart) {
		switch {
		case chart.Name != wanted.Name:
		case chart.Fits(wanted):
			return nil
		default:
			others = append(others, fmt.Sprintf("%s has %s", path.Join(l.Folder, chart.File), chart.Version))
		}
	}
	if len(others) == 0 {
		return nil // it is called otherwise inside, which Helm will see
	}
	return l.errorf("dependency %s is wanted in version %s, but %s: remove that, and \"csctl create\" fetches the right one, or correct the version",
		wanted.Name, wanted.Version, strings.Join(others, " and "))
}

// Vendored is a chart that another one has in its charts/.
type Vendored struct {
	// File is its package, or the Chart.yaml in its folder.
	File string
	// Name and Version are what it says itself.
	Name, Version string
}

// Fits tells whether it is what is wanted. The version of a chart that is written with a tag becomes that of the release,
// which no range has to know.
func (v Vendored) Fits(wanted *chart.Dependency) bool {
	return v.Name == wanted.Name && (v.Version == "" || tagForm.MatchString(v.Version) || chartlock.Matches(wanted.Version, v.Version))
}

// VendoredIn returns what there is in charts/ of a chart and can be read.
func VendoredIn(files release.Chart) []Vendored {
	var all []Vendored
	for _, file := range files {
		if name, version, is := vendored(file); is {
			all = append(all, Vendored{File: file.Name, Name: name, Version: version})
		}
	}
	return all
}

func vendored(file release.File) (name, version string, is bool) {
	rest, inCharts := strings.CutPrefix(file.Name, "charts/")
	_, inner, inFolder := strings.Cut(rest, "/")
	var err error
	switch {
	case !inCharts:
		return "", "", false
	case inFolder && inner == "Chart.yaml":
		name, version, err = chartHeader(file.Data)
	case !inFolder && strings.HasSuffix(rest, ".tgz"):
		name, version, err = release.ReadPackage(file.Data)
	default:
		return "", "", false
	}
	return name, version, err == nil
}

func chartHeader(data []byte) (name, version string, err error) {
	var header struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	err = yaml.Unmarshal(data, &header)
	return header.Name, header.Version, err
}

// Locks returns the lock files that the charts of the stack should have, by their path in it, and leaves out those that
// they have already. A lock file says when it was made, which is now.
func (s *Stack) Locks(ctx context.Context, choose Choose, now time.Time) (map[string][]byte, error) {
	locks := map[string][]byte{}
	for folders, seen := s.Charts(), map[string]bool{}; len(folders) > 0; folders = folders[1:] {
		folder := folders[0]
		if seen[folder] {
			continue
		}
		seen[folder] = true
		list, err := s.listOf(folder)
		if err != nil {
			return nil, err
		}
		if len(list.wanted) == 0 {
			continue
		}
		versions, nested, err := s.versionsFor(ctx, list, choose)
		if err != nil {
			return nil, list.errorf("%w", err)
		}
		folders = append(folders, nested...)
		lock, err := chartlock.New(list.Metadata, versions, now)
		if err != nil {
			return nil, list.errorf("%w", err)
		}
		if !chartlock.Same(lock, list.Lock) {
			locks[list.lockFile] = lock
		}
	}
	return locks, nil
}

// versionsFor chooses versions for the dependencies of a chart, and returns the folders of those that are in the stack.
func (s *Stack) versionsFor(ctx context.Context, list *dependencyList, choose Choose) (versions, nested []string, err error) {
	var remote []*chart.Dependency
	for _, dependency := range list.wanted {
		if dependency.Repository != "" && !strings.HasPrefix(dependency.Repository, "file://") {
			remote = append(remote, dependency)
		}
	}
	var chosen []string
	if len(remote) > 0 {
		if chosen, err = choose(ctx, remote); err != nil {
			return nil, nil, err
		}
	}
	for _, dependency := range list.wanted {
		switch {
		case len(remote) > 0 && dependency == remote[0]:
			versions, remote, chosen = append(versions, chosen[0]), remote[1:], chosen[1:]
		case dependency.Repository == "": // it is in charts/, and Helm writes down what is asked for, too
			versions = append(versions, dependency.Version)
		default:
			at, _, err := localChart(list.Folder, dependency)
			if err != nil {
				return nil, nil, err
			}
			_, version, err := chartHeader(s.files[path.Join(at, "Chart.yaml")])
			if err != nil {
				return nil, nil, fmt.Errorf("%s/Chart.yaml: %w", at, err)
			}
			versions, nested = append(versions, version), append(nested, at)
		}
	}
	return versions, nested, nil
}
