// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
)

// Kinds returns what a cluster class may have objects of unless the administrator says otherwise: all kinds of an
// API group, or one as group/Kind. They are named one by one, so that a new one is a decision and not an accident.
func Kinds() []string {
	return []string{
		"addons.cluster.x-k8s.io",
		"bootstrap.cluster.x-k8s.io",
		"cluster.x-k8s.io/ClusterClass",
		"controlplane.cluster.x-k8s.io",
		"infrastructure.cluster.x-k8s.io",
		"ipam.cluster.x-k8s.io",
		"openstack.k-orc.cloud",
	}
}

// Allowed refuses all objects if one of them is outside of the namespace of the release or of the given kinds:
// a release is foreign code, and the management cluster belongs to somebody else.
func Allowed(kinds []string, namespace string, ids []apply.ID) error {
	var refused []string
	for _, id := range ids {
		switch {
		case id.Namespace == "":
			refused = append(refused, id.String()+" does not belong to a namespace")
		case id.Namespace != namespace:
			refused = append(refused, id.String()+" is in another namespace than the release")
		case id.Group == "" || !slices.Contains(kinds, id.Group) && !slices.Contains(kinds, id.Group+"/"+id.Kind):
			refused = append(refused, fmt.Sprintf("%s is of a kind that is not allowed (%s/%s)", id, cmp.Or(id.Group, "core"), id.Kind))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	slices.Sort(refused)
	return &notAllowedError{refused}
}

// notAllowedError lists what a cluster class must not have.
type notAllowedError struct{ refused []string }

func (e *notAllowedError) Error() string {
	return "the cluster class may not have: " + strings.Join(e.refused, "; ") + "; another release cures that, or the administrator allows more (--class-api-groups)"
}

// Permanent reports that only another release or another configuration can cure it.
func (e *notAllowedError) Permanent() bool { return true }
