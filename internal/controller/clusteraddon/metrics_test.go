// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"fmt"
	"testing"
)

// Who writes releases must not be able to fill the memory of the operator, and of Prometheus, with names.
func TestNamesOfAddonsMakeFewSeries(t *testing.T) {
	l := &labels{limit: 3}
	seen := map[string]bool{}
	for i := range 100 {
		seen[l.of(fmt.Sprintf("addon-%d", i))] = true
	}
	if len(seen) != 4 || !seen["other"] {
		t.Errorf("100 names of addons have the labels %v", seen)
	}
	if got := l.of("addon-1"); got != "addon-1" {
		t.Errorf("one of the first names has become %s", got)
	}
}
