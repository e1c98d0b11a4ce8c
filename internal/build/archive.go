// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/ignore"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// pack returns a tar.gz archive of the files. It says nothing about who made it, where and when.
func pack(files map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	archive := tar.NewWriter(zipped)
	for _, name := range withFolders(files) {
		header := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if data, isFile := files[name]; isFile {
			header.Mode, header.Typeflag, header.Size = 0o644, tar.TypeReg, int64(len(data))
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// withFolders returns the names of files and of the folders above them, each folder before what is in
// it. There are programs that unpack a file only into a folder that the archive named before.
func withFolders(files map[string][]byte) []string {
	names := map[string]bool{}
	for file := range files {
		names[file] = true
		for folder := path.Dir(file); folder != "."; folder = path.Dir(folder) {
			names[folder+"/"] = true
		}
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	return sorted
}

// chartFiles returns the files of the chart in a folder of the stack, relative to it, without those
// that its .helmignore names and without charts that Complete has added.
func (s *Stack) chartFiles(folder string) (map[string][]byte, error) {
	rules, err := ignore.Parse(bytes.NewReader(s.files[path.Join(folder, ignore.HelmIgnore)]))
	if err != nil {
		return nil, err
	}
	rules.AddDefaults()
	files := map[string][]byte{}
	for _, name := range s.paths(folder) {
		// The values template is not Helm's, and often stands among what Helm is to ignore.
		if name == release.OverwriteFile || !ignored(rules, name) {
			files[name] = s.files[path.Join(folder, name)]
		}
	}
	return files, nil
}

// ignored reports whether the rules leave out the file or a folder above it.
func ignored(rules *ignore.Rules, name string) bool {
	for i, c := range name {
		if c == '/' && rules.Ignore(name[:i], kind{folder: true}) {
			return true
		}
	}
	return rules.Ignore(name, kind{})
}

// kind is as much of a file as the rules look at.
type kind struct {
	fs.FileInfo
	folder bool
}

// IsDir reports whether it is a folder.
func (k kind) IsDir() bool { return k.folder }

// below returns files with a folder in front of their names.
func below(folder string, files map[string][]byte) map[string][]byte {
	moved := make(map[string][]byte, len(files))
	for name, data := range files {
		moved[path.Join(folder, name)] = data
	}
	return moved
}

// topFolder returns the first folder of a path, or "" for a file that is in none.
func topFolder(name string) string {
	folder, _, inside := strings.Cut(name, "/")
	if !inside {
		return ""
	}
	return folder
}
