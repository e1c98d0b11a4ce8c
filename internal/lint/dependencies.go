// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"context"
	"errors"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// lenient makes a function that fetches charts one that has none where they cannot be had, and tells why.
func lenient(fetch build.Fetch, missed func(folder string, err error)) build.Fetch {
	return func(ctx context.Context, lacking release.IncompleteChart) ([]release.File, error) {
		if fetch == nil {
			return nil, nil
		}
		files, err := fetch(ctx, lacking)
		if err != nil {
			missed(lacking.Folder, err)
		}
		return files, nil
	}
}

// complete gives the charts of a stack what they depend on, as far as it can be had.
func (l *linter) complete(ctx context.Context, stack *build.Stack) {
	before, malformed := len(l.found), l.reported("chart-malformed")
	for _, folder := range stack.Charts() {
		// What is wrong with its .helmignore keeps the stack from being built, and is said then.
		if files, err := stack.Chart(folder); err == nil {
			l.checkChartDependencies(chart{folder: folder, files: files}, true)
		}
	}
	err := stack.Complete(ctx, lenient(l.Fetch, func(folder string, err error) { l.outOfReach[folder] = err }))
	if err != nil && !malformed && len(l.found) == before {
		l.report("build", place{}, "%v", err)
	}
}

// checkDependencies checks what the charts of a release depend on.
func (l *linter) checkDependencies() {
	l.checkChartDependencies(chart{folder: l.where.class(), files: l.rel.ClassChart()}, false)
	for _, name := range l.rel.Addons() {
		if files, err := l.rel.AddonChart(name); err == nil {
			l.checkChartDependencies(chart{name: name, folder: l.where.addon(name), files: files}, false)
		}
	}
}

// checkChartDependencies checks what a chart depends on. In a stack, others of its charts can be meant by file://.
func (l *linter) checkChartDependencies(c chart, inStack bool) {
	list, err := c.files.Incomplete()
	if err != nil {
		if !l.reported("chart-malformed") {
			l.report("chart-malformed", c.at(chartFile, lineIn(err)), "%v", err)
		}
		return
	}
	wanted, err := chartlock.Read(list.Metadata)
	if err != nil {
		l.report("chart-malformed", c.at(list.MetadataFile, lineOfText(list.Metadata, "dependencies:")), "%v", err)
		return
	}
	exact, err := chartlock.Resolve(list.Metadata, list.Lock)
	wantedBy := list.LockFile
	switch {
	case list.Lock == nil:
		wantedBy = list.MetadataFile
	case errors.Is(err, chartlock.ErrOutdated):
		l.report("lock-outdated", c.at(list.LockFile, lineOfText(list.Lock, "digest:")), "it was made for other dependencies than %s lists", list.MetadataFile)
	case err != nil:
		l.report("lock-outdated", c.at(list.LockFile, lineIn(err)), "%v", err)
	}
	if err != nil {
		exact, wantedBy = wanted, list.MetadataFile
	}
	vendored := build.VendoredIn(c.files)
	for i, dependency := range wanted {
		at := c.at(list.MetadataFile, lineOfText(list.Metadata, "name: "+dependency.Name))
		var here *build.Vendored
		for j := range vendored {
			if vendored[j].Name == dependency.Name && (here == nil || vendored[j].Fits(exact[i])) {
				here = &vendored[j]
			}
		}
		isFile := strings.HasPrefix(dependency.Repository, "file://")
		switch {
		case here != nil:
			if !here.Fits(exact[i]) {
				l.report("dependency-version", at, "charts/ has %s %s, %s wants %s", dependency.Name, here.Version, wantedBy, exact[i].Version)
			}
		case strings.TrimSpace(dependency.Repository) == "":
			l.report("dependency-nowhere", at, "chart %s is not in charts/ and names no repository", dependency.Name)
		case isFile && !inStack:
			l.report("dependency-nowhere", at, "chart %s is not in charts/ and was beside the chart: %s", dependency.Name, dependency.Repository)
		case !isFile && inStack && !chartlock.Exact(exact[i].Version) && err == nil:
			l.report("dependency-unpinned", at, "chart %s may be any version in %q: each build may take another one", dependency.Name, dependency.Version)
		}
	}
}
