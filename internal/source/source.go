// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package source says what a place is in which releases live.
//
// Its sub-packages are the implementations; package sourcetest has the behaviour that they share.
// Whether a fetched release is any good, and where it is kept, is for others.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// ErrNotFound is wrapped by the error of Fetch when the source answers that it has no such release.
var ErrNotFound = errors.New("not published")

// ErrUnauthorized is wrapped by errors that other credentials cure.
var ErrUnauthorized = errors.New("access denied")

// Source is a place in which releases live.
type Source interface {
	// List returns the releases of the source in no particular order. What is not called like a
	// release is left out without a word, because sources are shared with other things. An incomplete
	// list is an error.
	List(ctx context.Context) ([]Offer, error)

	// Fetch writes the files of a release into dst, an empty folder, and returns their digest in the
	// form "sha256:<64 hexadecimal digits>". Equal digests mean equal files. After an error the
	// contents of dst are undefined.
	Fetch(ctx context.Context, name release.Name, dst *os.Root) (digest string, err error)
}

// Offer is a release that a source has.
type Offer struct {
	Name release.Name
	// Published is when it was put there. It is zero when the source does not know, or would have to be
	// asked for each release; see Dated.
	Published time.Time
}

// Dated is a Source whose List does not say when releases were published, but that can be asked.
type Dated interface {
	// Published returns when a release was put there, and the zero time when nobody wrote it down.
	Published(ctx context.Context, name release.Name) (time.Time, error)
}

// Resolver is a Source that can say cheaply which digest Fetch would return.
type Resolver interface {
	Resolve(ctx context.Context, name release.Name) (digest string, err error)
}

// Addressed is a Source that has releases by their digest, too, whatever has become of their names.
type Addressed interface {
	// FetchDigest is Fetch for the release for which Fetch once returned this digest.
	FetchDigest(ctx context.Context, name release.Name, digest string, dst *os.Root) error
}

// Signer is a Source that keeps signatures apart from the files of a release.
type Signer interface {
	// Signatures returns what is offered as signatures of what Fetch returned this digest for. That there
	// are none is no error. Nothing is proven by them yet.
	Signatures(ctx context.Context, name release.Name, digest string) ([]verify.Signature, error)
}

// ErrPublished is wrapped by the error of Put when a release of that name has other contents.
var ErrPublished = errors.New("published already with other contents; give the release a new version")

// Publisher is a Source into which releases can be put.
type Publisher interface {
	// Put publishes a release with all regular files of a folder. Nobody finds half a release: what was begun and not
	// finished is not there yet, and is finished by the next call with the same files. The same files again change
	// nothing. A release that has others is left as it is, and the error wraps ErrPublished.
	//
	// Files for which verify.Signs is true do not count as contents. A source that looks for signatures there adds those
	// that a published release lacks; a Signer leaves them out then.
	Put(ctx context.Context, name release.Name, files fs.FS, about Publication) (Published, error)
}

// Publication is what is said about a release beside its files. Its zero value works.
type Publication struct {
	// Created is when the release was made, now if it is zero.
	Created time.Time
	// Annotations are kept by sources that have a place for them.
	Annotations map[string]string
	// Uploaded, if set, is called after each file, and says whether it was there already.
	Uploaded func(file string, size int64, there bool)
}

// Published is what came of publishing a release.
type Published struct {
	Digest string
	// Existed says that the release was there already, with the same files.
	Existed bool
	// Signed says that such a release has got signatures that it lacked.
	Signed bool
}

// File is a file of a release that is to be published.
type File struct {
	Name string
	Data []byte
	// Sum is the sha256 sum of Data, in hexadecimal digits.
	Sum string
}

// SumsOf returns the sums of files by their names.
func SumsOf(files []File) map[string]string {
	sums := map[string]string{}
	for _, f := range files {
		sums[f.Name] = f.Sum
	}
	return sums
}

// SameContents tells whether two releases have the same files, whoever vouches for them. The sums are by name, and may have
// any form.
func SameContents[S ~string](a, b map[string]S) bool {
	contents := func(sums map[string]S) map[string]S {
		sums = maps.Clone(sums)
		maps.DeleteFunc(sums, func(name string, _ S) bool { return verify.Signs(name) })
		return sums
	}
	return maps.Equal(contents(a), contents(b))
}

// Lacking returns what a published release with the same contents lacks of the signatures that are among files, under
// names that are free there: the list of checksums first. There has the files of the published release for which
// verify.Signs is true. A signature that somebody has made once more, as one with a certificate cannot be made the same
// again, is not lacking.
func Lacking(there, files []File) ([]File, error) {
	names, sums, vouched, n := map[string]bool{}, map[string]bool{}, map[string]bool{}, 0
	var list []byte
	for _, f := range there {
		names[f.Name], sums[f.Sum] = true, true
		if f.Name == verify.SumsFile {
			list = f.Data
		} else {
			n++
		}
	}
	for _, f := range there {
		vouched[verify.ClaimedBy(f.Data, list)] = true
	}
	var lacking []File
	for _, f := range files {
		switch claimed := verify.ClaimedBy(f.Data, list); {
		case !verify.Signs(f.Name), sums[f.Sum], claimed != "" && vouched[claimed]:
			continue
		case f.Name == verify.SumsFile && list != nil:
			return nil, fmt.Errorf("its files are there already, with a %s that is written in another way, which the signatures are not for: fetch it, sign that, and publish it; or, if that one does not fit the files, remove it there with its signatures", verify.SumsFile)
		case names[f.Name]:
			f.Name = verify.SignatureName(f.Name, f.Data)
		}
		if f.Name != verify.SumsFile {
			n++
		}
		lacking = append(lacking, f)
	}
	if n > verify.MaxSumsSignatures {
		return nil, fmt.Errorf("it would have %d signatures; %d is what a release may bring along", n, verify.MaxSumsSignatures)
	}
	return lacking, nil
}

// ReadFiles reads the regular files of a folder in the order of their names, within the limits of a release. It ends with
// an error when there are none.
func ReadFiles(fsys fs.FS) ([]File, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var files []File
	total := 0
	for _, entry := range entries {
		info, err := fs.Stat(fsys, entry.Name())
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if err := CheckFileName(entry.Name()); err != nil {
			return nil, err
		}
		if info.Size() > MaxFileSize {
			return nil, fmt.Errorf("%s is larger than %s", entry.Name(), inWords(MaxFileSize))
		}
		data, err := fs.ReadFile(fsys, entry.Name())
		if err != nil {
			return nil, err
		}
		if total += len(data); total > MaxTotalSize {
			return nil, fmt.Errorf("it is larger than %s", inWords(MaxTotalSize))
		}
		sum := sha256.Sum256(data)
		files = append(files, File{Name: entry.Name(), Data: data, Sum: hex.EncodeToString(sum[:])})
	}
	switch {
	case len(files) == 0:
		return nil, errors.New("it has no files")
	case len(files) > MaxFiles:
		return nil, fmt.Errorf("it has more than %d files", MaxFiles)
	}
	return files, nil
}

// MalformedError says what is wrong with a release as the source has it.
type MalformedError struct {
	Name   release.Name
	Reason error
}

func (e *MalformedError) Error() string { return fmt.Sprintf("release %s: %v", e.Name, e.Reason) }
func (e *MalformedError) Unwrap() error { return e.Reason }

// Permanent reports that only another release can cure a malformed one.
func (e *MalformedError) Permanent() bool { return true }

// LaterError says that a source wants to be left alone for a while.
type LaterError struct {
	// After is how long. It is not part of the message, which would change all the time.
	After time.Duration
	Err   error
}

func (e *LaterError) Error() string { return e.Err.Error() }
func (e *LaterError) Unwrap() error { return e.Err }

// RetryAfter returns for how long the source that an error comes from wants to be left alone.
func RetryAfter(err error) time.Duration {
	var later *LaterError
	if errors.As(err, &later) {
		return later.After
	}
	return 0
}

// Limits on what is fetched, for all sources.
const (
	MaxFiles     = 64
	MaxFileSize  = 64 << 20
	MaxTotalSize = 256 << 20
)

// Digest returns a digest over the names and contents of the regular files in a folder, for sources
// that have no digest of their own. Folders inside are not part of a release and left out, and so is who vouches for
// it: a release that is signed once more stays the one that it was.
func Digest(fsys fs.FS) (string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return "", err
	}
	sums := map[string]string{}
	for _, entry := range entries {
		info, err := fs.Stat(fsys, entry.Name())
		if err != nil {
			return "", err
		}
		if !info.Mode().IsRegular() || verify.Signs(entry.Name()) {
			continue
		}
		if sums[entry.Name()], err = fileSum(fsys, entry.Name()); err != nil {
			return "", err
		}
	}
	return DigestOf(sums)
}

// DigestOf is Digest for files whose contents have the given sha256 sums, in hexadecimal digits, by name.
func DigestOf(sums map[string]string) (string, error) {
	all := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if verify.Signs(name) {
			continue
		}
		if strings.ContainsRune(name, '\n') {
			return "", fmt.Errorf("file name %q contains a line break", name)
		}
		_, _ = fmt.Fprintf(all, "%s  %s\n", sums[name], name) // a hash takes everything
	}
	return "sha256:" + hex.EncodeToString(all.Sum(nil)), nil
}

// CheckFileName returns an error when a file of a release may not be called so. What is not a file but
// lies in a folder is not for this function.
func CheckFileName(name string) error {
	if name == "." || !fs.ValidPath(name) || strings.ContainsAny(name, "/\\\n\r\x00") || len(name) > 255 {
		return fmt.Errorf("a file cannot be called %.300q", name)
	}
	return nil
}

// Save writes a file of a release into a folder and returns its sha256 sum in hexadecimal digits. Of
// contents that are larger than limit, which is at most MaxFileSize, it reads no more than that. The context may
// say who has to be asked for room.
func Save(ctx context.Context, dst *os.Root, name string, contents io.Reader, limit int64) (size int64, sum string, err error) {
	if err := CheckFileName(name); err != nil {
		return 0, "", err
	}
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, "", err
	}
	limit = min(limit, MaxFileSize)
	hash := sha256.New()
	size, err = io.Copy(io.MultiWriter(reserving(ctx), out, hash), io.LimitReader(contents, limit+1))
	if err = errors.Join(err, out.Close()); err != nil {
		return size, "", fmt.Errorf("%s: %w", name, err)
	}
	if size > limit {
		return size, "", fmt.Errorf("%s is larger than %s", name, inWords(limit))
	}
	return size, hex.EncodeToString(hash.Sum(nil)), nil
}

type reserveKey struct{}

// WithReserve has Save ask before it writes. What reserve returns an error for is not written.
func WithReserve(ctx context.Context, reserve func(n int64) error) context.Context {
	return context.WithValue(ctx, reserveKey{}, reserve)
}

// reserving asks for all that is written to it.
func reserving(ctx context.Context) io.Writer {
	reserve, ok := ctx.Value(reserveKey{}).(func(int64) error)
	if !ok {
		return io.Discard
	}
	return writer(func(p []byte) (int, error) {
		if err := reserve(int64(len(p))); err != nil {
			return 0, err
		}
		return len(p), nil
	})
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func inWords(n int64) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

func fileSum(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read from
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
