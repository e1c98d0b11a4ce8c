// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// tried is a trial whose second of three steps failed.
var tried = Result{
	Stack: "docker-scs-1-35", Seconds: 30.25,
	Steps: []StepResult{
		{
			Name: "create a cluster from docker-scs-1-35-v1", Release: "docker-scs-1-35-v1", Kubernetes: "v1.35.4", Outcome: Passed, Seconds: 20,
			Addons: []Addon{{"cni", 4}, {"metrics-server", 1}}, Added: []string{"Service a", "Service b"},
			Unhealthy: []Problem{{"Service a", "InProgress: it has no address"}},
		},
		{
			Name: "upgrade from docker-scs-1-35-v1 to docker-scs-1-35-v2", From: "docker-scs-1-35-v1", Release: "docker-scs-1-35-v2", Kubernetes: "v1.35.4",
			Outcome: Failed, Seconds: 10.25, Error: "not there after 10s",
			Addons: []Addon{{"cni", 6}}, Added: []string{"Pod a", "Pod b", "Pod c", "Pod d", "Pod e", "Pod f"}, Changed: []string{"Service a"}, Pruned: []string{"Service b"},
			Rolled:   []Machine{{"x", "control plane", "v1.35.4"}, {"y", "workers", "v1.35.4"}, {"z", "workers", "v1.35.4"}},
			Problems: []Problem{{"Pod kube-system/x", "Unschedulable: 0/2 nodes are available"}},
		},
		{Name: "upgrade from docker-scs-1-35-v2 to docker-scs-1-36-v1", Outcome: Skipped},
	},
}

func TestATrialIsToldInWords(t *testing.T) {
	const want = `✓ 1. create a cluster from docker-scs-1-35-v1, Kubernetes v1.35.4: 20.0s
     addons, with their objects: cni (4), metrics-server (1)
     not healthy: Service a: InProgress: it has no address
✗ 2. upgrade from docker-scs-1-35-v1 to docker-scs-1-35-v2, Kubernetes v1.35.4: 10.2s
     addons, with their objects: cni (6)
     added: Pod a, Pod b, Pod c, Pod d, and 2 more
     changed: Service a
     pruned: Service b
     machines that were replaced: control plane (1), workers (2)
     failed: not there after 10s
       Pod kube-system/x: Unschedulable: 0/2 nodes are available
- 3. upgrade from docker-scs-1-35-v2 to docker-scs-1-36-v1: not tried
`
	var got strings.Builder
	if err := tried.WriteText(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestATrialIsToldToContinuousIntegration(t *testing.T) {
	var text strings.Builder
	if err := tried.WriteJUnit(&text); err != nil {
		t.Fatal(err)
	}
	// What those who read it look at.
	var got struct {
		XMLName  xml.Name `xml:"testsuite"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Skipped  int      `xml:"skipped,attr"`
		Time     float64  `xml:"time,attr"`
		Cases    []struct {
			Name    string  `xml:"name,attr"`
			Time    float64 `xml:"time,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"failure"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal([]byte(text.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Tests != 3 || got.Failures != 1 || got.Skipped != 1 || got.Time != 30.25 || len(got.Cases) != 3 {
		t.Fatalf("got %+v", got)
	}
	if c := got.Cases[0]; c.Failure != nil || c.Skipped != nil || c.Time != 20 || c.Name != tried.Steps[0].Name {
		t.Errorf("a step that passed: %+v", c)
	}
	if c := got.Cases[1]; c.Failure == nil || c.Failure.Message != "not there after 10s" || !strings.Contains(c.Failure.Text, "Unschedulable") {
		t.Errorf("a step that failed: %+v", c)
	}
	if c := got.Cases[2]; c.Failure != nil || c.Skipped == nil {
		t.Errorf("a step that was not tried: %+v", c)
	}
}

// What a step left undone is never told as if it had passed, and whatever is in a message stays readable XML.
func TestEveryOutcomeIsToldToContinuousIntegration(t *testing.T) {
	steps := []Step{{Kubernetes: "v1.35.4"}, {Kubernetes: "v1.35.4"}, {Kubernetes: "v1.36.3"}}
	passed := Untried("docker-scs-1-35", steps)
	passed.Steps[0].Outcome = Passed
	failed := passed.Unfinished()
	failed.Steps[1].Outcome, failed.Steps[1].Error = Failed, "a \x00 \x1b[31m \xff ]]> <b>"
	failed.Steps[1].Problems = []Problem{{"Pod x", "said \x01 & <that>"}}
	findings := Result{Stack: "docker-scs-1-35", Findings: []Problem{{"csctl.yaml:3", "it is wrong"}}}
	for name, tt := range map[string]struct {
		give                     Result
		tests, failures, errored int
		skipped                  int
	}{
		"NotBegun":    {Untried("docker-scs-1-35", steps).Unfinished(), 3, 0, 1, 2},
		"Interrupted": {passed.Unfinished(), 3, 0, 1, 1},
		"Failed":      {failed, 3, 1, 0, 1},
		"NotTried":    {findings, 1, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			if err := tt.give.WriteJUnit(&text); err != nil {
				t.Fatal(err)
			}
			var got struct {
				Name     string `xml:"name,attr"`
				Tests    int    `xml:"tests,attr"`
				Failures int    `xml:"failures,attr"`
				Errors   int    `xml:"errors,attr"`
				Skipped  int    `xml:"skipped,attr"`
				Cases    []struct {
					Name    string    `xml:"name,attr"`
					Failure *struct{} `xml:"failure"`
					Error   *struct{} `xml:"error"`
					Skipped *struct{} `xml:"skipped"`
				} `xml:"testcase"`
			}
			if err := xml.Unmarshal([]byte(text.String()), &got); err != nil {
				t.Fatalf("%v:\n%s", err, text.String())
			}
			failures, errored, skipped := 0, 0, 0
			for _, c := range got.Cases {
				if c.Name == "" {
					t.Error("a case has no name")
				}
				if c.Failure != nil {
					failures++
				}
				if c.Error != nil {
					errored++
				}
				if c.Skipped != nil {
					skipped++
				}
			}
			want := []int{tt.tests, tt.failures, tt.errored, tt.skipped}
			if diff := cmp.Diff(want, []int{got.Tests, got.Failures, got.Errors, got.Skipped}); diff != "" {
				t.Errorf("it counts (-want +got): %s", diff)
			}
			if diff := cmp.Diff(want, []int{len(got.Cases), failures, errored, skipped}); diff != "" {
				t.Errorf("it has (-want +got): %s", diff)
			}
			if got.Name != "docker-scs-1-35" {
				t.Errorf("the suite is called %q", got.Name)
			}
			if tt.give.Passed {
				t.Error("it counts as passed")
			}
		})
	}
}

func TestATrialThatIsBrokenOffIsToldInWords(t *testing.T) {
	name, err := release.ParseName("docker-scs-1-35-v1")
	if err != nil {
		t.Fatal(err)
	}
	r := Untried("docker-scs-1-35", []Step{{Release: name, Kubernetes: "v1.35.4"}, {Release: name, Kubernetes: "v1.35.4"}})
	r.Break(errors.New("interrupt"))
	var got strings.Builder
	if err := r.WriteText(&got); err != nil {
		t.Fatal(err)
	}
	const want = `! 1. create a cluster from docker-scs-1-35-v1, Kubernetes v1.35.4: 0.0s
     not tried to its end: interrupt
- 2. upgrade from docker-scs-1-35-v1 to docker-scs-1-35-v1: not tried
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestWarningsOfControllersAreTold(t *testing.T) {
	now := time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)
	event := func(kind, name, reason, note string, age time.Duration) eventsv1.Event {
		return eventsv1.Event{
			Type: corev1.EventTypeWarning, Reason: reason, Note: note, EventTime: metav1.NewMicroTime(now.Add(-age)),
			Regarding: corev1.ObjectReference{Kind: kind, Namespace: "kube-system", Name: name},
		}
	}
	normal := event("Pod", "x", "Pulled", "it is there", 0)
	normal.Type = corev1.EventTypeNormal
	repeated := event("DaemonSet", "cni", "FailedCreate", "serviceaccount \"cni\"\nnot found", time.Hour)
	repeated.Series = &eventsv1.EventSeries{LastObservedTime: metav1.NewMicroTime(now)}
	old := event("DaemonSet", "cni", "FailedCreate", "an older reason", time.Minute)
	got := warnings([]eventsv1.Event{
		event("Job", "x", "BackoffLimitExceeded", "it failed", time.Minute), old, repeated, normal,
		event("Pod", "x", "FailedScheduling", "its conditions say so", 0), event("Node", "y", "Gone", "long ago", time.Hour),
	}, now)
	want := []Problem{
		{"DaemonSet kube-system/cni", `event FailedCreate: serviceaccount "cni" not found`},
		{"Job kube-system/x", "event BackoffLimitExceeded: it failed"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAPodThatHasDoneItsWorkIsNoProblem(t *testing.T) {
	pod := corev1.Pod{Status: corev1.PodStatus{
		Phase:      corev1.PodSucceeded,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "PodCompleted"}},
	}}
	if got := podProblem(&pod); got != "" {
		t.Errorf("got %q", got)
	}
	pod.Status.Phase = corev1.PodFailed
	if podProblem(&pod) == "" {
		t.Error("a pod that failed is none either")
	}
}

func TestWhatAStepDidIsWhatDiffersFromTheOneBefore(t *testing.T) {
	id := func(name string) apply.ID { return apply.ID{Kind: "ConfigMap", Namespace: "a", Name: name} }
	entry := func(name, set, hash string) apply.Entry { return apply.Entry{ID: id(name), Set: set, Hash: hash} }
	inventory := func(entries ...apply.Entry) map[apply.ID]apply.Entry {
		m := map[apply.ID]apply.Entry{}
		for _, e := range entries {
			m[e.ID] = e
		}
		return m
	}
	old, stays, fresh := Machine{"m-1", "control plane", "v1.35.4"}, Machine{"w-1", "workers", "v1.35.4"}, Machine{"m-2", "control plane", "v1.36.3"}
	before := state{
		inventory: inventory(entry("same", "x", "1"), entry("moves", "x", "1"), entry("goes", "x", "1")),
		machines:  map[types.UID]Machine{"1": old, "2": stays},
	}
	now := state{
		inventory: inventory(entry("same", "x", "1"), entry("moves", "y", "2"), entry("comes", "y", "1")),
		machines:  map[types.UID]Machine{"2": stays, "3": fresh},
	}
	var got StepResult
	now.since(before, &got)
	want := StepResult{
		Addons:  []Addon{{"x", 1}, {"y", 2}},
		Added:   []string{"ConfigMap a/comes"},
		Changed: []string{"ConfigMap a/moves"},
		Pruned:  []string{"ConfigMap a/goes"},
		Rolled:  []Machine{old},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
