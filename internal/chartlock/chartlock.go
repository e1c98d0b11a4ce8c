// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package chartlock knows the two lists of a chart's dependencies as Helm writes them: the one in Chart.yaml, which may
// have ranges of versions, and Chart.lock, with the versions that were chosen.
//
// Where charts come from, and what becomes of a list that is wrong, is for others.
package chartlock

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
)

// maxDependencies is for one chart.
const maxDependencies = 100

// ErrOutdated says that a lock file was written for another list of dependencies.
var ErrOutdated = errors.New("the lock file does not fit the list of dependencies")

// Read returns the dependencies that a chart asks for, none of them nil.
func Read(list []byte) ([]*chart.Dependency, error) {
	var file struct {
		Dependencies []*chart.Dependency `json:"dependencies"`
	}
	if err := foreignyaml.Unmarshal(list, &file); err != nil {
		return nil, fmt.Errorf("the list of dependencies cannot be read: %w", err)
	}
	if len(file.Dependencies) > maxDependencies {
		return nil, fmt.Errorf("more than %d dependencies", maxDependencies)
	}
	for _, dependency := range file.Dependencies {
		if dependency == nil {
			return nil, errors.New("a dependency is empty")
		}
	}
	return file.Dependencies, nil
}

// Resolve returns the dependencies that a chart asks for, in the versions of its lock file if it has one. The error wraps
// ErrOutdated when the lock file is for another list.
func Resolve(list, lock []byte) ([]*chart.Dependency, error) {
	wanted, err := Read(list)
	if err != nil || lock == nil {
		return wanted, err
	}
	var locked chart.Lock
	if err := foreignyaml.Unmarshal(lock, &locked); err != nil {
		return nil, fmt.Errorf("the lock file cannot be read: %w", err)
	}
	if !fits(&locked, wanted) {
		return nil, ErrOutdated
	}
	for i, dependency := range wanted {
		exact := *dependency
		exact.Version = locked.Dependencies[i].Version
		wanted[i] = &exact
	}
	return wanted, nil
}

// New returns the lock file for a list of dependencies and the version chosen for each of them.
func New(list []byte, versions []string, now time.Time) ([]byte, error) {
	wanted, err := Read(list)
	if err != nil {
		return nil, err
	}
	if len(versions) != len(wanted) {
		return nil, fmt.Errorf("%d versions for %d dependencies", len(versions), len(wanted))
	}
	lock := chart.Lock{Generated: now.UTC()}
	for i, dependency := range wanted {
		lock.Dependencies = append(lock.Dependencies, &chart.Dependency{Name: dependency.Name, Repository: dependency.Repository, Version: versions[i]})
	}
	if lock.Digest, err = digest([2][]*chart.Dependency{wanted, lock.Dependencies}); err != nil {
		return nil, err
	}
	return yaml.Marshal(lock)
}

// Same tells whether two lock files choose the same versions for the same list, whenever they were written.
func Same(a, b []byte) bool {
	var locks [2]chart.Lock
	for i, data := range [][]byte{a, b} {
		if foreignyaml.Unmarshal(data, &locks[i]) != nil {
			return false
		}
	}
	return locks[0].Digest != "" && locks[0].Digest == locks[1].Digest
}

// fits compares the digest in a lock file, as Helm does: over both lists, or in older ones over the first.
func fits(lock *chart.Lock, wanted []*chart.Dependency) bool {
	if len(lock.Dependencies) != len(wanted) {
		return false
	}
	for i, dependency := range wanted {
		if lock.Dependencies[i] == nil || lock.Dependencies[i].Name != dependency.Name {
			return false
		}
	}
	both, err := digest([2][]*chart.Dependency{wanted, lock.Dependencies})
	if err != nil {
		return false
	}
	first, err := digest(map[string][]*chart.Dependency{"dependencies": wanted})
	return err == nil && (lock.Digest == both || lock.Digest == first)
}

func digest(value any) (string, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Exact tells whether a version is one, and not a range.
func Exact(version string) bool {
	_, err := semver.StrictNewVersion(strings.TrimPrefix(version, "v"))
	return err == nil
}

// Matches tells whether a version is the wanted one, or in the wanted range. An empty range has all but pre-releases.
func Matches(wanted, version string) bool {
	if wanted == version {
		return true
	}
	if wanted == "" {
		wanted = "*"
	}
	constraint, err := semver.NewConstraint(wanted)
	if err != nil {
		return false
	}
	v, err := semver.NewVersion(version)
	return err == nil && constraint.Check(v)
}
