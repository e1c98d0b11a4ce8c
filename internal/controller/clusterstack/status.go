// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack

import (
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// summarize fills in what a user reads about the releases that this ClusterStack asked for, older ones
// first. It is done before the steps, because it is true whatever they come to, and again when they have
// made or deleted releases.
func (w *work) summarize() {
	var ours []existing
	for name, rel := range w.found {
		if owned, _ := ownership(w.stack, rel); owned {
			ours = append(ours, existing{Offer: source.Offer{Name: name, Published: published(rel)}})
		}
	}

	status := &w.stack.Status
	status.ObservedGeneration = w.stack.Generation
	status.Summary, status.LatestRelease = nil, ""
	var usable []string
	for _, e := range byAge(ours) {
		name, rel := e.Name, w.found[e.Name]
		status.Summary = append(status.Summary, summary(name, rel))
		if rel.Status.Ready {
			usable = append(usable, name.Version.String())
			status.LatestRelease = name.ClassName() + " | " + rel.Status.KubernetesVersion
		}
	}
	status.UsableVersions = strings.Join(usable, ", ")
}

// summary says how far one release got.
func summary(name release.Name, rel *v1alpha1.ClusterStackRelease) v1alpha1.ClusterStackReleaseSummary {
	s := v1alpha1.ClusterStackReleaseSummary{Name: name.Version.Dashed(), Ready: rel.Status.Ready, Phase: phase(rel)}
	switch ready := rel.Status.Conditions.Get(v1alpha1.ReadyCondition); {
	case rel.Status.Ready:
	case ready == nil:
		s.Message = "not looked at yet"
	default:
		s.Message = ready.Reason + ": " + ready.Message
	}
	return s
}

func phase(rel *v1alpha1.ClusterStackRelease) v1alpha1.ReleasePhase {
	conditions := rel.Status.Conditions
	switch {
	case rel.Status.Ready:
		return v1alpha1.ReleasePhaseDone
	case len(conditions) == 0:
		return v1alpha1.ReleasePhaseNone
	case !conditions.IsTrue(v1alpha1.ClusterStackReleaseDownloadedCondition):
		return v1alpha1.ReleasePhaseDownloading
	case !conditions.IsTrue(v1alpha1.ProviderClusterStackReleaseReadyCondition):
		return v1alpha1.ReleasePhaseProvider
	}
	return v1alpha1.ReleasePhaseApplying
}
