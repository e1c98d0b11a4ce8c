// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Whatever a manifest says, its files stay within the folder and the limits.
func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		`{"layers":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"annotations":{"org.opencontainers.image.title":"metadata.yaml"}}]}`,
		`{"layers":[{"digest":"sha256:..","size":-1,"annotations":{"org.opencontainers.image.title":"../x"}}]}`,
		`{"layers":[{"size":1e99}]}`, `{"layers":null}`, `[]`, `{"mediaType":"x"}`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		manifest, err := parseManifest(ocispec.MediaTypeImageManifest, data)
		if err != nil {
			return
		}
		found, err := files(manifest)
		if err != nil {
			return
		}
		total := int64(0)
		for _, file := range found {
			if !filepath.IsLocal(file.name) || filepath.Base(file.name) != file.name || file.desc.Size < 0 || file.desc.Digest.Validate() != nil {
				t.Errorf("accepted %+v", file)
			}
			total += file.desc.Size
		}
		if len(found) == 0 || len(found) > source.MaxFiles || total > source.MaxTotalSize {
			t.Errorf("accepted %d files of %d bytes", len(found), total)
		}
	})
}
