// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"fmt"
	"slices"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// Key says which release, in the namespace of its ClusterStackRelease and ClusterClass.
type Key struct {
	Namespace string
	Name      release.Name
}

// Usage has the Clusters that use a release, as namespace/name, sorted.
type Usage map[Key][]string

// UsedBy returns the release whose ClusterClass a Cluster uses, which may be in another namespace than
// the Cluster. It is false for a Cluster without topology and for one of a foreign class.
func UsedBy(cluster *clusterv1.Cluster) (Key, bool) {
	if !cluster.Spec.Topology.IsDefined() {
		return Key{}, false
	}
	class := cluster.GetClassKey()
	name, err := release.ParseClassName(class.Name)
	if err != nil {
		return Key{}, false // a foreign class is none of our business
	}
	return Key{Namespace: class.Namespace, Name: name}, true
}

// FindUsage finds out which Clusters of all namespaces use which release. A release whose addons are
// still those of a Cluster counts as used by it, because until the move to another class is finished
// the Cluster may go back to the class it came from. A Cluster that has left for a class that is none of
// ours counts no more: nobody takes its addons any further.
//
// Whoever deletes on the strength of the answer passes a reader that does not read from a cache.
func FindUsage(ctx context.Context, reader client.Reader) (Usage, error) {
	return findUsage(ctx, reader, func(*clusterv1.Cluster) bool { return true })
}

// FindLastingUsage is FindUsage without the Clusters that are being deleted. What only they use is needed until they
// are gone, and not afterwards.
func FindLastingUsage(ctx context.Context, reader client.Reader) (Usage, error) {
	return findUsage(ctx, reader, func(cluster *clusterv1.Cluster) bool { return cluster.DeletionTimestamp.IsZero() })
}

func findUsage(ctx context.Context, reader client.Reader, counts func(*clusterv1.Cluster) bool) (Usage, error) {
	// There are many, and they are only read.
	clusters := &clusterv1.ClusterList{}
	if err := reader.List(ctx, clusters, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list Clusters: %w", err)
	}
	addons := &v1alpha1.ClusterAddonList{}
	if err := reader.List(ctx, addons, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list ClusterAddons: %w", err)
	}
	usage := Usage{}
	classNamespace := map[client.ObjectKey]string{}
	for i := range clusters.Items {
		cluster := &clusters.Items[i]
		if key, ok := UsedBy(cluster); ok && counts(cluster) {
			usage.add(key, client.ObjectKeyFromObject(cluster))
			classNamespace[client.ObjectKeyFromObject(cluster)] = key.Namespace
		}
	}
	for i := range addons.Items {
		addon := &addons.Items[i]
		name, err := release.ParseClassName(addon.Spec.ClusterStack)
		if err != nil || addon.Spec.ClusterRef == nil {
			continue // nothing applied yet
		}
		cluster := client.ObjectKey{Namespace: addon.Namespace, Name: addon.Spec.ClusterRef.Name}
		namespace, ok := classNamespace[cluster]
		if !ok {
			continue // its addons are left as they are, and need no release for that
		}
		// The Cluster may be on its way to a class of another namespace.
		if record, err := rollout.ParseRecord(addon.Annotations[v1alpha1.RolloutAnnotation]); err == nil && record.Applied != nil && record.Applied.Class == addon.Spec.ClusterStack {
			namespace = record.Applied.Namespace
		}
		usage.add(Key{Namespace: namespace, Name: name}, cluster)
	}
	for key, users := range usage {
		slices.Sort(users)
		usage[key] = slices.Compact(users)
	}
	return usage, nil
}

func (u Usage) add(key Key, cluster client.ObjectKey) {
	u[key] = append(u[key], cluster.String())
}

// UsersOfClasses returns the Clusters, sorted, that use one of the ClusterClasses, whatever these are called.
func UsersOfClasses(ctx context.Context, reader client.Reader, classes []client.ObjectKey) ([]string, error) {
	clusters := &clusterv1.ClusterList{}
	if err := reader.List(ctx, clusters, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list Clusters: %w", err)
	}
	var users []string
	for i := range clusters.Items {
		cluster := &clusters.Items[i]
		if cluster.Spec.Topology.IsDefined() && slices.Contains(classes, cluster.GetClassKey()) {
			users = append(users, client.ObjectKeyFromObject(cluster).String())
		}
	}
	slices.Sort(users)
	return users, nil
}
