// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sample makes up clusters of a release, for whoever renders its addons without having a cluster.
//
// A sample has the fields that every cluster of the release has at a lifecycle point, as Cluster API would have
// made it out of the ClusterClass; a full one has the optional ones as well. What a provider alone knows, such as
// the IDs of its networks, is made up for the providers that are known here and missing for others.
package sample

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// Where a sample is unless Options says otherwise.
const (
	Name      = "sample"
	Namespace = "default"
)

// Options say which cluster to make up. The zero value is a full one that has just got its control plane.
type Options struct {
	// Name and Namespace of the Cluster; Name and Namespace of this package if empty.
	Name, Namespace string
	// Point is the lifecycle point at which the cluster is; AfterControlPlaneInitialized if empty.
	Point release.Point
	// Minimal asks for a Cluster with the address ranges of its pods, what Cluster API and the ClusterClass demand, and
	// nothing else.
	Minimal bool
}

// Cluster is a cluster that does not exist.
type Cluster struct {
	Cluster *clusterv1.Cluster
	// ControlPlane and InfraCluster are nil where the release has no ClusterClass, or one without templates for them.
	ControlPlane *unstructured.Unstructured
	InfraCluster *unstructured.Unstructured
}

// Facts are what values templates can know about the sample.
func (c Cluster) Facts() (render.Facts, error) {
	return render.ClusterFacts(c.Cluster, c.ControlPlane, c.InfraCluster)
}

// Points are the lifecycle points at which a release may have stages, in the order in which a cluster comes to them.
var Points = []release.Point{
	release.AfterControlPlaneInitialized,
	release.BeforeClusterUpgrade, release.BeforeControlPlaneUpgrade, release.AfterControlPlaneUpgrade,
	release.BeforeWorkersUpgrade, release.AfterWorkersUpgrade, release.AfterClusterUpgrade,
	release.BeforeClusterDelete,
}

// Of makes up a cluster of a release. The objects are those that the cluster class renders to (render.Class); the
// ClusterClass and the templates of control plane and infrastructure are taken from them. An error means that the
// ClusterClass is malformed.
func Of(rel *release.Release, objects []*unstructured.Unstructured, options Options) (Cluster, error) {
	if options.Name == "" {
		options.Name = Name
	}
	if options.Namespace == "" {
		options.Namespace = Namespace
	}
	if options.Point == "" {
		options.Point = release.AfterControlPlaneInitialized
	}
	m := maker{Options: options, release: rel, objects: objects}
	m.class = m.find(clusterv1.GroupVersion.Group, "ClusterClass", rel.Name.ClassName())
	return m.make()
}

type maker struct {
	Options
	release *release.Release
	objects []*unstructured.Unstructured
	class   *unstructured.Unstructured
}

func (m maker) find(group, kind, name string) *unstructured.Unstructured {
	for _, object := range m.objects {
		if object.GroupVersionKind().Group == group && object.GetKind() == kind && object.GetName() == name {
			return object
		}
	}
	return &unstructured.Unstructured{Object: map[string]any{}}
}

var endpoint = clusterv1.APIEndpoint{Host: "192.0.2.10", Port: 6443} // an address that is set aside for documents

func (m maker) make() (Cluster, error) {
	cluster := m.cluster()
	variables, err := m.variables()
	if err != nil {
		return Cluster{}, err
	}
	cluster.Spec.Topology.Variables = variables
	cluster.Spec.Topology.Workers.MachineDeployments = m.machineDeployments()

	controlPlane := m.fromTemplate("controlPlane", map[string]any{"version": m.controlPlaneVersion(), "replicas": int64(*cluster.Spec.Topology.ControlPlane.Replicas)})
	infrastructure := m.fromTemplate("infrastructure", map[string]any{
		"controlPlaneEndpoint": map[string]any{"host": endpoint.Host, "port": int64(endpoint.Port)},
	})
	cluster.Spec.ControlPlaneRef = reference(controlPlane)
	cluster.Spec.InfrastructureRef = reference(infrastructure)
	m.fillIn(controlPlane, map[string]any{
		"initialization": map[string]any{"controlPlaneInitialized": true},
		"initialized":    true, "ready": true, "replicas": int64(1), "version": m.controlPlaneVersion(),
	})
	status := map[string]any{"initialization": map[string]any{"provisioned": true}, "ready": true}
	if infrastructure != nil {
		maps.Copy(status, providers[infrastructure.GetKind()])
	}
	m.fillIn(infrastructure, status)
	return Cluster{Cluster: cluster, ControlPlane: controlPlane, InfraCluster: infrastructure}, nil
}

func (m maker) cluster() *clusterv1.Cluster {
	cluster := &clusterv1.Cluster{
		TypeMeta:   metav1.TypeMeta{APIVersion: clusterv1.GroupVersion.String(), Kind: "Cluster"},
		ObjectMeta: m.metadata(),
		Spec: clusterv1.ClusterSpec{
			ControlPlaneEndpoint: endpoint,
			ClusterNetwork:       clusterv1.ClusterNetwork{Pods: clusterv1.NetworkRanges{CIDRBlocks: []string{"10.244.0.0/16"}}},
			Topology: clusterv1.Topology{
				ClassRef: clusterv1.ClusterClassRef{Name: m.release.Name.ClassName()},
				Version:  m.release.Metadata.Kubernetes,
				ControlPlane: clusterv1.ControlPlaneTopology{
					Replicas: ptr.To[int32](1),
				},
			},
		},
		Status: clusterv1.ClusterStatus{
			Phase: string(clusterv1.ClusterPhaseProvisioned),
			Initialization: clusterv1.ClusterInitializationStatus{
				InfrastructureProvisioned: ptr.To(true), ControlPlaneInitialized: ptr.To(true),
			},
		},
	}
	if m.Point == release.BeforeClusterDelete {
		cluster.Status.Phase = string(clusterv1.ClusterPhaseDeleting)
		cluster.DeletionTimestamp = &metav1.Time{Time: moment}
		cluster.Finalizers = []string{clusterv1.ClusterFinalizer}
	}
	if !m.Minimal {
		cluster.Labels = map[string]string{"environment": "sample"}
		cluster.Annotations = map[string]string{"example.com/description": "made up"}
		cluster.Spec.ClusterNetwork.Services = clusterv1.NetworkRanges{CIDRBlocks: []string{"10.96.0.0/16"}}
		cluster.Spec.ClusterNetwork.ServiceDomain = "cluster.local"
		cluster.Spec.ClusterNetwork.APIServerPort = endpoint.Port
		cluster.Spec.Topology.ControlPlane.Replicas = ptr.To[int32](3)
	}
	return cluster
}

// moment stands for every time in a sample: the same sample is the same each time.
var moment = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

func (m maker) metadata() metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: "00000000-0000-4000-8000-000000000001",
		ResourceVersion: "1", Generation: 1, CreationTimestamp: metav1.Time{Time: moment},
	}
}

// controlPlaneVersion is the version before until the point at which all machines of the control plane have the next.
func (m maker) controlPlaneVersion() string {
	version := m.release.Metadata.Kubernetes
	switch m.Point {
	case release.BeforeClusterUpgrade, release.BeforeControlPlaneUpgrade:
		var major, minor int
		if _, err := fmt.Sscanf(version, "v%d.%d.", &major, &minor); err == nil && minor > 0 {
			return fmt.Sprintf("v%d.%d.0", major, minor-1)
		}
	default:
	}
	return version
}

func (m maker) machineDeployments() []clusterv1.MachineDeploymentTopology {
	if m.Minimal {
		return nil
	}
	var deployments []clusterv1.MachineDeploymentTopology
	for _, worker := range listed(nested(m.class.Object, "spec", "workers"), "machineDeployments") {
		class, _ := worker["class"].(string)
		deployments = append(deployments, clusterv1.MachineDeploymentTopology{Class: class, Name: "md-" + class, Replicas: ptr.To[int32](1)})
	}
	return deployments
}

// fromTemplate returns the object that Cluster API makes from the template that the ClusterClass names for a part.
func (m maker) fromTemplate(part string, with map[string]any) *unstructured.Unstructured {
	ref := TemplateRef(m.class, part)
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if ref.Kind == "" || err != nil {
		return nil
	}
	template := m.find(gv.Group, ref.Kind, ref.Name)
	spec, _ := copied(nested(template.Object, "spec", "template", "spec")).(map[string]any)
	if spec == nil {
		spec = map[string]any{}
	}
	maps.Copy(spec, with)
	metadata := m.metadata()
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": ref.APIVersion,
		"kind":       strings.TrimSuffix(ref.Kind, clusterv1.TemplateSuffix),
		"metadata": map[string]any{
			"name": metadata.Name + "-" + suffix, "namespace": metadata.Namespace, "uid": string(metadata.UID),
			"resourceVersion": "1", "generation": int64(1), "creationTimestamp": moment.Format(time.RFC3339),
			"labels": map[string]any{clusterv1.ClusterNameLabel: metadata.Name, clusterv1.ClusterTopologyOwnedLabel: ""},
		},
		"spec": spec,
	}}
}

// suffix is in place of the one that Cluster API makes by chance.
const suffix = "abcde"

func (maker) fillIn(object *unstructured.Unstructured, status map[string]any) {
	if object != nil {
		object.Object["status"] = copied(status)
	}
}

// providers are what controllers of providers write into the status of a cluster's infrastructure, by its kind.
var providers = map[string]map[string]any{
	"OpenStackCluster": {
		"network": map[string]any{
			"id": sampleID(1), "name": "k8s-clusterapi-cluster-default-sample",
			"subnets": []any{map[string]any{"id": sampleID(2), "name": "k8s-clusterapi-cluster-default-sample", "cidr": "10.8.0.0/20"}},
		},
		"externalNetwork": map[string]any{"id": sampleID(3), "name": "public"},
		"router":          map[string]any{"id": sampleID(4), "name": "k8s-clusterapi-cluster-default-sample", "ips": []any{"192.0.2.1"}},
		"apiServerLoadBalancer": map[string]any{
			"id": sampleID(5), "name": "k8s-clusterapi-cluster-default-sample-kubeapi", "ip": endpoint.Host, "internalIP": "10.8.0.10",
		},
		"controlPlaneSecurityGroup": map[string]any{"id": sampleID(6), "name": "k8s-cluster-default-sample-secgroup-controlplane"},
		"workerSecurityGroup":       map[string]any{"id": sampleID(7), "name": "k8s-cluster-default-sample-secgroup-worker"},
	},
}

func sampleID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-0000000001%02d", n) }

func reference(object *unstructured.Unstructured) clusterv1.ContractVersionedObjectReference {
	if object == nil {
		return clusterv1.ContractVersionedObjectReference{}
	}
	return clusterv1.ContractVersionedObjectReference{
		APIGroup: object.GroupVersionKind().Group, Kind: object.GetKind(), Name: object.GetName(),
	}
}

// Ref is a reference of a ClusterClass to a template.
type Ref struct{ APIVersion, Kind, Name string }

// TemplateRef returns the template that a ClusterClass, of v1beta1 or v1beta2, refers to below a part of its spec, such
// as "controlPlane" or "infrastructure"; the zero value where it refers to none.
func TemplateRef(class *unstructured.Unstructured, part ...string) Ref {
	for _, field := range []string{"templateRef", "ref"} {
		if ref, is := nested(class.Object, append(append([]string{"spec"}, part...), field)...).(map[string]any); is {
			text := func(key string) string { s, _ := ref[key].(string); return s }
			return Ref{APIVersion: text("apiVersion"), Kind: text("kind"), Name: text("name")}
		}
	}
	return Ref{}
}

// variables are those that a Cluster has to set, or all of them.
func (m maker) variables() ([]clusterv1.ClusterVariable, error) {
	var variables []clusterv1.ClusterVariable
	for _, variable := range listed(nested(m.class.Object, "spec"), "variables") {
		name, _ := variable["name"].(string)
		of, _ := nested(variable, "schema", "openAPIV3Schema").(map[string]any)
		required, _ := variable["required"].(bool)
		// Cluster API writes defaults into every Cluster.
		if _, hasDefault := of["default"]; m.Minimal && !required && !hasDefault {
			continue
		}
		raw, err := json.Marshal(Value(of))
		if err != nil {
			return nil, fmt.Errorf("ClusterClass %s: variable %s: %w", m.class.GetName(), name, err)
		}
		variables = append(variables, clusterv1.ClusterVariable{Name: name, Value: apiextensionsv1.JSON{Raw: raw}})
	}
	return variables, nil
}

// Value returns a value for a schema of a variable: its default, else its example, else one that the simpler rules of
// the schema allow.
func Value(of map[string]any) any {
	for _, key := range []string{"default", "example"} {
		if value, given := of[key]; given {
			return value
		}
	}
	if enum, _ := of["enum"].([]any); len(enum) > 0 {
		return enum[0]
	}
	switch of["type"] {
	case "object":
		properties, _ := of["properties"].(map[string]any)
		value := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			if property, is := properties[name].(map[string]any); is {
				value[name] = Value(property)
			}
		}
		return value
	case "array":
		items, is := of["items"].(map[string]any)
		if !is {
			return []any{}
		}
		value := []any{}
		for range max(1, number(of["minItems"])) {
			value = append(value, Value(items))
		}
		return value
	case "integer", "number":
		if _, bounded := of["minimum"]; bounded {
			if exclusive, _ := of["exclusiveMinimum"].(bool); exclusive {
				return number(of["minimum"]) + 1
			}
			return number(of["minimum"])
		}
		if _, bounded := of["maximum"]; bounded {
			return min(1, number(of["maximum"])-1)
		}
		return 1
	case "boolean":
		return true
	}
	text := formats[fmt.Sprint(of["format"])]
	if text == "" {
		text = "sample"
	}
	for len(text) < number(of["minLength"]) {
		text += "-sample"
	}
	if _, bounded := of["maxLength"]; bounded {
		text = text[:min(len(text), number(of["maxLength"]))]
	}
	return text
}

var formats = map[string]string{
	"cidr": "10.0.0.0/16", "ipv4": "192.0.2.20", "ipv6": "2001:db8::20", "uri": "https://example.com", "hostname": "example.com",
	"uuid": "00000000-0000-4000-8000-000000000002", "email": "nobody@example.com", "date-time": "2025-01-01T00:00:00Z", "date": "2025-01-01",
	"duration": "10m", "byte": "c2FtcGxl",
}

func number(value any) int {
	switch n := value.(type) {
	case int64:
		return int(n)
	case float64:
		return int(n)
	case int:
		return n
	}
	return 0
}

// nested returns what stands at a path, nil if nothing does.
func nested(value any, path ...string) any {
	for _, key := range path {
		in, _ := value.(map[string]any)
		value = in[key]
	}
	return value
}

// listed returns the maps in a list of a map.
func listed(value any, key string) []map[string]any {
	list, _ := nested(value, key).([]any)
	var found []map[string]any
	for _, item := range list {
		if in, is := item.(map[string]any); is {
			found = append(found, in)
		}
	}
	return found
}

func copied(value any) any {
	switch value := value.(type) {
	case map[string]any:
		result := map[string]any{}
		for key, v := range value {
			result[key] = copied(v)
		}
		return result
	case []any:
		result := make([]any, len(value))
		for i := range value {
			result[i] = copied(value[i])
		}
		return result
	}
	return value
}
