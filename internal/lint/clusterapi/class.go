// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clusterapi asks Cluster API's own code what it has against the objects of a cluster class: its schemas, its
// webhooks and its patches. Nothing is asked of a cluster.
package clusterapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/utils/ptr"
	bootstrapv1 "sigs.k8s.io/cluster-api/api/bootstrap/kubeadm/v1beta2"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // stacks may be written in it
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimehooksv1 "sigs.k8s.io/cluster-api/api/runtime/hooks/v1alpha1"
	bootstrapadmission "sigs.k8s.io/cluster-api/bootstrap/kubeadm/webhooks/admission"
	controlplaneadmission "sigs.k8s.io/cluster-api/controlplane/kubeadm/webhooks/admission"
	"sigs.k8s.io/cluster-api/core/reconcilers/topology/cluster/patches/inline"
	patchvariables "sigs.k8s.io/cluster-api/core/reconcilers/topology/cluster/patches/variables"
	coreadmission "sigs.k8s.io/cluster-api/core/webhooks/admission"
	"sigs.k8s.io/cluster-api/feature"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ReadClass returns a ClusterClass in its stored version. The error says which field is of another type.
func ReadClass(object *unstructured.Unstructured) (*clusterv1.ClusterClass, error) {
	class := &clusterv1.ClusterClass{}
	if object.GroupVersionKind().Version != "v1beta1" {
		return class, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, class)
	}
	old := &clusterv1beta1.ClusterClass{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, old); err != nil {
		return nil, err
	}
	return class, clusterv1beta1.Convert_v1beta1_ClusterClass_To_v1beta2_ClusterClass(old, class, nil)
}

// topology switches managed topologies on, as every installation with cluster stacks has them.
var topology = sync.OnceValue(func() error { return feature.MutableGates.Set("ClusterTopology=true") })

// CheckClass returns what Cluster API's webhook has against a ClusterClass. With a previous one, it is also what keeps
// clusters from moving from that one to this one.
func CheckClass(ctx context.Context, previous, class *clusterv1.ClusterClass) []Problem {
	if err := topology(); err != nil {
		return problemsIn(err)
	}
	webhook := &coreadmission.ClusterClass{Client: noClusters{}}
	class = class.DeepCopy()
	class.Namespace = "default" // references have to be in the namespace of the class, once it has one
	if previous == nil {
		_, err := webhook.ValidateCreate(ctx, class)
		return problemsIn(err)
	}
	previous = previous.DeepCopy()
	previous.Namespace = class.Namespace
	_, err := webhook.ValidateUpdate(ctx, previous, class)
	return problemsIn(err)
}

// noClusters is a management cluster without clusters.
type noClusters struct{ client.Reader }

func (noClusters) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// CheckTemplate returns what the webhooks of Cluster API's own providers have against a template. Those of other kinds
// are not checked.
func CheckTemplate(ctx context.Context, object *unstructured.Unstructured) []Problem {
	if err := topology(); err != nil {
		return problemsIn(err)
	}
	switch object.GroupVersionKind() {
	case controlplanev1.GroupVersion.WithKind("KubeadmControlPlaneTemplate"):
		template := &controlplanev1.KubeadmControlPlaneTemplate{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, template); err != nil {
			return problemsIn(err)
		}
		_, err := (&controlplaneadmission.KubeadmControlPlaneTemplate{}).ValidateCreate(ctx, template)
		return problemsIn(err)
	case bootstrapv1.GroupVersion.WithKind("KubeadmConfigTemplate"):
		template := &bootstrapv1.KubeadmConfigTemplate{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, template); err != nil {
			return problemsIn(err)
		}
		_, err := (&bootstrapadmission.KubeadmConfigTemplate{}).ValidateCreate(ctx, template)
		return problemsIn(err)
	}
	return nil
}

func problemsIn(err error) []Problem {
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return []Problem{{Message: err.Error()}}
	}
	var problems []Problem
	for _, cause := range status.Status().Details.Causes {
		problems = append(problems, Problem{Field: cause.Field, Message: cause.Message})
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
	return problems
}

// Patch returns what goes wrong when Cluster API patches the templates of a class for a cluster, by the name of the patch
// in Problem.Field: patches that fail, and those that make a field of a template what the API server refuses. Patches that
// an extension makes are left out.
func (s *Schemas) Patch(ctx context.Context, class *clusterv1.ClusterClass, find func(ref Reference) *unstructured.Unstructured, cluster *clusterv1.Cluster) []Problem {
	p := patcher{schemas: s, class: class, find: find, cluster: cluster}
	if err := p.collect(); err != nil {
		return []Problem{{Message: err.Error()}}
	}
	var problems []Problem
	for i := range class.Spec.Patches {
		patch := &class.Spec.Patches[i]
		if patch.External != nil {
			continue
		}
		if err := p.apply(ctx, patch); err != nil {
			problems = append(problems, Problem{Field: patch.Name, Message: err.Error()})
		}
	}
	return problems
}

// Reference names a template of a class.
type Reference struct {
	schema.GroupVersionKind
	Name string
}

type patcher struct {
	schemas *Schemas
	class   *clusterv1.ClusterClass
	find    func(Reference) *unstructured.Unstructured
	cluster *clusterv1.Cluster
	global  []runtimehooksv1.Variable
	items   []runtimehooksv1.GeneratePatchesRequestItem
	objects map[types.UID]*unstructured.Unstructured
}

// collect makes the request that Cluster API makes: each template with its place and its variables.
func (p *patcher) collect() error {
	p.objects = map[types.UID]*unstructured.Unstructured{}
	definitions := map[string]bool{}
	for _, variable := range p.class.Spec.Variables {
		definitions[variable.Name] = true
	}
	var err error
	if p.global, err = patchvariables.Global(p.cluster.Spec.Topology, p.cluster, definitions); err != nil {
		return err
	}
	spec := &p.class.Spec
	p.add(spec.Infrastructure.TemplateRef, "Cluster", "spec.infrastructureRef", nil)

	controlPlane := p.template(spec.ControlPlane.TemplateRef)
	machine := p.template(spec.ControlPlane.MachineInfrastructure.TemplateRef)
	if controlPlane != nil {
		cp := &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "sample"},
			"spec":     map[string]any{"version": p.cluster.Spec.Topology.Version, "replicas": int64(ptr.Deref(p.cluster.Spec.Topology.ControlPlane.Replicas, 1))},
		}}
		variables, err := patchvariables.ControlPlane(&p.cluster.Spec.Topology.ControlPlane, cp, machine, definitions)
		if err != nil {
			return err
		}
		p.add(spec.ControlPlane.TemplateRef, "Cluster", "spec.controlPlaneRef", variables)
		p.add(spec.ControlPlane.MachineInfrastructure.TemplateRef, "KubeadmControlPlane", "spec.machineTemplate.spec.infrastructureRef", variables)
	}
	for _, worker := range spec.Workers.MachineDeployments {
		topology := clusterv1.MachineDeploymentTopology{Class: worker.Class, Name: "md-0"}
		md := &clusterv1.MachineDeployment{}
		md.Name = "sample-md-0"
		md.Spec.Template.Spec.Version = p.cluster.Spec.Topology.Version
		variables, err := patchvariables.MachineDeployment(&topology, md, p.template(worker.Bootstrap.TemplateRef), p.template(worker.Infrastructure.TemplateRef), definitions)
		if err != nil {
			return err
		}
		p.add(worker.Bootstrap.TemplateRef, "MachineDeployment", "spec.template.spec.bootstrap.configRef", variables)
		p.add(worker.Infrastructure.TemplateRef, "MachineDeployment", "spec.template.spec.infrastructureRef", variables)
	}
	return nil
}

func (p *patcher) template(ref clusterv1.ClusterClassTemplateReference) *unstructured.Unstructured {
	return p.find(Reference{GroupVersionKind: ref.GroupVersionKind(), Name: ref.Name})
}

func (p *patcher) add(ref clusterv1.ClusterClassTemplateReference, holder, field string, variables []runtimehooksv1.Variable) {
	template := p.template(ref)
	if template == nil {
		return // that it is missing is told elsewhere
	}
	object := template.DeepCopy()
	// Patches are selected by the version in which the class refers to the template.
	object.SetAPIVersion(ref.APIVersion)
	uid := types.UID(fmt.Sprint(len(p.items)))
	p.objects[uid] = object
	p.items = append(p.items, runtimehooksv1.GeneratePatchesRequestItem{
		UID:             uid,
		HolderReference: runtimehooksv1.HolderReference{APIVersion: clusterv1.GroupVersion.String(), Kind: holder, Name: "sample", Namespace: "default", FieldPath: field},
		Object:          runtime.RawExtension{Object: object},
		Variables:       variables,
	})
}

// apply generates and applies one patch, and leaves the templates patched for the next one.
func (p *patcher) apply(ctx context.Context, patch *clusterv1.ClusterClassPatch) error {
	request := &runtimehooksv1.GeneratePatchesRequest{Variables: p.global, Items: p.items}
	response, err := inline.NewGenerator(patch).Generate(ctx, p.cluster, request)
	if err != nil {
		return err
	}
	for _, item := range response.Items {
		object := p.objects[item.UID]
		before, err := json.Marshal(object.Object)
		if err != nil {
			return err
		}
		decoded, err := jsonpatch.DecodePatch(item.Patch)
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		after, err := decoded.Apply(before)
		if err != nil {
			return fmt.Errorf("%s: %w", object.GetKind(), err)
		}
		sound := len(p.schemas.Check(ctx, object)) == 0
		object.Object = nil
		if err := utiljson.Unmarshal(after, &object.Object); err != nil {
			return err
		}
		if problems := p.schemas.Check(ctx, object); sound && len(problems) > 0 {
			return fmt.Errorf("%s: %s: %s", object.GetKind(), problems[0].Field, problems[0].Message)
		}
	}
	return nil
}
