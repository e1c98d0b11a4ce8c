// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"
)

func TestSettingsStayUnlessGivenAnew(t *testing.T) {
	before := Options{CRDs: []string{"/b", "/a"}, Operator: NoOperator, Releases: "/releases", Lite: ptr.To(true)}
	for name, tc := range map[string]struct {
		why  string
		give Options
		want Options
	}{
		"Nothing": {give: Options{}, want: Options{CRDs: []string{"/a", "/b"}, Operator: NoOperator, Releases: "/releases", Lite: ptr.To(true)}},
		"Some":    {give: Options{Operator: "/operator"}, want: Options{CRDs: []string{"/a", "/b"}, Operator: "/operator", Releases: "/releases", Lite: ptr.To(true)}},
		"All": {
			why:  "Kinds that were installed are not removed.",
			give: Options{CRDs: []string{"/c", "/a"}, Operator: "/operator", Releases: "/other", Lite: ptr.To(false)},
			want: Options{CRDs: []string{"/a", "/b", "/c"}, Operator: "/operator", Releases: "/other", Lite: ptr.To(false)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.give.over(before)); diff != "" {
				t.Errorf("%s\n%s", tc.why, diff)
			}
		})
	}
}
