// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"maps"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ownWrites is a client whose Get never returns an object older than what the same client has written.
//
// A cache is behind for a moment after each write. A reconciliation in that moment would take what it overwrote for
// what is there, find nothing to change, and leave what is wrong as it is: nobody wakes it for its own writes. So an
// object that is older than our write is read past the cache. Nothing depends on what is remembered here; a process
// that starts has written nothing yet.
type ownWrites struct {
	client.Client
	live client.Reader

	mu      sync.Mutex
	written map[object]write // the newest of ours that the cache has not shown yet
}

// write is one that the server has answered.
type write struct {
	version string
	at      time.Time
}

// What nobody reads any more is forgotten when there is much of it: a cache that is so far behind has read everything
// anew since.
const (
	manyWrites = 1000
	longAgo    = time.Hour
)

type object struct {
	kind schema.GroupVersionKind
	key  client.ObjectKey
}

// newOwnWrites is a client.NewClientFunc.
func newOwnWrites(cfg *rest.Config, o client.Options) (client.Client, error) {
	cached, err := client.New(cfg, o)
	if err != nil {
		return nil, err
	}
	o.Cache = nil
	live, err := client.New(cfg, o)
	if err != nil {
		return nil, err
	}
	return &ownWrites{Client: cached, live: live, written: map[object]write{}}, nil
}

// Get implements client.Client.
func (c *ownWrites) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	kind, errKind := c.GroupVersionKindFor(obj)
	err := c.Client.Get(ctx, key, obj, opts...)
	if errKind != nil || err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	id := object{kind, key}
	c.mu.Lock()
	ours, behind := c.written[id]
	if behind && err == nil {
		if order, cannot := resourceversion.CompareResourceVersion(obj.GetResourceVersion(), ours.version); cannot != nil || order >= 0 {
			delete(c.written, id)
			behind = false
		}
	}
	c.mu.Unlock()
	if !behind {
		return err
	}
	empty(obj)
	if err = c.live.Get(ctx, key, obj, opts...); apierrors.IsNotFound(err) {
		c.mu.Lock()
		delete(c.written, id)
		c.mu.Unlock()
	}
	return err
}

// empty takes out what was read into an object.
func empty(obj client.Object) {
	u, is := obj.(runtime.Unstructured)
	if !is {
		reflect.ValueOf(obj).Elem().SetZero()
		return
	}
	kind := obj.GetObjectKind().GroupVersionKind()
	u.SetUnstructuredContent(map[string]any{})
	obj.GetObjectKind().SetGroupVersionKind(kind)
}

// note remembers a write that the server has answered.
func (c *ownWrites) note(obj client.Object, err error) error {
	if err != nil {
		return err
	}
	kind, err := c.GroupVersionKindFor(obj)
	if err != nil {
		return nil //nolint:nilerr // it was written
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := object{kind, client.ObjectKeyFromObject(obj)}
	if !obj.GetDeletionTimestamp().IsZero() && len(obj.GetFinalizers()) == 0 {
		delete(c.written, id) // what we wrote has let it go
		return nil
	}
	if order, err := resourceversion.CompareResourceVersion(c.written[id].version, obj.GetResourceVersion()); err != nil || order < 0 {
		c.written[id] = write{obj.GetResourceVersion(), time.Now()}
	}
	if len(c.written) > manyWrites {
		maps.DeleteFunc(c.written, func(_ object, w write) bool { return time.Since(w.at) > longAgo })
	}
	return nil
}

// Create implements client.Client.
func (c *ownWrites) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	return c.note(obj, c.Client.Create(ctx, obj, opts...))
}

// Update implements client.Client.
func (c *ownWrites) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	return c.note(obj, c.Client.Update(ctx, obj, opts...))
}

// Patch implements client.Client.
func (c *ownWrites) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	return c.note(obj, c.Client.Patch(ctx, obj, patch, opts...))
}

// Status implements client.Client.
func (c *ownWrites) Status() client.SubResourceWriter { return &ownStatus{c.Client.Status(), c} }

type ownStatus struct {
	client.SubResourceWriter
	c *ownWrites
}

// Update implements client.SubResourceWriter.
func (s *ownStatus) Update(ctx context.Context, obj client.Object, opts ...client.SubResourceUpdateOption) error {
	return s.c.note(obj, s.SubResourceWriter.Update(ctx, obj, opts...))
}

// Patch implements client.SubResourceWriter.
func (s *ownStatus) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	return s.c.note(obj, s.SubResourceWriter.Patch(ctx, obj, patch, opts...))
}
