// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// fleet tells how things stand, from the cache at the moment that it is asked: what is not counted up cannot drift from
// what is there. It names releases but no Clusters, of which there may be thousands.
type fleet struct{ reader client.Reader }

var (
	objectsMetric = prometheus.NewDesc("cluster_stack_objects",
		"Objects by kind, and by whether they are ready.", []string{"kind", "ready"}, nil)
	clustersMetric = prometheus.NewDesc("cluster_stack_clusters",
		"Clusters by the class whose addons they have (none before the first rollout is finished), and by whether their addons are ready.", []string{"class", "ready"}, nil)
	stagesMetric = prometheus.NewDesc("cluster_stack_stages",
		"Stages of the rollouts of all Clusters by the phase that they are in.", []string{"phase"}, nil)
)

// Describe implements prometheus.Collector.
func (fleet) Describe(out chan<- *prometheus.Desc) {
	out <- objectsMetric
	out <- clustersMetric
	out <- stagesMetric
}

// Collect implements prometheus.Collector.
func (f fleet) Collect(out chan<- prometheus.Metric) {
	objects, clusters, stages := map[[2]string]int{}, map[[2]string]int{}, map[string]int{}
	ready := func(conditions v1alpha1.Conditions) string {
		return strconv.FormatBool(conditions.IsTrue(v1alpha1.ReadyCondition))
	}
	// From memory, once it has been read. Until then the liveness probe, which gathers metrics, must not wait for it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stacks, releases, addons := &v1alpha1.ClusterStackList{}, &v1alpha1.ClusterStackReleaseList{}, &v1alpha1.ClusterAddonList{}
	for _, list := range []client.ObjectList{stacks, releases, addons} {
		if err := f.reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return // not read yet; a scrape without these says so
		}
	}
	for i := range stacks.Items {
		objects[[2]string{v1alpha1.ClusterStackKind, ready(stacks.Items[i].Status.Conditions)}]++
	}
	for i := range releases.Items {
		objects[[2]string{v1alpha1.ClusterStackReleaseKind, ready(releases.Items[i].Status.Conditions)}]++
	}
	for i := range addons.Items {
		addon := &addons.Items[i]
		state := ready(addon.Status.Conditions)
		objects[[2]string{v1alpha1.ClusterAddonKind, state}]++
		clusters[[2]string{addon.Spec.ClusterStack, state}]++
		for _, stage := range addon.Status.Stages {
			stages[string(stage.Phase)]++
		}
	}
	for labels, n := range objects {
		out <- prometheus.MustNewConstMetric(objectsMetric, prometheus.GaugeValue, float64(n), labels[:]...)
	}
	for labels, n := range clusters {
		out <- prometheus.MustNewConstMetric(clustersMetric, prometheus.GaugeValue, float64(n), labels[:]...)
	}
	for phase, n := range stages {
		out <- prometheus.MustNewConstMetric(stagesMetric, prometheus.GaugeValue, float64(n), phase)
	}
}
