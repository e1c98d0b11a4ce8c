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

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
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
