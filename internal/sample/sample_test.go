// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sample_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

const tag = "openstack-scs-1-35-v1"

func openRelease(t *testing.T) *release.Release {
	t.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := release.Open(releasetest.Multistage(tag), name)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

const class = `
apiVersion: cluster.x-k8s.io/v1beta2
kind: ClusterClass
metadata: {name: openstack-scs-1-35-v1}
spec:
  controlPlane:
    templateRef: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: cp}
  infrastructure:
    templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta1, kind: OpenStackClusterTemplate, name: infra}
  workers:
    machineDeployments: [{class: default-worker}]
  variables:
  - {name: image, required: true, schema: {openAPIV3Schema: {type: string, minLength: 12}}}
  - {name: count, schema: {openAPIV3Schema: {type: integer, minimum: 3}}}
  - {name: mode, schema: {openAPIV3Schema: {type: string, enum: [a, b], default: b}}}
  - {name: net, schema: {openAPIV3Schema: {type: object, properties: {cidr: {type: string, format: cidr}, dns: {type: array, items: {type: string, example: 9.9.9.9}}}}}}
`

// The older shape of the same class.
const oldClass = `
apiVersion: cluster.x-k8s.io/v1beta1
kind: ClusterClass
metadata: {name: openstack-scs-1-35-v1}
spec:
  controlPlane:
    ref: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: cp}
  infrastructure:
    ref: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta1, kind: OpenStackClusterTemplate, name: infra}
`

const infra = `
apiVersion: infrastructure.cluster.x-k8s.io/v1beta1
kind: OpenStackClusterTemplate
metadata: {name: infra}
spec: {template: {spec: {apiServerLoadBalancer: {enabled: true}}}}
`

// values renders a values template as the operator does, with what a sample says.
func values(t *testing.T, options sample.Options, class, template string) map[string]any {
	t.Helper()
	made, err := sample.Of(openRelease(t), []*unstructured.Unstructured{object(t, class), object(t, infra)}, options)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := made.Facts()
	if err != nil {
		t.Fatal(err)
	}
	got, err := render.Values([]byte(template), facts)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSampleIsMadeOfTheClusterClass(t *testing.T) {
	const template = `
name: {{ .Cluster.metadata.namespace }}/{{ .Cluster.metadata.name }}
class: {{ .Cluster.spec.topology.class }}
variables: {{ .Cluster.spec.topology.variables | toJson }}
workers: {{ (index .Cluster.spec.topology.workers.machineDeployments 0).class }}
kind: {{ .InfraCluster.kind }} {{ .Cluster.spec.infrastructureRef.name }}
balancer: {{ .InfraCluster.spec.apiServerLoadBalancer.enabled }}
network: {{ .InfraCluster.status.network.name }}
host: {{ .Cluster.spec.controlPlaneEndpoint.host }}:{{ .InfraCluster.spec.controlPlaneEndpoint.port }}
controlPlane: {{ .ControlPlane.kind }} {{ .ControlPlane.spec.version }}
`
	want := map[string]any{
		"name": "default/sample", "class": tag, "workers": "default-worker", "kind": "OpenStackCluster sample-abcde",
		"variables": []any{
			map[string]any{"name": "image", "value": "sample-sample"},
			map[string]any{"name": "count", "value": 3.0},
			map[string]any{"name": "mode", "value": "b"},
			map[string]any{"name": "net", "value": map[string]any{"cidr": "10.0.0.0/16", "dns": []any{"9.9.9.9"}}},
		},
		"balancer": true, "network": "k8s-clusterapi-cluster-default-sample", "host": "192.0.2.10:6443",
		"controlPlane": "KubeadmControlPlane v1.35.4",
	}
	if diff := cmp.Diff(want, values(t, sample.Options{}, class, template)); diff != "" {
		t.Error(diff)
	}
}

func TestMinimalSampleHasOnlyWhatIsDemanded(t *testing.T) {
	got := values(t, sample.Options{Minimal: true}, class, `
variables: {{ .Cluster.spec.topology.variables | toJson }}
labels: {{ .Cluster.metadata.labels | toJson }}
workers: {{ .Cluster.spec.topology.workers | toJson }}
`)
	want := map[string]any{
		"variables": []any{map[string]any{"name": "image", "value": "sample-sample"}, map[string]any{"name": "mode", "value": "b"}}, "labels": nil, "workers": nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSampleIsWhereItsLifecyclePointIs(t *testing.T) {
	const template = `is: "{{ .Cluster.status.phase }} {{ .ControlPlane.spec.version }} {{ .Cluster.spec.topology.version }}"`
	for point, want := range map[release.Point]string{
		release.AfterControlPlaneInitialized: "Provisioned v1.35.4 v1.35.4",
		release.BeforeClusterUpgrade:         "Provisioned v1.34.0 v1.35.4",
		release.BeforeControlPlaneUpgrade:    "Provisioned v1.34.0 v1.35.4",
		release.AfterControlPlaneUpgrade:     "Provisioned v1.35.4 v1.35.4",
		release.BeforeClusterDelete:          "Deleting v1.35.4 v1.35.4",
	} {
		if got := values(t, sample.Options{Point: point}, class, template)["is"]; got != want {
			t.Errorf("%s: %q, want %q", point, got, want)
		}
	}
}

func TestSampleOfAnOlderClusterClass(t *testing.T) {
	got := values(t, sample.Options{Name: "mine", Namespace: "customer"}, oldClass, `is: {{ .Cluster.metadata.namespace }}/{{ .InfraCluster.metadata.name }} {{ .ControlPlane.kind }}`)
	if got["is"] != "customer/mine-abcde KubeadmControlPlane" {
		t.Errorf("got %v", got)
	}
}

func TestSampleOfAReleaseWithoutClusterClassHasACluster(t *testing.T) {
	made, err := sample.Of(openRelease(t), nil, sample.Options{})
	if err != nil || made.ControlPlane != nil || made.InfraCluster != nil || made.Cluster.Spec.Topology.ClassRef.Name != tag {
		t.Errorf("%v, %+v", err, made)
	}
}
