// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package scaffold makes a new cluster stack out of a starter stack: the same files under another name.
//
// Where starters come from and where the new stack goes is the caller's.
package scaffold

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Starter is a stack to begin with, of one provider and one minor version of Kubernetes.
type Starter struct {
	Provider string
	// Kubernetes is the exact version, such as "v1.35.4".
	Kubernetes string

	files map[string][]byte
}

const (
	starter    = "starter"
	shared     = "shared"
	configFile = "csctl.yaml"
	classChart = "cluster-class/Chart.yaml"
	addonDir   = "cluster-addon/"
)

var (
	minorForm      = regexp.MustCompile(`^[0-9]+-[0-9]+$`)
	nameForm       = regexp.MustCompile(`^[a-z0-9]+$`)
	kubernetesForm = regexp.MustCompile(`^v?([0-9]+\.[0-9]+)(\.[0-9]+)?$`)
)

// Starters returns the starters in fsys, which has them as <provider>/starter/<major>-<minor>, with what those of one
// provider have in common in <provider>/starter/shared. They are sorted by provider and version.
func Starters(fsys fs.FS) ([]Starter, error) {
	var all []Starter
	folders, err := fs.Glob(fsys, "*/"+starter+"/*")
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if !minorForm.MatchString(path.Base(folder)) {
			continue
		}
		s := Starter{Provider: strings.SplitN(folder, "/", 2)[0], files: map[string][]byte{}}
		// What a minor version has of its own comes last, and wins.
		for _, from := range []string{path.Join(path.Dir(folder), shared), folder} {
			if err := s.read(fsys, from); err != nil {
				return nil, err
			}
		}
		var config struct {
			Config struct {
				KubernetesVersion string `yaml:"kubernetesVersion"`
			}
		}
		if err := yaml.Unmarshal(s.files[configFile], &config); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", folder, configFile, err)
		}
		s.Kubernetes = config.Config.KubernetesVersion
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Starter) int {
		if a.Provider != b.Provider {
			return strings.Compare(a.Provider, b.Provider)
		}
		return minor(a.Kubernetes) - minor(b.Kubernetes)
	})
	return all, nil
}

func minor(kubernetes string) int {
	parts := strings.Split(kubernetes, ".")
	if len(parts) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(parts[1]) // zero sorts what is malformed to the front
	return n
}

func (s *Starter) read(fsys fs.FS, folder string) error {
	return fs.WalkDir(fsys, folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(fsys, name)
		s.files[strings.TrimPrefix(name, folder+"/")] = data
		return err
	})
}

// Choose returns the starter for a provider and a version of Kubernetes, such as "1.35", "v1.35.4", or "" for the newest.
// A version with patch is that of the new stack.
func Choose(all []Starter, provider, kubernetes string) (Starter, error) {
	of := slices.DeleteFunc(slices.Clone(all), func(s Starter) bool { return s.Provider != provider })
	if len(of) == 0 {
		var providers []string
		for _, s := range all {
			providers = append(providers, s.Provider)
		}
		return Starter{}, fmt.Errorf("there is no starter for provider %s: there are %s", provider, strings.Join(slices.Compact(providers), ", "))
	}
	if kubernetes == "" {
		return of[len(of)-1], nil
	}
	parts := kubernetesForm.FindStringSubmatch(kubernetes)
	if parts == nil {
		return Starter{}, fmt.Errorf("Kubernetes %q is not a version such as 1.35 or v1.35.4", kubernetes)
	}
	var known []string
	for _, s := range of {
		if strings.HasPrefix(s.Kubernetes, "v"+parts[1]+".") {
			chosen := s
			chosen.files = maps.Clone(s.files)
			if parts[2] != "" {
				chosen.Kubernetes = "v" + parts[1] + parts[2]
				chosen.replace(configFile, s.Kubernetes, chosen.Kubernetes)
			}
			return chosen, nil
		}
		known = append(known, strings.TrimPrefix(s.Kubernetes[:strings.LastIndexByte(s.Kubernetes, '.')], "v"))
	}
	return Starter{}, fmt.Errorf("there is no starter of %s for Kubernetes %s: there are %s", provider, parts[1], strings.Join(known, ", "))
}

func (s Starter) replace(file, old, with string) {
	s.files[file] = bytes.ReplaceAll(s.files[file], []byte(old), []byte(with))
}

// Addons returns the names of the starter's addons, sorted.
func (s Starter) Addons() []string {
	names := map[string]bool{}
	for file := range s.files {
		if inner, is := strings.CutPrefix(file, addonDir); is {
			name, _, _ := strings.Cut(inner, "/")
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Make returns the files of a new stack with the given name and addons, by path; with all addons if none are given.
func (s Starter) Make(name string, addons []string) (map[string][]byte, error) {
	if !nameForm.MatchString(name) {
		return nil, fmt.Errorf("%q cannot be the name of a stack, which has lower-case letters and digits only", name)
	}
	kubernetes := strings.TrimPrefix(s.Kubernetes[:strings.LastIndexByte(s.Kubernetes, '.')], "v")
	prefix := func(stack string) string {
		return release.Name{Provider: s.Provider, Stack: stack, Kubernetes: kubernetes}.Prefix()
	}
	if _, err := release.ParseName(prefix(name) + "-v0-sha-0000000"); err != nil {
		return nil, fmt.Errorf("%q is too long for the name of a stack: releases would be called %s-v0-sha-0000000", name, prefix(name))
	}
	for _, addon := range addons {
		if !slices.Contains(s.Addons(), addon) {
			return nil, fmt.Errorf("the starter has no addon %s: it has %s", addon, strings.Join(s.Addons(), ", "))
		}
	}
	made := Starter{Provider: s.Provider, Kubernetes: s.Kubernetes, files: maps.Clone(s.files)}
	made.replace(configFile, "clusterStackName: "+starter, "clusterStackName: "+name)
	made.replace(classChart, prefix(starter)+"-cluster-class", prefix(name)+"-cluster-class")
	if len(addons) == 0 || len(slices.Compact(slices.Sorted(slices.Values(addons)))) == len(s.Addons()) {
		return made.files, nil
	}
	maps.DeleteFunc(made.files, func(file string, _ []byte) bool {
		inner, is := strings.CutPrefix(file, addonDir)
		addon, _, _ := strings.Cut(inner, "/")
		return is && !slices.Contains(addons, addon)
	})
	stages, err := onlyStages(made.files[release.StagesFile], addons)
	made.files[release.StagesFile] = stages
	return made.files, err
}

// onlyStages takes the stages of all other addons out of the lists, and keeps comments and aliases.
func onlyStages(data []byte, addons []string) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, fmt.Errorf("%s of the starter: %w", release.StagesFile, err)
	}
	var walk func(node *yaml.Node)
	walk = func(node *yaml.Node) {
		if node.Kind == yaml.SequenceNode {
			node.Content = slices.DeleteFunc(node.Content, func(item *yaml.Node) bool {
				var stage struct{ Name, Action string }
				return item.Decode(&stage) == nil && stage.Action != "" && !slices.Contains(addons, stage.Name)
			})
		}
		for _, child := range node.Content {
			walk(child)
		}
	}
	walk(&document)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}
