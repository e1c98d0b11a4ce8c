// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command image builds the image of the operator for several architectures into an OCI layout, a folder that skopeo,
// crane, podman and others push or load. It needs Go only, and the same sources come out as the same digest.
//
// The image has the static program and nothing else, no shell and no certificates: the program brings the authorities of
// Mozilla for a system that has none.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const program = "cluster-stack-operator"

func main() {
	out := flag.String("output", "bin/image", "folder of the OCI layout, replaced if it exists")
	platforms := flag.String("platforms", "linux/amd64,linux/arm64", "operating systems and architectures")
	revision := flag.String("revision", "unknown", "commit that the image is built from")
	flag.Parse()
	digest, err := build(context.Background(), *out, "./cmd/"+program, *revision, strings.Split(*platforms, ","))
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("%s@%s\n", *out, digest)
}

// build compiles a package into the program of the image, writes the layout, and returns the digest of the index, by which
// the image is known in a registry.
func build(ctx context.Context, out, source, revision string, platforms []string) (v1.Hash, error) {
	work, err := os.MkdirTemp("", "image-")
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range platforms {
		system, architecture, ok := strings.Cut(platform, "/")
		if !ok {
			return v1.Hash{}, fmt.Errorf("platform %q: must be <system>/<architecture>", platform)
		}
		image, err := imageFor(ctx, work, source, system, architecture, revision)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("%s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: system, Architecture: architecture}},
		})
	}
	if err := os.RemoveAll(out); err != nil {
		return v1.Hash{}, err
	}
	folder, err := layout.Write(out, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := folder.AppendIndex(index); err != nil {
		return v1.Hash{}, err
	}
	return index.Digest()
}

func imageFor(ctx context.Context, work, source, system, architecture, revision string) (v1.Image, error) {
	binary := filepath.Join(work, program+"-"+architecture)
	compile := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", binary, source)
	compile.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+architecture, "GOFLAGS=-mod=readonly")
	compile.Stderr = os.Stderr
	if err := compile.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", compile, err)
	}
	content, err := archive(binary)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, err
	}
	return mutate.ConfigFile(image, config(image, system, architecture, revision))
}

// config says how the image runs: as the user that nobody is.
func config(image v1.Image, system, architecture, revision string) *v1.ConfigFile {
	file, err := image.ConfigFile()
	if err != nil {
		panic(err) // it was made a moment ago, in memory
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = system, architecture
	file.Created, file.History = v1.Time{Time: time.Unix(0, 0).UTC()}, nil
	file.Config = v1.Config{
		User: "65532:65532", Entrypoint: []string{"/" + program}, WorkingDir: "/", Env: []string{"PATH=/"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    program,
			"org.opencontainers.image.source":   "https://github.com/clusterstacks/cluster-stack-operator",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.revision": revision,
		},
	}
	return file
}

// archive puts the program into a layer, in which nothing depends on when or where it is made.
func archive(binary string) ([]byte, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	// A folder for what is temporary, for a container without volumes.
	for _, header := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
		{Typeflag: tar.TypeReg, Name: program, Mode: 0o755, Size: int64(len(data))},
	} {
		header.ModTime, header.Format = time.Unix(0, 0), tar.FormatPAX
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	return out.Bytes(), w.Close()
}
