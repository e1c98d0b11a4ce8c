// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

const (
	recordFile  = "record"
	filesFolder = "files"
)

// record is what the store knows about a release beside its files. On disk it is one line with a checksum
// of the rest, which is JSON.
type record struct {
	// Files has the SHA-256 of each file, as hexadecimal digits, by its path.
	Files map[string]string `json:"files"`
	// Dependencies is a digest over the files that were fetched to complete the release, or empty.
	Dependencies string `json:"dependencies,omitempty"`
	// SumsList is the list of checksums that came with the release, if any.
	SumsList []byte `json:"sumsList,omitempty"`
	// Signatures are those of the release's digest, or of SumsList.
	Signatures []verify.Signature `json:"signatures,omitempty"`
}

// maxRecord bounds what is read. Signatures have a megabyte each at most.
const maxRecord = 64 << 20

func readRecord(folder string) (*record, error) {
	f, err := os.Open(filepath.Join(folder, recordFile))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, err
	}
	sum, text, _ := bytes.Cut(data, []byte("\n"))
	if string(sum) != hexSum(text) {
		return nil, errors.New("its record has another checksum than it should have")
	}
	r := &record{}
	return r, json.Unmarshal(text, r)
}

// write puts the record into a folder.
func (r *record) write(folder string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, recordFile), append([]byte(hexSum(text)+"\n"), text...), 0o444)
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// check compares the files of a release with the record.
func (r *record) check(files string) error {
	found, err := checksums(files)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if found[name] != r.Files[name] {
			return fmt.Errorf("%s has another checksum than it should have", name)
		}
	}
	if len(found) != len(r.Files) {
		return errors.New("files were added to it")
	}
	return nil
}

// complete takes in what was fetched to complete the release.
func (r *record) complete(all map[string]string) {
	var list strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if _, before := r.Files[name]; !before {
			fmt.Fprintf(&list, "%s  %s\n", all[name], name)
		}
	}
	r.Files = all
	r.Dependencies = digestPrefix + hexSum([]byte(list.String()))
}

// takeSums reads the list of checksums that came with a release, and its signatures, without a look into them.
func (r *record) takeSums(files string) error {
	taken := verify.Sums{}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if !verify.Signs(name) {
			continue
		}
		data, err := readSmall(filepath.Join(files, name))
		if err != nil {
			return err
		}
		if taken.Take(name, data); len(taken.Signatures) > verify.MaxSumsSignatures {
			return fmt.Errorf("it has more than %d signatures", verify.MaxSumsSignatures)
		}
	}
	r.SumsList, r.Signatures = taken.List, taken.Signatures
	return nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxSums+1))
	if err == nil && len(data) > maxSums {
		err = fmt.Errorf("%s is larger than %d MiB", filepath.Base(path), maxSums>>20)
	}
	return data, err
}

const maxSums = 1 << 20

// sums returns what the policy is asked about. Dependencies are not part of what was signed.
func (r *record) sums() verify.Sums {
	files := maps.Clone(r.Files)
	maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasPrefix(name, release.DependenciesFolder+"/") })
	return verify.Sums{List: r.SumsList, Signatures: r.Signatures, Files: files}
}

// Limits on a release on disk, whatever the source let through.
const (
	maxFiles     = 256
	maxTotalSize = 512 << 20
)

// checksums returns the SHA-256 of all files below a folder by their paths, with slashes. Nothing but files
// and folders may be there.
func checksums(folder string) (map[string]string, error) {
	sums := map[string]string{}
	total := int64(0)
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read from
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a folder", name)
		}
		sum, size, err := checksum(root, name)
		if err != nil {
			return err
		}
		if sums[path.Clean(name)] = sum; len(sums) > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		if total += size; total > maxTotalSize {
			return fmt.Errorf("larger than %d MiB", maxTotalSize>>20)
		}
		return nil
	})
	return sums, err
}

func checksum(root *os.Root, name string) (string, int64, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }() // only read from
	sum := sha256.New()
	size, err := io.Copy(sum, io.LimitReader(f, maxTotalSize+1))
	return hex.EncodeToString(sum.Sum(nil)), size, err
}
