// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
)

const simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"

// counted is a registry that counts the requests that change something.
func counted(t *testing.T) (*registrytest.Registry, *atomic.Int32) {
	t.Helper()
	changes := &atomic.Int32{}
	return registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method != http.MethodGet && req.Method != http.MethodHead {
				changes.Add(1)
			}
			next.ServeHTTP(w, req)
		})
	}}), changes
}

// signedOnce is a signature of the older form by somebody: all sign the same payload.
func signedOnce(by string) ocispec.Descriptor {
	desc := layer("", "payload")
	desc.MediaType, desc.Annotations = simpleSigning, map[string]string{"dev.cosignproject.cosign/signature": by}
	return desc
}

// pushSignatures puts signatures of the older form beside a release, as cosign does: in something that looks like an image.
func pushSignatures(t *testing.T, r *registrytest.Registry, sum string, by ...string) {
	t.Helper()
	repo := raw(t, r)
	image := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	for _, one := range by {
		desc := signedOnce(one)
		manifest.Layers = append(manifest.Layers, desc)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, desc.Digest)
		image.History = append(image.History, ocispec.History{Comment: one})
	}
	config, err := json.Marshal(image)
	must(t, err)
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	data, err := json.Marshal(manifest)
	must(t, err)
	for _, blob := range [][]byte{config, []byte("payload")} {
		must(t, repo.Blobs().Push(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}, bytes.NewReader(blob)))
	}
	desc := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	must(t, repo.Manifests().PushReference(t.Context(), desc, bytes.NewReader(data), strings.Replace(sum, ":", "-", 1)+".sig"))
}

// signatureList returns who has signed a release in the older form, as the manifest and as its configuration say it.
func signatureList(t *testing.T, repo *remote.Repository, sum string) (layers, config []string) {
	t.Helper()
	_, body, err := repo.FetchReference(t.Context(), strings.Replace(sum, ":", "-", 1)+".sig")
	must(t, err)
	var manifest ocispec.Manifest
	must(t, errors.Join(json.NewDecoder(body).Decode(&manifest), body.Close()))
	for _, l := range manifest.Layers {
		layers = append(layers, l.Annotations["dev.cosignproject.cosign/signature"])
	}
	body, err = repo.Blobs().Fetch(t.Context(), manifest.Config)
	must(t, err)
	var image ocispec.Image
	must(t, errors.Join(json.NewDecoder(body).Decode(&image), body.Close()))
	for i, history := range image.History {
		if image.RootFS.DiffIDs[i] != manifest.Layers[i].Digest {
			t.Errorf("layer %d has the digest %s, and the configuration says %s", i, manifest.Layers[i].Digest, image.RootFS.DiffIDs[i])
		}
		config = append(config, history.Comment)
	}
	return layers, config
}

// Who mirrors a release may sign it as well, and so may others at either end.
func TestCopyKeepsSignaturesThatOnlyTheTargetHas(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to, want []string
		added          int
	}{
		"New":           {from: []string{"a", "b"}, want: []string{"a", "b"}, added: 1},
		"TargetHasMore": {from: []string{"a"}, to: []string{"a", "ours"}, want: []string{"a", "ours"}},
		"OtherOrder":    {from: []string{"a", "b"}, to: []string{"b", "a"}, want: []string{"b", "a"}},
		"SourceHasMore": {from: []string{"a", "b"}, to: []string{"a"}, want: []string{"a", "b"}, added: 1},
		"BothHaveMore":  {from: []string{"a", "b"}, to: []string{"ours", "a"}, want: []string{"ours", "a", "b"}, added: 1},
		"Apart":         {from: []string{"a", "b"}, to: []string{"ours"}, want: []string{"ours", "a", "b"}, added: 1},
	} {
		t.Run(name, func(t *testing.T) {
			there := registrytest.Start(t, registrytest.Options{})
			here, changes := counted(t)
			from, to := open(t, there, oci.Credentials{}), open(t, here, oci.Credentials{})
			release := parse(t, tag)
			sum, err := from.Publish(t.Context(), release, releasetest.Multistage(tag), created, nil)
			must(t, err)
			pushSignatures(t, there, sum, tc.from...)
			if tc.to != nil {
				_, err = to.Publish(t.Context(), release, releasetest.Multistage(tag), created, nil)
				must(t, err)
				pushSignatures(t, here, sum, tc.to...)
			}
			done, err := from.Copy(t.Context(), release, to, oci.CopyOptions{})
			must(t, err)
			if done.Referrers != 1 || done.Added != tc.added {
				t.Errorf("got %d artifacts, %d of them added; want 1, %d", done.Referrers, done.Added, tc.added)
			}
			layers, config := signatureList(t, raw(t, here), sum)
			if !slices.Equal(layers, tc.want) || !slices.Equal(config, tc.want) {
				t.Errorf("got signatures by %q, and by %q in the configuration; want %q", layers, config, tc.want)
			}
			found, err := to.Signatures(t.Context(), release, sum)
			if err != nil || len(found) != len(tc.want) {
				t.Errorf("found %d signatures, %v", len(found), err)
			}
			changes.Store(0)
			done, err = from.Copy(t.Context(), release, to, oci.CopyOptions{})
			if err != nil || !done.Existed || done.Added != 0 || changes.Load() != 0 {
				t.Errorf("a second time: %+v, %v, with %d changes", done, err, changes.Load())
			}
		})
	}
}
