// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
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

func TestLinesFitIntoATerminal(t *testing.T) {
	var out strings.Builder
	r := NewReport(&out)
	r.now = func() time.Time { return time.Unix(0, 0) }
	width := 20
	r.Columns = func() int { return width }
	r.Say("waits for\n  äöü %s", strings.Repeat("x", 40))
	width = 0 // that of no terminal
	r.Say("short")
	if got, want := out.String(), "     0.0s  waits fo…\n     0.0s  short\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.Columns = nil
	out.Reset()
	r.Say("%s", strings.Repeat("x", 400))
	if got := len(out.String()); got != 412 {
		t.Errorf("elsewhere a line of 412 bytes has %d", got)
	}
}

func TestWaitingInVainSaysForHowLongAndWhatWasSeen(t *testing.T) {
	var out strings.Builder
	s := &Story{Report: NewReport(&out)}
	waiting := func(ctx context.Context) (Facts, bool, error) { return Facts{"Pods": "1 of 2 ready"}, false, nil }
	err := s.Watch(t.Context(), time.Millisecond, waiting)
	if err == nil || err.Error() != "not there after 1ms; last seen: Pods: 1 of 2 ready" {
		t.Errorf("its own limit: %v", err)
	}
	outer, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, NotThere(time.Hour))
	defer cancel()
	hanging := func(ctx context.Context) (Facts, bool, error) { <-ctx.Done(); return nil, false, ctx.Err() }
	if err := s.Watch(outer, time.Minute, hanging); err == nil || err.Error() != "not there after 1h0m0s" {
		t.Errorf("the limit of who waits: %v", err)
	}
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("enough"))
	if err := s.Watch(stopped, time.Minute, waiting); err == nil || err.Error() != "enough" {
		t.Errorf("interrupted: %v", err)
	}
}

func TestPodsThatAreDoneAreNotWaitedFor(t *testing.T) {
	pod := func(phase corev1.PodPhase, ready corev1.ConditionStatus) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{Phase: phase, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	}
	ready, done := countPods([]corev1.Pod{
		pod(corev1.PodRunning, corev1.ConditionTrue), pod(corev1.PodSucceeded, corev1.ConditionFalse), pod(corev1.PodPending, corev1.ConditionFalse), pod(corev1.PodFailed, corev1.ConditionFalse),
	})
	if ready != 1 || done != 1 {
		t.Errorf("%d are ready and %d done, want one of each", ready, done)
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
