// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bootstrap reads what a bootstrap provider hands to a machine: a cloud-config with kubeadm's
// configuration inside. A simulated machine runs no script; it takes from here what a real one would
// end up with: its role, the labels and taints of its Node, and the cluster's configuration.
//
// Commands, users, disks and files other than kubeadm's are not looked at.
package bootstrap

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Data is what a machine learns from its bootstrap data.
type Data struct {
	// ControlPlane is true when the machine runs etcd and an API server.
	ControlPlane bool
	// Init is true for the machine that starts the cluster; the others join it.
	Init bool
	// ClusterConfiguration is kubeadm's document as it was found; only the machine with Init has it.
	ClusterConfiguration string
	// ExternalEtcd says that ClusterConfiguration names an etcd that does not run on the machines.
	ExternalEtcd bool
	// Node is how the kubelet registers.
	Node Node
	// Skip lists the phases of kubeadm that are left out, such as addon/kube-proxy.
	Skip []string
}

// Node is what a kubelet puts into its Node when it registers.
type Node struct {
	Labels map[string]string
	Taints []corev1.Taint
	// ExternalCloudProvider says that a cloud controller manager is expected to finish the Node.
	ExternalCloudProvider bool
}

// Skips reports whether a phase of kubeadm, or the phase that it is part of, is left out.
func (d Data) Skips(phase string) bool {
	parent, _, _ := strings.Cut(phase, "/")
	return slices.Contains(d.Skip, phase) || slices.Contains(d.Skip, parent)
}

type cloudConfig struct {
	WriteFiles []struct {
		Path     string `json:"path"`
		Content  string `json:"content"`
		Encoding string `json:"encoding"`
	} `json:"write_files"`
}

// configuration holds the fields of kubeadm's InitConfiguration and JoinConfiguration that matter here.
type configuration struct {
	NodeRegistration struct {
		// A missing list and an empty one differ: kubeadm has a default for the first.
		Taints           *[]corev1.Taint `json:"taints"`
		KubeletExtraArgs extraArgs       `json:"kubeletExtraArgs"`
	} `json:"nodeRegistration"`
	ControlPlane *struct{} `json:"controlPlane"`
	SkipPhases   []string  `json:"skipPhases"`
}

// extraArgs are the arguments of a component: a map in kubeadm's v1beta3, a list of names and values in v1beta4.
type extraArgs map[string]string

// UnmarshalJSON reads both forms. Of an argument that is given twice the last one counts, as on a command line.
func (a *extraArgs) UnmarshalJSON(data []byte) error {
	*a = extraArgs{}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		var list []struct{ Name, Value string }
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
		for _, arg := range list {
			(*a)[arg.Name] = arg.Value
		}
		return nil
	}
	return json.Unmarshal(data, (*map[string]string)(a))
}

// Parse reads bootstrap data. An error means that no machine of a sandbox can start from it.
func Parse(data []byte) (Data, error) {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return Data{}, errors.New("bootstrap data is JSON (Ignition?): a sandbox reads cloud-config only; set the format of the KubeadmConfig to cloud-config")
	}
	var config cloudConfig
	if err := yaml.Unmarshal(data, &config); err != nil {
		return Data{}, fmt.Errorf("bootstrap data is not a cloud-config: %w", err)
	}
	var result Data
	var found bool
	for _, file := range config.WriteFiles {
		if !strings.HasPrefix(file.Path, "/run/kubeadm/") {
			continue
		}
		content := file.Content
		switch file.Encoding {
		case "":
		case "base64", "b64":
			decoded, err := base64.StdEncoding.DecodeString(content)
			if err != nil {
				return Data{}, fmt.Errorf("bootstrap data: %s: %w", file.Path, err)
			}
			content = string(decoded)
		default:
			return Data{}, fmt.Errorf("bootstrap data: %s has the encoding %q; a sandbox reads plain text and base64", file.Path, file.Encoding)
		}
		for _, document := range splitDocuments(content) {
			known, err := result.read(document)
			if err != nil {
				return Data{}, fmt.Errorf("bootstrap data: %s: %w", file.Path, err)
			}
			found = found || known
		}
	}
	if !found {
		return Data{}, errors.New("bootstrap data holds neither kubeadm's InitConfiguration nor its JoinConfiguration; a sandbox knows machines that kubeadm sets up")
	}
	return result, nil
}

// read takes over one document; the answer tells whether it says how the machine starts.
func (d *Data) read(document string) (bool, error) {
	var kind struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
		return false, err
	}
	switch kind.Kind {
	case "ClusterConfiguration":
		c, err := ParseClusterConfiguration(document)
		d.ClusterConfiguration, d.ExternalEtcd = document, c.Etcd.External != nil
		return false, err
	case "InitConfiguration", "JoinConfiguration":
	default:
		return false, nil
	}
	var c configuration
	if err := yaml.Unmarshal([]byte(document), &c); err != nil {
		return false, fmt.Errorf("%s: %w", kind.Kind, err)
	}
	d.Init = kind.Kind == "InitConfiguration"
	d.ControlPlane = d.Init || c.ControlPlane != nil
	d.Skip = c.SkipPhases

	args := c.NodeRegistration.KubeletExtraArgs
	labels, err := parseLabels(args["node-labels"])
	if err != nil {
		return false, fmt.Errorf("%s: kubelet argument node-labels: %w", kind.Kind, err)
	}
	taints, err := parseTaints(args["register-with-taints"])
	if err != nil {
		return false, fmt.Errorf("%s: kubelet argument register-with-taints: %w", kind.Kind, err)
	}
	switch {
	case c.NodeRegistration.Taints != nil:
		taints = append(*c.NodeRegistration.Taints, taints...)
	case d.ControlPlane:
		taints = append([]corev1.Taint{{Key: controlPlaneRole, Effect: corev1.TaintEffectNoSchedule}}, taints...)
	}
	if d.ControlPlane {
		labels[controlPlaneRole] = ""
		labels[corev1.LabelNodeExcludeBalancers] = ""
	}
	d.Node = Node{Labels: labels, Taints: taints, ExternalCloudProvider: args["cloud-provider"] == "external"}
	return true, nil
}

// controlPlaneRole is both the label and the taint that kubeadm puts on a Node of the control plane.
const controlPlaneRole = "node-role.kubernetes.io/control-plane"

func parseLabels(list string) (map[string]string, error) {
	labels := map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form key=value", pair)
		}
		labels[key] = value
	}
	return labels, nil
}

func parseTaints(list string) ([]corev1.Taint, error) {
	var taints []corev1.Taint
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		keyValue, effect, ok := strings.Cut(item, ":")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form key=value:effect", item)
		}
		key, value, _ := strings.Cut(keyValue, "=")
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return taints, nil
}

func splitDocuments(content string) []string {
	var documents []string
	var current strings.Builder
	flush := func() {
		if strings.TrimSpace(current.String()) != "" {
			documents = append(documents, current.String())
		}
		current.Reset()
	}
	for line := range strings.Lines(content) {
		if strings.TrimRight(line, " \r\n") == "---" {
			flush()
			continue
		}
		current.WriteString(line)
	}
	flush()
	return documents
}
