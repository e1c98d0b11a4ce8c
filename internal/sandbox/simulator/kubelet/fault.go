// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FaultAnnotation on a pod asks for a fault, by the name of its kind.
const FaultAnnotation = "sandbox.clusterstack.x-k8s.io/fail"

// FaultKind is a way in which containers fail.
type FaultKind string

// The ways in which containers fail.
const (
	// NotReady containers run, but their readiness probes fail.
	NotReady FaultKind = "not-ready"
	// CrashLoop: containers end as soon as they are started.
	CrashLoop FaultKind = "crash-loop"
	// ImagePull: the images cannot be pulled. Containers that run need none.
	ImagePull FaultKind = "image-pull"
	// Misspelled is an annotation that asks for something else.
	Misspelled FaultKind = ""
)

// Fault is what goes wrong with the containers of a pod.
type Fault struct {
	Kind FaultKind
	// Container is the only one that is hit; if it is empty all are, besides init containers.
	Container string
	// ExitCode of containers that crash.
	ExitCode int32
	// Cause is told to whoever looks at the pod.
	Cause string
}

// annotated gives the fault that a pod itself asks for, nil if it asks for none.
func annotated(pod *corev1.Pod) *Fault {
	value, ok := pod.Annotations[FaultAnnotation]
	if !ok {
		return nil
	}
	fault := &Fault{Kind: FaultKind(value), ExitCode: 1, Cause: fmt.Sprintf("the annotation %s of the pod asks for it", FaultAnnotation)}
	switch fault.Kind {
	case NotReady, CrashLoop, ImagePull:
	default:
		fault.Kind = Misspelled
		fault.Cause = fmt.Sprintf("annotation %s is %q; use %s, %s or %s", FaultAnnotation, value, NotReady, CrashLoop, ImagePull)
	}
	return fault
}

// hit says whether a container fails in a way.
func (w *writer) hit(c corev1.Container, kind FaultKind) bool {
	f := w.s.fault
	if f == nil || f.Kind != kind {
		return false
	}
	if f.Container == "" {
		return !w.isInit(c)
	}
	return f.Container == c.Name
}

// Times of a kubelet between two tries of what failed.
const (
	firstBackOff = 10 * time.Second
	lastBackOff  = 5 * time.Minute
	// relist is how long a kubelet takes to see that a container has ended.
	relist = time.Second
)

// backOff is how long a container has to wait that was restarted so many times: the first restart comes at once.
func backOff(restarts int32) time.Duration {
	if restarts == 0 {
		return 0
	}
	wait := firstBackOff
	for range restarts - 1 {
		if wait = 2 * wait; wait >= lastBackOff {
			return lastBackOff
		}
	}
	return wait
}

// crashed gives the next status of a container that ends as soon as it is started. What it was before says how far
// it got: it ends, it waits for its back-off, it is started again.
func (w *writer) crashed(c corev1.Container, status corev1.ContainerStatus, code int32, cause string) corev1.ContainerStatus {
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: code, Reason: "Error", Message: cause, StartedAt: w.s.now, FinishedAt: w.s.now,
	}}
	last := status.State.Terminated
	if status.State.Waiting != nil {
		last = status.LastTerminationState.Terminated
	}
	if last == nil { // it was running, or it starts for the first time
		w.lookAgain(relist)
		return w.container(c, status, ended)
	}
	if w.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		return status
	}
	wait := backOff(status.RestartCount)
	due := last.FinishedAt.Add(wait)
	if due.After(w.s.now.Time) {
		w.lookAgain(due.Sub(w.s.now.Time))
		if status.State.Terminated != nil {
			status.LastTerminationState = status.State
		}
		return w.container(c, status, waiting(reasonCrashLoop,
			fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", wait, c.Name, identity(w.pod))))
	}
	status.RestartCount++
	status.LastTerminationState = corev1.ContainerState{Terminated: last}
	status.State = corev1.ContainerState{} // or the new end would get the times of the one before
	w.lookAgain(relist)
	return w.container(c, status, ended)
}

// unpulled is the state of a container whose image cannot be pulled: the try, and then the wait for the next.
func (w *writer) unpulled(c corev1.Container) corev1.ContainerState {
	cause := fmt.Sprintf("failed to pull image %q: %s", c.Image, w.s.fault.Cause)
	last := statusOf(c, w.pod.Status.ContainerStatuses)
	if w.isInit(c) {
		last = statusOf(c, w.pod.Status.InitContainerStatuses)
	}
	if last.State.Waiting != nil && (last.State.Waiting.Reason == reasonImagePull || last.State.Waiting.Reason == reasonImagePullBackOff) {
		return waiting(reasonImagePullBackOff, fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, reasonImagePull, cause))
	}
	w.lookAgain(relist)
	return waiting(reasonImagePull, cause)
}

// unready takes the readiness from a container that runs, if it is hit.
func (w *writer) unready(status corev1.ContainerStatus, hit bool) corev1.ContainerStatus {
	if hit {
		status.Ready = false
	}
	return status
}

// lookAgain asks for another look after a time, the shortest that is asked for.
func (w *writer) lookAgain(after time.Duration) {
	if w.then == 0 || after < w.then {
		w.then = after
	}
}

// Program is what really runs in a container of a static pod.
type Program struct {
	// Running programs have a process, Started then; Ready ones answer.
	Running, Ready bool
	Started        time.Time
	// ExitCode is how the last process ended that did.
	ExitCode int32
}

// restarted says whether a container that runs is another one than that of the status.
func (w *writer) restarted(c corev1.Container, known *corev1.ContainerStateRunning) bool {
	since := w.s.booted
	if program, static := w.s.programs[c.Name]; static {
		since = program.Started
	}
	return known.StartedAt.Time.Before(since.Truncate(time.Second)) // as precisely as times are stored
}

// lost is how a container ended that nobody saw ending.
func (w *writer) lost(c corev1.Container, known *corev1.ContainerStateRunning) corev1.ContainerState {
	ended := &corev1.ContainerStateTerminated{
		ExitCode: 255, Reason: "Unknown", StartedAt: known.StartedAt, FinishedAt: metav1.NewTime(w.s.booted),
	}
	if program, static := w.s.programs[c.Name]; static {
		ended.ExitCode, ended.Reason, ended.FinishedAt = program.ExitCode, "Error", metav1.NewTime(program.Started)
	}
	return corev1.ContainerState{Terminated: ended}
}

// hasFailed and hasSucceeded tell how a container ended, if it did.
func hasFailed(s corev1.ContainerStatus) bool {
	return s.State.Terminated != nil && s.State.Terminated.ExitCode != 0
}

func hasSucceeded(s corev1.ContainerStatus) bool {
	return s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
}

// identity is how a kubelet names a pod.
func identity(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// event is what a kubelet tells about a pod.
type event struct{ kind, reason, message string }

// events tell why a pod does not start or is not ready, as a kubelet does.
func events(pod *corev1.Pod, status corev1.PodStatus, blockers []string, fault *Fault) []event {
	var result []event
	warn := func(reason, message string) {
		result = append(result, event{corev1.EventTypeWarning, reason, message})
	}
	for _, blocker := range blockers {
		reason := "FailedMount"
		if blocker == networkNotReady {
			reason = "NetworkNotReady"
		}
		warn(reason, blocker)
	}
	for _, c := range slices.Concat(status.InitContainerStatuses, status.ContainerStatuses) {
		w := c.State.Waiting
		switch {
		case w == nil && c.State.Running != nil && !c.Ready:
			cause := "the program does not answer"
			if fault != nil {
				cause = fault.Cause
			}
			warn("Unhealthy", "Readiness probe failed: "+cause)
		case w == nil || w.Message == "":
		case w.Reason == reasonCrashLoop:
			warn("BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, identity(pod)))
		case w.Reason == reasonImagePull:
			warn("Failed", strings.ToUpper(w.Message[:1])+w.Message[1:])
			warn("Failed", "Error: "+reasonImagePull)
		case w.Reason == reasonImagePullBackOff:
			result = append(result, event{corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", c.Image)})
			warn("Failed", "Error: "+reasonImagePullBackOff)
		default:
			warn("Failed", "Error: "+w.Message)
		}
	}
	return result
}
