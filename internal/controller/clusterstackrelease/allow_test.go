// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes/scheme"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
)

// Of all kinds of Kubernetes itself, in whatever namespace or in none: none may come from a cluster class.
func TestNoKindOfKubernetesIsAllowed(t *testing.T) {
	asked := 0
	for gvk := range scheme.Scheme.AllKnownTypes() {
		if strings.HasSuffix(gvk.Kind, "List") || strings.HasSuffix(gvk.Kind, "Options") {
			continue
		}
		for _, namespace := range []string{"", "ours", "other", "kube-system"} {
			id := apply.ID{Group: gvk.Group, Kind: gvk.Kind, Namespace: namespace, Name: "x"}
			if err := Allowed(Kinds(), "ours", []apply.ID{id}); err == nil {
				t.Errorf("%s is allowed", id)
			}
			asked++
		}
	}
	if asked < 120 {
		t.Errorf("only %d cases", asked)
	}
}

func TestWhatAClusterClassMayHave(t *testing.T) {
	for name, tt := range map[string]struct {
		id    apply.ID
		kinds []string
		want  string // a part of the refusal, or nothing
	}{
		"ClusterClass":         {apply.ID{Group: "cluster.x-k8s.io", Kind: "ClusterClass", Namespace: "ours"}, Kinds(), ""},
		"Template":             {apply.ID{Group: "infrastructure.cluster.x-k8s.io", Kind: "DockerClusterTemplate", Namespace: "ours"}, Kinds(), ""},
		"Image":                {apply.ID{Group: "openstack.k-orc.cloud", Kind: "Image", Namespace: "ours"}, Kinds(), ""},
		"ResourceSet":          {apply.ID{Group: "addons.cluster.x-k8s.io", Kind: "ClusterResourceSet", Namespace: "ours"}, Kinds(), ""},
		"Cluster":              {apply.ID{Group: "cluster.x-k8s.io", Kind: "Cluster", Namespace: "ours"}, Kinds(), "cluster.x-k8s.io/Cluster"},
		"OtherNamespace":       {apply.ID{Group: "cluster.x-k8s.io", Kind: "ClusterClass", Namespace: "other"}, Kinds(), "another namespace"},
		"ClusterScoped":        {apply.ID{Group: "infrastructure.cluster.x-k8s.io", Kind: "AWSClusterStaticIdentity"}, Kinds(), "does not belong to a namespace"},
		"ExtensionConfig":      {apply.ID{Group: "runtime.cluster.x-k8s.io", Kind: "ExtensionConfig"}, Kinds(), "does not belong"},
		"GroupThatOnlyEndsSo":  {apply.ID{Group: "evil.infrastructure.cluster.x-k8s.io", Kind: "X", Namespace: "ours"}, Kinds(), "not allowed"},
		"OurOwnKinds":          {apply.ID{Group: "clusterstack.x-k8s.io", Kind: "ClusterStack", Namespace: "ours"}, Kinds(), "not allowed"},
		"ProviderIntegration":  {apply.ID{Group: "infrastructure.clusterstack.x-k8s.io", Kind: "OpenStackClusterStackRelease", Namespace: "ours"}, Kinds(), "not allowed"},
		"Secret":               {apply.ID{Kind: "Secret", Namespace: "ours"}, Kinds(), "core/Secret"},
		"AdministratorAllowed": {apply.ID{Group: "example.org", Kind: "Thing", Namespace: "ours"}, []string{"example.org"}, ""},
		"OneKindAllowed":       {apply.ID{Group: "example.org", Kind: "Thing", Namespace: "ours"}, []string{"example.org/Thing"}, ""},
		"OtherKindAllowed":     {apply.ID{Group: "example.org", Kind: "Thing", Namespace: "ours"}, []string{"example.org/Other"}, "example.org/Thing"},
		"EmptyEntryIsNothing":  {apply.ID{Kind: "Secret", Namespace: "ours"}, []string{""}, "core/Secret"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.id.Name = "x"
			err := Allowed(tt.kinds, "ours", []apply.ID{tt.id})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			// One that is refused takes all others with it.
			good := apply.ID{Group: "cluster.x-k8s.io", Kind: "ClusterClass", Namespace: "ours", Name: "good"}
			if both := Allowed(append(slices.Clone(tt.kinds), Kinds()...), "ours", []apply.ID{good, tt.id}); (both == nil) != (err == nil) {
				t.Errorf("with a good one beside it: got %v", both)
			}
		})
	}
}
