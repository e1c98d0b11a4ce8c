// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ProviderGroups returns the API groups of provider integrations, unless the administrator says otherwise.
func ProviderGroups() []string { return []string{"infrastructure.clusterstack.x-k8s.io"} }

// CheckProvider reports a spec.providerRef that names an object of none of the groups. The operator reads, watches and
// owns it with its own rights, for whoever may write the object with the reference.
func CheckProvider(groups []string, ref *corev1.ObjectReference) error {
	if group := ref.GroupVersionKind().Group; !slices.Contains(groups, group) {
		return fmt.Errorf("spec.providerRef: the API group %q is not one of a provider integration; allowed by --provider-api-groups: %s", group, strings.Join(groups, ", "))
	}
	return nil
}
