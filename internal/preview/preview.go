// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package preview tells what the operator would apply for a release, without a cluster.
//
// It calls the functions that the controllers call. What only a running cluster knows is made up or left out, and
// said: a Cluster that is not given is a sample, what charts generate are placeholders, and the kinds that a chart
// asks for are those of Kubernetes and of the release.
package preview

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusteraddon"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusterstackrelease"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

// Preview is what would be applied for a release and a cluster.
type Preview struct {
	Release *release.Release
	// Class is the cluster class, which goes into the management cluster.
	Class Part
	// Addons are what goes into the workload cluster, in the order in which a new cluster gets them. What only a
	// deletion names comes last.
	Addons []Addon
	// Record has what was made up in place of generated values.
	Record render.Record
	// Notes say where the operator would, or might, do something else.
	Notes []string
}

// Part is what is applied together.
type Part struct {
	Chart Chart
	// Objects in the order in which the operator begins with them, each in its namespace.
	Objects []*unstructured.Unstructured
	// Hooks in the order in which they run.
	Hooks []apply.Hook
}

// Chart is what a chart says about itself.
type Chart struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	AppVersion string `json:"appVersion,omitempty"`
}

// Addon is an addon of a release.
type Addon struct {
	Name string
	Part
	// Off says that the settings of the cluster switch it off: nothing of it is applied.
	Off bool
	// Err is why the operator could not render it, nil if it can.
	Err error
}

// Options are settings whose zero value works.
type Options struct {
	// Cluster is the cluster; without one a sample of the release is taken.
	Cluster *Cluster
	// Namespace of the release in the management cluster: that of the Cluster by default.
	Namespace string
	// Recorded is what was generated for the cluster before.
	Recorded render.Record
	// Addons are the names of the addons to render; nil stands for all.
	Addons []string
}

// Of renders a release as the operator does. An error means that there is nothing to show; an addon that cannot be
// rendered has its own, and the others are there all the same.
func Of(ctx context.Context, rel *release.Release, o Options) (*Preview, error) {
	cluster := o.Cluster
	if cluster == nil {
		cluster = &Cluster{}
	}
	p := &previewer{Preview: &Preview{Release: rel, Record: render.Record{}}, options: o, cluster: cluster}
	p.settings = cluster.settings(p.note)
	if o.Namespace == "" {
		p.options.Namespace = cluster.namespace()
	}
	if err := p.complete(); err != nil {
		return nil, err
	}
	if err := p.class(); err != nil {
		return nil, err
	}
	if err := p.addons(ctx); err != nil {
		return nil, err
	}
	return p.Preview, nil
}

type previewer struct {
	*Preview
	options Options
	cluster *Cluster
	// settings are those of the cluster, nil if it has none.
	settings *v1alpha1.ClusterAddonSettings
}

func (p *previewer) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// complete refuses a release whose charts depend on others that are not there: the operator fetches them.
func (p *previewer) complete() error {
	incomplete, err := p.Release.Incomplete()
	if err != nil {
		return err
	}
	for _, chart := range incomplete {
		return fmt.Errorf("release %s: the chart of %s depends on %s, which the release does not bring: build it again with \"csctl create\", which packs them",
			p.Release.Name, chart.Folder, strings.Join(chart.Missing, ", "))
	}
	return nil
}

func (p *previewer) render(in render.Input) (*render.Result, error) {
	in.Placeholders = true
	result, err := in.Render()
	if err != nil {
		return nil, err
	}
	maps.Copy(p.Record, result.Record)
	return result, nil
}

func (p *previewer) class() error {
	in := clusterstackrelease.Input(p.Release, p.options.Namespace)
	in.Recorded = p.options.Recorded
	result, err := p.render(in)
	if err != nil {
		return err
	}
	p.Class.Chart = chartOf(p.Release.ClassChart())
	set := clusterstackrelease.Set(result, p.options.Namespace)
	// What a class may have has a namespace.
	everything := func(schema.GroupKind) bool { return true }
	if p.Class.Objects, p.Class.Hooks, err = apply.Preview(set, everything); err != nil {
		return fmt.Errorf("cluster class of %s: %w", p.Release.Name, err)
	}
	if err := clusterstackrelease.Allowed(clusterstackrelease.Kinds(), p.options.Namespace, idsOf(p.Class)); err != nil {
		p.note("the operator applies nothing of the cluster class of %s: %v", p.Release.Name, err)
	}
	return nil
}

func idsOf(part Part) []apply.ID {
	var ids []apply.ID
	add := func(obj *unstructured.Unstructured) {
		gvk := obj.GroupVersionKind()
		ids = append(ids, apply.ID{Group: gvk.Group, Kind: gvk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()})
	}
	for _, obj := range part.Objects {
		add(obj)
	}
	for _, hook := range part.Hooks {
		add(hook.Object)
	}
	return ids
}

func (p *previewer) addons(ctx context.Context) error {
	facts, err := p.cluster.facts(p.Release, p.Class.Objects, p.note)
	if err != nil {
		return err
	}
	values, missing, err := clusteraddon.Values(ctx, p.cluster.values, p.settings)
	if err != nil {
		return err
	}
	facts.Values = values
	off := clusteraddon.Off(p.settings)
	all := Order(p.Release)
	for _, name := range slices.Concat(off, slices.Sorted(maps.Keys(values))) {
		if !slices.Contains(all, name) {
			p.note("ClusterAddonSettings %s names the addon %s, which the release does not have", p.settings.Name, name)
		}
	}
	for _, name := range all {
		if p.options.Addons != nil && !slices.Contains(p.options.Addons, name) {
			continue
		}
		addon := Addon{Name: name, Off: slices.Contains(off, name)}
		chart, err := p.Release.AddonChart(name)
		if err == nil {
			addon.Chart = chartOf(chart)
		}
		if !addon.Off && missing[name] != nil {
			addon.Err = missing[name]
		}
		if !addon.Off && addon.Err == nil {
			addon.Part, addon.Err = p.addon(name, facts)
		}
		p.Addons = append(p.Addons, addon)
	}
	return nil
}

func (p *previewer) addon(name string, facts render.Facts) (Part, error) {
	in, err := render.AddonInput(p.Release, name, facts, p.options.Recorded)
	if err != nil {
		return Part{}, err
	}
	if p.Release.Capabilities(name) == release.ClusterCapabilities {
		p.note("addon %s asks the cluster what it serves: here it sees the kinds of Kubernetes and of the release only", name)
	}
	chart := chartOf(in.Chart)
	result, err := p.render(in)
	if err != nil {
		return Part{Chart: chart}, err
	}
	if len(result.Record) > 0 {
		p.note("addon %s generates keys, passwords or times: in their place stand made-up values, the same each time", name)
	}
	part := Part{Chart: chart}
	part.Objects, part.Hooks, err = apply.Preview(clusteraddon.Set(name, result), nil)
	return part, err
}

// chartOf reads what a chart says about itself. Opening the release has made sure that it can be read.
func chartOf(files release.Chart) Chart {
	data, _ := files.File("Chart.yaml")
	var c Chart
	_ = yaml.Unmarshal(data, &c)
	return c
}

// Order returns the addons that some stage of a release applies, in the order in which a new cluster gets them.
func Order(rel *release.Release) []string {
	var names []string
	for _, point := range sample.Points {
		for _, stage := range rollout.Stages(rel, point) {
			if stage.Action == release.Apply && !slices.Contains(names, stage.Name) {
				names = append(names, stage.Name)
			}
		}
	}
	return names
}
