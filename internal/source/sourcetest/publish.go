// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sourcetest

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
)

// Publisher is a source into which releases can be put.
type Publisher interface {
	source.Source
	source.Publisher
}

// RunPublisher checks the behaviour that all sources share into which releases can be put. serve returns an empty one.
func RunPublisher(t *testing.T, serve func(t *testing.T) Publisher) {
	const tag = "docker-scs-1-35-v1"
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	put := func(t *testing.T, to Publisher, files fstest.MapFS) (source.Published, []string, error) {
		t.Helper()
		var uploaded []string
		done, err := to.Put(t.Context(), name, files, source.Publication{Uploaded: func(file string, _ int64, _ bool) { uploaded = append(uploaded, file) }})
		return done, uploaded, err
	}

	t.Run("WhatIsPutCanBeFetched", func(t *testing.T) {
		to := serve(t)
		done, uploaded, err := put(t, to, releasetest.Multistage(tag))
		if err != nil || done.Existed {
			t.Fatalf("got %+v, %v", done, err)
		}
		if want := len(releasetest.Multistage(tag)); len(uploaded) != want {
			t.Errorf("told of %v, want %d files", uploaded, want)
		}
		if diff := cmp.Diff([]string{tag}, list(t, to)); diff != "" {
			t.Error(diff)
		}
		digest, files := fetch(t, to, name)
		if digest != done.Digest {
			t.Errorf("put %s and fetched %s", done.Digest, digest)
		}
		if _, err := release.Open(files, name); err != nil {
			t.Error(err)
		}
	})

	t.Run("TheSameAgainChangesNothing", func(t *testing.T) {
		to := serve(t)
		first, _, err := put(t, to, releasetest.Multistage(tag))
		if err != nil {
			t.Fatal(err)
		}
		again, uploaded, err := put(t, to, releasetest.Multistage(tag))
		if err != nil || !again.Existed || again.Digest != first.Digest || len(uploaded) > 0 {
			t.Errorf("got %+v, %v, %v; want %s once more", again, err, uploaded, first.Digest)
		}
	})

	t.Run("OtherContentsAreRefused", func(t *testing.T) {
		for change, harm := range map[string]func(fstest.MapFS){
			"Changed": func(files fstest.MapFS) {
				files[release.MetadataFile].Data = append(files[release.MetadataFile].Data, '\n')
			},
			"More": func(files fstest.MapFS) { files["more"] = &fstest.MapFile{Data: []byte("x")} },
			"Less": func(files fstest.MapFS) { delete(files, release.StagesFile) },
		} {
			t.Run(change, func(t *testing.T) {
				to := serve(t)
				first, _, err := put(t, to, releasetest.Multistage(tag))
				if err != nil {
					t.Fatal(err)
				}
				other := releasetest.Multistage(tag)
				harm(other)
				if _, _, err := put(t, to, other); !errors.Is(err, source.ErrPublished) {
					t.Errorf("got %v", err)
				}
				if digest, _ := fetch(t, to, name); digest != first.Digest {
					t.Errorf("it has become %s", digest)
				}
			})
		}
	})

	t.Run("SignaturesAreNotPartOfIt", func(t *testing.T) {
		to := serve(t)
		_, apart := to.(source.Signer)
		first, second := verifytest.NewKey(t), verifytest.NewKey(t)
		signed := map[*verifytest.Key]fstest.MapFS{}
		for _, k := range []*verifytest.Key{first, second} {
			signed[k] = releasetest.Multistage(tag)
			k.SignFiles(signed[k])
		}
		plain, _, err := put(t, to, releasetest.Multistage(tag))
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []*verifytest.Key{first, second, first} {
			done, _, err := put(t, to, signed[k])
			if err != nil || !done.Existed || done.Digest != plain.Digest {
				t.Fatalf("got %+v, %v; want %s once more", done, err, plain.Digest)
			}
		}
		// Signed by whom does not matter for whether it is another release.
		other := releasetest.Multistage(tag)
		other[release.StagesFile].Data = append(other[release.StagesFile].Data, '\n')
		first.SignFiles(other)
		if _, _, err := put(t, to, other); !errors.Is(err, source.ErrPublished) {
			t.Errorf("got %v", err)
		}
		if done, _, err := put(t, to, releasetest.Multistage(tag)); err != nil || !done.Existed || done.Signed {
			t.Errorf("without signatures: got %+v, %v", done, err)
		}
		digest, files := fetch(t, to, name)
		if digest != plain.Digest {
			t.Errorf("it has become %s", digest)
		}
		sums := sumsOf(t, files)
		if apart {
			if len(sums.Signatures) > 0 {
				t.Errorf("%d signatures came in, where nobody looks for them", len(sums.Signatures))
			}
			return
		}
		if len(sums.Signatures) != 2 {
			t.Errorf("there are %d signatures, want one of each key", len(sums.Signatures))
		}
		for _, k := range []*verifytest.Key{first, second} {
			if _, err := verifytest.Policy(t, k).VerifySums(sums); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("AListThatIsWrittenInAnotherWayIsNotReplaced", func(t *testing.T) {
		to := serve(t)
		if _, apart := to.(source.Signer); apart {
			return // nobody looks at lists there
		}
		k := verifytest.NewKey(t)
		files := releasetest.Multistage(tag)
		k.SignFiles(files)
		if _, _, err := put(t, to, files); err != nil {
			t.Fatal(err)
		}
		list := bytes.ReplaceAll(files[verify.SumsFile].Data, []byte("  "), []byte(" *"))
		files[verify.SumsFile] = &fstest.MapFile{Data: list}
		files[verify.SumsSignature] = &fstest.MapFile{Data: k.Sign(list)}
		if _, _, err := put(t, to, files); err == nil || !strings.Contains(err.Error(), "written in another way") {
			t.Errorf("got %v", err)
		}
		_, got := fetch(t, to, name)
		if _, err := verifytest.Policy(t, k).VerifySums(sumsOf(t, got)); err != nil {
			t.Error(err)
		}
	})

	t.Run("NothingIsNoRelease", func(t *testing.T) {
		if _, _, err := put(t, serve(t), fstest.MapFS{}); err == nil {
			t.Error("published")
		}
	})
}

func sumsOf(t *testing.T, files fs.FS) verify.Sums {
	t.Helper()
	all, err := source.ReadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	sums := verify.Sums{Files: source.SumsOf(all)}
	for _, f := range all {
		if verify.Signs(f.Name) {
			sums.Take(f.Name, f.Data)
		}
	}
	return sums
}
