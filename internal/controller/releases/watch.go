// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// ClassChanged lets pass what changes the use of releases by Clusters: one appears, disappears, or moves
// to another class. Handlers that map objects see both the old and the new Cluster.
func ClassChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*clusterv1.Cluster)
			after, ok2 := e.ObjectNew.(*clusterv1.Cluster)
			return ok1 && ok2 && before.GetClassKey() != after.GetClassKey()
		},
	}
}

// AppliedChanged lets pass what changes the use of releases by the addons of Clusters: a rollout is finished.
func AppliedChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*v1alpha1.ClusterAddon)
			after, ok2 := e.ObjectNew.(*v1alpha1.ClusterAddon)
			return ok1 && ok2 && before.Spec.ClusterStack != after.Spec.ClusterStack
		},
	}
}

// MovedAway tells whether an object is deleted here because `clusterctl move` has made it in another management cluster.
// Whoever missed it here, and made it or what depends on it anew, or took away what it stands for, would be in the way.
// clusterctl removes finalizers itself.
func MovedAway(obj client.Object) bool {
	_, marked := obj.GetAnnotations()[clusterctlv1.DeleteForMoveAnnotation]
	return marked
}

// Stays lets nothing pass about objects that are moved away.
func Stays() predicate.Predicate {
	return predicate.NewPredicateFuncs(func(obj client.Object) bool { return !MovedAway(obj) })
}

// InShard tells whether an object is for an operator with this --watch-filter, which may be empty. Events of
// other objects can wake a controller for one that is not.
func InShard(obj client.Object, filter string) bool {
	return filter == "" || obj.GetLabels()[clusterv1.WatchLabel] == filter
}
