// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package story

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

func TestChangesTellWhatMoved(t *testing.T) {
	for name, tc := range map[string]struct {
		why           string
		before, after Facts
		want          []string
	}{
		"FirstLook": {
			why:   "all that is seen is new, in the order of the subjects",
			after: Facts{"Pods": "1 of 2 ready", "Cluster": "Provisioning"},
			want:  []string{"Cluster: Provisioning", "Pods: 1 of 2 ready"},
		},
		"NothingMoved": {
			why:    "what stayed is not said again",
			before: Facts{"Cluster": "Provisioned"},
			after:  Facts{"Cluster": "Provisioned"},
		},
		"MovedAndGone": {
			why:    "a machine that was replaced is said to be gone, once",
			before: Facts{"Machine a": "Running", "Machine b": "Pending"},
			after:  Facts{"Machine b": "Running"},
			want:   []string{"Machine a: gone", "Machine b: Running"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, changes(tc.before, tc.after)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.why, diff)
			}
		})
	}
}

func TestReportTimesItsChapters(t *testing.T) {
	var out strings.Builder
	clock := time.Unix(0, 0)
	r := NewReport(&out)
	r.now = func() time.Time { return clock }
	r.began = clock

	r.Chapter("one")
	clock = clock.Add(1500 * time.Millisecond)
	r.Say("a fact of %s", "one")
	clock = clock.Add(time.Second)
	r.Chapter("two")
	clock = clock.Add(2 * time.Second)
	r.Summary()

	want := `
1. one
     1.5s  a fact of one

2. two

     2.5s  1. one
     2.0s  2. two
     4.5s  in all
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := r.Took("one"); got != 2500*time.Millisecond {
		t.Errorf("chapter one took %s", got)
	}
}

func TestReasonsAreWrittenAsWords(t *testing.T) {
	for reason, want := range map[string]string{
		clusterv1.MachineDeletingDrainingNodeReason:           "draining node",
		clusterv1.MachineDeletingWaitingForPreDrainHookReason: "waiting for pre drain hook",
		clusterv1.MachineDeletingDeletionCompletedReason:      "deletion completed",
		clusterv1.MachineDeletingWaitingForVolumeDetachReason: "waiting for volume detach",
	} {
		if got := words(reason); got != want {
			t.Errorf("%s is told as %q, want %q", reason, got, want)
		}
	}
}
