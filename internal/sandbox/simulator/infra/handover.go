// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"context"
	"fmt"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/contract"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// clusterctl moves a cluster between management clusters by creating its objects in the one and taking them out of
// the other, without regard to finalizers, while the Cluster is paused. So the simulator lets go of a cluster when
// its InfraCluster is gone without having been released, and takes over the cluster that an InfraCluster names by its
// endpoint.

// ownerOf is how the fleet remembers an InfraCluster.
func ownerOf(object *unstructured.Unstructured) workload.Owner {
	kind := object.GroupVersionKind()
	return workload.Owner{Group: kind.Group, Kind: kind.Kind, Name: object.GetName(), UID: object.GetUID()}
}

// known has every InfraCluster looked at that the fleet has a cluster for: one that went while nobody watched causes
// no event.
func known(fleet *workload.Fleet) source.TypedSource[key] {
	return source.TypedFunc[key](func(_ context.Context, queue workqueue.TypedRateLimitingInterface[key]) error {
		for cluster, owner := range fleet.Owners() {
			if owner == (workload.Owner{}) {
				continue // the first moment of a cluster, whose object will ask for it again
			}
			queue.Add(key{
				schema.GroupKind{Group: owner.Group, Kind: owner.Kind},
				types.NamespacedName{Namespace: cluster.Namespace, Name: owner.Name},
			})
		}
		return nil
	})
}

// letGo ends the cluster of an InfraCluster that is gone, if it is still there. The cache has not seen the object; the
// API server decides.
func (r *clusterReconciler) letGo(ctx context.Context, k key, object *unstructured.Unstructured) error {
	for cluster, owner := range r.fleet.Owners() {
		if cluster.Namespace != k.Namespace || owner.Group != k.Group || owner.Kind != k.Kind || owner.Name != k.Name {
			continue
		}
		if err := r.live.Get(ctx, k.NamespacedName, object); !apierrors.IsNotFound(err) {
			return err // when it is there after all, its event follows
		}
		return r.fleet.Release(ctx, cluster)
	}
	return nil
}

// namedEndpoint is the endpoint that an InfraCluster has already; invalid when it has none.
func namedEndpoint(object *unstructured.Unstructured) (netip.AddrPort, error) {
	endpoint, err := contract.GetEndpoint(object)
	if err != nil || endpoint.Host == "" || endpoint.Port == 0 {
		return netip.AddrPort{}, err
	}
	ip, err := netip.ParseAddr(endpoint.Host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("spec.controlPlaneEndpoint is %s:%d, where no sandbox serves a cluster: leave the field empty", endpoint.Host, endpoint.Port)
	}
	return netip.AddrPortFrom(ip, uint16(endpoint.Port)), nil //nolint:gosec // the schema limits it
}
