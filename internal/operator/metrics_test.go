// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/renderworker"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

func TestExpiryIsReadFromTheFile(t *testing.T) {
	folder := t.TempDir()
	expires := fileExpiry(folder)
	if at := expires(); !at.IsZero() {
		t.Errorf("a certificate that is not there expires at %s", at)
	}
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		t.Helper()
		pair, err := ca.Issue(pki.Request{CommonName: "hooks", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"tls.crt": pair.CertPEM, "tls.key": pair.KeyPEM} {
			if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	if at := expires(); !at.After(time.Now()) {
		t.Errorf("a new certificate expires at %s", at)
	}
	if err := os.WriteFile(filepath.Join(folder, "tls.crt"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if at := expires(); !at.IsZero() {
		t.Errorf("a damaged certificate expires at %s", at)
	}
}

func TestRendersAreCountedByResult(t *testing.T) {
	counts := func(result string) uint64 {
		metric := &dto.Metric{}
		if err := renderDuration.WithLabelValues(result).(prometheus.Metric).Write(metric); err != nil {
			t.Fatal(err)
		}
		return metric.GetHistogram().GetSampleCount()
	}
	for result, err := range map[string]error{
		"done": nil, "invalid": &render.InvalidError{Subject: "chart", Reason: "is none"}, "error": errors.New("a worker died"),
	} {
		before := counts(result)
		if _, got := timed(func(context.Context, render.Input) (*render.Result, error) { return nil, err })(t.Context(), render.Input{}); !errors.Is(got, err) {
			t.Errorf("%s: %v has become %v", result, err, got)
		}
		if n := counts(result) - before; n != 1 {
			t.Errorf("%s: counted %d times", result, n)
		}
	}
}

// nothing is a management cluster without any objects.
type nothing struct{ client.Reader }

func (nothing) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// An alert goes off when nobody tells of objects. Of an operator that nobody has given any work it must not.
func TestNoObjectsAreToldOfToo(t *testing.T) {
	st, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	renders := renderworker.New(renderworker.Options{})
	t.Cleanup(renders.Close)
	registry := prometheus.NewRegistry()
	registry.MustRegister(standing{reader: nothing{}, renders: renders, store: st})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, family := range families {
		if family.GetName() != "cluster_stack_objects" {
			continue
		}
		for _, metric := range family.GetMetric() {
			series++
			if n := metric.GetGauge().GetValue(); n != 0 {
				t.Errorf("%v: %v objects", metric.GetLabel(), n)
			}
		}
	}
	if series != 6 {
		t.Errorf("%d series of objects, want one for each of three kinds, ready or not", series)
	}
}
