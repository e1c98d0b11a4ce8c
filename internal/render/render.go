// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// All addons are rendered under this name and for this namespace, whichever addon it is: charts make
// names of objects and selectors of it, which must not change.
const (
	AddonReleaseName = "cluster-addon"
	AddonNamespace   = "kube-system"
)

// Result is what a chart renders to.
type Result struct {
	// Objects in the order in which Helm installs them, marked as owned. Namespaces are as the chart
	// has them; many objects have none.
	Objects []*unstructured.Unstructured
	// Hooks in the order in which Helm runs them, marked as owned.
	Hooks []Hook
	// Record is exactly what this render used: what was repeated and what is new.
	Record Record
	// Unused is what was recorded for this addon and not used. It is to be kept as long as an older
	// release may be rendered again.
	Unused Record
	// NewValues reports that Record has entries that were not recorded before, be they new or moved. It
	// must be stored before anything of this Result is applied.
	NewValues bool
}

// Hook is an object that is applied at certain moments only.
type Hook struct {
	Object *unstructured.Unstructured
	// Events are "pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-delete" and
	// "post-delete".
	Events []string
	// Weight orders the hooks of one event, from low to high.
	Weight int
	// DeletePolicies are "before-hook-creation", "hook-succeeded" and "hook-failed"; never empty.
	DeletePolicies []string
}

// Input is all that a render depends on.
type Input struct {
	// Subject says in errors what is being rendered, such as "addon cni".
	Subject string
	Chart   release.Chart
	// Folder says that the chart was not packaged: its .helmignore has not been followed yet.
	Folder bool
	// IncludeCRDs asks for the objects in the folders crds of the chart and its dependencies.
	IncludeCRDs bool

	// ReleaseName and Namespace are what Helm calls the release, not a release of a cluster stack.
	ReleaseName string
	Namespace   string
	// Kubernetes is a version such as "v1.35.4".
	Kubernetes string
	// APIVersions are what the cluster serves, such as "apps/v1" and "apps/v1/Deployment". Nil stands for
	// Helm's own list.
	APIVersions []string
	// Neighbours are the charts of other addons of the release. What is sure to be in their folders crds
	// counts as served, too.
	Neighbours []release.Chart

	// ValuesTemplate makes the values out of Facts; there are none without it. ValuesFile is its name.
	ValuesTemplate []byte
	ValuesFile     string
	Facts          Facts

	// Addon is the name that generated values are recorded under, and Recorded what has been recorded.
	Addon    string
	Recorded Record
	// Placeholders asks for values that are the same each time, and no secret, in place of what would be generated.
	// For whoever looks at the result and does not apply it.
	Placeholders bool
}

// ClassInput returns what the cluster class of a release is rendered from. Its objects are meant for
// the given namespace of the management cluster.
func ClassInput(rel *release.Release, namespace string) Input {
	return Input{
		Subject:     "cluster class of " + rel.Name.String(),
		Chart:       rel.ClassChart(),
		ReleaseName: rel.Name.Prefix(),
		Namespace:   namespace,
		Kubernetes:  rel.Metadata.Kubernetes,
	}
}

// AddonInput returns what an addon of a release is rendered from for a cluster.
func AddonInput(rel *release.Release, addon string, facts Facts, recorded Record) (Input, error) {
	files, err := rel.AddonChart(addon)
	if err != nil {
		return Input{}, err
	}
	neighbours, err := neighboursOf(rel, addon)
	if err != nil {
		return Input{}, err
	}
	// What the user sets for another addon is none of this one's business, and may be secret.
	own := facts.Values[addon]
	if facts.Values = nil; own != nil {
		facts.Values = map[string]map[string]any{addon: own}
	}
	in := Input{
		Subject:     "addon " + addon + " of " + rel.Name.String(),
		Chart:       files,
		Folder:      rel.Multistage(),
		IncludeCRDs: true,
		ReleaseName: AddonReleaseName,
		Namespace:   AddonNamespace,
		Kubernetes:  rel.Metadata.Kubernetes,
		Neighbours:  neighbours,
		Facts:       facts,
		Addon:       addon,
		Recorded:    recorded.of(addon),
	}
	if text, ok := rel.ValuesTemplate(addon); ok {
		in.ValuesTemplate, in.ValuesFile = text, release.OverwriteFile
		if !rel.Multistage() {
			in.ValuesFile = release.LegacyValuesFile
		}
	}
	return in, nil
}

// Class renders the cluster class of a release. What its chart generates is new each time; who wants to
// repeat it renders ClassInput with what has been recorded.
func Class(rel *release.Release, namespace string) (*Result, error) {
	return ClassInput(rel, namespace).Render()
}

// Addon renders an addon of a release for a cluster. An error is permanent: only another release, or
// another Cluster, cures it.
func Addon(rel *release.Release, addon string, facts Facts, recorded Record) (*Result, error) {
	in, err := AddonInput(rel, addon, facts, recorded)
	if err != nil {
		return nil, err
	}
	return in.Render()
}

// Render renders the chart. The error is an *InvalidError.
func (in Input) Render() (*Result, error) { return in.renderWith(nil) }

// Files are the files of a chart, relative to it, that objects are from. Objects of folders crds are not among them.
type Files map[*unstructured.Unstructured]string

// RenderFiles renders the chart, and says which file each object and hook is from.
func (in Input) RenderFiles() (*Result, Files, error) { return in.run(nil) }

func (in Input) renderWith(cache *Cache) (*Result, error) {
	result, _, err := in.run(cache)
	return result, err
}

func (in Input) run(cache *Cache) (*Result, Files, error) {
	result, r, err := replay(in.Addon, in.Recorded, func(r *recorder) (*Result, error) {
		r.placeholders = in.Placeholders
		values, err := in.values(r)
		if err != nil {
			return nil, err
		}
		return in.render(cache, values, r)
	})
	if err != nil {
		return nil, nil, in.explain(err)
	}
	result.Record, result.Unused = r.used, r.unused()
	result.NewValues = r.unrecorded()
	return result, r.from, nil
}

func (in Input) explain(err error) error {
	var at *InvalidError
	if !errors.As(err, &at) {
		at = &InvalidError{Reason: err.Error()}
	}
	named := *at
	named.Subject = in.Subject
	return &named
}

func (in Input) values(r *recorder) (map[string]any, error) {
	values := map[string]any{}
	if in.ValuesTemplate != nil {
		var err error
		if values, err = makeValues(in.ValuesFile, in.ValuesTemplate, in.Facts, r); err != nil {
			return nil, err
		}
	}
	// A chart can change what it is given.
	return merge(values, runtime.DeepCopyJSON(in.Facts.Values[in.Addon])), nil
}

// merge returns values with over laid over them.
func merge(values, over map[string]any) map[string]any {
	if len(over) == 0 {
		return values
	}
	merged := maps.Clone(values)
	if merged == nil {
		merged = map[string]any{}
	}
	for key, value := range over {
		below, isMap := value.(map[string]any)
		if was, wasMap := merged[key].(map[string]any); isMap && wasMap {
			value = merge(was, below)
		}
		merged[key] = value
	}
	return merged
}

func (in Input) render(cache *Cache, values map[string]any, r *recorder) (*Result, error) {
	capabilities, err := in.capabilities(cache)
	if err != nil {
		return nil, err
	}
	c, err := cache.chart(in.Chart, in.Folder)
	if err != nil {
		return nil, err
	}
	if err := checkInstallable(c, capabilities.KubeVersion.String()); err != nil {
		return nil, err
	}
	defaults := c.Values
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return nil, invalid("Chart.yaml", "its dependencies and the values do not fit together")
	}
	// Conditions and aliases are settled: what is in the chart now is what will be applied.
	crds, err := readCRDs(crdFilesOf(c))
	if err != nil {
		return nil, err
	}
	for _, crd := range crds {
		capabilities.APIVersions = append(capabilities.APIVersions, servedBy(crd)...)
	}

	top, err := util.ToRenderValuesWithSchemaValidation(c, withDependencies(c, values), common.ReleaseOptions{
		Name:      in.ReleaseName,
		Namespace: in.Namespace,
		Revision:  1,
		IsInstall: true,
	}, capabilities, true)
	if err != nil {
		return nil, invalid("values.yaml", "the values do not fit together")
	}
	if all, ok := top["Values"].(valuesMap); ok {
		restoreNulls(all, defaults, values, c.Dependencies())
		if err := checkSchemas(cache, c, all); err != nil {
			return nil, err
		}
	}

	templates := sourceOf(c)
	markTemplates(c)
	files, err := engine.Engine{CustomTemplateFuncs: chartFunctions(r)}.Render(c, top)
	if err != nil {
		return nil, inChart(explainTemplate(err, templates), c.Name())
	}
	objects, hooks, from, err := readManifests(files)
	if err != nil {
		return nil, inChart(err, c.Name())
	}
	r.from = Files{}
	for object, file := range from {
		r.from[object] = strings.TrimPrefix(file, c.Name()+"/")
	}
	if in.IncludeCRDs {
		objects = append(crds, objects...)
	}
	if len(objects)+len(hooks) > maxObjects {
		return nil, invalid("", "renders to more than %d objects", maxObjects)
	}
	return &Result{Objects: objects, Hooks: hooks}, nil
}

// withDependencies returns values with a map for each dependency of a chart, empty where there is none. Where one is
// absent, Helm 4 drops from the values.yaml of the chart and its dependencies all keys without a value. Helm 3 has them:
// with such keys, charts take defaults of their dependencies away, and templates ask whether they exist.
func withDependencies(c *chart.Chart, values map[string]any) map[string]any {
	if len(c.Dependencies()) == 0 {
		return values
	}
	seeded := map[string]any{}
	maps.Copy(seeded, values)
	for _, d := range c.Dependencies() {
		below, isMap := seeded[d.Name()].(map[string]any)
		if _, given := seeded[d.Name()]; given && !isMap {
			continue // Helm reports that
		}
		if below == nil {
			below = map[string]any{}
		}
		seeded[d.Name()] = withDependencies(d, below)
	}
	return seeded
}

// restoreNulls puts back into the values that a chart gets the keys without a value of its own values.yaml, which Helm 4
// drops and Helm 3 has. What is given for such a key counts, also if that is nothing.
func restoreNulls(all, defaults, given map[string]any, dependencies []*chart.Chart) {
	for key, value := range defaults {
		if slices.ContainsFunc(dependencies, func(d *chart.Chart) bool { return d.Name() == key }) {
			continue // withDependencies has seen to that
		}
		over, isGiven := given[key]
		below, isMap := value.(map[string]any)
		switch kept, has := all[key].(map[string]any); {
		case value == nil && !isGiven:
			all[key] = nil
		case isMap && has:
			nested, _ := over.(map[string]any)
			restoreNulls(kept, below, nested, nil)
		}
	}
}

// inChart makes the file of an error relative to the chart, whose name Helm puts before it.
func inChart(err error, name string) error {
	var at *InvalidError
	if errors.As(err, &at) {
		at.File = strings.TrimPrefix(at.File, name+"/")
	}
	return err
}

// capabilities are those of a cluster with the release's version of Kubernetes. No cluster is asked.
func (in Input) capabilities(cache *Cache) (*common.Capabilities, error) {
	version, err := common.ParseKubeVersion(in.Kubernetes)
	if err != nil {
		return nil, invalid("", "Kubernetes version %q: %v", in.Kubernetes, err)
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	served := in.APIVersions
	if served == nil {
		// Helm takes the order of its list from a map.
		served = slices.Sorted(slices.Values(common.DefaultVersionSet))
	}
	capabilities.APIVersions = slices.Concat(served, cache.apiVersions(in.Neighbours, in.Folder))
	return capabilities, nil
}

func crdFilesOf(c *chart.Chart) []crdFile {
	var files []crdFile
	for _, crd := range c.CRDObjects() {
		name := strings.TrimPrefix(crd.Filename, c.Name()+"/")
		files = append(files, crdFile{name: name, data: crd.File.Data})
	}
	return files
}

// neighboursOf returns the charts of the other addons of a release that may add to the API.
func neighboursOf(rel *release.Release, addon string) ([]release.Chart, error) {
	var charts []release.Chart
	for _, other := range rel.Addons() {
		if other == addon {
			continue
		}
		files, err := rel.AddonChart(other)
		if err != nil {
			return nil, err
		}
		if mayDefineAPIs(files) {
			charts = append(charts, files)
		}
	}
	return charts, nil
}

// apiVersionsOf returns what charts add to the API of a cluster with the definitions in their folders
// crds. Those of dependencies that can be switched off are left out: whether they are there depends on
// the values of their chart. A chart that is malformed adds nothing: its own render reports it.
func apiVersionsOf(charts []release.Chart, folder bool) []string {
	var versions []string
	for _, files := range charts {
		c, err := loadChart(files, folder)
		if err != nil {
			continue
		}
		crds, err := readCRDs(certainCRDFiles(c))
		if err != nil {
			continue
		}
		for _, crd := range crds {
			versions = append(versions, servedBy(crd)...)
		}
	}
	slices.Sort(versions)
	return slices.Compact(versions)
}

// mayDefineAPIs tells charts that surely have no folder crds, without loading them.
func mayDefineAPIs(files release.Chart) bool {
	return slices.ContainsFunc(files, func(f release.File) bool {
		return strings.HasPrefix(f.Name, "crds/") || strings.Contains(f.Name, "/crds/") ||
			strings.HasPrefix(f.Name, "charts/") && path.Ext(f.Name) == ".tgz"
	})
}

func certainCRDFiles(c *chart.Chart) []crdFile {
	own := *c
	own.SetDependencies()
	files := crdFilesOf(&own)
	for _, d := range c.Dependencies() {
		optional := slices.ContainsFunc(c.Metadata.Dependencies, func(wanted *chart.Dependency) bool {
			return wanted.Name == d.Name() && (wanted.Condition != "" || len(wanted.Tags) > 0)
		})
		if !optional {
			files = append(files, certainCRDFiles(d)...)
		}
	}
	return files
}
