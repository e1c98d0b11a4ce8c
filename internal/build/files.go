// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Files returns the files of the stack by their paths in its folder, with slashes. Links are followed. The contents
// belong to the stack.
func (s *Stack) Files() map[string][]byte { return maps.Clone(s.files) }

// Texts returns the files of the stack in which versions are filled in, by their paths.
func (s *Stack) Texts() map[string][]byte {
	texts := map[string][]byte{}
	add := func(name string) {
		if data, found := s.files[name]; found && isText(data) {
			texts[name] = data
		}
	}
	add(release.StagesFile)
	add(release.LegacyValuesFile)
	for _, folder := range append(s.Charts(), s.besideAddons()...) {
		files, err := s.chartFiles(folder)
		if err != nil {
			continue // Build says why it cannot be read
		}
		for name := range files {
			add(path.Join(folder, name))
		}
	}
	return texts
}

// Addons returns the names of the addons of a stack with stages, sorted. Hidden folders are those of editors.
func (s *Stack) Addons() []string {
	addons := map[string]bool{}
	for _, name := range s.paths(addonDir) {
		if folder := topFolder(name); folder != "" && !strings.HasPrefix(folder, ".") {
			addons[folder] = true
		}
	}
	return slices.Sorted(maps.Keys(addons))
}

// Charts returns the folders of all charts of the stack, that of the cluster class first.
func (s *Stack) Charts() []string {
	if !s.multistage() {
		return []string{classDir, addonDir}
	}
	folders := []string{classDir}
	for _, addon := range s.Addons() {
		folders = append(folders, path.Join(addonDir, addon))
	}
	return folders
}

// Chart returns the files of the chart in a folder of the stack, without those that its .helmignore names and without charts
// that Complete has added. The error says that .helmignore is malformed.
func (s *Stack) Chart(folder string) (release.Chart, error) {
	files, err := s.chartFiles(folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	var chart release.Chart
	for _, name := range slices.Sorted(maps.Keys(files)) {
		chart = append(chart, release.File{Name: name, Data: files[name]})
	}
	return chart, nil
}
