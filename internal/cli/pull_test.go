// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
)

// keyPair writes a private key and its public one into files.
func keyPair(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	folder := t.TempDir()
	private, public = filepath.Join(folder, "key.pem"), filepath.Join(folder, "key.pub")
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	der, err = x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	must(t, os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	return private, public
}

// What cannot be parsed tells by its error whether a parser has seen it.
func TestPullReadsNothingThatIsNotSigned(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	private, public := keyPair(t)
	r := registrytest.Start(t, registrytest.Options{})
	broken := releasetest.Multistage(placeTag)
	broken[release.MetadataFile] = &fstest.MapFile{Data: []byte("\tthis is no YAML")}
	stacks := openStacks(t, r, "broken")
	_, err := stacks.Publish(t.Context(), parseName(t, placeTag), broken, created, nil)
	must(t, err)
	for name, place := range map[string]string{
		"Registry": "oci://" + r.Host + "/broken:" + placeTag,
		"Folder":   writeFiles(t, filepath.Join(t.TempDir(), placeTag), broken),
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			_, stderr, code := runCsctl(t, "pull", place, "--plain-http", "--output", folder, "--key", public)
			if code == 0 || strings.Contains(stderr, release.MetadataFile) || !strings.Contains(stderr, "signature") {
				t.Errorf("ends with %d: %s", code, stderr)
			}
			if found, err := os.ReadDir(folder); err != nil || len(found) > 0 {
				t.Errorf("the folder has %v, %v", found, err)
			}
		})
	}
	good := "oci://" + r.Host + "/good"
	publishFiles(t, openStacks(t, r, "good"), placeTag, "")
	mustCsctl(t, "sign", good+":"+placeTag, "--plain-http", "--key", private)
	folder := t.TempDir()
	stdout, stderr, code := runCsctl(t, "pull", good+":"+placeTag, "--plain-http", "--output", folder, "--key", public)
	if code != 0 || !strings.Contains(stderr, placeTag+" is signed by ") || !strings.Contains(stdout, placeTag+" is in ") {
		t.Errorf("a good one: ends with %d:\n%s%s", code, stdout, stderr)
	}
	if found, err := os.ReadDir(filepath.Join(folder, placeTag)); err != nil || len(found) != len(releasetest.Multistage(placeTag)) {
		t.Errorf("the folder has %v, %v", found, err)
	}

	// As in the operator, a signature does not count for charts that come from elsewhere.
	repository := chartrepotest.Start(t, cilium("1.16.6"))
	_, err = openStacks(t, r, "lacking").Publish(t.Context(), parseName(t, placeTag), lacking(placeTag, repository.URL), created, nil)
	must(t, err)
	place := "oci://" + r.Host + "/lacking:" + placeTag
	mustCsctl(t, "sign", place, "--plain-http", "--key", private)
	if _, stderr, code := runCsctl(t, "pull", place, "--plain-http", "--output", t.TempDir(), "--key", public); code == 0 || !strings.Contains(stderr, "which nobody has signed") {
		t.Errorf("ends with %d: %s", code, stderr)
	}
}
