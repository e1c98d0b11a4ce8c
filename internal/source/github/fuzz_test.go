// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// Whatever a forge answers, a list ends, and has nothing in it that is not called like a release.
func FuzzList(f *testing.F) {
	f.Add([]byte(`[{"tag_name":"docker-scs-1-35-v1","draft":false}]`), `<http://127.0.0.1/?page=2>; rel="next"`)
	f.Add([]byte(`[{"tag_name":7}]`), `<`)
	f.Add([]byte(`null`), `<:>; rel=next, ;;`)
	type answer struct {
		body []byte
		link string
	}
	var now atomic.Pointer[answer]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a := now.Load()
		w.Header().Set("Link", a.link)
		_, _ = w.Write(a.body)
	}))
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, body []byte, link string) {
		now.Store(&answer{body: body, link: link})
		src, err := github.New("o", "r", github.Options{APIURL: server.URL, Web: web.Options{PlainHTTP: true, Attempts: 1}, Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		offers, err := src.List(t.Context())
		for _, offer := range offers {
			if _, parseErr := release.ParseName(offer.Name.String()); parseErr != nil || err != nil {
				t.Errorf("offers %v with %v", offer, err)
			}
		}
	})
}
