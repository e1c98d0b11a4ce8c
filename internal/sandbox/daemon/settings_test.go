// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"
)

func TestSettingsStayUnlessGivenAnew(t *testing.T) {
	before := Options{CRDs: []string{"/b", "/a"}, Operator: NoOperator, Releases: "/releases", Registry: ptr.To(true), Lite: ptr.To(true)}
	for name, tc := range map[string]struct {
		why  string
		give Options
		want Options
	}{
		"Nothing": {give: Options{}, want: Options{CRDs: []string{"/a", "/b"}, Operator: NoOperator, Releases: "/releases", Registry: ptr.To(true), Lite: ptr.To(true)}},
		"Some":    {give: Options{Operator: "/operator"}, want: Options{CRDs: []string{"/a", "/b"}, Operator: "/operator", Releases: "/releases", Registry: ptr.To(true), Lite: ptr.To(true)}},
		"All": {
			why:  "Kinds that were installed are not removed.",
			give: Options{CRDs: []string{"/c", "/a"}, Operator: "/operator", Releases: "/other", Registry: ptr.To(false), Lite: ptr.To(false)},
			want: Options{CRDs: []string{"/a", "/b", "/c"}, Operator: "/operator", Releases: "/other", Registry: ptr.To(false), Lite: ptr.To(false)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.give.over(before)); diff != "" {
				t.Errorf("%s\n%s", tc.why, diff)
			}
		})
	}
}

// TestTask: settings stay as long as what they brought about does.
func TestTask(t *testing.T) {
	before := State{Addresses: "127.64.0.0/16", Settings: Options{CRDs: []string{"/a"}, Kubernetes: "1.34"}}
	lasting := before
	lasting.Lasting = true
	opts := Options{CRDs: []string{"/b"}}
	for name, tc := range map[string]struct {
		why     string
		before  State
		want    task
		outcome Outcome
	}{
		"New": {want: task{Name: "a", CRDs: opts.CRDs, Settings: opts}, outcome: Started},
		"NeverReady": {
			why:    "Its etcd is removed, and the kinds of /a with it: nobody may say that they are there.",
			before: before, want: task{Name: "a", CRDs: opts.CRDs, Settings: opts}, outcome: Started,
		},
		"Lasting": {
			before: lasting, outcome: Resumed,
			want: task{Name: "a", CRDs: opts.CRDs, Settings: Options{CRDs: []string{"/a", "/b"}, Kubernetes: "1.34"}, Block: "127.64"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, outcome := newTask("a", opts, tc.before)
			if diff := cmp.Diff(tc.want, got); diff != "" || outcome != tc.outcome {
				t.Errorf("%s %s\n%s", outcome, tc.why, diff)
			}
		})
	}
}

// TestWhatCannotBeStartedLeavesNothing: a folder would be listed as a sandbox of which nobody knows anything.
func TestWhatCannotBeStartedLeavesNothing(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	for name, settings := range map[string]Options{
		"Operator": {Operator: gone},
		"Releases": {Operator: NoOperator, Releases: gone},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a")
			if err := (&task{Name: "a", Settings: settings}).prepare(dir); err == nil || !strings.Contains(err.Error(), gone) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("a folder is left (%v)", err)
			}
		})
	}
}
