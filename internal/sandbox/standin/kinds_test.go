// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/client-go/kubernetes"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

var update = flag.Bool("update", false, "write builtin.json anew from a real API server")

// A stand-in serves what a real API server of the sandbox's version serves, as far as that is objects with a status.
func TestBuiltinKindsAreThoseOfARealAPIServer(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(sandboxtest.NewAPIServer(t)).RESTClient()
	var groups []apidiscovery.APIGroupDiscovery
	for _, path := range []string{"/api", "/apis"} {
		raw, err := client.Get().AbsPath(path).SetHeader("Accept", aggregatedType).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var list apidiscovery.APIGroupDiscoveryList
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
		groups = append(groups, list.Items...)
	}
	for i := range groups {
		for j := range groups[i].Versions {
			v := &groups[i].Versions[j]
			v.Resources = slices.DeleteFunc(v.Resources, func(r apidiscovery.APIResourceDiscovery) bool {
				return !slices.Contains(r.Verbs, "get") || !slices.Contains(r.Verbs, "create") || !slices.Contains(r.Verbs, "delete")
			})
			for k := range v.Resources {
				v.Resources[k].Subresources = slices.DeleteFunc(v.Resources[k].Subresources, func(s apidiscovery.APISubresourceDiscovery) bool {
					return s.Subresource != "status"
				})
			}
		}
		groups[i].Versions = slices.DeleteFunc(groups[i].Versions, func(v apidiscovery.APIVersionDiscovery) bool { return len(v.Resources) == 0 })
	}
	groups = slices.DeleteFunc(groups, func(g apidiscovery.APIGroupDiscovery) bool { return len(g.Versions) == 0 })
	want, err := json.MarshalIndent(groups, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("builtin.json", want, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, builtinJSON) {
		t.Errorf("builtin.json is not what a real API server says; go test -update writes it:\n%s", cmp.Diff(string(builtinJSON), string(want)))
	}
}
