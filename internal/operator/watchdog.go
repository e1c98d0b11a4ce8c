// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
)

// stuckAfter is how long a controller may work on one object. Everything that it waits for has a shorter limit; whoever
// exceeds this one waits for something that will never come, and a restart is what helps.
const stuckAfter = 15 * time.Minute

// longestRunning is the series in which each work queue says for how long its oldest piece of work has been going on.
const longestRunning = "workqueue_longest_running_processor_seconds"

// watchdog fails when a controller is stuck, however lively the process is otherwise.
func watchdog(metrics prometheus.Gatherer, limit time.Duration) healthz.Checker {
	return func(*http.Request) error {
		// A metric of somebody else that cannot be read comes with those that can.
		families, _ := metrics.Gather()
		for _, family := range families {
			if family.GetName() != longestRunning {
				continue
			}
			for _, series := range family.GetMetric() {
				if age := time.Duration(series.GetGauge().GetValue() * float64(time.Second)); age > limit {
					controller := ""
					for _, label := range series.GetLabel() {
						if label.GetName() == "controller" {
							controller = label.GetValue()
						}
					}
					return fmt.Errorf("the controller %s has been working on one object for %s", controller, age.Round(time.Second))
				}
			}
		}
		return nil
	}
}
