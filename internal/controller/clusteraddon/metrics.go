// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
)

var (
	applyDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "cluster_stack_apply_duration_seconds",
		Help:    "How long it took to apply the addon of a stage to a cluster once, by addon and result: done, wait for the end of a chart's hook, or error.",
		Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
	}, []string{"addon", "result"})
	driftFound = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cluster_stack_drift_found_objects_total",
		Help: "Objects of addons that a comparison of a cluster at rest found changed or deleted by others, by what is done about it: correct, warn or ignore. What is left as it is counts in each comparison.",
	}, []string{"policy"})
	driftCorrected = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "cluster_stack_drift_corrected_objects_total",
		Help: "Objects of addons that others had changed or deleted and that were applied again.",
	})
)

func init() {
	metrics.Registry.MustRegister(applyDuration, driftFound, driftCorrected)
	for _, policy := range []v1alpha1.DriftPolicy{v1alpha1.DriftCorrect, v1alpha1.DriftWarn, v1alpha1.DriftIgnore} {
		driftFound.WithLabelValues(string(policy)) // from zero, so that the first one is an increase
	}
}

// addonLabels are the names of addons that have series of their own.
var addonLabels = &labels{limit: 50}

// labels bounds how many series there are: releases name their addons as they like, and a process may see many.
type labels struct {
	limit int
	mu    sync.Mutex
	known map[string]bool
}

// of returns the label for a name, which is that name for the first ones and "other" for all that come after them.
func (l *labels) of(name string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known[name] {
		if len(l.known) >= l.limit {
			return "other"
		}
		if l.known == nil {
			l.known = map[string]bool{}
		}
		l.known[name] = true
	}
	return name
}

// observeApply notes what came of applying an addon.
func observeApply(addon string, took time.Duration, err error) {
	result := "done"
	var hook *apply.WaitingError
	switch {
	case errors.As(err, &hook):
		result = "wait"
	case err != nil:
		result = "error"
	}
	applyDuration.WithLabelValues(addonLabels.of(addon), result).Observe(took.Seconds())
}
