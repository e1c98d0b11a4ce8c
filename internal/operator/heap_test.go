// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import "testing"

func TestGrowth(t *testing.T) {
	for name, tc := range map[string]struct {
		why  string
		live uint64
		want int
	}{
		"Nothing":  {"The first collection has not run yet.", 0, 300},
		"Few":      {"A dozen clusters are worth no collection each time they double.", 20 << 20, 300},
		"Some":     {"", 40 << 20, 200},
		"Balanced": {"As Go does it by itself.", 80 << 20, 100},
		"Many":     {"Memory is what counts here.", 320 << 20, 25},
		"TooMany":  {"The collector must not become all that runs.", 4 << 30, 20},
	} {
		t.Run(name, func(t *testing.T) {
			if got := growth(tc.live); got != tc.want {
				t.Errorf("%d %%, want %d %%: %s", got, tc.want, tc.why)
			}
		})
	}
}
