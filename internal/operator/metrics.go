// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/renderworker"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// standing tells how things stand, at the moment that it is asked: what is not counted up cannot drift from what is
// there. It names releases but no Clusters, of which there may be thousands.
type standing struct {
	reader  client.Reader
	renders *renderworker.Pool
	store   *store.Store
	// expiry says when the certificate of a server expires, by the server; zero for what is not known.
	expiry map[string]func() time.Time
}

var (
	objectsMetric = prometheus.NewDesc("cluster_stack_objects",
		"Objects by kind, and by whether they are ready.", []string{"kind", "ready"}, nil)
	clustersMetric = prometheus.NewDesc("cluster_stack_clusters",
		"Clusters by the class whose addons they have (none before the first rollout is finished), and by whether their addons are ready.", []string{"class", "ready"}, nil)
	driftedMetric = prometheus.NewDesc("cluster_stack_drifted_clusters",
		"Clusters in which others have changed objects of the addons, which is left so as their settings say.", nil, nil)
	stagesMetric = prometheus.NewDesc("cluster_stack_stages",
		"Stages of the rollouts of all Clusters by the phase that they are in.", []string{"phase"}, nil)
	rendersMetric = prometheus.NewDesc("cluster_stack_renders",
		"Renders of charts by state: waiting for a worker, or running.", []string{"state"}, nil)
	fetchesMetric = prometheus.NewDesc("cluster_stack_fetches",
		"Releases that are being fetched.", nil, nil)
	storeMetric = prometheus.NewDesc("cluster_stack_store_size_bytes",
		"What the releases in the store of this replica take.", nil, nil)
	expiryMetric = prometheus.NewDesc("cluster_stack_certificate_expiration_timestamp_seconds",
		"When the certificate of a server of this replica expires, in seconds since 1970.", []string{"server"}, nil)
)

var renderDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
	Name:    "cluster_stack_render_duration_seconds",
	Help:    "How long it took to render a chart, the wait for a worker included, by result: done, invalid for a chart that cannot be rendered, or error.",
	Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60},
}, []string{"result"})

func init() { metrics.Registry.MustRegister(renderDuration) }

// renderer renders a chart.
type renderer func(context.Context, render.Input) (*render.Result, error)

// timed measures what a renderer does.
func timed(r renderer) renderer {
	return func(ctx context.Context, in render.Input) (*render.Result, error) {
		began := time.Now()
		rendered, err := r(ctx, in)
		result := "done"
		var invalid *render.InvalidError
		switch {
		case errors.As(err, &invalid):
			result = "invalid"
		case err != nil:
			result = "error"
		}
		renderDuration.WithLabelValues(result).Observe(time.Since(began).Seconds())
		return rendered, err
	}
}

// Describe implements prometheus.Collector.
func (standing) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		objectsMetric, clustersMetric, driftedMetric, stagesMetric, rendersMetric, fetchesMetric, storeMetric, expiryMetric,
	} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (s standing) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	waiting, running := s.renders.Load()
	gauge(rendersMetric, float64(waiting), "waiting")
	gauge(rendersMetric, float64(running), "running")
	gauge(fetchesMetric, float64(s.store.Fetching()))
	gauge(storeMetric, float64(s.store.Size()))
	for server, expires := range s.expiry {
		if at := expires(); !at.IsZero() {
			gauge(expiryMetric, float64(at.Unix()), server)
		}
	}

	objects, clusters, stages, drifted := map[[2]string]int{}, map[[2]string]int{}, map[string]int{}, 0
	// From zero: that there is none of a kind is another thing than that nobody tells.
	for _, kind := range []string{v1alpha1.ClusterStackKind, v1alpha1.ClusterStackReleaseKind, v1alpha1.ClusterAddonKind} {
		objects[[2]string{kind, "true"}], objects[[2]string{kind, "false"}] = 0, 0
	}
	ready := func(conditions v1alpha1.Conditions) string {
		return strconv.FormatBool(conditions.IsTrue(v1alpha1.ReadyCondition))
	}
	// From memory, once it has been read. Until then the liveness probe, which gathers metrics, must not wait for it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stacks, releases, addons := &v1alpha1.ClusterStackList{}, &v1alpha1.ClusterStackReleaseList{}, &v1alpha1.ClusterAddonList{}
	for _, list := range []client.ObjectList{stacks, releases, addons} {
		if err := s.reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
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
		if c := addon.Status.Conditions.Get(v1alpha1.InSyncCondition); c != nil && c.Reason == v1alpha1.DriftedReason {
			drifted++
		}
		for _, stage := range addon.Status.Stages {
			stages[string(stage.Phase)]++
		}
	}
	gauge(driftedMetric, float64(drifted))
	for labels, n := range objects {
		gauge(objectsMetric, float64(n), labels[:]...)
	}
	for labels, n := range clusters {
		gauge(clustersMetric, float64(n), labels[:]...)
	}
	for phase, n := range stages {
		gauge(stagesMetric, float64(n), phase)
	}
}

// fileExpiry says when the certificate in a folder expires.
func fileExpiry(folder string) func() time.Time {
	return func() time.Time {
		// Read again each time: whoever issues it replaces it.
		pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
		if err != nil {
			return time.Time{} // the servers say what is wrong with it
		}
		certificate, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			return time.Time{}
		}
		return certificate.NotAfter
	}
}
