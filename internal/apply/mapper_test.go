// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Clusters share what was read of an answer if they gave the same one, to the byte. What one of them says is never taken
// for what another one serves.
func TestEqualClustersShareWhatTheyServe(t *testing.T) {
	catalog := &Catalog{}
	serving := func(plural, freshness, padding string) *mapper {
		const list = `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","padding":%q,"items":[%s]}`
		group := fmt.Sprintf(`{"metadata":{"name":"apps"},"versions":[{"version":"v1","freshness":%q,"resources":[`+
			`{"resource":%q,"responseKind":{"group":"apps","version":"v1","kind":"Deployment"},"scope":"Namespaced","verbs":["get"]}]}]}`, freshness, plural)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
			if r.URL.Path == "/apis" {
				_, _ = fmt.Fprintf(w, list, padding, group)
				return
			}
			_, _ = fmt.Fprintf(w, list, "", "")
		}))
		t.Cleanup(server.Close)
		a, err := New(&rest.Config{Host: server.URL}, Options{Catalog: catalog})
		if err != nil {
			t.Fatal(err)
		}
		return a.mapper
	}
	known := func(m *mapper) *kinds {
		t.Helper()
		k, generation, err := m.kinds(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again, err := m.refresh(t.Context(), generation)
		if err != nil {
			t.Fatal(err)
		}
		if len(again.served) != len(k.served) || len(again.failed) != len(k.failed) {
			t.Errorf("asked again, the cluster serves %+v, before %+v", again, k)
		}
		return k
	}
	first, equal := known(serving("deployments", "Current", "")), known(serving("deployments", "Current", ""))
	if first != equal {
		t.Error("the same answer was read twice")
	}
	deployment := schema.GroupKind{Group: "apps", Kind: "Deployment"}
	if other := known(serving("others", "Current", "")); other == first || other.served[deployment][0].Resource != "others" {
		t.Errorf("a cluster with another answer serves %+v", other.served)
	}
	if stale := known(serving("deployments", "Stale", "")); !stale.failed["apps"] || first.failed["apps"] {
		t.Errorf("of a group that does not answer in one cluster, it is said that it failed: %v; in another one: %v", stale.failed, first.failed)
	}
	padding := strings.Repeat("x", maxEdition)
	large, largeAgain := known(serving("deployments", "Current", padding)), known(serving("deployments", "Current", padding))
	if large == largeAgain {
		t.Error("a large answer is kept for others")
	}
	for i := range 2 * editions {
		known(serving("deployments", "Current", fmt.Sprint(i)))
		if len(catalog.known) > editions {
			t.Fatalf("%d answers are kept, want %d at most", len(catalog.known), editions)
		}
	}
}
