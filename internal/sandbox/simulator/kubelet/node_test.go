// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestNode(t *testing.T) {
	n := Node{
		Name: "m", Version: "v1.35.4", ProviderID: "sandbox:///n/m", Labels: map[string]string{"role": "worker"},
		Taints:  []corev1.Taint{{Key: "node.cluster.x-k8s.io/uninitialized", Effect: corev1.TaintEffectNoSchedule}},
		Address: netip.MustParseAddrPort("127.64.1.3:10250"),
	}
	node := n.node(earlier)
	if node.Spec.ProviderID != n.ProviderID || len(node.Spec.Taints) != 1 {
		t.Errorf("spec %+v", node.Spec)
	}
	if node.Labels["role"] != "worker" || node.Labels[corev1.LabelHostname] != "m" {
		t.Errorf("labels %v", node.Labels)
	}
	if got := node.Status.NodeInfo.KubeletVersion; got != "v1.35.4" {
		t.Errorf("kubelet version %s: Cluster API compares it with the Machine's", got)
	}
	if got := node.Status.DaemonEndpoints.KubeletEndpoint.Port; got != 10250 {
		t.Errorf("kubelet port %d", got)
	}
	want := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.64.1.3"}, {Type: corev1.NodeHostName, Address: "m"}}
	if diff := cmp.Diff(want, node.Status.Addresses); diff != "" {
		t.Errorf("addresses, -want +got:\n%s", diff)
	}
	if isReady(node) {
		t.Error("a Node without a network is Ready")
	}
	if diff := cmp.Diff(node.Status, n.status(node.Status, false, now)); diff != "" {
		t.Errorf("a second look changes the status:\n%s", diff)
	}

	node.Status = n.status(node.Status, true, now)
	if !isReady(node) {
		t.Error("a Node with a network is not Ready")
	}
	for _, c := range node.Status.Conditions {
		want := earlier
		if c.Type == corev1.NodeReady {
			want = now
		}
		if c.LastTransitionTime != want {
			t.Errorf("%s since %s, want since %s", c.Type, c.LastTransitionTime, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	a := newAddresses()
	prefix := netip.MustParsePrefix("10.1.2.0/29")
	get := func(pod string) string {
		t.Helper()
		ip, err := a.of(types.UID(pod), prefix)
		if err != nil {
			t.Fatal(err)
		}
		return ip.String()
	}
	if got := get("a"); got != "10.1.2.2" {
		t.Errorf("first address %s", got)
	}
	if got := get("a"); got != "10.1.2.2" {
		t.Errorf("a pod's address changed to %s", got)
	}
	a.keep("known", "10.1.2.3")
	if got := get("b"); got != "10.1.2.4" {
		t.Errorf("got %s, want to leave out the address of a pod that was there before", got)
	}
	a.free("a")
	for _, want := range []string{"10.1.2.5", "10.1.2.6", "10.1.2.7", "10.1.2.2"} {
		if got := get("for " + want); got != want {
			t.Errorf("got %s, want %s: a freed address comes last", got, want)
		}
	}
	if ip, err := a.of("too many", prefix); err == nil {
		t.Errorf("got %s from a full range", ip)
	}
	a.keep("none", "") // a pod that has no address yet
}
