// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Changed is asked about each object of a kind that is watched: those that are there at the beginning, and then those
// that are made, changed or, which is the last argument, deleted. Of an object only names, versions and times are known, and
// of its managedFields only entries of the given manager. If it answers true, [Clusters.Changes] tells of the Cluster.
type Changed func(kind schema.GroupVersionKind, obj metav1.Object, gone bool) bool

// purpose is what somebody watches objects of a cluster for.
type purpose struct {
	changed Changed
	ends    map[schema.GroupVersionKind]context.CancelFunc
}

// Watch makes these the kinds that are watched for a purpose, of which there may be several with a name each. The kinds
// come with the names of their resources, such as "deployments". Those that are watched already go on, others are ended;
// all end with the connection. A watch that breaks begins anew.
func (c *Clusters) Watch(of *clusterv1.Cluster, name, manager string, kinds map[schema.GroupVersionKind]string, changed Changed) error {
	c.mu.Lock()
	known := c.find(of)
	var on *connection
	if known != nil {
		on = known.connection
	}
	c.mu.Unlock()
	if on == nil {
		return ErrNotConnected
	}
	on.mu.Lock()
	defer on.mu.Unlock()
	if on.watches[name] == nil {
		if len(kinds) == 0 {
			return nil
		}
		on.watches[name] = &purpose{ends: map[schema.GroupVersionKind]context.CancelFunc{}}
	}
	p := on.watches[name]
	p.changed = changed
	for kind, end := range p.ends {
		if _, still := kinds[kind]; !still {
			end()
			delete(p.ends, kind)
		}
	}
	if len(kinds) == 0 {
		delete(on.watches, name)
		return nil
	}
	// The API server ends a watch before that; a list that is not answered is asked for again.
	config := rest.CopyConfig(on.config)
	config.Timeout = 11 * time.Minute
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("watch objects of the cluster: %w", err)
	}
	who := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: of.Namespace, Name: of.Name}}
	for kind, resource := range kinds {
		if p.ends[kind] != nil {
			continue
		}
		ctx, end := context.WithCancel(on.ctx)
		informer := metadatainformer.NewFilteredMetadataInformer(objects, kind.GroupVersion().WithResource(resource), metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		see := func(obj any, gone bool) {
			if late, is := obj.(cache.DeletedFinalStateUnknown); is {
				obj = late.Obj
			}
			seen, err := meta.Accessor(obj)
			if err != nil {
				return
			}
			on.mu.Lock()
			ask := p.changed
			on.mu.Unlock()
			if ctx.Err() == nil && ask(kind, seen, gone) {
				c.tell(ctx, who)
			}
		}
		if err := informer.SetTransform(only(manager)); err != nil {
			end()
			return fmt.Errorf("watch %s: %w", kind.Kind, err)
		}
		// What a release asks to be watched need not be served, and clusters come and go.
		if err := informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}); err != nil {
			end()
			return fmt.Errorf("watch %s: %w", kind.Kind, err)
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { see(obj, false) },
			UpdateFunc: func(_, obj any) { see(obj, false) },
			DeleteFunc: func(obj any) { see(obj, true) },
		}); err != nil {
			end()
			return fmt.Errorf("watch %s: %w", kind.Kind, err)
		}
		p.ends[kind] = end
		go informer.RunWithContext(ctx)
	}
	return nil
}

// only keeps of managedFields the entries of one manager, and nothing of what people write: nobody asks for it, and it is
// most of the metadata of an object.
func only(manager string) cache.TransformFunc {
	return func(obj any) (any, error) {
		seen, err := meta.Accessor(obj)
		if err != nil {
			return obj, nil //nolint:nilerr // a tombstone, whose object was transformed when it came
		}
		seen.SetManagedFields(slices.DeleteFunc(seen.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Manager != manager }))
		seen.SetAnnotations(nil)
		seen.SetLabels(nil)
		seen.SetOwnerReferences(nil)
		seen.SetFinalizers(nil)
		return obj, nil
	}
}
