// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestGet(t *testing.T) {
	for name, tc := range map[string]struct {
		why     string
		handler http.HandlerFunc
		want    string // part of the error; empty for success
	}{
		"Well":    {handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }},
		"Verbose": {handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("ok ", 10_000)) }},
		"Ill": {
			why: "API servers list their checks.",
			handler: func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "[-]etcd failed", http.StatusInternalServerError)
			},
			want: "answers 500 Internal Server Error: [-]etcd failed",
		},
		"Elsewhere": {
			why: "Who sends us elsewhere is not well itself.",
			handler: func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
			},
			want: "refused",
		},
		"CutOff": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "10")
				_, _ = io.WriteString(w, "ok")
			},
			want: io.ErrUnexpectedEOF.Error(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tc.handler)
			defer server.Close()
			err := Get(t.Context(), server.Client(), server.URL+"/readyz")
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q. %s", err, tc.want, tc.why)
			}
		})
	}
}
