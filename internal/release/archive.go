// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"unicode"
)

// File is a file of a chart.
type File struct {
	// Name is relative to the chart's root, with slashes.
	Name string
	Data []byte
}

// Chart is the files of a Helm chart, sorted by name, with Chart.yaml at the top.
// It belongs to the release and must not be changed.
type Chart []File

// File returns the contents of a file of the chart.
func (c Chart) File(name string) (data []byte, found bool) {
	i, found := slices.BinarySearchFunc(c, name, func(f File, name string) int { return strings.Compare(f.Name, name) })
	if !found {
		return nil, false
	}
	return c[i].Data, true
}

func (c Chart) size() int {
	size := 0
	for _, f := range c {
		size += len(f.Name) + len(f.Data)
	}
	return size
}

// Releases are foreign input. The limits leave room for the largest charts in public use, several
// times over, and hold on the bytes that come out of an archive, whatever its headers say.
const (
	maxArchiveSize  = 64 << 20
	maxUnpackedSize = 100 << 20
	maxFileSize     = 5 << 20
	maxEntries      = 10_000
	maxPathLength   = 255
	maxPathDepth    = 32
	maxRatio        = 200
	// Small archives of very regular text pack better than maxRatio and harm nobody.
	ratioFreeSize = 4 << 20
	// Configuration is small, and parsed YAML takes a large multiple of its text.
	maxConfigSize = 1 << 20
)

// readArchive reads a tar.gz archive of regular files into memory. The names of the files are clean
// relative paths. All errors are faults of the archive.
func readArchive(packed []byte) ([]File, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("not a gzip archive: %w", err)
	}
	limited := &limitedReader{from: unzipped, limit: maxUnpackedSize}
	if byRatio := max(ratioFreeSize, maxRatio*int64(len(packed))); byRatio < limited.limit {
		limited.limit = byRatio
	}
	files, err := readTar(limited)
	if err != nil {
		return nil, err
	}
	// The checksum of gzip comes last: read on to it, or a damaged archive could pass.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return nil, fmt.Errorf("damaged archive: %w", err)
	}
	return files, nil
}

func readTar(r io.Reader) ([]File, error) {
	var (
		files   []File
		entries int
		total   int64
		seen    = map[string]bool{}
		archive = tar.NewReader(r)
	)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("not a tar archive: %w", err)
		}
		if entries++; entries > maxEntries {
			return nil, fmt.Errorf("more than %d entries", maxEntries)
		}
		switch header.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeDir:
			// Folders follow from the files in them. "./" is the archive's own root.
			if header.Name == "./" || header.Name == "." {
				continue
			}
			if err := checkPath(header.Name); err != nil {
				return nil, err
			}
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("%q is neither a file nor a folder (links and devices are refused)", header.Name)
		}
		if err := checkPath(header.Name); err != nil {
			return nil, err
		}
		name := cleanPath(header.Name)
		if seen[name] {
			return nil, fmt.Errorf("%q stands in the archive twice", name)
		}
		seen[name] = true

		data, err := readAtMost(archive, maxFileSize, header.Size)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		// Holes of sparse files come out of the tar reader without going into it.
		if total += int64(len(data)); total > maxUnpackedSize {
			return nil, errUnpackedTooLarge
		}
		files = append(files, File{Name: name, Data: data})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

var errUnpackedTooLarge = fmt.Errorf("unpacks to more than %d MiB, or to more than %d times its size", maxUnpackedSize>>20, maxRatio)

// limitedReader fails, rather than ends, when more than limit bytes are read from it.
type limitedReader struct {
	from  io.Reader
	limit int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.limit -= int64(n); r.limit < 0 {
		return 0, errUnpackedTooLarge
	}
	return n, err
}

// readAtMost reads all of r. The expected size saves copying and is not relied on.
func readAtMost(r io.Reader, limit, expected int64) ([]byte, error) {
	var data bytes.Buffer
	data.Grow(int(min(max(expected, 0), limit)) + bytes.MinRead)
	if _, err := data.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return nil, err
	}
	if int64(data.Len()) > limit {
		return nil, fmt.Errorf("larger than %d MiB", limit>>20)
	}
	return data.Bytes(), nil
}

func cleanPath(name string) string {
	return strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
}

// checkPath refuses names that could mean a place outside the archive, on any system.
func checkPath(name string) error {
	path := cleanPath(name)
	switch {
	case !fs.ValidPath(path),
		path == ".",
		strings.ContainsFunc(path, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }),
		len(path) > 1 && path[1] == ':':
		return fmt.Errorf("%q is not a clean relative path", name)
	case len(path) > maxPathLength:
		return fmt.Errorf("a path is longer than %d bytes: %.40q...", maxPathLength, path)
	case strings.Count(path, "/") >= maxPathDepth:
		return fmt.Errorf("%q is deeper than %d folders", name, maxPathDepth)
	}
	return nil
}

// validFileName reports whether s can be the name of a file or folder.
func validFileName(s string) bool {
	return !strings.Contains(s, "/") && checkPath(s) == nil
}
