// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package compare says what changes from one release to another: for people who have to decide whether, and when, a
// cluster gets it.
//
// Two renders go in, and a list of differences with what follows from them comes out. What only a cluster knows, such
// as what its users have changed, is not looked at.
package compare

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Side is one of the two releases, rendered for the same cluster.
type Side struct {
	Name     release.Name
	Metadata release.Metadata
	Class    Part
	Addons   []Addon
	// Stages are what is done at each lifecycle point.
	Stages []Stages
}

// Part is what is applied together.
type Part struct {
	Chart   Chart
	Objects []*unstructured.Unstructured
	// Hooks are the objects of Helm hooks.
	Hooks []*unstructured.Unstructured
}

// Addon is an addon of a side.
type Addon struct {
	Name string
	Part
}

// Stages are the stages at a lifecycle point, in order.
type Stages struct {
	Point  release.Point
	Stages []release.Stage
}

// Chart is what a chart says about itself.
type Chart struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	AppVersion string `json:"appVersion,omitempty"`
}

// Change is what happens to something.
type Change string

// What can happen.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
	// Reordered is a list with the same items in another order.
	Reordered Change = "reordered"
	// Same is for what is listed although nothing happens to it.
	Same Change = "same"
)

// Values are a value before and after. One that is not there is empty.
type Values struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Comparison is all that changes.
type Comparison struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Same says that nothing changes but the name and the version of the release.
	Same bool `json:"same"`
	// Kubernetes, the other patch versions of it that a Cluster may have, and NodeImages are nil where they are the same.
	Kubernetes *Values `json:"kubernetes,omitempty"`
	Patches    *Values `json:"kubernetesPatches,omitempty"`
	NodeImages *Values `json:"nodeImages,omitempty"`
	// Machines says what becomes of the machines of a cluster.
	Machines []Machines `json:"machines,omitempty"`
	// Problems are what the operator or Cluster API will refuse or report.
	Problems  []Problem  `json:"problems,omitempty"`
	Variables []Variable `json:"variables,omitempty"`
	Class     PartChange `json:"clusterClass"`
	// Addons are those in which anything changes, in the order of the second release, then those that are removed. In those
	// that are the same only versions do.
	Addons []AddonChange `json:"addons,omitempty"`
	Stages []StageChange `json:"stages,omitempty"`
}

// Problem is what needs somebody's attention before the release is used.
type Problem struct {
	// Subject is what it is about, such as an object.
	Subject string `json:"subject"`
	Message string `json:"message"`
}

// PartChange is what changes in a chart and in what it renders to.
type PartChange struct {
	Chart *Values `json:"chartVersion,omitempty"`
	// Follows says that the version of the chart is that of the release, and so says nothing about the chart.
	Follows    bool     `json:"chartFollowsRelease,omitempty"`
	AppVersion *Values  `json:"appVersion,omitempty"`
	Objects    []Object `json:"objects,omitempty"`
	Images     []Image  `json:"images,omitempty"`
}

// AddonChange is what happens to an addon.
type AddonChange struct {
	Name   string `json:"name"`
	Change Change `json:"change"`
	PartChange
}

// Object is an object that changes.
type Object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	// Was is the name before, where it is another one because the version of the release stands in it.
	Was    string `json:"was,omitempty"`
	Hook   bool   `json:"hook,omitempty"`
	Change Change `json:"change"`
	// VersionOnly says that nothing changes but names and versions of the release and its charts.
	VersionOnly bool `json:"versionOnly,omitempty"`
	// Restarts says that the pods are replaced.
	Restarts bool   `json:"restarts,omitempty"`
	Note     string `json:"note,omitempty"`
	// FromAddon and ToAddon name the other addon, where the object goes over from one to another.
	FromAddon string  `json:"fromAddon,omitempty"`
	ToAddon   string  `json:"toAddon,omitempty"`
	Fields    []Field `json:"fields,omitempty"`
}

// String names the object as people write it.
func (o Object) String() string {
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	return o.Kind + " " + name
}

// Image is a container image that comes, goes, or gets another tag or digest.
type Image struct {
	Repository string `json:"repository"`
	Values
}

// StageChange is a lifecycle point at which something else is done.
type StageChange struct {
	Point release.Point `json:"point"`
	From  []string      `json:"from"`
	To    []string      `json:"to"`
	// Details are what changes in stages that stay.
	Details []string `json:"details,omitempty"`
}

// Releases compares two releases.
func Releases(from, to Side) *Comparison {
	c := &Comparison{From: from.Name.String(), To: to.Name.String()}
	if a, b := from.Metadata.Kubernetes, to.Metadata.Kubernetes; a != b {
		c.Kubernetes = &Values{a, b}
		c.upgrade(a, b)
	}
	c.patchVersions(from.Metadata, to.Metadata)
	if a, b := imagesOf(from), imagesOf(to); a != b && (a != versionOf(from) || b != versionOf(to)) {
		c.NodeImages = &Values{a, b}
	}
	names := newVersions(from, to)
	m := matchClass(from, to, names)
	c.Class = compareParts(from.Class, to.Class, m.partner, names)
	c.class(from, to, m, names)
	c.addons(from, to, names)
	c.stages(from, to)
	c.Same = c.Kubernetes == nil && c.Patches == nil && c.NodeImages == nil && len(c.Problems)+len(c.Variables)+len(c.Stages) == 0 && !c.Class.matters() &&
		!slices.ContainsFunc(c.Machines, func(m Machines) bool { return m.Effect != Untouched }) &&
		!slices.ContainsFunc(c.Addons, func(a AddonChange) bool { return a.Change != Same })
	return c
}

// upgrade says what Cluster API makes of a change of the version of Kubernetes.
func (c *Comparison) upgrade(from, to string) {
	a, err1 := version.ParseSemantic(from)
	b, err2 := version.ParseSemantic(to)
	switch {
	case err1 != nil || err2 != nil:
	case b.LessThan(a):
		c.problem(subject("Kubernetes"), "Cluster API does not let a Cluster go back from %s to %s", from, to)
	case b.Major() == a.Major() && b.Minor() > a.Minor()+1:
		c.problem(subject("Kubernetes"), "from %s to %s minor versions are left out: Cluster API refuses that, unless the class says how to go through them", from, to)
	}
}

// patchVersions says what becomes of Clusters that have another patch version of Kubernetes than that of their release.
func (c *Comparison) patchVersions(from, to release.Metadata) {
	if a, b := from.Patches.String(), to.Patches.String(); a != b {
		c.Patches = &Values{a, b}
	}
	a, err1 := version.ParseSemantic(from.Kubernetes)
	b, err2 := version.ParseSemantic(to.Kubernetes)
	if err1 != nil || err2 != nil || a.Major() != b.Major() || a.Minor() != b.Minor() {
		return
	}
	last := max(int(b.Patch()), to.Patches.End-1)
	if from.Patches.End-1 > last {
		c.problem(subject("Kubernetes"), "Clusters that have a later version than v%d.%d.%d cannot change to this release: Cluster API does not let them go back", b.Major(), b.Minor(), last)
	}
}

func imagesOf(s Side) string {
	if s.Metadata.NodeImage == nil {
		return ""
	}
	return s.Metadata.NodeImage.String()
}

func versionOf(s Side) string { return s.Name.Version.String() }

// matters reports whether anything but versions changes.
func (p PartChange) matters() bool {
	return p.AppVersion != nil || len(p.Images) > 0 || slices.ContainsFunc(p.Objects, func(o Object) bool { return !o.VersionOnly || o.Restarts })
}

// id names an object whatever its API version.
type id struct {
	schema.GroupKind
	namespace, name string
	hook            bool
}

func idOf(obj *unstructured.Unstructured, hook bool) id {
	return id{obj.GroupVersionKind().GroupKind(), obj.GetNamespace(), obj.GetName(), hook}
}

// compareParts compares what two charts render to. partner finds, for an object of the first, the one of the second that
// takes its place.
func compareParts(from, to Part, partner func(*unstructured.Unstructured, bool) *unstructured.Unstructured, names versions) PartChange {
	var change PartChange
	if from.Chart.Version != to.Chart.Version {
		change.Chart = &Values{from.Chart.Version, to.Chart.Version}
	}
	if from.Chart.AppVersion != to.Chart.AppVersion {
		change.AppVersion = &Values{from.Chart.AppVersion, to.Chart.AppVersion}
	}
	matched := map[*unstructured.Unstructured]bool{}
	compare := func(olds, news []*unstructured.Unstructured, hook bool) {
		for _, old := range olds {
			next := partner(old, hook)
			if next == nil {
				change.Objects = append(change.Objects, describe(old, hook, Removed))
				continue
			}
			matched[next] = true
			if o, changed := compareObjects(old, next, hook, names); changed {
				change.Objects = append(change.Objects, o)
			}
		}
		for _, obj := range news {
			if !matched[obj] {
				change.Objects = append(change.Objects, describe(obj, hook, Added))
			}
		}
	}
	compare(from.Objects, to.Objects, false)
	compare(from.Hooks, to.Hooks, true)
	slices.SortStableFunc(change.Objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	change.Images = compareImages(containerImages(from), containerImages(to))
	return change
}

func describe(obj *unstructured.Unstructured, hook bool, change Change) Object {
	o := Object{APIVersion: obj.GetAPIVersion(), Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName(), Hook: hook, Change: change}
	if change == Removed {
		o.Note = fate(obj)
	}
	return o
}

// fate says what becomes of an object that a release does not have any more, if it is not simply deleted.
func fate(obj *unstructured.Unstructured) string {
	switch gk := obj.GroupVersionKind().GroupKind(); {
	case obj.GetAnnotations()["helm.sh/resource-policy"] == "keep":
		return "stays, because the chart asks to keep it"
	case gk == schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		return "stays: claims are never deleted"
	case gk == definitionKind:
		return "stays as long as it has instances"
	case gk == schema.GroupKind{Kind: "Namespace"}:
		return "stays as long as anything else is in it"
	}
	return ""
}

func compareObjects(old, next *unstructured.Unstructured, hook bool, names versions) (Object, bool) {
	o := describe(next, hook, Changed)
	if old.GetName() != next.GetName() {
		o.Was = old.GetName()
	}
	o.Fields = names.mark(differences(withoutName(old), withoutName(next)))
	if len(o.Fields) == 0 && o.Was == "" {
		return o, false
	}
	o.VersionOnly = !slices.ContainsFunc(o.Fields, func(f Field) bool { return !f.VersionOnly })
	o.Restarts = restarts(next, o.Fields)
	if next.GetKind() == "Secret" && next.GroupVersionKind().Group == "" {
		for i := range o.Fields {
			o.Fields[i].hide()
		}
	}
	return o, true
}

func withoutName(obj *unstructured.Unstructured) map[string]any {
	obj = obj.DeepCopy()
	unstructured.RemoveNestedField(obj.Object, "metadata", "name")
	return obj.Object
}

func (c *Comparison) problem(subject fmt.Stringer, format string, args ...any) {
	c.Problems = append(c.Problems, Problem{subject.String(), fmt.Sprintf(format, args...)})
}

type subject string

func (s subject) String() string { return string(s) }
