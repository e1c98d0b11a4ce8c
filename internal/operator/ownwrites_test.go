// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// behind is a client whose cache shows what was there once: nothing, if it has no object.
type behind struct {
	client.Client
	shows *corev1.ConfigMap
}

func (b *behind) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	if b.shows == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, key.Name)
	}
	b.shows.DeepCopyInto(obj.(*corev1.ConfigMap))
	return nil
}

// TestReadsAreNeverOlderThanOwnWrites writes through a client whose cache is behind.
func TestReadsAreNeverOlderThanOwnWrites(t *testing.T) {
	live := kinds.Client(t, sandboxtest.APIServer(t))
	cache := &behind{Client: live}
	c := &ownWrites{Client: cache, live: live, written: map[object]string{}}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: kinds.Namespace(t, live), Name: "c"}, Data: map[string]string{"old": ""}}
	read := func(want string) {
		t.Helper()
		got := &corev1.ConfigMap{Data: map[string]string{"of somebody else": ""}}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(cm), got); err != nil {
			t.Fatal(err)
		}
		if _, has := got.Data[want]; !has || len(got.Data) != 1 {
			t.Errorf("read %v, want %s", got.Data, want)
		}
	}

	if err := c.Create(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	read("old")
	old := cm.DeepCopy()
	cm.Data = map[string]string{"new": ""}
	if err := c.Patch(t.Context(), cm, client.MergeFrom(old)); err != nil {
		t.Fatal(err)
	}
	cache.shows = old
	read("new")
	cache.shows = cm.DeepCopy()
	read("new")
	if len(c.written) > 0 {
		t.Errorf("still remembered although the cache has caught up: %v", c.written)
	}
	cache.shows = old
	read("old") // as the cache says: who reads is not the one who wrote

	// Deleted by somebody else, before the cache has shown what was written.
	cache.shows = nil
	cm.Data["newest"] = ""
	if err := c.Update(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	if err := live.Delete(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(cm), cm); !apierrors.IsNotFound(err) {
		t.Errorf("want not found, got %v", err)
	}
	if len(c.written) > 0 {
		t.Errorf("a deleted object is remembered: %v", c.written)
	}
}
