// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"fmt"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// InUse returns a function that says which releases in the store must stay: those of ClusterStackReleases, and
// those that Clusters use or whose addons they still have.
func InUse(reader client.Reader) func(ctx context.Context) (func(store.Stored) bool, error) {
	return func(ctx context.Context) (func(store.Stored) bool, error) {
		list := &v1alpha1.ClusterStackReleaseList{}
		if err := reader.List(ctx, list); err != nil {
			return nil, fmt.Errorf("list ClusterStackReleases: %w", err)
		}
		usage, err := FindUsage(ctx, reader)
		if err != nil {
			return nil, err
		}
		// One name can have several digests in the store: of several sources, or because it was published again.
		digests := map[string]map[string]bool{}
		for i := range list.Items {
			obj := &list.Items[i]
			if digests[obj.Name] == nil {
				digests[obj.Name] = map[string]bool{}
			}
			digests[obj.Name][PinOf(obj).Digest] = true
		}
		used := map[release.Name]bool{}
		for key := range usage {
			used[key.Name] = true
		}
		return func(s store.Stored) bool {
			fixed := digests[s.Name.String()]
			// A release that is not fixed yet may become any that is there.
			return used[s.Name] || fixed[s.Digest] || fixed[""]
		}, nil
	}
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
