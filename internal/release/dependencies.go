// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
)

// DependenciesFolder is where, in the folder of a release, charts lie that charts of the release depend on and
// that it did not bring along: <DependenciesFolder>/<IncompleteChart.Folder>/<archive>. Whoever keeps
// releases has put them there. They are seen as if they were in charts/ of the chart.
const DependenciesFolder = "dependencies"

// IncompleteChart is a chart that depends on others which it does not bring along.
type IncompleteChart struct {
	// Folder is where in DependenciesFolder they belong.
	Folder string
	// Metadata is the file of the chart that lists them, and Lock the one that has their exact versions, if any.
	Metadata, Lock []byte
	// MetadataFile and LockFile are the names of these files in the chart.
	MetadataFile, LockFile string
	// Missing are their names, sorted.
	Missing []string
}

const classFolder = "cluster-class"

func addonFolder(addon string) string { return "cluster-addon/" + addon }

// Incomplete returns the charts of the release that lack charts on which they depend: of the cluster class, and of
// the addons that are applied, by name.
func (r *Release) Incomplete() ([]IncompleteChart, error) {
	charts := map[string]Chart{classFolder: r.classChart}
	folders := []string{classFolder}
	for _, addon := range r.applied() {
		charts[addonFolder(addon)] = r.addonCharts[addon]
		folders = append(folders, addonFolder(addon))
	}
	var incomplete []IncompleteChart
	for _, folder := range folders {
		chart, err := charts[folder].Incomplete()
		if err != nil {
			return nil, &InvalidError{Name: r.Name, File: folder, Reason: err}
		}
		if len(chart.Missing) > 0 {
			chart.Folder = folder
			incomplete = append(incomplete, chart)
		}
	}
	return incomplete, nil
}

// applied returns the addons that some stage applies, sorted.
func (r *Release) applied() []string {
	var all []string
	for _, stages := range r.stages {
		for _, stage := range stages {
			if stage.Action == Apply {
				all = append(all, stage.Name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Incomplete returns what a chart lacks. Its Folder is for the caller to fill in.
func (c Chart) Incomplete() (IncompleteChart, error) {
	var result IncompleteChart
	// Charts of the first version of Helm's format have a file of their own for that.
	for _, file := range []struct{ list, lock string }{{"Chart.yaml", "Chart.lock"}, {"requirements.yaml", "requirements.lock"}} {
		data, _ := c.File(file.list)
		var list struct {
			Dependencies []struct {
				Name string `json:"name"`
			} `json:"dependencies"`
		}
		if err := foreignyaml.Unmarshal(data, &list); err != nil {
			return result, fmt.Errorf("%s: %w", file.list, err)
		}
		if len(list.Dependencies) == 0 {
			continue
		}
		result.Metadata, result.MetadataFile = data, file.list
		result.Lock, _ = c.File(file.lock)
		result.LockFile = file.lock
		for _, dependency := range list.Dependencies {
			if !validFileName(dependency.Name) {
				return result, fmt.Errorf("%s: %q cannot be the name of a chart", file.list, dependency.Name)
			}
			if !c.has(dependency.Name) {
				result.Missing = append(result.Missing, dependency.Name)
			}
		}
		break
	}
	slices.Sort(result.Missing)
	result.Missing = slices.Compact(result.Missing)
	return result, nil
}

// has reports whether a chart is in charts/, as a folder or as an archive, whose name ends in a version.
func (c Chart) has(name string) bool {
	return slices.ContainsFunc(c, func(f File) bool {
		rest, inCharts := strings.CutPrefix(f.Name, "charts/")
		if !inCharts {
			return false
		}
		if folder, file, inside := strings.Cut(rest, "/"); inside {
			if file != "Chart.yaml" {
				return false
			}
			var header struct {
				Name string `json:"name"`
			}
			return foreignyaml.Unmarshal(f.Data, &header) == nil && header.Name == name || folder == name
		}
		version, ok := strings.CutPrefix(rest, name+"-")
		return ok && strings.HasSuffix(version, ".tgz") && strings.IndexAny(strings.TrimPrefix(version, "v"), "0123456789") == 0
	})
}

// readDependencies adds the charts that lie in DependenciesFolder.
func (o *opener) readDependencies() error {
	add := func(folder string, chart *Chart) error {
		entries, err := fs.ReadDir(o.fsys, path.Join(DependenciesFolder, folder))
		if err != nil {
			return nil // nearly all charts are complete
		}
		for _, entry := range entries {
			file := path.Join(DependenciesFolder, folder, entry.Name())
			data, err := o.readFile(file, maxArchiveSize)
			if err != nil {
				return err
			}
			*chart = append(slices.Clip(*chart), File{Name: "charts/" + entry.Name(), Data: data})
		}
		slices.SortFunc(*chart, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
		return nil
	}
	if err := add(classFolder, &o.rel.classChart); err != nil {
		return err
	}
	for addon, chart := range o.rel.addonCharts {
		if err := add(addonFolder(addon), &chart); err != nil {
			return err
		}
		o.rel.addonCharts[addon] = chart
	}
	return nil
}

// ValidFileName reports whether s can be the name of a file of a release, on any system.
func ValidFileName(s string) bool { return validFileName(s) }
