// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"strings"
	"time"
	"unicode"
)

// Kinds of this group, for owner references and messages.
const (
	// ClusterStackKind is the kind of a ClusterStack.
	ClusterStackKind = "ClusterStack"
	// ClusterStackReleaseKind is the kind of a ClusterStackRelease.
	ClusterStackReleaseKind = "ClusterStackRelease"
	// ClusterAddonKind is the kind of a ClusterAddon.
	ClusterAddonKind = "ClusterAddon"
	// ClusterAddonSettingsKind is the kind of a ClusterAddonSettings.
	ClusterAddonSettingsKind = "ClusterAddonSettings"
)

// Finalizers of this group.
const (
	// ClusterStackReleaseFinalizer holds a ClusterStackRelease until what it applied is gone.
	ClusterStackReleaseFinalizer = "clusterstackrelease.clusterstack.x-k8s.io"
	// ClusterAddonFinalizer holds a ClusterAddon until its Cluster needs it no more.
	ClusterAddonFinalizer = "clusteraddon.clusterstack.x-k8s.io"
)

// Labels and annotations that the operator sets.
const (
	// InstanceLabel with the value InstanceOwned marks every object that comes from a release.
	// It is a mark for people and for lists, never by itself a right to change or delete.
	InstanceLabel = "clusterstack.x-k8s.io/instance"
	// InstanceOwned is the value of InstanceLabel.
	InstanceOwned = "owned"

	// PublishedAnnotation of a ClusterStackRelease is when the release was published, in the form of RFC
	// 3339, as far as the source told. It orders releases whose versions have no order.
	PublishedAnnotation = "clusterstack.x-k8s.io/published"

	// ClusterAddonStageAnnotation is kept for readers of earlier versions: "created" after the
	// first rollout, "upgraded" after any later one.
	ClusterAddonStageAnnotation = "ClusterAddonStage"
	// ClusterAddonStageCreated is a value of ClusterAddonStageAnnotation.
	ClusterAddonStageCreated = "created"
	// ClusterAddonStageUpgraded is a value of ClusterAddonStageAnnotation.
	ClusterAddonStageUpgraded = "upgraded"

	// RolloutAnnotation of a ClusterAddon is the record of its rollout: which release is applied,
	// which one is on its way, how far it got, and the proof that lets Cluster API go on. It is an
	// annotation because status does not survive a move to another management cluster.
	RolloutAnnotation = "clusterstack.x-k8s.io/rollout"
	// LifecyclePointAnnotation of a ClusterAddon names the lifecycle point that Cluster API asked
	// for last. Setting it only wakes the controller.
	LifecyclePointAnnotation = "clusterstack.x-k8s.io/lifecycle-point"
	// PinAnnotation of a ClusterStackRelease has where the release was fetched from and its digest. It is an
	// annotation for the same reason.
	PinAnnotation = "clusterstack.x-k8s.io/release-pin"
)

// ClusterAddonName returns the name of the ClusterAddon of the Cluster with that name.
func ClusterAddonName(cluster string) string {
	return "cluster-addon-" + cluster
}

// FarewellTimeout is how long the deletion of a Cluster waits at most for what its release wants done before.
const FarewellTimeout = 2 * time.Minute

// SkipHookAnnotation returns the annotation of a Cluster, whatever its value, that lets Cluster API go on at a
// lifecycle point without waiting for the addons: clusterstack.x-k8s.io/skip-before-cluster-upgrade for
// BeforeClusterUpgrade. What there is to do is done all the same, but for what comes before a deletion.
func SkipHookAnnotation(point string) string {
	var name strings.Builder
	name.WriteString("clusterstack.x-k8s.io/skip")
	for _, letter := range point {
		if unicode.IsUpper(letter) {
			name.WriteByte('-')
		}
		name.WriteRune(unicode.ToLower(letter))
	}
	return name.String()
}
