// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// topology is what a Cluster asks for.
type topology struct {
	class   types.NamespacedName
	version string
	// release is what the class comes from, if ours is true.
	release release.Name
	ours    bool
	// unchecked says that the user has turned off what Cluster API checks about a change of the version.
	unchecked bool
}

// topologyOf reads what a Cluster asks for. Neither a Cluster without topology nor one of a foreign class is ours.
func topologyOf(cluster *clusterv1.Cluster) topology {
	if cluster == nil || !cluster.Spec.Topology.IsDefined() {
		return topology{}
	}
	t := topology{class: cluster.GetClassKey(), version: cluster.Spec.Topology.Version}
	name, err := release.ParseClassName(t.class.Name)
	t.release, t.ours = name, err == nil
	_, t.unchecked = cluster.Annotations[clusterv1.ClusterTopologyUnsafeUpdateVersionAnnotation]
	return t
}

// unset tells whether a version was left out. The webhook of Cluster API, which may run before ours, puts a "v"
// before whatever it finds, and so before nothing.
func unset(version string) bool { return version == "" || version == "v" }

// offer is what is known about the release that a class comes from.
type offer struct {
	// known is true when there is a ClusterStackRelease.
	known bool
	// version of Kubernetes, such as v1.36.3; empty as long as it was not read from the release.
	version string
	// patches are those beside version that a Cluster may have.
	patches release.Patches
	ready   bool
	// because says in the words of its status why it is not ready.
	because string
}

// versionFor returns the version that a Cluster shall have; one that the user has chosen is returned as it is.
// before is zero for a Cluster that is created. An error says why there is none, and what to do.
func versionFor(before, now topology, applied, target offer) (string, error) {
	moves := before.ours && before.class != now.class
	switch {
	case !now.ours:
		return now.version, nil
	case unset(now.version) && before.class == now.class && !unset(before.version):
		// Somebody took the version out, and wants no other one.
		return before.version, nil
	case unset(now.version):
	case moves && applied.version != "" && same(now.version, applied.version):
		// It was filled in from the release that is left, or might as well have been.
	default:
		return now.version, nil
	}
	const otherwise = "or set spec.topology.version yourself"
	switch {
	case !target.known:
		return "", fmt.Errorf("spec.topology.version cannot be filled in: there is no ClusterStackRelease %s in namespace %s; "+
			"have a ClusterStack of that namespace subscribe to it, correct spec.topology.classRef, %s", now.release, now.class.Namespace, otherwise)
	case target.version == "" || !target.ready:
		because := target.because
		if because == "" {
			because = "it has not been looked at yet"
		}
		return "", fmt.Errorf("spec.topology.version cannot be filled in: ClusterStackRelease %s in namespace %s is not ready (%s); "+
			"wait for its condition Ready, %s", now.release, now.class.Namespace, because, otherwise)
	}
	return target.version, nil
}

// judge returns why a Cluster cannot have what it asks for, and otherwise what its user should know.
func judge(before, now topology, target offer) (warning string, denied error) {
	if !now.ours {
		return "", nil
	}
	if before.ours {
		if err := moved(before.release, now.release, now.unchecked); err != nil {
			return "", err
		}
	}
	switch {
	case !target.known:
		return fmt.Sprintf("there is no ClusterStackRelease %s in namespace %s, so the version is not checked", now.release, now.class.Namespace), nil
	case target.version == "":
		return fmt.Sprintf("ClusterStackRelease %s in namespace %s has not been read yet, so the version is not checked", now.release, now.class.Namespace), nil
	case !fits(target, now.version):
		return "", fmt.Errorf("spec.topology.version is %s, but release %s is made for Kubernetes %s: set that version, or leave it out to have it filled in",
			now.version, now.release, target.version)
	case !target.ready:
		return fmt.Sprintf("ClusterStackRelease %s in namespace %s is not ready: %s", now.release, now.class.Namespace, target.because), nil
	}
	return "", nil
}

// fits tells whether a release works with a version of Kubernetes.
func fits(target offer, version string) bool {
	version = "v" + strings.TrimPrefix(version, "v")
	return same(target.version, version) || release.Metadata{Kubernetes: target.version, Patches: target.patches}.Allows(version)
}

// same compares versions as Cluster API does, which puts up with a missing "v".
func same(a, b string) bool { return strings.TrimPrefix(a, "v") == strings.TrimPrefix(b, "v") }

// moved returns why a Cluster cannot go from one release to another. Where Cluster API was told not to check versions, to
// take back an upgrade that is held for one, we do not either.
func moved(from, to release.Name, unchecked bool) error {
	const stay = "; create a new Cluster for it, and move the workload"
	if from.Provider != to.Provider {
		return fmt.Errorf("spec.topology.classRef changes the provider from %s to %s, which cannot be done in place%s", from.Provider, to.Provider, stay)
	}
	if from.Stack != to.Stack {
		return fmt.Errorf("spec.topology.classRef changes the cluster stack from %s to %s, which cannot be done in place%s", from.Stack, to.Stack, stay)
	}
	fromMajor, fromMinor := minor(from.Kubernetes)
	toMajor, toMinor := minor(to.Kubernetes)
	switch {
	case unchecked:
	case fromMajor != toMajor:
		return fmt.Errorf("spec.topology.classRef changes the major version of Kubernetes from %s to %s, which cannot be done in place%s", from.Kubernetes, to.Kubernetes, stay)
	case toMinor < fromMinor:
		return fmt.Errorf("spec.topology.classRef goes back from Kubernetes %s to %s, which Kubernetes does not support: use a release for %s",
			from.Kubernetes, to.Kubernetes, from.Kubernetes)
	case toMinor > fromMinor+1:
		return fmt.Errorf("spec.topology.classRef goes from Kubernetes %s to %s: upgrade by one minor at a time, first to a release for %d.%d",
			from.Kubernetes, to.Kubernetes, fromMajor, fromMinor+1)
	}
	return nil
}

// minor splits a version such as 1.35 of the name of a release, which has been parsed. A number that is larger than
// any version of Kubernetes will ever be comes out as the largest.
func minor(kubernetes string) (major, minor int) {
	before, after, _ := strings.Cut(kubernetes, ".")
	major, _ = strconv.Atoi(before)
	minor, _ = strconv.Atoi(after)
	return major, minor
}
