// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/Masterminds/semver/v3"
	helmchart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"
)

const lockFile = "Chart.lock"

func (l *linter) checkChartDependencies(c chart) {
	data, _ := c.files.File(chartFile)
	var metadata struct {
		Dependencies []*helmchart.Dependency `json:"dependencies"`
	}
	if err := yaml.Unmarshal(data, &metadata); err != nil || len(metadata.Dependencies) == 0 {
		return // malformed ones are reported when they are rendered
	}
	locked, hasLock := l.readLock(c, metadata.Dependencies)
	for _, dependency := range metadata.Dependencies {
		at := c.at(chartFile, lineOfText(data, "name: "+dependency.Name))
		version, here := vendored(c.files, dependency.Name)
		wanted, err := semver.NewConstraint(dependency.Version)
		switch {
		case dependency.Version == "" || err != nil:
			l.report("dependency-unpinned", at, "chart %s has the version %q, which is none", dependency.Name, dependency.Version)
			continue
		case !exact(dependency.Version) && !hasLock && !here:
			l.report("dependency-unpinned", at, "chart %s may be any version in %q: each build may take another one", dependency.Name, dependency.Version)
		}
		if !here {
			if strings.TrimSpace(dependency.Repository) == "" {
				l.report("dependency-nowhere", at, "chart %s is not in charts/ and names no repository", dependency.Name)
			}
			continue
		}
		if is, err := semver.NewVersion(version); err == nil && !wanted.Check(is) {
			l.report("dependency-version", at, "charts/ has %s %s, the chart wants %s", dependency.Name, version, dependency.Version)
		} else if pinned := locked[dependency.Name]; pinned != "" && strings.TrimPrefix(pinned, "v") != strings.TrimPrefix(version, "v") {
			l.report("dependency-version", at, "charts/ has %s %s, Chart.lock wants %s", dependency.Name, version, pinned)
		}
	}
}

// exact reports whether a constraint is met by one version only.
func exact(constraint string) bool {
	_, err := semver.StrictNewVersion(strings.TrimPrefix(strings.TrimPrefix(constraint, "="), "v"))
	return err == nil
}

// readLock returns the versions of Chart.lock by name.
func (l *linter) readLock(c chart, wanted []*helmchart.Dependency) (versions map[string]string, found bool) {
	data, found := c.files.File(lockFile)
	if !found {
		return nil, false
	}
	var lock helmchart.Lock
	if err := yaml.Unmarshal(data, &lock); err != nil {
		l.report("lock-outdated", c.at(lockFile, lineIn(err)), "it cannot be read: %v", err)
		return nil, true
	}
	versions = map[string]string{}
	for _, dependency := range lock.Dependencies {
		versions[dependency.Name] = dependency.Version
	}
	if digest := digestOf([2][]*helmchart.Dependency{wanted, lock.Dependencies}); lock.Digest != digest && lock.Digest != digestOf(wanted) {
		l.report("lock-outdated", c.at(lockFile, lineOfText(data, "digest:")), "it was made for other dependencies than Chart.yaml lists")
	}
	return versions, true
}

// digestOf is what Helm writes into a lock file: HashReq in helm.sh/helm/v4/internal/resolver.
func digestOf(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
