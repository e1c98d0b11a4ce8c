// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package step

import (
	"reflect"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var outcomes = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "cluster_stack_reconciliations_total",
	Help: "Reconciliations by kind, by the condition at whose step they ended (Ready when all were done), and by outcome: done, wait or error.",
}, []string{"kind", "condition", "outcome"})

func init() { metrics.Registry.MustRegister(outcomes) }

// count notes how a run ended.
func count(obj Object, results []result) {
	kind := reflect.TypeOf(obj).Elem().Name()
	for _, r := range results {
		switch {
		case !r.reached || r.beside && r.err == nil:
		case r.err != nil:
			outcomes.WithLabelValues(kind, r.condition, "error").Inc()
			return
		case r.outcome.answer == wait:
			outcomes.WithLabelValues(kind, r.condition, "wait").Inc()
			return
		}
	}
	outcomes.WithLabelValues(kind, "Ready", "done").Inc()
}
