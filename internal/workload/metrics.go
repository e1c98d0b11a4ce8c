// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// States of a connection.
const (
	up   = "up"
	down = "down"
)

var connections = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "cluster_stack_workload_connections",
	Help: "Clusters by the state of the connection to their API server: up, or down, which includes those that have none yet.",
}, []string{"state"})

func init() {
	metrics.Registry.MustRegister(connections)
	connections.WithLabelValues(up)
	connections.WithLabelValues(down)
}
