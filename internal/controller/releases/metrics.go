// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

var (
	sourceDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "cluster_stack_source_duration_seconds",
		Help:    "How long sources took, by kind of source (directory, oci or github), operation (list or fetch) and result: done, missing for a release that is not there, or error.",
		Buckets: []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300},
	}, []string{"source", "operation", "result"})
	verificationDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "cluster_stack_verification_duration_seconds",
		Help:    "How long it took to check the signatures of a release, by result: verified, refused, or tolerated where none is required.",
		Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5},
	}, []string{"result"})
)

const (
	verified  = "verified"
	refused   = "refused"
	tolerated = "tolerated"
)

func init() {
	metrics.Registry.MustRegister(sourceDuration, verificationDuration)
	for _, result := range []string{verified, refused, tolerated} {
		verificationDuration.WithLabelValues(result) // from zero, so that the first refusal is an increase
	}
}

// observeSource notes what came of a question to the source of an origin.
func observeSource(o Origin, operation string, began time.Time, err error) {
	// Of the location only what kind of source it is: ClusterStacks may name any number of sources.
	kind, _, _ := strings.Cut(o.Location, ":")
	result := "done"
	switch {
	case errors.Is(err, source.ErrNotFound):
		result = "missing"
	case err != nil:
		result = "error"
	}
	sourceDuration.WithLabelValues(kind, operation, result).Observe(time.Since(began).Seconds())
}

// observeVerification notes what a policy said. What it would refuse is used nevertheless if it is optional, and nobody
// has to be called for that.
func observeVerification(took time.Duration, optional bool, err error) {
	result := verified
	switch {
	case err != nil && optional:
		result = tolerated
	case err != nil:
		result = refused
	}
	verificationDuration.WithLabelValues(result).Observe(took.Seconds())
}
