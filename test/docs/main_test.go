// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package docs proves what the documentation says: links lead somewhere, manifests are accepted, commands
// work as they are written.
package docs

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// root is the repository, seen from this package.
const root = "../.."

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// page is a Markdown file of the repository.
type page struct {
	// path relative to the root, with slashes.
	path string
	text string
}

// pages returns the pages of the repository whose path begins with the prefix.
func pages(t *testing.T, prefix string) []page {
	t.Helper()
	var found []page
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// What is built, and what is hidden, is not part of the repository.
		if entry.IsDir() && name != "." && (name == "bin" || strings.HasPrefix(entry.Name(), ".")) {
			return fs.SkipDir
		}
		if entry.IsDir() || path.Ext(name) != ".md" || !strings.HasPrefix(name, prefix) {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		found = append(found, page{path: name, text: string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no pages below %q", prefix)
	}
	slices.SortFunc(found, func(a, b page) int { return strings.Compare(a.path, b.path) })
	return found
}
