// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package preview

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // people still have Clusters of this version in files
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

// Cluster is a cluster as manifests have it. What they lack is taken from a sample.
type Cluster struct {
	// Cluster is nil where there are only settings.
	Cluster *clusterv1.Cluster
	// Settings say what is different about the addons of this cluster; nil if nothing.
	Settings *v1alpha1.ClusterAddonSettings
	// objects are all others: control plane, infrastructure.
	objects []*unstructured.Unstructured
	values  values
}

// ReadCluster adds the objects of a YAML document to the cluster: a Cluster, the control plane and the infrastructure
// that it refers to, ClusterAddonSettings, and the ConfigMaps and Secrets that those refer to.
func (c *Cluster) ReadCluster(text []byte) error {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		obj := &unstructured.Unstructured{}
		err := decoder.Decode(&obj.Object)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case len(obj.Object) == 0:
			continue
		}
		items := []unstructured.Unstructured{*obj}
		if obj.IsList() {
			list, err := obj.ToList()
			if err != nil {
				return err
			}
			items = list.Items
		}
		for i := range items {
			if err := c.add(&items[i]); err != nil {
				return fmt.Errorf("%s %s: %w", items[i].GetKind(), items[i].GetName(), err)
			}
		}
	}
}

func (c *Cluster) add(obj *unstructured.Unstructured) error {
	gvk := obj.GroupVersionKind()
	switch gvk.GroupKind() {
	case schema.GroupKind{Group: clusterv1.GroupVersion.Group, Kind: "Cluster"}:
		if c.Cluster != nil {
			return fmt.Errorf("the Cluster %s is there already; name one", c.Cluster.Name)
		}
		cluster, err := clusterOf(obj)
		c.Cluster = cluster
		return err
	case schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "ClusterAddonSettings"}:
		if c.Settings != nil {
			return fmt.Errorf("the ClusterAddonSettings %s are there already; a Cluster has one", c.Settings.Name)
		}
		c.Settings = &v1alpha1.ClusterAddonSettings{}
		err := convert(obj, c.Settings)
		c.Settings.Namespace = cmp.Or(c.Settings.Namespace, sample.Namespace)
		return err
	case schema.GroupKind{Kind: "ConfigMap"}:
		m := &corev1.ConfigMap{}
		if err := convert(obj, m); err != nil {
			return err
		}
		c.values.configMaps = append(c.values.configMaps, m)
		return nil
	case schema.GroupKind{Kind: "Secret"}:
		s := &corev1.Secret{}
		if err := convert(obj, s); err != nil {
			return err
		}
		// As an API server does with what is written for people.
		data := maps.Clone(s.Data)
		if data == nil {
			data = map[string][]byte{}
		}
		for key, text := range s.StringData {
			data[key] = []byte(text)
		}
		s.Data, s.StringData = data, nil
		c.values.secrets = append(c.values.secrets, s)
		return nil
	}
	if obj.GetKind() == "" || obj.GetAPIVersion() == "" {
		return errors.New("it has no apiVersion or kind")
	}
	c.objects = append(c.objects, obj)
	return nil
}

func convert(obj *unstructured.Unstructured, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(obj.Object, into, true)
}

func clusterOf(obj *unstructured.Unstructured) (*clusterv1.Cluster, error) {
	cluster := &clusterv1.Cluster{}
	switch version := obj.GroupVersionKind().Version; version {
	case clusterv1.GroupVersion.Version:
		if err := convert(obj, cluster); err != nil {
			return nil, err
		}
	case clusterv1beta1.GroupVersion.Version:
		old := &clusterv1beta1.Cluster{}
		if err := convert(obj, old); err != nil {
			return nil, err
		}
		if err := clusterv1beta1.Convert_v1beta1_Cluster_To_v1beta2_Cluster(old, cluster, nil); err != nil {
			return nil, err
		}
		cluster.SetGroupVersionKind(clusterv1.GroupVersion.WithKind("Cluster"))
	default:
		return nil, fmt.Errorf("version %s is not known; write it as %s", version, clusterv1.GroupVersion)
	}
	cluster.Namespace = cmp.Or(cluster.Namespace, sample.Namespace)
	return cluster, nil
}

func (c *Cluster) namespace() string {
	if c.Cluster == nil && c.Settings != nil {
		return c.Settings.Namespace
	}
	if c.Cluster == nil {
		return sample.Namespace
	}
	// A class may be in another namespace than its users.
	return cmp.Or(c.Cluster.Spec.Topology.ClassRef.Namespace, c.Cluster.Namespace)
}

// settings returns the settings that the operator finds: they are named like the Cluster, in its namespace.
func (c *Cluster) settings(note func(string, ...any)) *v1alpha1.ClusterAddonSettings {
	if c.Settings == nil || c.Cluster == nil || c.Settings.Name == c.Cluster.Name && c.Settings.Namespace == c.Cluster.Namespace {
		return c.Settings
	}
	note("ClusterAddonSettings %s/%s are not those of Cluster %s/%s, and count for nothing: they have to be called like it",
		c.Settings.Namespace, c.Settings.Name, c.Cluster.Namespace, c.Cluster.Name)
	return nil
}

// facts returns what values templates see of the cluster once it uses the release. A cluster that is given lacks what
// Cluster API has not written yet: that comes from the sample.
func (c *Cluster) facts(rel *release.Release, class []*unstructured.Unstructured, note func(string, ...any)) (render.Facts, error) {
	o := sample.Options{}
	switch {
	case c.Cluster != nil:
		o.Name, o.Namespace = c.Cluster.Name, c.Cluster.Namespace
	case c.Settings != nil: // the Cluster that is made up is theirs
		o.Name, o.Namespace = c.Settings.Name, c.Settings.Namespace
	}
	made, err := sample.Of(rel, class, o)
	if err != nil {
		return render.Facts{}, err
	}
	if c.Cluster == nil {
		return made.Facts()
	}
	cluster := c.Cluster.DeepCopy()
	topology := &cluster.Spec.Topology
	if was := topology.ClassRef.Name; was != rel.Name.ClassName() {
		if was != "" {
			note("Cluster %s uses the class %s: shown as if it used %s", cluster.Name, was, rel.Name.ClassName())
		}
		topology.ClassRef.Name = rel.Name.ClassName()
	}
	if version := topology.Version; !rel.Metadata.Allows(version) {
		if version != "" {
			note("Cluster %s has Kubernetes %s: shown as if it had %s", cluster.Name, version, rel.Metadata.Kubernetes)
		}
		topology.Version = rel.Metadata.Kubernetes
	}
	if cluster.Spec.ControlPlaneEndpoint.Host == "" {
		note("Cluster %s has no control plane endpoint yet: %s stands for it", cluster.Name, made.Cluster.Spec.ControlPlaneEndpoint.String())
		cluster.Spec.ControlPlaneEndpoint = made.Cluster.Spec.ControlPlaneEndpoint
	}
	cluster.UID = cmp.Or(cluster.UID, made.Cluster.UID)
	controlPlane := c.referred(&cluster.Spec.ControlPlaneRef, made.Cluster.Spec.ControlPlaneRef, made.ControlPlane, note)
	infraCluster := c.referred(&cluster.Spec.InfrastructureRef, made.Cluster.Spec.InfrastructureRef, made.InfraCluster, note)
	return render.ClusterFacts(cluster, controlPlane, infraCluster)
}

// referred returns the object that a Cluster refers to: from the manifests, else the one of the sample. A Cluster
// that has no reference yet gets that of the only object of the kind, or of the sample.
func (c *Cluster) referred(ref *clusterv1.ContractVersionedObjectReference, made clusterv1.ContractVersionedObjectReference, sample *unstructured.Unstructured, note func(string, ...any)) *unstructured.Unstructured {
	kind, name := ref.Kind, ref.Name
	if !ref.IsDefined() {
		*ref, kind = made, made.Kind
	}
	for _, obj := range c.objects {
		if obj.GetKind() == kind && (name == "" || obj.GetName() == name) {
			ref.APIGroup, ref.Kind, ref.Name = obj.GroupVersionKind().Group, obj.GetKind(), obj.GetName()
			return obj
		}
	}
	if sample != nil {
		note("%s of Cluster %s is not given: a made-up one stands for it", cmp.Or(kind, sample.GetKind()), c.Cluster.Name)
	}
	return sample
}

// values gives ConfigMaps and Secrets by their names, as a management cluster does.
type values struct {
	configMaps []*corev1.ConfigMap
	secrets    []*corev1.Secret
}

// Get implements client.Reader.
func (v values) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *corev1.ConfigMap:
		for _, m := range v.configMaps {
			if m.Name == key.Name && cmp.Or(m.Namespace, key.Namespace) == key.Namespace {
				m.DeepCopyInto(into)
				return nil
			}
		}
	case *corev1.Secret:
		for _, s := range v.secrets {
			if s.Name == key.Name && cmp.Or(s.Namespace, key.Namespace) == key.Namespace {
				s.DeepCopyInto(into)
				return nil
			}
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

// List implements client.Reader. Nobody lists values.
func (v values) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("values are read by their names")
}
