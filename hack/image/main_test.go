// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// Of a small program: for the flags of an image, all packages of the operator would be compiled anew, which takes minutes.
func TestImage(t *testing.T) { testImage(t, "./testdata/program") }

// testImage reads the layout as whoever pushes it does.
func testImage(t *testing.T, source string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image")
	first, err := build(t.Context(), out, source, "abc", []string{"linux/" + runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	folder, err := layout.FromPath(out)
	if err != nil {
		t.Fatal(err)
	}
	top, err := folder.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	index, err := top.ImageIndex(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Platform.Architecture != runtime.GOARCH {
		t.Fatalf("manifests %+v, %v", manifest, err)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; c.User != "65532:65532" || len(c.Entrypoint) != 1 || c.Entrypoint[0] != "/cluster-stack-operator" ||
		config.Architecture != runtime.GOARCH || c.Labels["org.opencontainers.image.revision"] != "abc" {
		t.Errorf("config %+v", config)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(content)
	for {
		header, err := files.Next()
		if err != nil {
			t.Fatalf("no program in the image: %v", err)
		}
		if header.Name != program {
			continue
		}
		var data bytes.Buffer
		if _, err := io.Copy(&data, files); err != nil {
			t.Fatal(err)
		}
		binary, err := elf.NewFile(bytes.NewReader(data.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := binary.ImportedLibraries(); err != nil || len(libraries) > 0 || header.Mode&0o111 == 0 {
			t.Errorf("the program is not static, or not executable: %v, %v, %o", libraries, err, header.Mode)
		}
		break
	}

	// Once more, elsewhere.
	if again, err := build(t.Context(), filepath.Join(t.TempDir(), "again"), source, "abc", []string{"linux/" + runtime.GOARCH}); err != nil || again != first {
		t.Errorf("built again it is %s, %v; was %s", again, err, first)
	}
	if _, err := os.Stat(filepath.Join(out, "oci-layout")); err != nil {
		t.Error(err)
	}
}
