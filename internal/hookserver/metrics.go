// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

var (
	answers = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cluster_stack_hook_answers_total",
		Help: "Answers to lifecycle hooks of Cluster API, by hook and decision: proceed, wait, skipped, expired, or foreign for Clusters that use no cluster stack.",
	}, []string{"hook", "decision"})
	latency = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "cluster_stack_hook_duration_seconds",
		Help:    "How long an answer to a lifecycle hook took.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"hook"})
	blocked = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cluster_stack_hook_blocked_seconds_total",
		Help: "For how long Cluster API was made to wait, over all Clusters.",
	}, []string{"hook"})
)

func init() {
	metrics.Registry.MustRegister(answers, latency, blocked)
	blocked.WithLabelValues(string(release.BeforeClusterUpgrade)) // from zero, so that the first wait is an increase
}

// observe counts an answer.
func observe(point release.Point, d decision, took time.Duration) {
	answers.WithLabelValues(string(point), string(d)).Inc()
	latency.WithLabelValues(string(point)).Observe(took.Seconds())
	if d == wait {
		blocked.WithLabelValues(string(point)).Add(retryAfter)
	}
}
