// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
)

// Groups returns the API groups of which a cluster class may have objects unless the administrator says
// otherwise. They are named one by one, so that a new group is a decision and not an accident.
func Groups() []string {
	return []string{
		"addons.cluster.x-k8s.io",
		"bootstrap.cluster.x-k8s.io",
		"cluster.x-k8s.io",
		"controlplane.cluster.x-k8s.io",
		"infrastructure.cluster.x-k8s.io",
		"ipam.cluster.x-k8s.io",
		"openstack.k-orc.cloud",
	}
}

// allowed refuses all objects if one of them is outside of the namespace of the release or of the given groups:
// a release is foreign code, and the management cluster belongs to somebody else.
func allowed(groups []string, namespace string, ids []apply.ID) error {
	var refused []string
	for _, id := range ids {
		switch {
		case id.Namespace == "":
			refused = append(refused, id.String()+" does not belong to a namespace")
		case id.Namespace != namespace:
			refused = append(refused, id.String()+" is in another namespace than the release")
		case !slices.Contains(groups, id.Group):
			refused = append(refused, fmt.Sprintf("%s is of the API group %q", id, id.Group))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return &notAllowedError{refused}
}

// notAllowedError lists what a cluster class must not have.
type notAllowedError struct{ refused []string }

func (e *notAllowedError) Error() string {
	return "the cluster class may not have: " + strings.Join(e.refused, "; ")
}

// Permanent reports that only another release or another configuration can cure it.
func (e *notAllowedError) Permanent() bool { return true }
