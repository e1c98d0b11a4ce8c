// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// spare are rights that nothing in TestInstallation needs, and why they are there.
var spare = map[string]string{
	"update clusterstackreleases/finalizers.clusterstack.x-k8s.io": "asked for by the admission plugin OwnerReferencesPermissionEnforcement, where it is on",
	"patch events.events.k8s.io":                                   "an event that is repeated, which is a matter of minutes",
	"delete clusterstackreleases.clusterstack.x-k8s.io":            "a release that is out of date and that nobody uses; the garbage collector may be faster",
	"delete *.bootstrap.cluster.x-k8s.io":                          "objects of a cluster class; as before",
	"delete *.controlplane.cluster.x-k8s.io":                       "as before",
	"delete *.infrastructure.cluster.x-k8s.io":                     "as before",
	"get namespaces.":                                              "whether credentials for releases are those of the same namespace as before",
}

// rights compares what the operator asked for with what it may do: nothing was denied, and nothing is granted that nobody
// needs.
func rights(t *testing.T, c client.Client, management *sandboxtest.Instance) {
	t.Helper()
	file, err := os.Open(filepath.Join(management.Dir(), sandbox.AuditLog))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	asked := map[string]bool{} // verb resource.group
	requests := 0
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		event := auditv1.Event{}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatal(err)
		}
		if event.User.Username != user {
			continue
		}
		requests++
		if event.Annotations["authorization.k8s.io/decision"] == "forbid" {
			t.Errorf("denied: %s %s", event.Verb, event.RequestURI)
		}
		if event.ObjectRef != nil {
			ref := event.ObjectRef
			asked[right(event.Verb, ref.Resource, ref.Subresource, ref.APIGroup)] = true
			if event.Verb == "patch" && event.ResponseStatus != nil && event.ResponseStatus.Code == http.StatusCreated {
				// Server-side apply of what is not there needs this right, too.
				asked[right("create", ref.Resource, ref.Subresource, ref.APIGroup)] = true
			}
		}
	}
	if err := lines.Err(); err != nil || requests == 0 {
		t.Fatalf("%d requests were recorded: %v", requests, err)
	}
	role, own := &rbacv1.ClusterRole{}, &rbacv1.Role{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "cluster-stack-operator"}, role); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "cluster-stack-operator"}, own); err != nil {
		t.Fatal(err)
	}
	var unused []string
	granted := 0
	for _, rule := range slices.Concat(role.Rules, own.Rules) {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					granted++
					needed := right(verb, resource, "", group)
					used := uses(asked, verb, resource, group)
					if verb == "list" || verb == "get" { // who may watch sees all of it anyway, from the beginning if it wants
						used = used || uses(asked, "watch", resource, group)
					}
					if !used && spare[needed] == "" {
						unused = append(unused, needed)
					}
				}
			}
		}
	}
	for right := range spare {
		if asked[right] {
			t.Logf("spare, and used this time: %s", right)
		}
	}
	slices.Sort(unused)
	for _, right := range slices.Compact(unused) {
		t.Errorf("granted and never used: %s", right)
	}
	t.Logf("%d requests, %d rights granted, %d of them spare", requests, granted, len(spare))
}

// uses tells whether a right was used. That on all kinds of a group is by that on any.
func uses(asked map[string]bool, verb, resource, group string) bool {
	if resource != "*" {
		return asked[right(verb, resource, "", group)]
	}
	for request := range asked {
		kind, in, _ := strings.Cut(strings.TrimPrefix(request, verb+" "), ".")
		if strings.HasPrefix(request, verb+" ") && kind != "" && in == group {
			return true
		}
	}
	return false
}

// right names a right as verb resource.group.
func right(verb, resource, subresource, group string) string {
	if subresource != "" {
		resource += "/" + subresource
	}
	return fmt.Sprintf("%s %s.%s", verb, resource, group)
}
