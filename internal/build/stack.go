// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package build makes releases out of the folders in which people write cluster stacks.
//
// The same folder and the same versions give the same release, byte for byte, on any machine and at
// any time. Deciding which version comes next is here too; finding earlier releases and publishing new
// ones is not.
package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

const (
	configFile = "csctl.yaml"
	classDir   = "cluster-class"
	addonDir   = "cluster-addon"
	imageDir   = "node-images"
)

// Limits that a release has to keep too.
const (
	maxFiles    = 10_000
	maxFileSize = 5 << 20
	maxDepth    = 32
)

// Stack is the source of a cluster stack: the contents of its folder.
type Stack struct {
	Config Config
	// files by slash-separated path relative to the folder.
	files map[string][]byte
	// dependencies are files that Complete has added to charts, by the folder of the chart and the path in it. They are no
	// part of the hash: the folder says which they are, and does not have them.
	dependencies map[string]map[string][]byte
}

// Config is what csctl.yaml says.
type Config struct {
	// Kubernetes is the version for the clusters of the stack, such as "v1.35.4".
	Kubernetes string
	Stack      string
	Provider   string
	// HasProviderConfig says that there are settings for a plugin of the provider, which makes node
	// images.
	HasProviderConfig bool
}

// Read reads the stack in a folder of fsys.
//
// Links are followed, so that several stacks can share files, but only to what lies within fsys and is
// not hidden. With the parent of the stack's folder as fsys, a stack can take in the files beside it
// and nothing else of the machine that it is built on.
func Read(fsys fs.FS, folder string) (*Stack, error) {
	s := &Stack{files: map[string][]byte{}}
	if err := s.read(fsys, folder, "", 0); err != nil {
		return nil, fmt.Errorf("read cluster stack %s: %w", folder, err)
	}
	data, found := s.files[configFile]
	if !found {
		return nil, fmt.Errorf("%s is not the folder of a cluster stack: it has no %s", folder, configFile)
	}
	config, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", configFile, err)
	}
	s.Config = config
	return s, nil
}

// read adds what is in a folder of fsys as the stack's folder name. The two differ behind a link.
func (s *Stack) read(fsys fs.FS, at, name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s is deeper than %d folders, or a link leads back to a folder above it", name, maxDepth)
	}
	entries, err := fs.ReadDir(fsys, at)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if notOurs(fsys, at, entry) {
			continue
		}
		if name := entry.Name(); !utf8.ValidString(name) || strings.Contains(name, "\n") {
			return fmt.Errorf("%q cannot be the name of a file: names are UTF-8 without line breaks", path.Join(at, name))
		}
		entryAt, entryName := path.Join(at, entry.Name()), path.Join(name, entry.Name())
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Type() == fs.ModeSymlink {
			if entryAt, info, err = follow(fsys, entryAt); err != nil {
				return fmt.Errorf("link %s: %w", entryName, err)
			}
		}
		switch {
		case info.IsDir():
			err = s.read(fsys, entryAt, entryName, depth+1)
		case info.Mode().IsRegular():
			err = s.readFile(fsys, entryAt, entryName)
		default:
			err = fmt.Errorf("%s is neither a file nor a folder", entryName)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notOurs reports whether an entry of a folder is there by accident, and would give the same stack another name on each
// machine or with each build.
func notOurs(fsys fs.FS, folder string, entry fs.DirEntry) bool {
	name := entry.Name()
	if name == ".git" || name == ".DS_Store" {
		return true
	}
	if !entry.IsDir() {
		return false
	}
	// Releases that were written into the stack, and those that are being written there at the same time.
	preparing, hidden := strings.CutPrefix(name, ".")
	if hidden {
		name = preparing[:max(0, strings.LastIndexByte(preparing, '-'))]
	}
	if _, err := release.ParseName(name); err != nil {
		return false
	}
	_, err := fs.Stat(fsys, path.Join(folder, name, release.MetadataFile))
	return hidden || err == nil
}

func (s *Stack) readFile(fsys fs.FS, at, name string) error {
	if len(s.files) == maxFiles {
		return fmt.Errorf("more than %d files", maxFiles)
	}
	f, err := fsys.Open(at)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return err
	}
	if len(data) > maxFileSize {
		return fmt.Errorf("%s is larger than %d MiB", name, maxFileSize>>20)
	}
	s.files[name] = data
	return nil
}

// maxLinks is how many links may lead from one to the next.
const maxLinks = 40

// follow returns where a link leads to, over further ones if need be. It refuses what could bring private files of the
// person who builds a foreign stack into the release.
func follow(fsys fs.FS, link string) (target string, info fs.FileInfo, err error) {
	rest, err := readLink(fsys, link)
	if err != nil {
		return "", nil, err
	}
	to := rest
	target = path.Dir(link)
	for links := 1; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		target = path.Join(target, part)
		switch {
		case !fs.ValidPath(target):
			return "", nil, outside(to)
		case strings.HasPrefix(part, ".") && part != "." && part != "..":
			return "", nil, fmt.Errorf("%s is hidden", to)
		}
		if info, err = fs.Lstat(fsys, target); err != nil {
			return "", nil, err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			continue
		}
		if links++; links > maxLinks {
			return "", nil, fmt.Errorf("%s leads over more than %d links", to, maxLinks)
		}
		further, err := readLink(fsys, target)
		if err != nil {
			return "", nil, err
		}
		target, rest = path.Dir(target), further+"/"+rest
	}
	return target, info, nil
}

// readLink returns the path in a link, which has to be a relative one.
func readLink(fsys fs.FS, link string) (string, error) {
	to, err := fs.ReadLink(fsys, link)
	if err == nil && path.IsAbs(to) {
		err = outside(to)
	}
	return to, err
}

func outside(to string) error {
	return fmt.Errorf("%s is outside of the folder that holds the stack", to)
}

var (
	kubernetesForm = regexp.MustCompile(`^v([0-9]+)\.([0-9]+)\.[0-9]+$`)
	wordForm       = regexp.MustCompile(`^[a-z0-9]+$`)
)

func parseConfig(data []byte) (Config, error) {
	var file struct {
		Config struct {
			KubernetesVersion string `json:"kubernetesVersion"`
			ClusterStackName  string `json:"clusterStackName"`
			Provider          struct {
				Type   string         `json:"type"`
				Config map[string]any `json:"config"`
			} `json:"provider"`
		} `json:"config"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return Config{}, err
	}
	config := Config{
		Kubernetes:        file.Config.KubernetesVersion,
		Stack:             file.Config.ClusterStackName,
		Provider:          file.Config.Provider.Type,
		HasProviderConfig: len(file.Config.Provider.Config) > 0,
	}
	if !kubernetesForm.MatchString(config.Kubernetes) {
		return Config{}, fmt.Errorf("config.kubernetesVersion: %q is not of the form v1.35.4", config.Kubernetes)
	}
	// The name of a release is split at its dashes.
	if !wordForm.MatchString(config.Stack) {
		return Config{}, fmt.Errorf("config.clusterStackName: %q may only have lower-case letters and digits", config.Stack)
	}
	if !wordForm.MatchString(config.Provider) {
		return Config{}, fmt.Errorf("config.provider.type: %q may only have lower-case letters and digits", config.Provider)
	}
	return config, nil
}

// Name returns the name of the release of this stack in a version.
func (s *Stack) Name(version release.Version) release.Name {
	kubernetes := kubernetesForm.FindStringSubmatch(s.Config.Kubernetes)
	return release.Name{
		Provider:   s.Config.Provider,
		Stack:      s.Config.Stack,
		Kubernetes: kubernetes[1] + "." + kubernetes[2],
		Version:    version,
	}
}

// paths returns the paths of the files below a folder, relative to it and sorted.
func (s *Stack) paths(folder string) []string {
	var paths []string
	for file := range s.files {
		if folder == "" {
			paths = append(paths, file)
		} else if name, inside := strings.CutPrefix(file, folder+"/"); inside {
			paths = append(paths, name)
		}
	}
	slices.Sort(paths)
	return paths
}

// multistage reports whether the addons are several charts, applied in stages.
func (s *Stack) multistage() bool {
	_, found := s.files[release.StagesFile]
	return found
}

var errNoAddons = errors.New("it has no chart of cluster addons: a " + addonDir + " folder is needed")
