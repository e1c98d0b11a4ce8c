// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubeadm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
)

func cluster(configuration string, skip ...string) Cluster {
	return Cluster{
		Server: "https://127.64.1.1:6443", CA: []byte("certificate"), Version: "v1.35.4",
		Data:          bootstrap.Data{ControlPlane: true, Init: true, ClusterConfiguration: configuration, Skip: skip},
		ServiceSubnet: "10.128.0.0/12", DNSDomain: "cluster.local", PodSubnet: "192.168.0.0/16",
	}
}

func find[T client.Object](objects []client.Object, name string) T {
	var none T
	for _, o := range objects {
		if found, ok := o.(T); ok && o.GetName() == name {
			return found
		}
	}
	return none
}

func TestObjects(t *testing.T) {
	const configuration = "kind: ClusterConfiguration\n# kept\n"
	cases := map[string]struct {
		why                string
		give               Cluster
		proxy, dns         bool
		proxyImage, dnsTag string
	}{
		"All": {
			give: cluster(configuration), proxy: true, dns: true,
			proxyImage: "registry.k8s.io/kube-proxy:v1.35.4", dnsTag: "registry.k8s.io/coredns/coredns:v1.13.1",
		},
		"WithoutProxy": {
			why: "A CNI takes its place.", give: cluster(configuration, "addon/kube-proxy"), dns: true,
			dnsTag: "registry.k8s.io/coredns/coredns:v1.13.1",
		},
		"WithoutDNS":     {give: cluster(configuration, "addon/coredns"), proxy: true, proxyImage: "registry.k8s.io/kube-proxy:v1.35.4"},
		"WithoutAddons":  {give: cluster(configuration, "addon")},
		"DisabledFields": {why: "kubeadm v1beta4.", give: cluster("proxy: {disabled: true}\ndns: {disabled: true}\n")},
		"Mirror": {
			why: "Only the default registry has a folder for CoreDNS.", give: cluster("imageRepository: mirror.example.com\ndns: {imageTag: v9}\n"),
			proxy: true, dns: true, proxyImage: "mirror.example.com/kube-proxy:v1.35.4", dnsTag: "mirror.example.com/coredns:v9",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			objects, err := Objects(c.give)
			if err != nil {
				t.Fatal(err)
			}
			if first := objects[0].(*corev1.ConfigMap); first.Name != "kubeadm-config" || first.Data["ClusterConfiguration"] != c.give.Data.ClusterConfiguration {
				t.Errorf("the first object is %s with %q, want kubeadm's configuration as it was given", first.Name, first.Data)
			}
			proxy := find[*appsv1.DaemonSet](objects, "kube-proxy")
			if (proxy != nil) != c.proxy || proxy != nil && proxy.Spec.Template.Spec.Containers[0].Image != c.proxyImage {
				t.Errorf("%s kube-proxy: %+v, want %t with %s", c.why, proxy, c.proxy, c.proxyImage)
			}
			dns := find[*appsv1.Deployment](objects, "coredns")
			if (dns != nil) != c.dns || dns != nil && dns.Spec.Template.Spec.Containers[0].Image != c.dnsTag {
				t.Errorf("%s coredns: %+v, want %t with %s", c.why, dns, c.dns, c.dnsTag)
			}
			if service := find[*corev1.Service](objects, "kube-dns"); c.dns && service.Spec.ClusterIP != "10.128.0.10" {
				t.Errorf("DNS is at %s", service.Spec.ClusterIP)
			}
			if info := find[*corev1.ConfigMap](objects, "cluster-info"); !strings.Contains(info.Data["kubeconfig"], c.give.Server) {
				t.Errorf("cluster-info: %q", info.Data)
			}
			seen := map[string]bool{}
			for _, o := range objects {
				id := fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())
				if seen[id] {
					t.Errorf("%s twice", id)
				}
				seen[id] = true
			}
		})
	}
}

func TestCoreDNSLeavesACordonedNode(t *testing.T) {
	objects, err := Objects(cluster("kind: ClusterConfiguration\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, toleration := range find[*appsv1.Deployment](objects, "coredns").Spec.Template.Spec.Tolerations {
		if toleration.Key == "" || toleration.Key == corev1.TaintNodeUnschedulable {
			t.Errorf("CoreDNS tolerates %+v and would come back to a node that is drained", toleration)
		}
	}
}

func TestStaticPods(t *testing.T) {
	names := func(pods []*corev1.Pod) (names []string) {
		for _, pod := range pods {
			names = append(names, pod.Name)
		}
		return names
	}
	pods := StaticPods("m", "v1.35.4", true)
	for _, pod := range pods {
		if pod.Annotations[corev1.MirrorPodAnnotationKey] == "" {
			t.Errorf("%s is no mirror, so that a drain would evict it", pod.Name)
		}
		if pod.Spec.NodeName != "m" || !pod.Spec.HostNetwork || pod.Labels["tier"] != "control-plane" {
			t.Errorf("%s: %+v", pod.Name, pod.Spec)
		}
	}
	want := []string{"kube-apiserver-m", "kube-controller-manager-m", "kube-scheduler-m"}
	if got := names(StaticPods("m", "v1.35.4", false)); !slices.Equal(got, want) {
		t.Errorf("without etcd: got %v, want %v", got, want)
	}
	if got := names(pods); !slices.Equal(got, append(want, "etcd-m")) {
		t.Errorf("got %v, want etcd-m and %v", got, want)
	}
}

func TestMinor(t *testing.T) {
	for give, want := range map[string]string{"v1.35.4": "1.35", "1.36": "1.36", "v1.36.3-rc.1": "1.36"} {
		if got := Minor(give); got != want {
			t.Errorf("minor of %s is %s, want %s", give, got, want)
		}
	}
}
