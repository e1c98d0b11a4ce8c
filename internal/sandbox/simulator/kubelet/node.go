// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is a machine as its kubelet presents it to the cluster.
type Node struct {
	Name string
	// Version of the kubelet, such as v1.35.4. Cluster API compares it with the version of the Machine.
	Version    string
	ProviderID string
	Labels     map[string]string
	Taints     []corev1.Taint
	// Address of the kubelet: the only address of the Node, and the port of its API.
	Address netip.AddrPort
	// StaticPods run because files on the machine say so; the cluster sees mirrors of them.
	StaticPods []*corev1.Pod
	// Program tells what a container of a static pod really is; false if that is not known, and then it runs. May be
	// nil.
	Program func(container string) (Program, bool)
	// Booted is when the machine was switched on again, zero if it was on all the time.
	Booted time.Time
	// Ports of programs that really run on the machine, by the number that the cluster knows them under.
	// They can be reached by port-forward to any pod in the network of the host.
	Ports map[int32]uint16
}

const networkNotReady = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady " +
	"message:Network plugin returns error: cni plugin not initialized"

// node is the Node as a kubelet registers it.
func (n Node) node(now metav1.Time) *corev1.Node {
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[corev1.LabelHostname] = n.Name
	labels[corev1.LabelOSStable] = "linux"
	labels[corev1.LabelArchStable] = runtime.GOARCH
	labels["beta.kubernetes.io/os"] = "linux"
	labels["beta.kubernetes.io/arch"] = runtime.GOARCH
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.Name, Labels: labels,
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		},
		Spec:   corev1.NodeSpec{ProviderID: n.ProviderID, Taints: n.Taints},
		Status: n.status(corev1.NodeStatus{}, false, now),
	}
}

// status is what a kubelet reports of its machine. Times of what has not changed stay.
func (n Node) status(known corev1.NodeStatus, networkReady bool, now metav1.Time) corev1.NodeStatus {
	status := *known.DeepCopy()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("8"),
		corev1.ResourceMemory:           resource.MustParse("32Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	status.Capacity, status.Allocatable = capacity, capacity
	status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: n.Address.Addr().String()},
		{Type: corev1.NodeHostName, Address: n.Name},
	}
	status.DaemonEndpoints.KubeletEndpoint.Port = int32(n.Address.Port())
	status.NodeInfo = corev1.NodeSystemInfo{
		MachineID: n.Name, SystemUUID: n.Name, BootID: n.bootID(),
		OperatingSystem: "linux", Architecture: runtime.GOARCH,
		OSImage: "Cluster Stack Sandbox", KernelVersion: "0.0.0-sandbox",
		ContainerRuntimeVersion: "sandbox://1.0.0",
		KubeletVersion:          n.Version,
	}
	set := func(kind corev1.NodeConditionType, value corev1.ConditionStatus, reason, message string) {
		condition := corev1.NodeCondition{
			Type: kind, Status: value, Reason: reason, Message: message,
			LastHeartbeatTime: now, LastTransitionTime: now,
		}
		i := slices.IndexFunc(status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
		if i < 0 {
			status.Conditions = append(status.Conditions, condition)
			return
		}
		if old := status.Conditions[i]; old.Status == value {
			condition.LastTransitionTime = old.LastTransitionTime
			if old.Reason == reason && old.Message == message {
				return
			}
		}
		status.Conditions[i] = condition
	}
	set(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	set(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	set(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	if networkReady {
		set(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	} else {
		set(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", networkNotReady)
	}
	return status
}

// bootID is another one after each boot.
func (n Node) bootID() string {
	if n.Booted.IsZero() {
		return n.Name
	}
	return fmt.Sprintf("%s-%d", n.Name, n.Booted.Unix())
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
