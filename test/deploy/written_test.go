// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func eachObject(list client.ObjectList, do func(client.Object) error) error {
	objects, err := meta.ExtractList(list)
	for i := 0; err == nil && i < len(objects); i++ {
		err = do(objects[i].(client.Object))
	}
	return err
}

func (o *installed) deployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	deployment := &appsv1.Deployment{}
	if err := o.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: account}, deployment); err != nil {
		t.Fatal(err)
	}
	return deployment
}

// asWritten reads back what was applied: what an administrator relies on fits together.
func (o *installed) asWritten(t *testing.T) {
	deployment := o.deployment(t)
	pod := deployment.Spec.Template.Spec
	container := pod.Containers[0]
	marks := labels.Set(deployment.Spec.Template.Labels)
	selects := func(what string, selector *metav1.LabelSelector) {
		t.Helper()
		if s, err := metav1.LabelSelectorAsSelector(selector); err != nil || s.Empty() || !s.Matches(marks) {
			t.Errorf("%s selects others than the Pods of the Deployment: %v, %v", what, selector, err)
		}
	}

	if ptr.Deref(deployment.Spec.Replicas, 0) != 2 || deployment.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Errorf("replicas %d, strategy %+v", *deployment.Spec.Replicas, deployment.Spec.Strategy)
	}
	if container.Name != "manager" || container.Image != image {
		t.Errorf("container %s with image %s", container.Name, container.Image)
	}
	if pod.PriorityClassName == "" || len(pod.TopologySpreadConstraints) == 0 || pod.Affinity == nil || pod.Affinity.PodAntiAffinity == nil {
		t.Errorf("priority class %q, spread %v, affinity %v", pod.PriorityClassName, pod.TopologySpreadConstraints, pod.Affinity)
	}
	for _, constraint := range pod.TopologySpreadConstraints {
		selects("the topology spread", constraint.LabelSelector)
	}
	ports := map[string]int32{}
	for _, port := range container.Ports {
		ports[port.Name] = port.ContainerPort
	}
	for name, probe := range map[string]*corev1.Probe{"/readyz": container.ReadinessProbe, "/healthz": container.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != name || ports[probe.HTTPGet.Port.StrVal] != 9440 {
			t.Errorf("probe %s: %+v", name, probe)
		}
	}
	requests, limits := container.Resources.Requests, container.Resources.Limits
	if requests.Cpu().IsZero() || requests.Memory().IsZero() || limits.Memory().IsZero() || !limits.Cpu().IsZero() {
		t.Errorf("resources %+v; want requests, and a limit of memory only", container.Resources)
	}
	for _, volume := range pod.Volumes {
		if volume.EmptyDir != nil && volume.EmptyDir.SizeLimit == nil {
			t.Errorf("volume %s has no limit", volume.Name)
		}
	}

	budget := &policyv1.PodDisruptionBudget{}
	if err := o.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: account}, budget); err != nil {
		t.Fatal(err)
	}
	selects("the PodDisruptionBudget", budget.Spec.Selector)
	if budget.Spec.MinAvailable == nil || *budget.Spec.MinAvailable != intstr.FromInt32(1) {
		t.Errorf("of two replicas %v have to be available", budget.Spec.MinAvailable)
	}
	for name, want := range map[string]string{"cso-hook-server-svc": "hooks", "cso-metrics-service": "metrics"} {
		service := &corev1.Service{}
		if err := o.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, service); err != nil {
			t.Fatal(err)
		}
		selects("Service "+name, &metav1.LabelSelector{MatchLabels: service.Spec.Selector})
		if target := service.Spec.Ports[0].TargetPort.StrVal; target != want || ports[target] == 0 {
			t.Errorf("Service %s leads to port %q", name, target)
		}
	}
}

// podSecurity has the API server judge the Pod of the Deployment in its namespace, which takes restricted Pods only.
func (o *installed) podSecurity(t *testing.T) {
	template := o.deployment(t).Spec.Template
	for name, tc := range map[string]struct {
		weaken func(*corev1.PodSpec)
		denied string
	}{
		"AsItIs":              {func(*corev1.PodSpec) {}, ""},
		"Root":                {func(s *corev1.PodSpec) { s.SecurityContext.RunAsUser = ptr.To[int64](0) }, "runAsUser=0"},
		"MayBeRoot":           {func(s *corev1.PodSpec) { s.SecurityContext.RunAsNonRoot = nil }, "runAsNonRoot != true"},
		"AnySystemCall":       {func(s *corev1.PodSpec) { s.SecurityContext.SeccompProfile = nil }, "seccompProfile"},
		"PrivilegeEscalation": {func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil }, "allowPrivilegeEscalation != false"},
		"Capabilities":        {func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.Capabilities = nil }, "unrestricted capabilities"},
		"NetworkOfTheHost":    {func(s *corev1.PodSpec) { s.HostNetwork = true }, "host namespaces"},
		"FilesOfTheHost": {func(s *corev1.PodSpec) {
			s.Volumes[0].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}
		}, "hostPath"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "judged", Labels: template.Labels}, Spec: *template.Spec.DeepCopy()}
			tc.weaken(&pod.Spec)
			err := o.Create(t.Context(), pod, client.DryRunAll)
			switch {
			case tc.denied == "" && err != nil:
				t.Error(err)
			case tc.denied != "" && (!apierrors.IsForbidden(err) || !strings.Contains(fmt.Sprint(err), tc.denied)):
				t.Errorf("got %v, want to be denied for %q", err, tc.denied)
			}
		})
	}
	// Nothing of it may write to the image.
	if c := template.Spec.Containers[0].SecurityContext; c == nil || !ptr.Deref(c.ReadOnlyRootFilesystem, false) {
		t.Error("the file system of the container can be written to")
	}
}
