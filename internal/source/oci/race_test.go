// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
)

func TestOfTwoWhoPublishAtOnceOneIsTold(t *testing.T) {
	different := func() fstest.MapFS {
		files := releasetest.Multistage(tag)
		files["more.yaml"] = &fstest.MapFile{Data: []byte("x: y")}
		return files
	}
	uploads := func(req *http.Request) bool { return req.Method == http.MethodPost }
	tags := func(req *http.Request) bool {
		return req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, "/manifests/"+tag)
	}
	for name, tc := range map[string]struct {
		// The other one comes with the first request of this kind, before or after the registry has answered it.
		moment func(*http.Request) bool
		after  bool
		files  fstest.MapFS
		want   error
		// unseen is set when the other one does not look before it sets the tag.
		unseen bool
	}{
		"BeforeTheTag":        {moment: uploads, files: different(), want: source.ErrPublished},
		"TheSameBeforeTheTag": {moment: uploads, files: releasetest.Multistage(tag)},
		"AfterTheTag":         {moment: tags, after: true, unseen: true, files: different(), want: source.ErrPublished},
		"TheSameAfterTheTag":  {moment: tags, after: true, unseen: true, files: releasetest.Multistage(tag)},
	} {
		t.Run(name, func(t *testing.T) {
			var came atomic.Bool
			var theirs string
			var r *registrytest.Registry
			other := func() {
				src := open(t, r, oci.Credentials{})
				if !tc.unseen {
					done, err := src.Put(t.Context(), parse(t, tag), tc.files, source.Publication{Created: created})
					must(t, err)
					theirs = done.Digest
					return
				}
				// As one whose look at the tag is long ago: what it publishes under another name gets this one, too.
				_, err := oci.PublishTag(src, t.Context(), "elsewhere", tc.files, created, nil)
				must(t, err)
				desc, err := raw(t, r).Resolve(t.Context(), "elsewhere")
				must(t, err)
				must(t, raw(t, r).Tag(t.Context(), desc, tag))
				theirs = desc.Digest.String()
			}
			r = registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					now := tc.moment(req) && !came.Swap(true)
					if now && !tc.after {
						other()
					}
					next.ServeHTTP(w, req)
					if now && tc.after {
						other()
					}
				})
			}})
			done, err := open(t, r, oci.Credentials{}).Put(t.Context(), parse(t, tag), releasetest.Multistage(tag), source.Publication{Created: created.Add(time.Hour)})
			if !errors.Is(err, tc.want) || tc.want != nil && !strings.Contains(err.Error(), "at the same time") {
				t.Errorf("got %+v, %v", done, err)
			}
			if tc.want == nil && (done.Digest != theirs || !done.Existed) {
				t.Errorf("got %+v; they have published the same as %s", done, theirs)
			}
			if _, sum, err := fetch(t, open(t, r, oci.Credentials{})); err != nil || sum != theirs {
				t.Errorf("there is %s, %v; want %s", sum, err, theirs)
			}
		})
	}
}
