// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// look is one look at a pod in a story.
type look struct {
	after  time.Duration // since the pod was created
	fault  *Fault
	change func(*corev1.Pod, *surroundings)
	want   string
	then   time.Duration
}

var (
	crashes  = &Fault{Kind: CrashLoop, ExitCode: 3, Cause: "because"}
	notReady = &Fault{Kind: NotReady, Cause: "because"}
	unpulled = &Fault{Kind: ImagePull, Cause: "because"}
)

func onFailure(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }

// told tells the states of containers in one line: phase, readiness, and for each one state, restarts, last end.
func told(s corev1.PodStatus) string {
	words := []string{string(s.Phase)}
	if isTrue(s.Conditions, corev1.PodReady) {
		words = append(words, "ready")
	}
	for _, c := range append(append([]corev1.ContainerStatus{}, s.InitContainerStatuses...), s.ContainerStatuses...) {
		word := c.Name + ":"
		switch {
		case c.State.Running != nil:
			word += "running"
		case c.State.Terminated != nil:
			word += fmt.Sprintf("%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		default:
			word += c.State.Waiting.Reason
		}
		if c.RestartCount > 0 {
			word += fmt.Sprintf(" x%d", c.RestartCount)
		}
		if last := c.LastTerminationState.Terminated; last != nil {
			word += fmt.Sprintf(" after %s(%d)", last.Reason, last.ExitCode)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func TestStoriesOfFaults(t *testing.T) {
	start := earlier.Time
	program := func(p Program) func(*corev1.Pod, *surroundings) {
		return func(_ *corev1.Pod, s *surroundings) { s.programs = map[string]Program{"a": p} }
	}
	cases := map[string]struct {
		why   string
		pod   *corev1.Pod
		looks []look
	}{
		"CrashLoop": {
			why: "The first restart comes at once, the others after pauses that grow.",
			pod: pod("app:1"),
			looks: []look{
				{after: 0, fault: crashes, want: "Running, a:Error(3)", then: time.Second},
				{after: 1 * time.Second, fault: crashes, want: "Running, a:Error(3) x1 after Error(3)", then: time.Second},
				{after: 2 * time.Second, fault: crashes, want: "Running, a:CrashLoopBackOff x1 after Error(3)", then: 9 * time.Second},
				{after: 5 * time.Second, fault: crashes, want: "Running, a:CrashLoopBackOff x1 after Error(3)", then: 6 * time.Second},
				{after: 11 * time.Second, fault: crashes, want: "Running, a:Error(3) x2 after Error(3)", then: time.Second},
				{after: 12 * time.Second, fault: crashes, want: "Running, a:CrashLoopBackOff x2 after Error(3)", then: 19 * time.Second},
				{after: 31 * time.Second, fault: crashes, want: "Running, a:Error(3) x3 after Error(3)", then: time.Second},
				{after: 32 * time.Second, want: "Running, ready, a:running x4 after Error(3)"},
			},
		},
		"CrashAfterItRan": {
			pod: pod("app:1", "app:2"),
			looks: []look{
				{after: 0, want: "Running, ready, a:running, b:running"},
				{after: time.Minute, fault: &Fault{Kind: CrashLoop, Container: "b", ExitCode: 1}, want: "Running, a:running, b:Error(1)", then: time.Second},
				{after: 61 * time.Second, fault: &Fault{Kind: CrashLoop, Container: "b", ExitCode: 1}, want: "Running, a:running, b:Error(1) x1 after Error(1)", then: time.Second},
				{after: 62 * time.Second, fault: &Fault{Kind: CrashLoop, Container: "b", ExitCode: 1}, want: "Running, a:running, b:CrashLoopBackOff x1 after Error(1)", then: 9 * time.Second},
				{after: 63 * time.Second, want: "Running, ready, a:running, b:running x2 after Error(1)"},
			},
		},
		"JobThatIsNotRestarted": {
			why:   "The Job makes another pod, up to its limit.",
			pod:   with(pod("job:1"), never),
			looks: []look{{after: 0, fault: crashes, want: "Failed, a:Error(3)", then: time.Second}},
		},
		"JobThatIsRestarted": {
			pod: with(pod("job:1"), onFailure),
			looks: []look{
				{after: 0, fault: crashes, want: "Running, a:Error(3)", then: time.Second},
				{after: time.Second, fault: crashes, want: "Running, a:Error(3) x1 after Error(3)", then: time.Second},
				{after: 2 * time.Second, want: "Succeeded, a:Completed(0) x1 after Error(3)"},
			},
		},
		"JobWithAContainerThatEndsWell": {
			pod:   with(pod("job:1", "job:2"), never),
			looks: []look{{after: 0, fault: &Fault{Kind: CrashLoop, Container: "b", ExitCode: 1}, want: "Failed, a:Completed(0), b:Error(1)", then: time.Second}},
		},
		"InitContainerCrashes": {
			why: "Nothing after it starts.",
			pod: with(pod("app:1"), initContainer("i", "init:1", false)),
			looks: []look{
				{after: 0, fault: &Fault{Kind: CrashLoop, Container: "i", ExitCode: 1}, want: "Pending, i:Error(1), a:PodInitializing", then: time.Second},
				{after: time.Second, fault: &Fault{Kind: CrashLoop, Container: "i", ExitCode: 1}, want: "Pending, i:Error(1) x1 after Error(1), a:PodInitializing", then: time.Second},
				{after: 2 * time.Second, want: "Running, ready, i:Completed(0) x1 after Error(1), a:running"},
			},
		},
		"InitContainersAreSpared": {
			pod:   with(pod("app:1"), initContainer("i", "init:1", false)),
			looks: []look{{after: 0, fault: crashes, want: "Running, i:Completed(0), a:Error(3)", then: time.Second}},
		},
		"NotReady": {
			pod: pod("app:1"),
			looks: []look{
				{after: 0, fault: notReady, want: "Running, a:running"},
				{after: time.Second, want: "Running, ready, a:running"},
				{after: 2 * time.Second, fault: notReady, want: "Running, a:running"},
			},
		},
		"ImagePull": {
			pod: pod("app:1"),
			looks: []look{
				{after: 0, fault: unpulled, want: "Pending, a:ErrImagePull", then: time.Second},
				{after: time.Second, fault: unpulled, want: "Pending, a:ImagePullBackOff"},
				{after: 2 * time.Second, fault: unpulled, want: "Pending, a:ImagePullBackOff"},
				{after: 3 * time.Second, want: "Running, ready, a:running"},
				{after: 4 * time.Second, fault: unpulled, want: "Running, ready, a:running"}, // it needs the image no more
			},
		},
		"AnnotationThatMeansNothing": {
			why:   "The author of the chart is to see it.",
			pod:   pod("app:1"),
			looks: []look{{after: 0, fault: &Fault{Kind: Misspelled, Cause: "use this"}, want: "Pending, a:CreateContainerConfigError"}},
		},
		"MachineBoots": {
			pod: pod("app:1"),
			looks: []look{
				{after: 0, want: "Running, ready, a:running"},
				{after: time.Minute, change: func(_ *corev1.Pod, s *surroundings) { s.booted = start.Add(time.Minute) }, want: "Running, ready, a:running x1 after Unknown(255)"},
				{after: 2 * time.Minute, change: func(_ *corev1.Pod, s *surroundings) { s.booted = start.Add(time.Minute) }, want: "Running, ready, a:running x1 after Unknown(255)"},
			},
		},
		"ProgramOfAStaticPod": {
			why: "The mirror tells what the real process does.",
			pod: with(pod("etcd:1"), hostNetwork),
			looks: []look{
				{after: time.Second, change: program(Program{Running: true, Ready: true, Started: start}), want: "Running, ready, a:running"},
				{after: 2 * time.Second, change: program(Program{Running: true, Started: start}), want: "Running, a:running"},
				{after: 3 * time.Second, change: program(Program{Started: start, ExitCode: 137}), want: "Running, a:Error(137)", then: time.Second},
				{after: 4 * time.Second, change: program(Program{Started: start, ExitCode: 137}), want: "Running, a:Error(137) x1 after Error(137)", then: time.Second},
				{after: 5 * time.Second, change: program(Program{Started: start, ExitCode: 137}), want: "Running, a:CrashLoopBackOff x1 after Error(137)", then: 9 * time.Second},
				{after: 6 * time.Second, change: program(Program{Running: true, Ready: true, Started: start.Add(6 * time.Second)}), want: "Running, ready, a:running x2 after Error(137)"},
				{after: 9 * time.Second, change: program(Program{Running: true, Ready: true, Started: start.Add(8500 * time.Millisecond), ExitCode: 2}), want: "Running, ready, a:running x3 after Error(2)"},
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, l := range c.looks {
				s := surroundings{now: metav1.NewTime(start.Add(l.after)), hostIP: "127.64.1.2", podIP: "10.0.0.2", fault: l.fault}
				if l.change != nil {
					l.change(c.pod, &s)
				}
				status, then := podStatus(c.pod, true, s)
				if got := told(status); got != l.want || then != l.then {
					t.Fatalf("after %s:\n got %s, look again after %s\nwant %s, look again after %s\n%s", l.after, got, then, l.want, l.then, c.why)
				}
				c.pod.Status = status
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	for restarts, want := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute} {
		if got := backOff(int32(restarts)); got != want {
			t.Errorf("after %d restarts: got %s, want %s", restarts, got, want)
		}
	}
}

func TestAnnotated(t *testing.T) {
	cases := map[string]struct {
		annotations map[string]string
		want        string
	}{
		"None":      {nil, "nothing"},
		"NotReady":  {map[string]string{FaultAnnotation: "not-ready"}, "not-ready"},
		"CrashLoop": {map[string]string{FaultAnnotation: "crash-loop"}, "crash-loop"},
		"ImagePull": {map[string]string{FaultAnnotation: "image-pull"}, "image-pull"},
		"Other":     {map[string]string{FaultAnnotation: "crashloop"}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := "nothing"
			if f := annotated(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}}); f != nil {
				got = string(f.Kind)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	cases := map[string]struct {
		fault   *Fault
		looks   int
		network bool
		want    []event
	}{
		"Runs": {network: true, looks: 1, want: nil},
		"NoNetwork": {looks: 1, want: []event{
			{"Warning", "NetworkNotReady", networkNotReady},
		}},
		"NotReady": {fault: notReady, network: true, looks: 1, want: []event{
			{"Warning", "Unhealthy", "Readiness probe failed: because"},
		}},
		"ImagePull": {fault: unpulled, network: true, looks: 1, want: []event{
			{"Warning", "Failed", `Failed to pull image "app:1": because`},
			{"Warning", "Failed", "Error: ErrImagePull"},
		}},
		"ImagePullBackOff": {fault: unpulled, network: true, looks: 2, want: []event{
			{"Normal", "BackOff", `Back-off pulling image "app:1"`},
			{"Warning", "Failed", "Error: ImagePullBackOff"},
		}},
		"CrashLoop": {fault: crashes, network: true, looks: 3, want: []event{
			{"Warning", "BackOff", "Back-off restarting failed container a in pod p_n(u)"},
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := pod("app:1")
			s := surroundings{now: earlier, fault: c.fault}
			for range c.looks {
				p.Status, _ = podStatus(p, c.network, s)
			}
			got := events(p, p.Status, startBlockers(p, c.network, s), c.fault)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(event{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
