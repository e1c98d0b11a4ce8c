// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/registry"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run starts a registry and returns what ends it.
func run(t *testing.T, o registry.Options) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	o.Ready = func() { close(ready) }
	go func() { ended <- registry.Run(ctx, o) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return func() {
		cancel()
		must(t, <-ended)
	}
}

// address is one that is free, and stays so between two starts: connections of others have other addresses than this one.
func address(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.93.7.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

func TestWhatWasPushedIsThereAfterANewStart(t *testing.T) {
	o := registry.Options{Address: address(t), Dir: filepath.Join(t.TempDir(), "data"), LogFile: filepath.Join(t.TempDir(), "log")}
	stop := run(t, o)
	repo, err := remote.NewRepository(o.Address + "/a/b")
	must(t, err)
	repo.PlainHTTP = true
	text := []byte("hello")
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(text), Size: int64(len(text))}
	must(t, repo.Push(t.Context(), layer, bytes.NewReader(text)))
	pushed, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "application/x", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}})
	must(t, err)
	must(t, repo.Tag(t.Context(), pushed, "v1"))
	stop()
	if _, err := repo.Resolve(t.Context(), "v1"); err == nil {
		t.Error("it answers after its end")
	}

	stop = run(t, o)
	defer stop()
	found, err := repo.Resolve(t.Context(), "v1")
	if err != nil || found.Digest != pushed.Digest {
		t.Errorf("got %s, %v; want %s", found.Digest, err, pushed.Digest)
	}
	if log, err := os.ReadFile(o.LogFile); err != nil || !bytes.Contains(log, []byte("/v2/a/b/manifests/v1")) {
		t.Errorf("the log does not say what was asked for: %s, %v", log, err)
	}
	must(t, repo.Delete(t.Context(), found))
	if _, err := repo.Resolve(t.Context(), "v1"); err == nil {
		t.Error("what was deleted is there")
	}
}

func TestWhatCannotBeServedIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	log := filepath.Join(t.TempDir(), "log")
	for name, o := range map[string]registry.Options{
		"FolderIsAFile": {Address: address(t), Dir: file, LogFile: log},
		"NoSuchAddress": {Address: "127.0.0.1:x", Dir: t.TempDir(), LogFile: log},
	} {
		t.Run(name, func(t *testing.T) {
			o.Ready = func() { t.Error("it says that it is ready") }
			if err := registry.Run(t.Context(), o); err == nil {
				t.Error("no error")
			}
		})
	}
}
