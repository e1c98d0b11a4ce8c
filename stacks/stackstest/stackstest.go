// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package stackstest has small charts that stand in for the public ones that our stacks depend on, for tests.
package stackstest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
)

// standIns are templates of small charts that stand in for public ones, by the names of these. They have the objects that
// our stages wait for, which need no network of pods where these need none, and show which values have reached them.
var standIns = map[string]string{
	"cilium": `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: cilium, namespace: kube-system}, spec: {
  selector: {matchLabels: {k8s-app: cilium}}, template: {metadata: {labels: {k8s-app: cilium}}, spec: {hostNetwork: true, tolerations: {{ toJson .Values.operator.tolerations }},
  containers: [{name: agent, image: "registry.example.com/cilium:v1", env: [{name: KUBERNETES_SERVICE_HOST, value: {{ quote .Values.k8sServiceHost }}}, {name: KUBERNETES_SERVICE_PORT, value: {{ quote .Values.k8sServicePort }}}, {name: IPAM, value: {{ .Values.ipam.mode }}}],
  volumeMounts: [{name: cni, mountPath: /host/etc/cni/net.d}]}], volumes: [{name: cni, hostPath: {path: /etc/cni/net.d}}]}}}}
`,
	"openstack-cloud-controller-manager": `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: openstack-cloud-controller-manager, namespace: kube-system}, spec: {
  selector: {matchLabels: {app: ccm}}, template: {metadata: {labels: {app: ccm}}, spec: {hostNetwork: true, tolerations: {{ toJson .Values.tolerations }}, nodeSelector: {{ toJson .Values.nodeSelector }},
  containers: [{name: ccm, image: "registry.example.com/ccm:v1", args: ["--cluster-name={{ .Values.cluster.name }}", "--controllers={{ join "," .Values.enabledControllers }}"], volumeMounts: [{name: cloud-config, mountPath: /etc/config, readOnly: true}]}],
  volumes: [{name: cloud-config, secret: {secretName: {{ .Values.secret.name }}}}]}}}}
`,
	"openstack-cinder-csi": `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: openstack-cinder-csi-nodeplugin, namespace: kube-system}, spec: {
  selector: {matchLabels: {app: csi}}, template: {metadata: {labels: {app: csi}}, spec: {hostNetwork: true, tolerations: {{ toJson .Values.csi.plugin.nodePlugin.tolerations }},
  containers: [{name: plugin, image: "registry.example.com/csi:v1", args: ["--cluster={{ .Values.clusterID }}"], volumeMounts: [{name: cloud-config, mountPath: /etc/config, readOnly: true}]}],
  volumes: [{name: cloud-config, secret: {secretName: {{ .Values.secret.name }}}}]}}}}
`,
	"metrics-server": `{apiVersion: apps/v1, kind: Deployment, metadata: {name: metrics-server, namespace: kube-system}, spec: {
  selector: {matchLabels: {app: metrics-server}}, template: {metadata: {labels: {app: metrics-server}}, spec: {tolerations: {{ toJson .Values.tolerations }},
  containers: [{name: metrics-server, image: "registry.example.com/metrics-server:v1", args: {{ toJson .Values.args }}}]}}}}
`,
}

// Charts serves stand-ins for all charts that the stacks in a folder depend on, in the versions that they ask for, and
// returns these repositories on loopback as mirrors of the public ones. They end with the test.
func Charts(t testing.TB, stacks string) []chartrepo.Mirror {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(stacks, "*/*/*/cluster-addon/*/Chart.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found %v, %v", files, err)
	}
	packages := map[string]map[string][]byte{} // by repository, and name and version
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dependencies, err := chartlock.Read(data)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, d := range dependencies {
			if standIns[d.Name] == "" {
				t.Fatalf("%s: nothing stands in for chart %s", file, d.Name)
			}
			if packages[d.Repository] == nil {
				packages[d.Repository] = map[string][]byte{}
			}
			packages[d.Repository][d.Name+" "+d.Version] = chartrepotest.Package(d.Name, d.Version, map[string]string{"templates/all.yaml": standIns[d.Name]})
		}
	}
	var mirrors []chartrepo.Mirror
	for repository, charts := range packages {
		mirrors = append(mirrors, chartrepo.Mirror{From: repository, To: chartrepotest.Start(t, slices.Collect(maps.Values(charts))...).URL})
	}
	return mirrors
}
