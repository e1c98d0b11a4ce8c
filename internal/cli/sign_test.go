// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sign"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

func newSigner(t *testing.T) (*sign.Signer, *verify.Policy) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.New(key)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := ownPolicy(t.Context(), signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer, policy
}

func signedFolder(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), placeTag)
	if err := os.CopyFS(folder, releasetest.Multistage(placeTag)); err != nil {
		t.Fatal(err)
	}
	return folder
}

// Whoever looks, and wherever a signing is cut off: what was signed stays signed.
func TestAFolderIsSignedAtEveryInstantWhileOthersSignIt(t *testing.T) {
	folder := signedFolder(t)
	signer, policy := newSigner(t)
	if err := signFolder(t.Context(), folder, signer, policy); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() {
		for range verify.MaxSumsSignatures - 1 {
			other, theirs := newSigner(t)
			if err := signFolder(t.Context(), folder, other, theirs); err != nil {
				over <- err
				return
			}
		}
		over <- nil
	}()
	looks := 0
	for done := false; !done; looks++ {
		select {
		case err := <-over:
			if done = true; err != nil {
				t.Error(err)
			}
		default:
		}
		sums, err := readSums(os.DirFS(folder))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.VerifySums(sums); err != nil {
			t.Fatalf("look %d: %v", looks, err)
		}
	}
	t.Logf("%d looks", looks)

	last, lasts := newSigner(t)
	if err := signFolder(t.Context(), folder, last, lasts); err == nil || !strings.Contains(err.Error(), "16 signatures already") {
		t.Errorf("a signature that the operator would not look at: %v", err)
	}
}

// A list that somebody else has written stays as it is, as long as it fits: his signature is for it.
func TestASignatureIsAddedToTheListThatIsThere(t *testing.T) {
	folder := signedFolder(t)
	signer, policy := newSigner(t)
	sums, err := readSums(os.DirFS(folder))
	if err != nil {
		t.Fatal(err)
	}
	list := strings.ReplaceAll(string(sign.Sums(sums.Files)), "  ", " *")
	if err := os.WriteFile(filepath.Join(folder, verify.SumsFile), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := signFolder(t.Context(), folder, signer, policy); err != nil {
		t.Fatal(err)
	}
	sums, err = readSums(os.DirFS(folder))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.VerifySums(sums); err != nil || string(sums.List) != list {
		t.Errorf("got %v, with the list %s", err, sums.List)
	}
}
