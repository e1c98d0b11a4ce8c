// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Somebody is called for a release that is refused, and not for one that is used without a signature.
func TestVerificationsAreCountedByResult(t *testing.T) {
	unsigned := errors.New("unsigned")
	for result, tt := range map[string]struct {
		optional bool
		err      error
	}{verified: {}, refused: {err: unsigned}, tolerated: {optional: true, err: unsigned}} {
		t.Run(result, func(t *testing.T) {
			count := func() uint64 {
				metric := &dto.Metric{}
				if err := verificationDuration.WithLabelValues(result).(prometheus.Metric).Write(metric); err != nil {
					t.Fatal(err)
				}
				return metric.GetHistogram().GetSampleCount()
			}
			before := count()
			observeVerification(time.Millisecond, tt.optional, tt.err)
			if n := count() - before; n != 1 {
				t.Errorf("counted %d times", n)
			}
		})
	}
}
