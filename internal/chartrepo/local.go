// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package chartrepo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	chart "helm.sh/helm/v4/pkg/chart/v2"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// open reads a chart from a folder of packages.
func (c *call) open(url, name, version string) ([]byte, error) {
	folder := filepath.FromSlash(strings.TrimPrefix(url, folderScheme))
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var versions []string
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), name+"-")
		if there, archive := strings.CutSuffix(rest, ".tgz"); ours && archive {
			versions = append(versions, there)
		}
	}
	exact, err := Highest(versions, version)
	if err != nil {
		return nil, fmt.Errorf("%w: %s has no %s-%s.tgz", err, folder, name, version)
	}
	return readFile(filepath.Join(folder, name+"-"+exact+".tgz"))
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxChart+1))
	if err == nil && len(data) > maxChart {
		err = fmt.Errorf("%s is larger than %d MiB", path, maxChart>>20)
	}
	return data, err
}

// The cache has two kinds of files: packages, called after their digest, and for each chart of a repository in an exact
// version a file with the digest of its package.

// cacheKey returns the name of the second kind, or "" for a range of versions, of which nobody knows when it has another
// highest one.
func cacheKey(repository string, dependency *chart.Dependency) string {
	if !chartlock.Exact(dependency.Version) {
		return ""
	}
	return nameOf(digestOf([]byte(strings.Join([]string{strings.TrimSuffix(repository, "/"), dependency.Name, dependency.Version}, "\n"))))
}

// nameOf returns a digest as the name of a file.
func nameOf(digest string) string { return strings.ReplaceAll(digest, ":", "-") }

func (c *call) cached(key string) ([]byte, bool) {
	if c.options.Cache == "" || key == "" {
		return nil, false
	}
	digest, err := os.ReadFile(filepath.Join(c.options.Cache, key))
	if err != nil || !release.ValidFileName(nameOf(string(digest))) {
		return nil, false
	}
	packed, err := readFile(filepath.Join(c.options.Cache, nameOf(string(digest))+".tgz"))
	return packed, err == nil && digestOf(packed) == string(digest)
}

// remember keeps a package. A cache that cannot be written, or that is full, costs time the next time and nothing else,
// so nobody is told.
func (c *call) remember(key string, packed []byte) {
	if c.options.Cache == "" || key == "" {
		return
	}
	// Charts may be private.
	if os.MkdirAll(c.options.Cache, 0o700) != nil {
		return
	}
	digest := digestOf(packed)
	if c.put(nameOf(digest)+".tgz", packed) == nil {
		_ = c.put(key, []byte(digest))
	}
}

// put writes a file that other processes may write and read at the same time.
func (c *call) put(name string, data []byte) error {
	tmp, err := os.CreateTemp(c.options.Cache, ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(c.options.Cache, name))
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // the first error counts
	}
	return err
}
