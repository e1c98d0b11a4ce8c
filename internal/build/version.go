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

// Latest returns the newest release of this stack in a channel.
func (s *Stack) Latest(channel string, names []release.Name) (latest release.Name, found bool) {
	for _, name := range names {
		if name.Version.Channel != channel || name.Prefix() != s.Name(name.Version).Prefix() {
			continue
		}
		if order, comparable := name.Version.Compare(latest.Version); !found || comparable && order > 0 {
			latest, found = name, true
		}
	}
	return latest, found
}

// ErrNoChange says that there is nothing to release.
var ErrNoChange = errors.New("no change in the cluster stack")

// NextVersions returns the versions of the release that follows previous, whose files are in fsys.
// The version of a component only rises when the component has changed. The error wraps ErrNoChange
// when nothing has.
func (s *Stack) NextVersions(previous *release.Release, fsys fs.FS) (Versions, error) {
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
	if now == before {
		return Versions{}, fmt.Errorf("%w since %s", ErrNoChange, previous.Name)
	}
	versions := Versions{
		ClusterStack: previous.Name.Version,
		ClusterAddon: previous.Metadata.ClusterAddon,
		NodeImage:    FirstVersions(previous.Name.Version.Channel).NodeImage,
	}
	if image := previous.Metadata.NodeImage; image != nil {
		versions.NodeImage = *image
	}
	stagesChanged, err := s.stagesChanged(versions, fsys)
	if err != nil {
		return Versions{}, err
	}
	raise := []*release.Version{&versions.ClusterStack}
	if stagesChanged || now.ClusterAddonDir != before.ClusterAddonDir || now.ClusterAddonValues != before.ClusterAddonValues {
		raise = append(raise, &versions.ClusterAddon)
	}
	if now.NodeImageDir != before.NodeImageDir {
		raise = append(raise, &versions.NodeImage)
	}
	for _, version := range raise {
		if *version, err = next(*version); err != nil {
			return Versions{}, err
		}
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
