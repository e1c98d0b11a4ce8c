// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

const clusterConfiguration = `apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: 127.64.1.1:6443
networking:
  podSubnet: 192.168.0.0/16
`

func userData(path string, documents ...string) string {
	var b strings.Builder
	b.WriteString("## template: jinja\n#cloud-config\n\nwrite_files:\n-   path: /etc/kubernetes/pki/ca.crt\n    content: |\n      certificate\n-   path: " + path + "\n    owner: root:root\n    permissions: '0640'\n    content: |\n")
	for _, document := range documents {
		b.WriteString("      ---\n")
		for line := range strings.Lines(document) {
			b.WriteString("      " + line)
		}
		if !strings.HasSuffix(document, "\n") {
			b.WriteString("\n")
		}
	}
	b.WriteString("runcmd:\n  - 'kubeadm init'\n")
	return b.String()
}

func TestParse(t *testing.T) {
	const externalEtcd = "kind: ClusterConfiguration\netcd:\n  external:\n    endpoints: [https://etcd.example.com:2379]\n"
	controlPlaneLabels := map[string]string{"node-role.kubernetes.io/control-plane": "", "node.kubernetes.io/exclude-from-external-load-balancers": ""}
	controlPlaneTaint := corev1.Taint{Key: "node-role.kubernetes.io/control-plane", Effect: "NoSchedule"}
	cases := map[string]struct {
		why  string
		give string
		want Data
	}{
		"FirstMachine": {
			why: "The document is kept as it is: Cluster API edits it later.",
			give: userData("/run/kubeadm/kubeadm.yaml", clusterConfiguration,
				"apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nnodeRegistration:\n  name: '{{ ds.meta_data.local_hostname }}'\n  taints: null\n"),
			want: Data{ControlPlane: true, Init: true, ClusterConfiguration: clusterConfiguration, Node: Node{Labels: controlPlaneLabels, Taints: []corev1.Taint{controlPlaneTaint}}},
		},
		"FirstMachineWithoutTaints": {
			why: "An empty list means that the control plane takes pods of users.",
			give: userData("/run/kubeadm/kubeadm.yaml", clusterConfiguration,
				"kind: InitConfiguration\nnodeRegistration:\n  taints: []\n"),
			want: Data{ControlPlane: true, Init: true, ClusterConfiguration: clusterConfiguration, Node: Node{Labels: controlPlaneLabels, Taints: []corev1.Taint{}}},
		},
		"FirstMachineWithExternalEtcd": {
			give: userData("/run/kubeadm/kubeadm.yaml", externalEtcd, "kind: InitConfiguration\n"),
			want: Data{
				ControlPlane: true, Init: true, ClusterConfiguration: externalEtcd, ExternalEtcd: true,
				Node: Node{Labels: controlPlaneLabels, Taints: []corev1.Taint{controlPlaneTaint}},
			},
		},
		"FirstMachineSkipsAddons": {
			why:  "Clusters whose CNI replaces kube-proxy ask for this.",
			give: userData("/run/kubeadm/kubeadm.yaml", clusterConfiguration, "kind: InitConfiguration\nskipPhases: [addon/kube-proxy]\n"),
			want: Data{
				ControlPlane: true, Init: true, ClusterConfiguration: clusterConfiguration, Skip: []string{"addon/kube-proxy"},
				Node: Node{Labels: controlPlaneLabels, Taints: []corev1.Taint{controlPlaneTaint}},
			},
		},
		"ControlPlaneJoins": {
			give: userData("/run/kubeadm/kubeadm-join-config.yaml", "kind: JoinConfiguration\ncontrolPlane:\n  localAPIEndpoint: {}\n"),
			want: Data{ControlPlane: true, Node: Node{Labels: controlPlaneLabels, Taints: []corev1.Taint{controlPlaneTaint}}},
		},
		"WorkerWithArgumentsAsList": {
			why: "kubeadm v1beta4.",
			give: userData("/run/kubeadm/kubeadm-join-config.yaml", `kind: JoinConfiguration
nodeRegistration:
  kubeletExtraArgs:
  - name: cloud-provider
    value: external
  - name: node-labels
    value: a.example.com/x=1,b=
  - name: register-with-taints
    value: gpu=yes:NoExecute
  taints:
  - key: node.cluster.x-k8s.io/uninitialized
    effect: NoSchedule
`),
			want: Data{Node: Node{
				Labels: map[string]string{"a.example.com/x": "1", "b": ""},
				Taints: []corev1.Taint{
					{Key: "node.cluster.x-k8s.io/uninitialized", Effect: "NoSchedule"},
					{Key: "gpu", Value: "yes", Effect: "NoExecute"},
				},
				ExternalCloudProvider: true,
			}},
		},
		"WorkerWithArgumentsAsMap": {
			why: "kubeadm v1beta3.",
			give: userData("/run/kubeadm/kubeadm-join-config.yaml",
				"apiVersion: kubeadm.k8s.io/v1beta3\nkind: JoinConfiguration\nnodeRegistration:\n  kubeletExtraArgs:\n    cloud-provider: external\n    node-labels: a=1\n"),
			want: Data{Node: Node{Labels: map[string]string{"a": "1"}, ExternalCloudProvider: true}},
		},
		"FileInBase64": {
			give: "#cloud-config\nwrite_files:\n- path: /run/kubeadm/kubeadm-join-config.yaml\n  encoding: base64\n  content: a2luZDogSm9pbkNvbmZpZ3VyYXRpb24K\n",
			want: Data{Node: Node{Labels: map[string]string{}}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.give))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", c.why, diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	cases := map[string]struct{ give, want string }{
		"Ignition":        {`{"ignition": {"version": "3.4.0"}}`, "cloud-config only"},
		"NoKubeadm":       {"#cloud-config\nruncmd: [echo]\n", "neither kubeadm's"},
		"NotYAML":         {"\tx: [", "not a cloud-config"},
		"BrokenLabel":     {userData("/run/kubeadm/kubeadm-join-config.yaml", "kind: JoinConfiguration\nnodeRegistration:\n  kubeletExtraArgs: {node-labels: novalue}\n"), "node-labels"},
		"UnknownEncoding": {"#cloud-config\nwrite_files:\n- path: /run/kubeadm/x\n  encoding: gz\n  content: x\n", `"gz"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.give))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestSkips(t *testing.T) {
	cases := map[string]struct {
		skip  []string
		phase string
		want  bool
	}{
		"Named":   {[]string{"addon/coredns"}, "addon/coredns", true},
		"Parent":  {[]string{"addon"}, "addon/coredns", true},
		"Sibling": {[]string{"addon/kube-proxy"}, "addon/coredns", false},
		"Nothing": {nil, "addon/coredns", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := (Data{Skip: c.skip}).Skips(c.phase); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

func TestParseClusterConfiguration(t *testing.T) {
	c, err := ParseClusterConfiguration("kind: ClusterConfiguration\ndns: {imageTag: v1.2.3}\nproxy: {disabled: true}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.ImageRepository != "registry.k8s.io" || c.DNS.ImageTag != "v1.2.3" || !c.Proxy.Disabled || c.Networking.ServiceSubnet != "10.96.0.0/12" {
		t.Errorf("got %+v", c)
	}
}
