// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var (
	earlier = metav1.NewTime(time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC))
	now     = metav1.NewTime(time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC))
)

func pod(containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
	for i, image := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: string(rune('a' + i)), Image: image})
	}
	return p
}

func with(p *corev1.Pod, changes ...func(*corev1.Pod)) *corev1.Pod {
	for _, change := range changes {
		change(p)
	}
	return p
}

func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true }
func never(p *corev1.Pod)       { p.Spec.RestartPolicy = corev1.RestartPolicyNever }

func initContainer(name, image string, sidecar bool) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: name, Image: image}
		if sidecar {
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
}

func secretVolume(name string, optional *bool) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, Optional: optional}}})
	}
}

func configMapEnv(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}
	}
}

// summary tells a status in a few words.
func summary(s corev1.PodStatus) map[string]string {
	result := map[string]string{"phase": string(s.Phase)}
	if s.PodIP != "" {
		result["ip"] = s.PodIP
	}
	for _, c := range s.Conditions {
		result[string(c.Type)] = strings.TrimSpace(string(c.Status) + " " + c.Reason)
	}
	for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses) {
		switch {
		case c.State.Running != nil:
			result[c.Name] = "running"
		case c.State.Terminated != nil:
			result[c.Name] = c.State.Terminated.Reason
		default:
			result[c.Name] = c.State.Waiting.Reason
		}
		if c.Ready {
			result[c.Name] += " ready"
		}
	}
	return result
}

func TestPodStatus(t *testing.T) {
	running := map[string]string{
		"phase": "Running", "ip": "10.0.0.2", "PodReadyToStartContainers": "True", "Initialized": "True",
		"ContainersReady": "True", "Ready": "True", "a": "running ready",
	}
	change := func(base map[string]string, pairs ...string) map[string]string {
		result := map[string]string{}
		for k, v := range base {
			result[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i+1] == "" {
				delete(result, pairs[i])
				continue
			}
			result[pairs[i]] = pairs[i+1]
		}
		return result
	}
	creating := map[string]string{
		"phase": "Pending", "PodReadyToStartContainers": "False", "Initialized": "True",
		"ContainersReady": "False ContainersNotReady", "Ready": "False ContainersNotReady", "a": "ContainerCreating",
	}
	unready := []string{"phase", "Pending", "ContainersReady", "False ContainersNotReady", "Ready", "False ContainersNotReady"}

	cases := map[string]struct {
		why       string
		pod       *corev1.Pod
		noNetwork bool
		missing   []reference
		want      map[string]string
	}{
		"Runs": {pod: pod("app:1"), want: running},
		"WaitsForNetwork": {
			why: "The network plugin gives a pod its address.",
			pod: pod("app:1"), noNetwork: true, want: creating,
		},
		"HostNetworkNeedsNone": {
			why: "Or no network plugin could ever start.",
			pod: with(pod("app:1"), hostNetwork), noNetwork: true, want: change(running, "ip", "127.64.1.2"),
		},
		"ImageCannotBePulled": {
			pod:  pod("example.com:5000/app:fail"),
			want: change(running, append(unready, "a", "ImagePullBackOff")...),
		},
		"ImageWithTagAndDigestCannotBePulled": {
			pod:  pod("app:fail@sha256:00"),
			want: change(running, append(unready, "a", "ImagePullBackOff")...),
		},
		"OneOfTwoFails": {
			why:  "A pod is ready when all of its containers are.",
			pod:  pod("app:1", "app:fail"),
			want: change(running, append(unready, "b", "ImagePullBackOff")...),
		},
		"NameThatEndsInFail": {
			why: "Only the tag counts.",
			pod: pod("example.com/fail"), want: running,
		},
		"WaitsForSecret": {
			pod: with(pod("app:1"), secretVolume("s", nil)), missing: []reference{{"Secret", "s"}}, want: creating,
		},
		"OptionalSecretIsNoReasonToWait": {
			pod: with(pod("app:1"), secretVolume("s", ptr.To(true))), missing: []reference{{"Secret", "s"}}, want: running,
		},
		"ConfigMapOfTheSameNameDoesNotHelp": {
			pod: with(pod("app:1"), secretVolume("s", nil)), missing: []reference{{"ConfigMap", "s"}}, want: running,
		},
		"EnvironmentNeedsConfigMap": {
			pod: with(pod("app:1"), configMapEnv("c")), missing: []reference{{"ConfigMap", "c"}},
			want: change(running, append(unready, "a", "CreateContainerConfigError")...),
		},
		"InitContainersAreDone": {
			pod:  with(pod("app:1"), initContainer("i", "init:1", false)),
			want: change(running, "i", "Completed ready"),
		},
		"SidecarKeepsRunning": {
			pod:  with(pod("app:1"), initContainer("i", "proxy:1", true)),
			want: change(running, "i", "running ready"),
		},
		"InitContainerFails": {
			why:  "Nothing after it starts.",
			pod:  with(pod("app:1"), initContainer("i", "init:fail", false), initContainer("j", "init:1", false)),
			want: change(running, append(unready, "i", "ImagePullBackOff", "j", "PodInitializing", "a", "PodInitializing", "Initialized", "False ContainersNotInitialized")...),
		},
		"InitContainersWaitForNetwork": {
			pod: with(pod("app:1"), initContainer("i", "init:1", false)), noNetwork: true,
			want: change(creating, "i", "PodInitializing", "a", "PodInitializing", "Initialized", "False ContainersNotInitialized"),
		},
		"JobIsDone": {
			pod: with(pod("job:1"), never, initContainer("i", "proxy:1", true)),
			want: change(running, "phase", "Succeeded", "a", "Completed", "i", "Completed ready",
				"Initialized", "True PodCompleted", "ContainersReady", "False PodCompleted", "Ready", "False PodCompleted"),
		},
		"JobThatCannotStart": {
			pod:  with(pod("job:fail"), never),
			want: change(running, append(unready, "a", "ImagePullBackOff")...),
		},
		"ReadinessGate": {
			why: "Whoever set the gate says when the pod is ready.",
			pod: with(pod("app:1"), func(p *corev1.Pod) {
				p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
			}),
			want: change(running, "Ready", "False ReadinessGatesNotReady"),
		},
		"ConditionsOfOthersStay": {
			pod: with(pod("app:1"), func(p *corev1.Pod) {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
			}),
			want: change(running, "PodScheduled", "True"),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			missing := map[reference]bool{}
			for _, ref := range c.missing {
				missing[ref] = true
			}
			s := surroundings{now: earlier, hostIP: "127.64.1.2", podIP: "10.0.0.2", missing: missing}
			first, _ := podStatus(c.pod, !c.noNetwork, s)
			if diff := cmp.Diff(c.want, summary(first)); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", c.why, diff)
			}
			if first.HostIP != "127.64.1.2" || first.StartTime == nil {
				t.Errorf("host %q, start %v", first.HostIP, first.StartTime)
			}
			// Looked at again later, nothing changes: there would be a write for each look.
			c.pod.Status, s.now = first, now
			second, _ := podStatus(c.pod, !c.noNetwork, s)
			if diff := cmp.Diff(first, second); diff != "" {
				t.Errorf("a second look changes the status:\n%s", diff)
			}
		})
	}
}

func TestPodStatusWhenNetworkComes(t *testing.T) {
	p := pod("app:1")
	p.Status, _ = podStatus(p, false, surroundings{now: earlier, hostIP: "127.64.1.2"})
	p.Status, _ = podStatus(p, true, surroundings{now: now, hostIP: "127.64.1.2", podIP: "10.0.0.2"})
	for _, c := range p.Status.Conditions {
		want := now
		if c.Type == corev1.PodInitialized { // was true before
			want = earlier
		}
		if c.Status != corev1.ConditionTrue || c.LastTransitionTime != want {
			t.Errorf("%s is %s since %s, want True since %s", c.Type, c.Status, c.LastTransitionTime, want)
		}
	}
	if got := p.Status.ContainerStatuses[0].State.Running.StartedAt; got != now {
		t.Errorf("container started at %s, want %s", got, now)
	}
	if !p.Status.StartTime.Equal(&earlier) {
		t.Errorf("pod started at %s, want when the kubelet saw it first", p.Status.StartTime)
	}
}

func TestRunningPodKeepsWhatItWasGiven(t *testing.T) {
	p := with(pod("app:1"), secretVolume("s", nil), configMapEnv("c"))
	s := surroundings{now: earlier, hostIP: "127.64.1.2", podIP: "10.0.0.2"}
	p.Status, _ = podStatus(p, true, s)
	s.now, s.missing = now, map[reference]bool{{"Secret", "s"}: true, {"ConfigMap", "c"}: true}
	later, _ := podStatus(p, false, s)
	if diff := cmp.Diff(p.Status, later); diff != "" {
		t.Errorf("a running pod changed when its Secret, its ConfigMap and the network went:\n%s", diff)
	}
}

func TestInstallsNetwork(t *testing.T) {
	agent := func(path string, readOnly, daemonSet bool) *corev1.Pod {
		p := pod("agent:1")
		kind := "ReplicaSet"
		if daemonSet {
			kind = "DaemonSet"
		}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Controller: ptr.To(true)}}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/host", ReadOnly: readOnly}}
		return p
	}
	inInit := agent("/etc/cni/net.d", false, true)
	inInit.Spec.InitContainers = []corev1.Container{{Name: "install", VolumeMounts: inInit.Spec.Containers[0].VolumeMounts}}
	inInit.Spec.Containers[0].VolumeMounts = nil
	unused := agent("/etc/cni/net.d", false, true)
	unused.Spec.Containers[0].VolumeMounts = nil

	cases := map[string]struct {
		why  string
		pod  *corev1.Pod
		want bool
	}{
		"Folder":       {pod: agent("/etc/cni/net.d", false, true), want: true},
		"Parent":       {pod: agent("/etc/cni/", false, true), want: true},
		"Init":         {why: "Some install with an init container.", pod: inInit, want: true},
		"ReadOnly":     {why: "Who only reads the folder brings no network.", pod: agent("/etc/cni/net.d", true, true)},
		"NotMounted":   {pod: unused},
		"OtherFolder":  {pod: agent("/etc/cnifoo", false, true)},
		"Root":         {why: "Monitoring agents mount all of the machine.", pod: agent("/", false, true)},
		"NoDaemonSet":  {why: "It would bring a network to some machines only.", pod: agent("/etc/cni/net.d", false, false)},
		"NoController": {pod: pod("agent:1")},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := installsNetwork(c.pod); got != c.want {
				t.Errorf("got %t, want %t. %s", got, c.want, c.why)
			}
		})
	}
}

func TestEndedStatus(t *testing.T) {
	p := pod("app:1")
	p.Status, _ = podStatus(p, true, surroundings{now: earlier, hostIP: "127.64.1.2", podIP: "10.0.0.2"})
	got := summary(endedStatus(p, now))
	if got["phase"] != "Failed" || got["a"] != "Error" || got["Ready"] != "False PodFailed" {
		t.Errorf("got %v", got)
	}
}
