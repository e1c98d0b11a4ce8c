// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"context"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
)

func metav1StatusReason(err error) metav1.StatusReason { return apierrors.ReasonForError(err) }

// waitUntilNotServed waits until discovery has forgotten a group. There is no event for that.
func waitUntilNotServed(t *testing.T, w *world, group string) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(w.config)
	if err != nil {
		t.Fatal(err)
	}
	err = wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		groups, err := client.ServerGroups()
		if err != nil {
			return false, err
		}
		return !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group }), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// waitForAPIService waits until the API server itself knows whether a group answers.
func waitForAPIService(t *testing.T, w *world, group, status string) {
	t.Helper()
	watcher, err := w.client.Resource(plurals["APIService"]).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=v1." + group})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		if event.Type == watch.Deleted || event.Type == watch.Error {
			continue
		}
		if u, ok := event.Object.(*unstructured.Unstructured); ok && conditionOf(u, "Available") == status {
			return
		}
	}
	t.Fatalf("the watch ended before APIService v1.%s was Available=%s", group, status)
}

// conditionOf returns the status of a condition, empty if the object has none of the type.
func conditionOf(obj *unstructured.Unstructured, kind string) string {
	conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == kind {
			status, _ := c["status"].(string)
			return status
		}
	}
	return ""
}
