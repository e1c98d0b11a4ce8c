// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// Written tells what Write did.
type Written struct {
	// Folder of the release.
	Folder string
	// Files of the release, sorted, with those that finish added.
	Files []string
	// Existed says that exactly this release was there already.
	Existed bool
	// Warnings about the release, see release.Release.
	Warnings []string
}

// Write puts the release into its folder in output, which becomes visible complete or not at all.
// Finish, if not nil, is called before that with the folder that the release is prepared in, to add
// further files. A release that exists is never changed: the same again is a success, another one
// under the same name an error, as is one that the operator could not use.
func (r *Release) Write(output string, finish func(folder string) error) (written Written, err error) {
	if err := os.MkdirAll(output, 0o755); err != nil {
		return Written{}, err
	}
	// The leading dot keeps sources from taking it for a release.
	tmp, err := os.MkdirTemp(output, "."+r.Name.String()+"-*")
	if err != nil {
		return Written{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	for name, data := range r.Files {
		if err := os.WriteFile(filepath.Join(tmp, name), data, 0o644); err != nil {
			return Written{}, err
		}
	}
	if finish != nil {
		if err := finish(tmp); err != nil {
			return Written{}, err
		}
	}
	if err := openToAll(tmp); err != nil {
		return Written{}, err
	}
	rel, err := release.Open(os.DirFS(tmp), r.Name)
	if err != nil {
		return Written{}, fmt.Errorf("the operator could not use it: %w", err)
	}
	files, err := readFiles(tmp)
	if err != nil {
		return Written{}, err
	}
	written = Written{
		Folder:   filepath.Join(output, r.Name.String()),
		Files:    slices.Sorted(maps.Keys(files)),
		Warnings: rel.Warnings,
	}
	err = os.Rename(tmp, written.Folder)
	if errors.Is(err, fs.ErrExist) {
		written.Existed = true
		err = r.compare(written.Folder, files)
	}
	return written, err
}

// openToAll lets everybody read a release: whoever serves it is often somebody else, so the umask does not count.
func openToAll(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	errs := []error{os.Chmod(folder, 0o755)}
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			errs = append(errs, os.Chmod(filepath.Join(folder, entry.Name()), 0o644))
		}
	}
	return errors.Join(errs...)
}

// compare returns an error unless the folder holds exactly these files.
func (r *Release) compare(folder string, files map[string][]byte) error {
	existing, err := readFiles(folder)
	if err != nil {
		return err
	}
	var differ []string
	for name := range files {
		if !bytes.Equal(files[name], existing[name]) {
			differ = append(differ, name)
		}
	}
	for name := range existing {
		// Somebody may have signed it since.
		if _, found := files[name]; !found && !verify.Signs(name) {
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(differ)
	return fmt.Errorf("%s exists already and differs in %s: a release never changes, so give this one another version (or remove the folder, if nobody has used it)",
		folder, strings.Join(differ, ", "))
}

// readFiles returns the regular files of a folder.
func readFiles(folder string) (map[string][]byte, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		files[entry.Name()] = data
	}
	return files, nil
}
