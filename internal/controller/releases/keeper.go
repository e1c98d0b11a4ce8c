// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"fmt"
	"slices"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// InUse returns a function that says which releases in the store must stay: those of ClusterStackReleases, and
// those that Clusters use or whose addons they still have, each under the keys that it can be opened under. Under any, if
// the ClusterStack is gone that it was fetched for: somebody may make it again.
func (r *Releases) InUse(ctx context.Context) (func(store.Stored) bool, error) {
	list := &v1alpha1.ClusterStackReleaseList{}
	if err := r.reader.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list ClusterStackReleases: %w", err)
	}
	stacks := &v1alpha1.ClusterStackList{}
	if err := r.reader.List(ctx, stacks); err != nil {
		return nil, fmt.Errorf("list ClusterStacks: %w", err)
	}
	usage, err := FindUsage(ctx, r.reader)
	if err != nil {
		return nil, err
	}
	origins := map[string][]Origin{}
	for i := range stacks.Items {
		stack := &stacks.Items[i]
		if err := r.meet(ctx, stack); err != nil {
			return nil, err
		}
		origins[stack.Namespace] = append(origins[stack.Namespace], r.Of(stack))
	}
	// from returns the keys of what comes from a location, or from anywhere, to a namespace. There are none for any key.
	from := func(namespace, location string) (keys []string) {
		for _, o := range append(slices.Clone(origins[namespace]), r.fallback()) {
			if location == "" || o.Location == location {
				keys = append(keys, o.Key)
			}
		}
		return keys
	}
	wanted := map[release.Name][]use{}
	for i := range list.Items {
		obj := &list.Items[i]
		name, err := release.ParseName(obj.Name)
		if err != nil {
			continue // there is none in the store
		}
		pinned := PinOf(obj)
		wanted[name] = append(wanted[name], use{keys: from(obj.Namespace, pinned.Source), digest: pinned.Digest})
	}
	for key := range usage {
		if len(origins[key.Namespace]) == 0 {
			wanted[key.Name] = append(wanted[key.Name], use{})
			continue
		}
		wanted[key.Name] = append(wanted[key.Name], use{keys: from(key.Namespace, "")})
	}
	return func(s store.Stored) bool {
		return slices.ContainsFunc(wanted[s.Name], func(u use) bool {
			return (u.digest == "" || u.digest == s.Digest) && (len(u.keys) == 0 || slices.ContainsFunc(u.keys, s.Of))
		})
	}, nil
}

// use is a reason for which a release must stay: it may be opened under one of the keys, or any if there are none, with that
// digest. One that is not fixed yet may become any that is there.
type use struct {
	keys   []string
	digest string
}

// Keeper removes releases from the store that nobody uses any more. Each replica has a store of its own, or shares
// one that may be cleaned by all.
type Keeper struct {
	Store *store.Store
	// Interval is how often to look, ten minutes by default.
	Interval time.Duration
}

// Start looks at intervals until ctx ends. It is a runnable of the manager.
func (k *Keeper) Start(ctx context.Context) error {
	interval := k.Interval
	if interval <= 0 {
		interval = 10 * time.Minute
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	log := ctrl.LoggerFrom(ctx).WithName("store")
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		removed, err := k.Store.Collect(ctx)
		for _, r := range removed {
			log.Info("Removed a release from the store that nobody uses", "release", r.Name.String(), "digest", r.Digest)
		}
		if err != nil && ctx.Err() == nil {
			log.Error(err, "Releases that nobody uses stay in the store for now")
		}
	}
}

// NeedLeaderElection tells the manager that all replicas do this.
func (k *Keeper) NeedLeaderElection() bool { return false }
