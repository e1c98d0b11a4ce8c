// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
)

type forgetful struct{}

func (forgetful) Save(context.Context, *Inventory) error { return nil }

// The API server of a workload cluster can be in anybody's hands. Whatever it answers, we come to an end, keep our
// memory, send our credentials nowhere else, and say one short line about it.
func TestWhatAnAPIServerMayDoToUs(t *testing.T) {
	const (
		core = `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":[{"versions":[{"version":"v1","resources":[
			{"resource":"configmaps","responseKind":{"group":"","version":"v1","kind":"ConfigMap"},"scope":"Namespaced","verbs":["get","list","patch","delete"]},
			{"resource":"../../escape","responseKind":{"group":"","version":"v1","kind":"Secret"},"scope":"Namespaced","verbs":["get"]}]}]}]}`
		none = `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":[]}`
	)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a request was sent elsewhere, with the credentials %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	endless := func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<16))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	status := func(code int, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			text, _ := json.Marshal(message)
			_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":%d,"message":%s}`, code, text)
		}
	}
	for name, test := range map[string]struct {
		discovery, objects http.HandlerFunc
		want               string
	}{
		"Endless":          {objects: endless, want: "larger than 32 MiB"},
		"EndlessDiscovery": {discovery: endless, want: "larger than 32 MiB"},
		"Silent":           {objects: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, want: "no answer in time"},
		"Trickling": {objects: func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		}, want: "no answer in time"},
		"Redirecting": {objects: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, want: ""},
		"HangingUp": {objects: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: "API server: "},
		"NoJSON":    {objects: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, want: "not an object"},
		"NotAnObject": {objects: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `["a"]`)
		}, want: "not an object"},
		"Garbling": {objects: status(403, "line one\nline two\x1b[31m\u202e evil"), want: "line one line two"},
		"Chatty":   {objects: status(403, strings.Repeat("a", 1<<20)), want: "…"},
		"Lying": {discovery: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"kind":"APIGroupDiscoveryList"}`)
		}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// Only who has read a request learns that its client has gone.
				_, _ = io.Copy(io.Discard, r.Body)
				discovery := r.URL.Path == "/api" || r.URL.Path == "/apis"
				switch {
				case strings.Contains(r.URL.Path, "escape"):
					t.Errorf("a name from discovery became the path %s", r.URL.Path)
				case discovery && test.discovery != nil:
					test.discovery(w, r)
				case discovery:
					w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
					_, _ = io.WriteString(w, map[string]string{"/api": core, "/apis": none}[r.URL.Path])
				case test.objects != nil:
					test.objects(w, r)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			}))
			defer server.Close()
			a, err := New(&rest.Config{Host: server.URL, BearerToken: "secret"}, Options{Timeout: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if name == "Endless" || name == "EndlessDiscovery" {
				a.timeout = time.Minute // It ends by the size of what comes, however slow that is.
			}
			obj := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
				"metadata": map[string]any{"name": "c", "namespace": "ns"}}}
			_, err = a.Apply(t.Context(), Set{Name: "s", Objects: []*unstructured.Unstructured{obj}}, NewInventory(), forgetful{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			if len(err.Error()) > maxText+200 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("not fit for a status: %q", err.Error())
			}
		})
	}
}
