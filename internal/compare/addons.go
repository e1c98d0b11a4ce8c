// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// addons says what happens to each addon.
func (c *Comparison) addons(from, to Side, names versions) {
	find := func(side Side, name string) (Addon, bool) {
		i := slices.IndexFunc(side.Addons, func(a Addon) bool { return a.Name == name })
		if i < 0 {
			return Addon{Name: name}, false
		}
		return side.Addons[i], true
	}
	origins, destinations := moves(from, to)
	for _, next := range to.Addons {
		old, was := find(from, next.Name)
		change := AddonChange{Name: next.Name, Change: Changed}
		if !was {
			change.Change = Added
		}
		index := byID(next.Part)
		change.PartChange = compareParts(old.Part, next.Part, func(obj *unstructured.Unstructured, hook bool) *unstructured.Unstructured {
			return index[idOf(obj, hook)]
		}, names)
		c.unchangeable(old.Part, index)
		// What comes from another addon stays in the cluster, and is never deleted in between.
		for i, o := range change.Objects {
			origin, moved := origins[o.id()]
			if o.Change != Added || !moved {
				continue
			}
			same, changed := compareObjects(origin.object, index[o.id()], false, names)
			if !changed {
				same.Change = Same
			}
			same.FromAddon, same.VersionOnly = origin.addon, false
			change.Objects[i] = same
			c.unchangeable(Part{Objects: []*unstructured.Unstructured{origin.object}}, index)
		}
		change.leaves(destinations)
		change.Follows = change.Chart != nil && isVersion(change.Chart, names)
		if was && !change.matters() && isVersion(change.Chart, names) {
			change.Change = Same
		}
		if change.Change != Same || change.Chart != nil || len(change.Objects) > 0 {
			c.Addons = append(c.Addons, change)
		}
	}
	for _, old := range from.Addons {
		if _, stays := find(to, old.Name); !stays {
			gone := compareParts(old.Part, Part{}, func(*unstructured.Unstructured, bool) *unstructured.Unstructured { return nil }, names)
			gone.Chart, gone.AppVersion = nil, nil
			gone.leaves(destinations)
			c.Addons = append(c.Addons, AddonChange{Name: old.Name, Change: Removed, PartChange: gone})
		}
	}
}

// leaves notes objects that go over to another addon.
func (p *PartChange) leaves(destinations map[id]string) {
	for i := range p.Objects {
		if o := &p.Objects[i]; o.Change == Removed && !o.Hook && destinations[o.id()] != "" {
			o.Note, o.ToAddon = "", destinations[o.id()]
		}
	}
}

func (o Object) id() id {
	gv, _ := schema.ParseGroupVersion(o.APIVersion)
	return id{schema.GroupKind{Group: gv.Group, Kind: o.Kind}, o.Namespace, o.Name, o.Hook}
}

type origin struct {
	addon  string
	object *unstructured.Unstructured
}

// moves finds objects that one addon loses and another one gains: where they come from, and where they go.
func moves(from, to Side) (origins map[id]origin, destinations map[id]string) {
	before, after := map[id]origin{}, map[id][]string{}
	for _, addon := range from.Addons {
		for _, obj := range addon.Objects {
			before[idOf(obj, false)] = origin{addon.Name, obj}
		}
	}
	for _, addon := range to.Addons {
		for _, obj := range addon.Objects {
			after[idOf(obj, false)] = append(after[idOf(obj, false)], addon.Name)
		}
	}
	origins, destinations = map[id]origin{}, map[id]string{}
	for what, was := range before {
		if now := after[what]; len(now) > 0 && !slices.Contains(now, was.addon) {
			origins[what], destinations[what] = was, now[0]
		}
	}
	return origins, destinations
}

// isVersion reports whether the version of a chart is the same, or follows that of the release.
func isVersion(chart *Values, names versions) bool {
	return chart == nil || slices.Contains(names.from.bare[:4], chart.From) && slices.Contains(names.to.bare[:4], chart.To)
}

// byID has the objects of a part by their names. Of two with the same name the last one counts.
func byID(part Part) map[id]*unstructured.Unstructured {
	all := map[id]*unstructured.Unstructured{}
	for _, obj := range part.Objects {
		all[idOf(obj, false)] = obj
	}
	for _, obj := range part.Hooks {
		all[idOf(obj, true)] = obj
	}
	return all
}

// restarts reports whether the pods of a workload are replaced.
func restarts(obj *unstructured.Unstructured, fields []Field) bool {
	switch obj.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, schema.GroupKind{Group: "apps", Kind: "DaemonSet"}:
		return slices.ContainsFunc(fields, func(f Field) bool { return strings.HasPrefix(f.Path, "spec.template") })
	}
	return false
}

// containerImages returns the images of all containers, sorted.
func containerImages(part Part) []string {
	found := map[string]bool{}
	for _, obj := range slices.Concat(part.Objects, part.Hooks) {
		if gk := obj.GroupVersionKind().GroupKind(); gk.Group == "apps" || gk.Group == "batch" || gk == (schema.GroupKind{Kind: "Pod"}) {
			collect(obj.Object, found)
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func collect(value any, found map[string]bool) {
	switch value := value.(type) {
	case map[string]any:
		for key, below := range value {
			list, _ := below.([]any)
			if key != "containers" && key != "initContainers" {
				collect(below, found)
				continue
			}
			for _, item := range list {
				container, _ := item.(map[string]any)
				if image, _ := container["image"].(string); image != "" {
					found[image] = true
				}
			}
		}
	case []any:
		for _, below := range value {
			collect(below, found)
		}
	}
}

// compareImages pairs images of one repository.
func compareImages(from, to []string) []Image {
	before, after := map[string][]string{}, map[string][]string{}
	group := func(all, others []string, into map[string][]string) {
		for _, image := range all {
			if !slices.Contains(others, image) {
				repository, version := cutImage(image)
				into[repository] = append(into[repository], version)
			}
		}
	}
	group(from, to, before)
	group(to, from, after)
	names := slices.Collect(maps.Keys(before))
	for name := range after {
		if _, known := before[name]; !known {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var images []Image
	for _, name := range names {
		images = append(images, Image{name, Values{strings.Join(before[name], ", "), strings.Join(after[name], ", ")}})
	}
	return images
}

// cutImage splits an image into its repository and its tag or digest.
func cutImage(image string) (repository, version string) {
	if name, digest, pinned := strings.Cut(image, "@"); pinned {
		if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
			return name[:i], name[i+1:] + "@" + digest
		}
		return name, digest
	}
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		return image[:i], image[i+1:]
	}
	return image, "latest"
}

// stages says what is done otherwise at a lifecycle point.
func (c *Comparison) stages(from, to Side) {
	of := func(side Side, point release.Point) []release.Stage {
		for _, s := range side.Stages {
			if s.Point == point {
				return s.Stages
			}
		}
		return nil
	}
	var points []release.Point
	for _, s := range slices.Concat(from.Stages, to.Stages) {
		if !slices.Contains(points, s.Point) {
			points = append(points, s.Point)
		}
	}
	for _, point := range points {
		a, b := of(from, point), of(to, point)
		change := StageChange{Point: point, From: words(a), To: words(b)}
		for _, next := range b {
			for _, old := range a {
				if old.Name == next.Name && old.Action == next.Action {
					change.Details = append(change.Details, stageDetails(old, next)...)
				}
			}
		}
		if !slices.Equal(change.From, change.To) || len(change.Details) > 0 {
			c.Stages = append(c.Stages, change)
		}
	}
}

func words(stages []release.Stage) []string {
	all := []string{}
	for _, s := range stages {
		if s.Action == release.Delete {
			all = append(all, "delete "+s.Name)
		} else {
			all = append(all, s.Name)
		}
	}
	return all
}

func stageDetails(old, next release.Stage) []string {
	var details []string
	condition := func(name string, a, b *release.Condition) {
		switch {
		case reflect.DeepEqual(a, b):
		case a == nil:
			details = append(details, fmt.Sprintf("%s now waits %s it is applied: %s", next.Name, name, b.Expression))
		case b == nil:
			details = append(details, fmt.Sprintf("%s no longer waits %s it is applied", next.Name, name))
		default:
			details = append(details, fmt.Sprintf("%s waits for something else %s it is applied: %s", next.Name, name, b.Expression))
		}
	}
	condition("before", old.PreCondition, next.PreCondition)
	condition("after", old.PostCondition, next.PostCondition)
	if old.WaitForHealthy != next.WaitForHealthy {
		details = append(details, fmt.Sprintf("%s %s until all its objects are healthy", next.Name, map[bool]string{true: "now waits", false: "no longer waits"}[next.WaitForHealthy]))
	}
	if old.Capabilities != next.Capabilities {
		details = append(details, fmt.Sprintf("%s is rendered for the kinds of %s", next.Name, cmp.Or(string(next.Capabilities), "the release")))
	}
	return details
}
