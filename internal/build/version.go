// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Versions of a release and of its components.
type Versions struct {
	ClusterStack release.Version
	ClusterAddon release.Version
	NodeImage    release.Version
}

// hashLength is how much of the stack's hash goes into a version.
const hashLength = 7

// HashVersions returns the versions of a release that is called after its contents, "v0-sha.<hash>".
func (s *Stack) HashVersions() (Versions, error) {
	hashes, err := s.Hash()
	if err != nil {
		return Versions{}, err
	}
	version := release.Version{Channel: "sha", Suffix: hashes.Short()}
	return Versions{ClusterStack: version, ClusterAddon: version, NodeImage: version}, nil
}

// FirstVersions returns the versions of the first release in a channel: "v1" in the stable one, which
// has an empty name, and "v0-beta.1" in the channel "beta".
func FirstVersions(channel string) Versions {
	version := release.Version{Major: 1}
	if channel != "" {
		version = release.Version{Channel: channel, Suffix: "1"}
	}
	return Versions{ClusterStack: version, ClusterAddon: version, NodeImage: version}
}

// Latest returns the newest release of this stack in a channel, of those that are numbered.
func (s *Stack) Latest(channel string, names []release.Name) (latest release.Name, found bool) {
	for _, name := range names {
		if name.Version.Channel != channel || name.Prefix() != s.Name(name.Version).Prefix() {
			continue
		}
		if _, err := next(name.Version); err != nil {
			continue // nothing can follow it
		}
		if order, comparable := name.Version.Compare(latest.Version); !found || comparable && order > 0 {
			latest, found = name, true
		}
	}
	return latest, found
}

// ErrNoChange says that there is nothing to release.
var ErrNoChange = errors.New("no change in the cluster stack")

// NextVersions returns the versions of the release that follows previous, whose files are in fsys and need not be sound:
// the next one may be what mends them. The version of a component only rises when the component has changed. The error
// wraps ErrNoChange when nothing has.
func (s *Stack) NextVersions(previous release.Name, fsys fs.FS) (Versions, error) {
	metadata, err := release.ReadMetadata(fsys)
	if err != nil {
		return Versions{}, fmt.Errorf("release %s, after which the next version comes: %w: give the versions yourself, with --mode custom", previous, err)
	}
	before, err := readHashes(fsys)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // without hashes everything counts as changed
	}
	if err != nil {
		return Versions{}, err
	}
	now, err := s.Hash()
	if err != nil {
		return Versions{}, err
	}
	if now.ClusterStack == before.ClusterStack {
		return Versions{}, fmt.Errorf("%w since %s", ErrNoChange, previous)
	}
	was := Versions{
		ClusterStack: previous.Version,
		ClusterAddon: metadata.ClusterAddon,
		NodeImage:    FirstVersions(previous.Version.Channel).NodeImage,
	}
	if metadata.NodeImage != nil {
		was.NodeImage = *metadata.NodeImage
	}
	versions := was
	if versions.ClusterStack, err = next(was.ClusterStack); err != nil {
		return Versions{}, err
	}
	raise := func(component release.Version) release.Version {
		raised, err := next(component)
		if err != nil {
			return versions.ClusterStack // it was numbered otherwise; this number is new, too
		}
		return raised
	}
	if now.NodeImageDir != before.NodeImageDir {
		versions.NodeImage = raise(was.NodeImage)
	}
	stagesChanged, err := s.stagesChanged(was, fsys)
	if err != nil {
		return Versions{}, err
	}
	if stagesChanged || now.ClusterAddonDir != before.ClusterAddonDir || now.ClusterAddonValues != before.ClusterAddonValues || now.ClusterAddonCharts != before.ClusterAddonCharts {
		versions.ClusterAddon = raise(was.ClusterAddon)
	}
	return versions, nil
}

// stagesChanged reports whether the order of the addons differs from that of the previous release,
// which no hash tells apart from a change elsewhere in the stack.
func (s *Stack) stagesChanged(before Versions, fsys fs.FS) (bool, error) {
	was, err := fs.ReadFile(fsys, release.StagesFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	is, err := fillIn(release.StagesFile, s.files[release.StagesFile], before)
	return !bytes.Equal(was, is), err
}

func next(v release.Version) (release.Version, error) {
	if v.Channel == "" {
		v.Major++
		return v, nil
	}
	number, err := strconv.Atoi(v.Suffix)
	if err != nil {
		return release.Version{}, fmt.Errorf("no version follows %s: what stands behind the dot is not a number", v)
	}
	v.Suffix = strconv.Itoa(number + 1)
	return v, nil
}
