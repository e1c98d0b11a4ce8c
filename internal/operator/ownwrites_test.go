// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"strconv"
	"testing"
	"time"

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
	c := &ownWrites{Client: cache, live: live, written: map[object]write{}}
	ns := kinds.Namespace(t, live)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "c"}, Data: map[string]string{"old": ""}}
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

	// Deleted by us, with our finalizer on it.
	ours := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "ours", Finalizers: []string{"example.com/ours"}}}
	if err := c.Create(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if err := live.Get(t.Context(), client.ObjectKeyFromObject(ours), ours); err != nil {
		t.Fatal(err)
	}
	ours.Finalizers = nil
	if err := c.Update(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if len(c.written) > 0 {
		t.Errorf("what was let go is remembered: %v", c.written)
	}

	// Nobody reads again what is deleted by somebody else.
	for i := range manyWrites + 1 {
		c.written[object{key: client.ObjectKey{Name: strconv.Itoa(i)}}] = write{"1", time.Now().Add(-2 * longAgo)}
	}
	if err := c.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "last"}}); err != nil {
		t.Fatal(err)
	}
	if len(c.written) != 1 {
		t.Errorf("%d writes are remembered, want the last", len(c.written))
	}
}
