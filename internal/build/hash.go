// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// HashesFile holds, in a release, the hashes of the stack that it was built from.
const HashesFile = "hashes.json"

// Hashes tell which parts of a stack differ between two releases. They are taken over the files as
// their author wrote them, before versions are filled in.
type Hashes struct {
	ClusterStack       string `json:"clusterStack"`
	ClusterAddonDir    string `json:"clusterAddonDir"`
	ClusterAddonValues string `json:"clusterAddonValues"`
	NodeImageDir       string `json:"nodeImageDir,omitempty"`
	// ClusterAddonCharts is over charts of the stack that addons depend on and that are not in ClusterAddonDir. Only we write
	// it, where there are some.
	ClusterAddonCharts string `json:"clusterAddonCharts,omitempty"`
}

// Short returns as much of the hash over the whole stack as tells releases apart.
func (h Hashes) Short() string { return h.ClusterStack[:hashLength] }

// Hash returns the hashes of the stack. The first 7 characters of the first one make the version of a
// release in hash mode, so that the same files give the same version everywhere.
func (s *Stack) Hash() (Hashes, error) {
	var hashes Hashes
	var beside []string
	for _, folder := range s.besideAddons() {
		for _, name := range s.paths(folder) {
			beside = append(beside, path.Join(folder, name))
		}
	}
	slices.Sort(beside)
	for _, part := range []struct {
		to     *string
		folder string
		files  []string
	}{
		{&hashes.ClusterStack, "", s.paths("")},
		{&hashes.ClusterAddonDir, addonDir, s.paths(addonDir)},
		{&hashes.NodeImageDir, imageDir, s.paths(imageDir)},
		{&hashes.ClusterAddonCharts, "", slices.Compact(beside)},
	} {
		hash, err := s.hash(part.folder, part.files)
		if err != nil {
			return Hashes{}, err
		}
		*part.to = hash
	}
	if values, found := s.files[release.LegacyValuesFile]; found {
		sum := sha256.Sum256(values)
		hashes.ClusterAddonValues = clean(base64.StdEncoding.EncodeToString(sum[:]))
	}
	return hashes, nil
}

// hash returns the hash of files by their paths in a folder, "" for none.
func (s *Stack) hash(folder string, files []string) (string, error) {
	if len(files) == 0 {
		return "", nil
	}
	hash, err := dirhash.Hash1(files, func(name string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(s.files[path.Join(folder, name)])), nil
	})
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", path.Join(".", folder), err)
	}
	return clean(strings.TrimPrefix(hash, "h1:")), nil
}

// clean leaves of a base64 text what can stand in a version.
func clean(hash string) string {
	return strings.ToLower(strings.NewReplacer("/", "", "=", "", "+", "").Replace(hash))
}

func (h Hashes) encode() ([]byte, error) { return json.MarshalIndent(h, "", "  ") }

// readHashes returns the hashes in a release. Those that it lacks are empty.
func readHashes(fsys fs.FS) (Hashes, error) {
	data, err := fs.ReadFile(fsys, HashesFile)
	if err != nil {
		return Hashes{}, fmt.Errorf("read the hashes of the previous release: %w", err)
	}
	var hashes Hashes
	if err := json.Unmarshal(data, &hashes); err != nil {
		return Hashes{}, fmt.Errorf("%s of the previous release: %w", HashesFile, err)
	}
	return hashes, nil
}
