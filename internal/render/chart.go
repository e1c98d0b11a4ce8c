// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/ignore"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

const (
	// maxUnpacked bounds all files of a chart together with those of the packages in charts/.
	maxUnpacked = 100 << 20
	// maxNested bounds how deep packages may stand in packages.
	maxNested = 8
)

var byteOrderMark = []byte{0xEF, 0xBB, 0xBF}

// loadChart builds Helm's chart from files in memory. Files of a chart that came as a folder, not as a
// package, are subject to its .helmignore.
func loadChart(files release.Chart, folder bool) (*chart.Chart, error) {
	if folder {
		var err error
		if files, err = withoutIgnored(files); err != nil {
			return nil, err
		}
	}
	buffered := make([]*archive.BufferedFile, 0, len(files))
	for _, f := range files {
		buffered = append(buffered, &archive.BufferedFile{Name: f.Name, Data: bytes.TrimPrefix(f.Data, byteOrderMark)})
	}
	budget := int64(maxUnpacked)
	buffered, err := unpackDependencies(buffered, &budget, 0)
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, invalid("", "%v", err)
	}
	return c, sortDependencies(c)
}

// withoutIgnored drops what .helmignore names, as Helm does when it reads a folder.
func withoutIgnored(files release.Chart) (release.Chart, error) {
	rules := ignore.Empty()
	if text, ok := files.File(ignore.HelmIgnore); ok {
		var err error
		if rules, err = ignore.Parse(bytes.NewReader(text)); err != nil {
			return nil, invalid(ignore.HelmIgnore, "%v", err)
		}
	}
	rules.AddDefaults()
	ignored := func(f release.File) bool {
		for i, c := range f.Name {
			if c == '/' && rules.Ignore(f.Name[:i], entry{name: f.Name[:i], folder: true}) {
				return true
			}
		}
		return rules.Ignore(f.Name, entry{name: f.Name})
	}
	return slices.DeleteFunc(slices.Clone(files), ignored), nil
}

// entry is a file or folder, to the extent that rules of .helmignore ask for.
type entry struct {
	name   string
	folder bool
}

func (e entry) Name() string       { return path.Base(e.name) }
func (e entry) Size() int64        { return 0 }
func (e entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool        { return e.folder }
func (e entry) Sys() any           { return nil }
func (e entry) Mode() fs.FileMode {
	if e.folder {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// unpackDependencies replaces packages in charts/ by folders. Helm would do so itself, but grants each
// package a budget of its own.
func unpackDependencies(files []*archive.BufferedFile, budget *int64, depth int) ([]*archive.BufferedFile, error) {
	if depth > maxNested {
		return nil, invalid("", "charts are packed in one another more than %d deep", maxNested)
	}
	var unpacked []*archive.BufferedFile
	for _, f := range files {
		name, inCharts := strings.CutPrefix(f.Name, "charts/")
		if *budget -= int64(len(f.Data)); *budget < 0 {
			return nil, invalid("", "the chart unpacks to more than %d MiB", maxUnpacked>>20)
		}
		if !inCharts || path.Ext(name) != ".tgz" || strings.ContainsRune(name, '/') || strings.IndexAny(name, "_.") == 0 {
			unpacked = append(unpacked, f)
			continue
		}
		inner, err := archive.LoadArchiveFiles(bytes.NewReader(f.Data))
		if err != nil {
			return nil, invalid(f.Name, "%v", err)
		}
		if inner, err = unpackDependencies(inner, budget, depth+1); err != nil {
			return nil, err
		}
		for _, g := range inner {
			// With another ending, or Helm would take the folder for a package.
			unpacked = append(unpacked, &archive.BufferedFile{Name: f.Name + ".unpacked/" + g.Name, Data: g.Data})
		}
	}
	return unpacked, nil
}

// sortDependencies puts dependencies in an order of their own. Helm loads them in that of a map.
func sortDependencies(c *chart.Chart) error {
	dependencies := slices.Clone(c.Dependencies())
	identity := func(d *chart.Chart) string { return d.Name() + " " + d.Metadata.Version }
	slices.SortFunc(dependencies, func(a, b *chart.Chart) int { return strings.Compare(identity(a), identity(b)) })
	for i, d := range dependencies {
		if i > 0 && identity(d) == identity(dependencies[i-1]) {
			return invalid("charts", "chart %s is there twice", identity(d))
		}
		if err := sortDependencies(d); err != nil {
			return err
		}
	}
	c.SetDependencies(dependencies...)
	return nil
}

// checkInstallable refuses charts that Helm would not install.
func checkInstallable(c *chart.Chart, kubernetes string) error {
	if c.Metadata.Type == "library" {
		return invalid("Chart.yaml", "a library chart cannot be applied")
	}
	if wanted := c.Metadata.KubeVersion; wanted != "" && !chartutil.IsCompatibleRange(wanted, kubernetes) {
		return invalid("Chart.yaml", "the chart wants Kubernetes %s, but the release is for %s", wanted, kubernetes)
	}
	var missing []string
	for _, d := range c.Metadata.Dependencies {
		vendored := slices.ContainsFunc(c.Dependencies(), func(v *chart.Chart) bool { return v.Name() == d.Name })
		if !vendored {
			missing = append(missing, strings.TrimSpace(fmt.Sprintf("%s %s %s", d.Name, d.Version, inBrackets(d.Repository))))
		}
	}
	if missing != nil {
		return invalid("Chart.yaml", "charts/ lacks %s: build the release with \"csctl create\", which packs them", strings.Join(missing, ", "))
	}
	return nil
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

// markTemplates makes each template tell the recorder that it is being executed. The text keeps its
// lines, so that errors name the right one.
func markTemplates(c *chart.Chart) {
	marked := slices.Clone(c.Templates)
	for i, t := range marked {
		if t == nil {
			continue
		}
		copied := *t
		copied.Data = append([]byte("{{ "+fileMarker+" . }}"), t.Data...)
		marked[i] = &copied
	}
	c.Templates = marked
	for _, d := range c.Dependencies() {
		markTemplates(d)
	}
}

// sourceOf returns the texts of all templates under the names that errors carry.
func sourceOf(c *chart.Chart) source {
	s := source{}
	for _, t := range c.Templates {
		if t != nil {
			s[path.Join(c.ChartFullPath(), t.Name)] = string(t.Data)
		}
	}
	for _, d := range c.Dependencies() {
		for name, text := range sourceOf(d) {
			s[name] = text
		}
	}
	return s
}

// templateName returns the name that Helm gives the template that is executed with this data, without
// the name of the outermost chart, which differs from release to release in many stacks.
func templateName(dot any) string {
	var t any
	switch dot := dot.(type) {
	case map[string]any:
		t = dot["Template"]
	case valuesMap:
		t = dot["Template"]
	}
	info, ok := t.(valuesMap)
	if !ok {
		return ""
	}
	name, _ := info["Name"].(string)
	_, inChart, _ := strings.Cut(name, "/")
	return inChart
}
