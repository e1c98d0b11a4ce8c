// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// Of a small program: for the flags of an image, all packages of the operator would be compiled anew, which takes minutes.
func TestImage(t *testing.T) { testImage(t, "./testdata/program", "hello") }

// testImage reads the layout as whoever pushes it does, and starts its program, which greets.
func testImage(t *testing.T, source, greeting string) {
	t.Helper()
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	platforms := []string{"linux/amd64", "linux/arm64"}
	out := filepath.Join(t.TempDir(), "image")
	first, err := build(t.Context(), out, source, "abc", platforms)
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
	if err != nil {
		t.Fatal(err)
	}
	var built []string
	for _, m := range manifest.Manifests {
		built = append(built, m.Platform.String())
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Platform().String() != m.Platform.String() {
			t.Errorf("%s: the config says %s", m.Platform, config.Platform())
		}
		want := v1.Config{
			User: "65532:65532", Entrypoint: []string{"/" + program}, WorkingDir: "/", Env: []string{"PATH=/"},
			Labels: map[string]string{
				"org.opencontainers.image.title":    program,
				"org.opencontainers.image.source":   "https://github.com/clusterstacks/cluster-stack-operator",
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.revision": "abc",
			},
		}
		if diff := cmp.Diff(want, config.Config); diff != "" {
			t.Errorf("%s: config (-want +got):\n%s", m.Platform, diff)
		}
		data := content(t, image)
		binary, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := binary.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("%s: the program is not static: %v, %v", m.Platform, libraries, err)
		}
		if binary.Machine != machines[m.Platform.Architecture] {
			t.Errorf("%s: the program is for %s", m.Platform, binary.Machine)
		}
		if m.Platform.Architecture == runtime.GOARCH {
			file := filepath.Join(t.TempDir(), program)
			if err := os.WriteFile(file, data, 0o700); err != nil {
				t.Fatal(err)
			}
			run := exec.CommandContext(t.Context(), file, "--help")
			run.Env = []string{} // as empty as the image
			if said, err := run.CombinedOutput(); err != nil || !strings.Contains(string(said), greeting) {
				t.Errorf("%s: the program says %q, %v", m.Platform, said, err)
			}
		}
	}
	if diff := cmp.Diff(platforms, built); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}

	// Once more, elsewhere.
	if again, err := build(t.Context(), filepath.Join(t.TempDir(), "again"), source, "abc", platforms); err != nil || again != first {
		t.Errorf("built again it is %s, %v; was %s", again, err, first)
	}
	if _, err := os.Stat(filepath.Join(out, "oci-layout")); err != nil {
		t.Error(err)
	}
}

// content returns the program in an image, which has nothing else but a folder for what is temporary.
func content(t *testing.T, image v1.Image) []byte {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	unpacked, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unpacked.Close() }()
	var data []byte
	modes := map[string]int64{}
	for files := tar.NewReader(unpacked); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		modes[header.Name] = header.Mode
		if header.Name == program {
			if data, err = io.ReadAll(files); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(map[string]int64{"tmp/": 0o1777, program: 0o755}, modes); diff != "" {
		t.Errorf("files of the image (-want +got):\n%s", diff)
	}
	return data
}
