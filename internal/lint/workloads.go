// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// Where the pods of a workload stand in it.
var podPaths = map[string][]string{
	"Pod": {}, "Deployment": {"spec", "template"}, "DaemonSet": {"spec", "template"}, "StatefulSet": {"spec", "template"},
	"ReplicaSet": {"spec", "template"}, "Job": {"spec", "template"}, "CronJob": {"spec", "jobTemplate", "spec", "template"},
}

// podsOf returns the template of the pods of a workload; nil if it has none.
func podsOf(object *unstructured.Unstructured) *corev1.PodTemplateSpec {
	path, is := podPaths[object.GetKind()]
	if group := object.GroupVersionKind().Group; !is || group != "" && group != "apps" && group != "batch" {
		return nil
	}
	content, _, err := unstructured.NestedMap(object.Object, path...)
	if len(path) == 0 {
		content, err = object.Object, nil
	}
	pods := &corev1.PodTemplateSpec{}
	if err != nil || runtime.DefaultUnstructuredConverter.FromUnstructured(content, pods) != nil {
		return nil // fields of another type are reported as such
	}
	return pods
}

// checkWorkload checks an object that makes pods.
func (l *linter) checkWorkload(c chart, object *unstructured.Unstructured, addons []chart) {
	pods := podsOf(object)
	if pods == nil {
		return
	}
	for _, container := range slices.Concat(pods.Spec.InitContainers, pods.Spec.Containers) {
		l.checkImage(c, object, container)
	}
	l.checkTolerations(c, object, pods.Spec)
	l.checkSelector(c, object, pods)
	if account := pods.Spec.ServiceAccountName; account != "" && account != "default" {
		namespace := object.GetNamespace()
		if !slices.ContainsFunc(addons, func(addon chart) bool {
			return slices.ContainsFunc(allObjects(addon.result), func(o *unstructured.Unstructured) bool {
				return o.GetKind() == "ServiceAccount" && o.GetName() == account && sameNamespace(o.GetNamespace(), namespace)
			})
		}) {
			l.report("service-account-missing", c.find(object, "serviceAccountName: "+account, "serviceAccountName:"), "%s: no addon has the ServiceAccount %s", label(object), account)
		}
	}
}

func sameNamespace(a, b string) bool {
	if a == "" {
		a = metav1.NamespaceSystem
	}
	if b == "" {
		b = metav1.NamespaceSystem
	}
	return a == b
}

// checkImage checks that an image is the same one tomorrow.
func (l *linter) checkImage(c chart, object *unstructured.Unstructured, container corev1.Container) {
	image := container.Image
	if image == "" || strings.Contains(image, "@sha256:") {
		return
	}
	tag := ""
	if colon := strings.LastIndexByte(image, ':'); colon > strings.LastIndexByte(image, '/') {
		tag = image[colon+1:]
	}
	if tag != "" && tag != "latest" {
		return
	}
	at := c.find(object, "image: "+image, `image: "`+image, "image:")
	// Where the image is made of values, these are to be mended.
	if values, found := c.files.File("values.yaml"); found {
		if line := lineOfText(values, image); line > 0 {
			at = c.at("values.yaml", line)
		}
	}
	what := "has no tag"
	if tag != "" {
		what = "has the tag latest"
	}
	l.report("image-unpinned", at, "%s: image %s of container %s %s", label(object), image, container.Name, what)
}

// Taints that nodes of Cluster API have until they are ready, or always.
var (
	uninitialized  = corev1.Taint{Key: "node.cluster.x-k8s.io/uninitialized", Effect: corev1.TaintEffectNoSchedule}
	noCloud        = corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Effect: corev1.TaintEffectNoSchedule}
	controlPlane   = corev1.Taint{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}
	notReady       = corev1.Taint{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule}
	beforeOthers   = []corev1.Taint{uninitialized, noCloud, controlPlane, notReady}
	onEveryMachine = []corev1.Taint{controlPlane}
)

// checkTolerations checks that pods can be where they have to be before a node is ready.
func (l *linter) checkTolerations(c chart, object *unstructured.Unstructured, pods corev1.PodSpec) {
	daemon := object.GetKind() == "DaemonSet"
	var id, what string
	taints := beforeOthers
	switch {
	case daemon && mounts(pods, "/etc/cni/net.d", "/opt/cni/bin"):
		id, what = "toleration-missing", "the network of nodes"
	case has(pods, "cloud-controller-manager"):
		id, what = "toleration-missing", "the cloud controller manager"
	case daemon && mounts(pods, "/var/lib/kubelet/plugins_registry") && !choosesNodes(pods):
		id, what, taints = "toleration-advised", "a CSI driver", onEveryMachine
	case daemon && pods.HostNetwork && !choosesNodes(pods):
		id, what, taints = "toleration-advised", "a workload on the network of its node", onEveryMachine
	default:
		return
	}
	var missing []string
	for _, taint := range taints {
		if !slices.ContainsFunc(pods.Tolerations, func(t corev1.Toleration) bool { return tolerates(t, taint) }) {
			missing = append(missing, taint.Key)
		}
	}
	if len(missing) > 0 {
		l.report(id, c.find(object, "tolerations:"), "%s, %s, does not tolerate %s", label(object), what, strings.Join(missing, ", "))
	}
}

// choosesNodes reports whether pods are for some nodes only, by more than their operating system.
func choosesNodes(pods corev1.PodSpec) bool {
	for label := range pods.NodeSelector {
		if label != corev1.LabelOSStable && label != corev1.LabelArchStable {
			return true
		}
	}
	return pods.Affinity != nil && pods.Affinity.NodeAffinity != nil && pods.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
}

func tolerates(t corev1.Toleration, taint corev1.Taint) bool {
	return (t.Key == taint.Key && (t.Operator == corev1.TolerationOpExists || t.Value == taint.Value) || t.Key == "" && t.Operator == corev1.TolerationOpExists) &&
		(t.Effect == "" || t.Effect == taint.Effect)
}

// mounts reports whether pods have one of the folders of their node, or what is in it.
func mounts(pods corev1.PodSpec, folders ...string) bool {
	return slices.ContainsFunc(pods.Volumes, func(v corev1.Volume) bool {
		return v.HostPath != nil && slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(v.HostPath.Path, folder) })
	})
}

// has reports whether a container runs a program.
func has(pods corev1.PodSpec, program string) bool {
	return slices.ContainsFunc(pods.Containers, func(c corev1.Container) bool {
		return strings.Contains(strings.Join(append(slices.Concat(c.Command, c.Args), c.Image, c.Name), " "), program)
	})
}

// checkSelector checks that a workload selects its own pods: the API server refuses it otherwise.
func (l *linter) checkSelector(c chart, object *unstructured.Unstructured, pods *corev1.PodTemplateSpec) {
	if object.GroupVersionKind().Group != "apps" {
		return
	}
	content, found, err := unstructured.NestedMap(object.Object, "spec", "selector")
	wanted := &metav1.LabelSelector{}
	if err != nil || !found || runtime.DefaultUnstructuredConverter.FromUnstructured(content, wanted) != nil {
		l.report("selector", c.find(object), "%s has no selector", label(object))
		return
	}
	selector, err := metav1.LabelSelectorAsSelector(wanted)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(pods.Labels)) {
		l.report("selector", c.find(object, "selector:"), "%s does not select its own pods", label(object))
	}
}
