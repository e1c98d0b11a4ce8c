// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

func TestWatchdogNoticesAControllerThatIsStuck(t *testing.T) {
	// The queue of a controller, and what it tells about itself.
	queue := priorityqueue.New[string]("stuck")
	defer queue.ShutDown()
	// What other tests leave of their queues is not looked at.
	own := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := metrics.Registry.Gather()
		for _, family := range families {
			family.Metric = slices.DeleteFunc(family.Metric, func(series *dto.Metric) bool {
				return !slices.ContainsFunc(series.Label, func(label *dto.LabelPair) bool { return label.GetValue() == "stuck" })
			})
		}
		return families, err
	})
	alive := watchdog(own, 10*time.Millisecond)
	if err := watchdog(own, time.Hour)(nil); err != nil {
		t.Fatal(err)
	}
	queue.Add("object")
	object, _ := queue.Get()
	await := func(what string, want func(error) bool) {
		t.Helper()
		if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
			return want(alive(nil)), nil
		}); err != nil {
			t.Fatalf("%s: %v", what, alive(nil))
		}
	}
	await("while it works", func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "the controller stuck has been working on one object for")
	})
	if err := watchdog(own, time.Hour)(nil); err != nil {
		t.Errorf("it has not worked for long: %v", err)
	}
	queue.Done(object)
	await("when it is done", func(err error) bool { return err == nil })
}
