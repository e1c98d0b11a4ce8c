// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// surroundings are the facts outside a pod that its status depends on.
type surroundings struct {
	now    metav1.Time
	hostIP string
	// podIP is the address that the network would give to the pod.
	podIP string
	// missing are the Secrets and ConfigMaps that do not exist.
	missing map[reference]bool
	// fault is what goes wrong with the containers, nil if nothing does.
	fault *Fault
	// programs are what containers of a static pod really are, by their names.
	programs map[string]Program
	// booted is when the machine was switched on again, zero if it was on all the time.
	booted time.Time
}

// reference names a Secret or ConfigMap in the namespace of a pod.
type reference struct {
	kind, name string
}

func (r reference) String() string {
	return fmt.Sprintf("%s %q not found", strings.ToLower(r.kind), r.name)
}

// Reasons for which a container waits.
const (
	reasonCreating         = "ContainerCreating"
	reasonInitializing     = "PodInitializing"
	reasonImagePull        = "ErrImagePull"
	reasonImagePullBackOff = "ImagePullBackOff"
	reasonCrashLoop        = "CrashLoopBackOff"
	reasonConfigError      = "CreateContainerConfigError"
)

// podStatus says what a kubelet would report of a pod once everything it can do is done: containers start and
// get ready at once, and those that are meant to end have ended. What keeps a pod from starting is named as a
// kubelet names it. It changes nothing that is as it should be, so that an unchanged pod needs no write.
// Containers that fail are tried again: then is how long from now until the next look, 0 if there is nothing to
// wait for.
func podStatus(pod *corev1.Pod, networkReady bool, s surroundings) (result corev1.PodStatus, then time.Duration) {
	status := *pod.Status.DeepCopy()
	status.ObservedGeneration = pod.Generation
	status.HostIP, status.HostIPs = s.hostIP, []corev1.HostIP{{IP: s.hostIP}}
	if status.StartTime == nil {
		status.StartTime = &s.now
	}
	w := &writer{pod: pod, status: &status, s: s}

	if len(startBlockers(pod, networkReady, s)) > 0 {
		w.holdBack()
		return status, 0
	}
	ip := s.podIP
	if pod.Spec.HostNetwork {
		ip = s.hostIP
	}
	if status.PodIP == "" {
		status.PodIP, status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	w.condition(corev1.PodReadyToStartContainers, true, "", "")
	w.run()
	return status, w.then
}

// startBlockers says why no container of a pod can be created, in the words of a kubelet's events. What a pod
// has been given once it keeps: that a Secret is gone later hurts its next start only.
func startBlockers(pod *corev1.Pod, networkReady bool, s surroundings) []string {
	if isTrue(pod.Status.Conditions, corev1.PodReadyToStartContainers) {
		return nil
	}
	var blockers []string
	if !pod.Spec.HostNetwork && !networkReady {
		blockers = append(blockers, networkNotReady)
	}
	for _, ref := range mounts(pod) {
		if s.missing[ref] {
			blockers = append(blockers, "MountVolume.SetUp failed: "+ref.String())
		}
	}
	return blockers
}

// writer fills a pod's status.
type writer struct {
	pod    *corev1.Pod
	status *corev1.PodStatus
	s      surroundings
	then   time.Duration
}

// holdBack describes a pod of which nothing runs yet.
func (w *writer) holdBack() {
	reason := reasonCreating
	if len(w.pod.Spec.InitContainers) > 0 {
		reason = reasonInitializing
	}
	w.status.Phase = corev1.PodPending
	w.status.InitContainerStatuses = w.all(w.pod.Spec.InitContainers, w.status.InitContainerStatuses, waiting(reason, ""))
	w.status.ContainerStatuses = w.all(w.pod.Spec.Containers, w.status.ContainerStatuses, waiting(reason, ""))
	w.condition(corev1.PodReadyToStartContainers, false, "", "")
	w.initialized(names(w.pod.Spec.InitContainers))
	w.ready()
}

// run describes a pod whose containers may start.
func (w *writer) run() {
	var initStatuses, statuses []corev1.ContainerStatus
	var pending []string // init containers that are not done; what comes after them has to wait
	ends := w.ends()
	for _, c := range w.pod.Spec.InitContainers {
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		status := w.next(c, len(pending) > 0, sidecar && !ends)
		if status.State.Running == nil && !hasSucceeded(status) {
			pending = append(pending, c.Name)
		}
		initStatuses = append(initStatuses, status)
	}
	for _, c := range w.pod.Spec.Containers {
		statuses = append(statuses, w.next(c, len(pending) > 0, !ends))
	}
	w.status.InitContainerStatuses, w.status.ContainerStatuses = initStatuses, statuses
	w.status.Phase = w.phase(len(pending) > 0)
	w.initialized(pending)
	w.ready()
}

// phase sums up the states of the containers.
func (w *writer) phase(initializing bool) corev1.PodPhase {
	never := w.pod.Spec.RestartPolicy == corev1.RestartPolicyNever
	if never && slices.ContainsFunc(w.status.InitContainerStatuses, hasFailed) {
		return corev1.PodFailed
	}
	started := func(s corev1.ContainerStatus) bool {
		return s.State.Waiting == nil || s.LastTerminationState.Terminated != nil
	}
	statuses := w.status.ContainerStatuses
	if initializing || slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return !started(s) }) {
		return corev1.PodPending
	}
	ended := !slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.State.Terminated == nil })
	switch failed := slices.ContainsFunc(statuses, hasFailed); {
	case ended && !failed && w.pod.Spec.RestartPolicy != corev1.RestartPolicyAlways && w.pod.Spec.RestartPolicy != "":
		return corev1.PodSucceeded
	case ended && failed && never:
		return corev1.PodFailed
	}
	return corev1.PodRunning
}

// ends says whether the containers of a pod end, because they are not restarted forever and nothing is in their way.
func (w *writer) ends() bool {
	inTheWay := func(c corev1.Container) bool {
		return w.blocked(c) != nil || w.hit(c, CrashLoop) && w.pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure
	}
	switch w.pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure:
		return !slices.ContainsFunc(slices.Concat(w.pod.Spec.InitContainers, w.pod.Spec.Containers), inTheWay)
	default:
		return false
	}
}

// next gives the status of a container; one that is endless runs until somebody ends it.
func (w *writer) next(c corev1.Container, waits, endless bool) corev1.ContainerStatus {
	statuses := w.pod.Status.ContainerStatuses
	if w.isInit(c) {
		statuses = w.pod.Status.InitContainerStatuses
	}
	known := statusOf(c, statuses)
	program, static := w.s.programs[c.Name]
	blocker := w.blocked(c)
	switch {
	case waits:
		return w.container(c, known, waiting(reasonInitializing, ""))
	case blocker != nil:
		return w.container(c, known, *blocker)
	case static && !program.Running:
		return w.crashed(c, known, program.ExitCode, "")
	case static:
		return w.unready(w.container(c, known, running(program.Started)), !program.Ready)
	case w.hit(c, CrashLoop) && !hasSucceeded(known): // what ended well is done
		return w.crashed(c, known, w.s.fault.ExitCode, w.s.fault.Cause)
	case endless:
		return w.unready(w.container(c, known, running(w.s.now.Time)), w.hit(c, NotReady))
	default:
		return w.container(c, known, w.completed())
	}
}

// blocked is the state of a container that cannot be started, nil for all others.
func (w *writer) blocked(c corev1.Container) *corev1.ContainerState {
	isRunning := slices.ContainsFunc(slices.Concat(w.pod.Status.InitContainerStatuses, w.pod.Status.ContainerStatuses),
		func(known corev1.ContainerStatus) bool { return known.Name == c.Name && known.State.Running != nil })
	var state corev1.ContainerState
	switch {
	case pullFails(c.Image):
		state = waiting(reasonImagePullBackOff, fmt.Sprintf("Back-off pulling image %q: a sandbox cannot pull an image with the tag fail", c.Image))
	case w.hit(c, Misspelled) && !isRunning:
		state = waiting(reasonConfigError, w.s.fault.Cause)
	case w.hit(c, ImagePull) && !isRunning:
		state = w.unpulled(c)
	default:
		for _, ref := range environment(c) {
			if w.s.missing[ref] && !isRunning {
				state = waiting(reasonConfigError, ref.String())
				break
			}
		}
	}
	if state.Waiting == nil {
		return nil
	}
	return &state
}

// pullFails tells images that stand for one that cannot be pulled: name:fail, with or without a registry.
func pullFails(image string) bool {
	name, _, _ := strings.Cut(path.Base(image), "@")
	return strings.HasSuffix(name, ":fail")
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func running(since time.Time) corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(since)}}
}

func (w *writer) completed() corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: w.s.now, FinishedAt: w.s.now}}
}

func (w *writer) all(containers []corev1.Container, known []corev1.ContainerStatus, state corev1.ContainerState) []corev1.ContainerStatus {
	var statuses []corev1.ContainerStatus
	for _, c := range containers {
		statuses = append(statuses, w.container(c, statusOf(c, known), *state.DeepCopy()))
	}
	return statuses
}

// statusOf finds the status of a container; one that has none yet gets an empty one.
func statusOf(c corev1.Container, known []corev1.ContainerStatus) corev1.ContainerStatus {
	if i := slices.IndexFunc(known, func(s corev1.ContainerStatus) bool { return s.Name == c.Name }); i >= 0 {
		return *known[i].DeepCopy()
	}
	return corev1.ContainerStatus{Name: c.Name}
}

func (w *writer) isInit(c corev1.Container) bool {
	return slices.ContainsFunc(w.pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.Name })
}

// container gives the status of a container in a state. Times of a state that it is in already stay.
func (w *writer) container(c corev1.Container, status corev1.ContainerStatus, state corev1.ContainerState) corev1.ContainerStatus {
	status.Image = c.Image
	last := status.State
	switch {
	case state.Running != nil && last.Running != nil && !w.restarted(c, last.Running):
		state.Running.StartedAt = last.Running.StartedAt
	case state.Running != nil && status.ContainerID != "": // it ran before
		status.RestartCount++
		switch {
		case last.Terminated != nil:
			status.LastTerminationState = last
		case last.Running != nil:
			status.LastTerminationState = w.lost(c, last.Running)
		}
	case state.Terminated != nil && last.Terminated != nil:
		state.Terminated.StartedAt, state.Terminated.FinishedAt = last.Terminated.StartedAt, last.Terminated.FinishedAt
	case state.Terminated != nil && last.Running != nil:
		state.Terminated.StartedAt = last.Running.StartedAt
	}
	status.State = state
	isRunning := state.Running != nil
	status.Started = &isRunning
	// A container that did its work counts as ready only among the init containers.
	status.Ready = isRunning || w.isInit(c) && hasSucceeded(status)
	if state.Waiting == nil {
		status.ContainerID = fmt.Sprintf("sandbox://%s/%s", w.pod.UID, c.Name)
		status.ImageID = c.Image
		if state.Terminated != nil {
			status.State.Terminated.ContainerID = status.ContainerID
		}
	}
	return status
}

// initialized sets the condition of that name; pending are the init containers that are not done.
func (w *writer) initialized(pending []string) {
	if len(pending) > 0 {
		w.condition(corev1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %v", pending))
		return
	}
	w.condition(corev1.PodInitialized, true, "", "")
}

// ready sets ContainersReady and Ready from the states of the containers and the readiness gates.
func (w *writer) ready() {
	switch w.status.Phase {
	case corev1.PodSucceeded:
		w.condition(corev1.PodInitialized, true, "PodCompleted", "")
		w.condition(corev1.ContainersReady, false, "PodCompleted", "")
		w.condition(corev1.PodReady, false, "PodCompleted", "")
		return
	case corev1.PodFailed:
		w.condition(corev1.ContainersReady, false, "PodFailed", "")
		w.condition(corev1.PodReady, false, "PodFailed", "")
		return
	default:
	}
	var unready []string
	for _, c := range slices.Concat(w.status.InitContainerStatuses, w.status.ContainerStatuses) {
		if !c.Ready && !hasSucceeded(c) {
			unready = append(unready, c.Name)
		}
	}
	if len(unready) > 0 {
		message := fmt.Sprintf("containers with unready status: %v", unready)
		w.condition(corev1.ContainersReady, false, "ContainersNotReady", message)
		w.condition(corev1.PodReady, false, "ContainersNotReady", message)
		return
	}
	w.condition(corev1.ContainersReady, true, "", "")
	for _, gate := range w.pod.Spec.ReadinessGates {
		if !isTrue(w.status.Conditions, gate.ConditionType) {
			w.condition(corev1.PodReady, false, "ReadinessGatesNotReady", fmt.Sprintf("the status of pod readiness gate %q is not \"True\"", gate.ConditionType))
			return
		}
	}
	w.condition(corev1.PodReady, true, "", "")
}

func (w *writer) condition(kind corev1.PodConditionType, value bool, reason, message string) {
	status := corev1.ConditionFalse
	if value {
		status = corev1.ConditionTrue
	}
	condition := corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: w.s.now}
	i := slices.IndexFunc(w.status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	if i < 0 {
		w.status.Conditions = append(w.status.Conditions, condition)
		return
	}
	if known := w.status.Conditions[i]; known.Status == status {
		condition.LastTransitionTime = known.LastTransitionTime
	}
	w.status.Conditions[i] = condition
}

func names(containers []corev1.Container) []string {
	var list []string
	for _, c := range containers {
		list = append(list, c.Name)
	}
	return list
}

func isTrue(conditions []corev1.PodCondition, kind corev1.PodConditionType) bool {
	return slices.ContainsFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == kind && c.Status == corev1.ConditionTrue })
}

// endedStatus says that a pod was ended before it was done.
func endedStatus(pod *corev1.Pod, now metav1.Time) corev1.PodStatus {
	status := *pod.Status.DeepCopy()
	w := &writer{pod: pod, status: &status, s: surroundings{now: now}}
	killed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error", StartedAt: now, FinishedAt: now}}
	status.Phase = corev1.PodFailed
	status.ContainerStatuses = w.all(pod.Spec.Containers, status.ContainerStatuses, killed)
	w.ready()
	return status
}

// mounts lists the Secrets and ConfigMaps that have to exist before a pod's volumes can be set up.
func mounts(pod *corev1.Pod) []reference {
	var refs []reference
	add := func(kind, name string, optional *bool) {
		if optional == nil || !*optional {
			refs = append(refs, reference{kind, name})
		}
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.Secret != nil:
			add("Secret", v.Secret.SecretName, v.Secret.Optional)
		case v.ConfigMap != nil:
			add("ConfigMap", v.ConfigMap.Name, v.ConfigMap.Optional)
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				if source.Secret != nil {
					add("Secret", source.Secret.Name, source.Secret.Optional)
				}
				if source.ConfigMap != nil {
					add("ConfigMap", source.ConfigMap.Name, source.ConfigMap.Optional)
				}
			}
		}
	}
	return refs
}

// environment lists the Secrets and ConfigMaps that have to exist before a container can be created.
func environment(c corev1.Container) []reference {
	var refs []reference
	add := func(kind, name string, optional *bool) {
		if optional == nil || !*optional {
			refs = append(refs, reference{kind, name})
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			add("Secret", r.Name, r.Optional)
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			add("ConfigMap", r.Name, r.Optional)
		}
	}
	for _, e := range c.EnvFrom {
		if r := e.SecretRef; r != nil {
			add("Secret", r.Name, r.Optional)
		}
		if r := e.ConfigMapRef; r != nil {
			add("ConfigMap", r.Name, r.Optional)
		}
	}
	return refs
}

// references lists all Secrets and ConfigMaps that a pod cannot do without.
func references(pod *corev1.Pod) []reference {
	refs := mounts(pod)
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		refs = append(refs, environment(c)...)
	}
	return refs
}

// installsNetwork tells the pods that bring a Node its network: those of a DaemonSet that can write the folder
// in which container runtimes look for the configuration of the network.
func installsNetwork(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != "DaemonSet" {
		return false
	}
	var volumes []string
	for _, v := range pod.Spec.Volumes {
		if v.HostPath == nil {
			continue
		}
		// A parent is accepted up to /etc/cni only: whoever mounts / or /etc mostly wants to look at the machine.
		if p := path.Clean(v.HostPath.Path); p == "/etc/cni" || p == "/etc/cni/net.d" || strings.HasPrefix(p, "/etc/cni/net.d/") {
			volumes = append(volumes, v.Name)
		}
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, m := range c.VolumeMounts {
			if !m.ReadOnly && slices.Contains(volumes, m.Name) {
				return true
			}
		}
	}
	return false
}

// isRunning tells whether all containers of a pod run.
func isRunning(status corev1.PodStatus) bool {
	return status.Phase == corev1.PodRunning && isTrue(status.Conditions, corev1.ContainersReady)
}

// hasEnded tells whether no container of a pod will ever run again.
func hasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
