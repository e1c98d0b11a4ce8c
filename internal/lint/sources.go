// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

const (
	classFolder = "cluster-class"
	addonFolder = "cluster-addon"
	chartFile   = "Chart.yaml"
)

// checkSources checks the folder of a stack as its author sees it.
func (l *linter) checkSources(stack *build.Stack) {
	prefix := stack.Name(version).Prefix()
	// What hash mode makes is longer than numbers are.
	if name := stack.Name(release.Version{Channel: "sha", Suffix: "0000000"}); len(name.String()) > 63 {
		l.report("release-name", place{configFile, lineOfText(l.files[configFile], "clusterStackName")},
			"a release would be called %s, which has %d characters", name, len(name.String()))
	}
	l.checkTags(stack)
	l.checkChartName(classFolder, prefix+"-"+classFolder)
	stages, multistage := l.files[release.StagesFile]
	if !multistage {
		l.checkChartName(addonFolder, prefix+"-"+addonFolder)
		if _, found := l.files[release.LegacyValuesFile]; !found {
			l.report("chart-missing", place{file: release.LegacyValuesFile}, "a stack without %s needs it, with the values of its only addon chart", release.StagesFile)
		}
		return
	}
	if _, found := l.files[release.LegacyValuesFile]; found {
		l.report("file-unused", place{file: release.LegacyValuesFile}, "it is read only where there is no %s", release.StagesFile)
	}
	for _, addon := range l.addons {
		l.checkChartName(path.Join(addonFolder, addon), "")
	}
	if len(l.addons) == 0 {
		l.report("chart-missing", place{file: addonFolder}, "there is no chart of an addon")
	}
	l.checkStages(release.StagesFile, stages)
}

// checkChartName checks that a folder is a chart of the given name, if one is given.
func (l *linter) checkChartName(folder, want string) {
	file := path.Join(folder, chartFile)
	data, found := l.files[file]
	if !found {
		l.report("chart-missing", place{file: folder}, "%s has no Chart.yaml", folder)
		return
	}
	root, ok := l.parse("chart-malformed", file, data)
	if !ok {
		return
	}
	name, line := scalar(root, "name")
	if name == "" {
		l.report("chart-malformed", place{file, line}, "the chart has no name")
	} else if want != "" && name != want {
		l.report("chart-name", place{file, line}, "the chart is called %s, it has to be %s", name, want)
	}
	// That of the class and of the only addon is set when the stack is built.
	if _, line := scalar(root, "version"); want == "" && get(root, "version") == nil {
		l.report("chart-malformed", place{file, line}, "the chart has no version")
	}
}

var (
	tagForm = regexp.MustCompile(`<<[ \t]*\.([A-Za-z][A-Za-z0-9_.]*)[ \t]*>>`)
	// nearlyTag is what its author took for a tag: two words with "Version" at the end, in one or the other brackets.
	nearlyTag = regexp.MustCompile(`<<[ \t]*-?[ \t]*(Cluster[A-Za-z]*Version|NodeImage[A-Za-z]*Version|\.[A-Za-z]+[ \t]+[^>\n]*)[ \t]*-?[ \t]*>>`)
	tags      = []string{"ClusterClassVersion", "ClusterAddonVersion", "NodeImageVersion"}
)

// checkTags looks for tags in all files in which they are filled in.
func (l *linter) checkTags(stack *build.Stack) {
	for file, data := range stack.Texts() {
		for i, line := range strings.Split(string(data), "\n") {
			for _, tag := range tagForm.FindAllStringSubmatch(line, -1) {
				if !slices.Contains(tags, tag[1]) {
					l.report("tag", place{file, i + 1}, "%s is not known: there are << .%s >>", tag[0], strings.Join(tags, " >>, << ."))
				}
			}
			if found := nearlyTag.FindString(line); found != "" && !tagForm.MatchString(found) {
				l.report("tag", place{file, i + 1}, "%s stays as it is: a tag is written << .%s >>", found, tags[0])
			}
		}
	}
}

// openStack builds the stack and opens the release. Where its stages are wrong, it gets others, so that all the rest can
// be looked at.
func (l *linter) openStack(stack *build.Stack) {
	built, err := stack.Build(Versions)
	if err != nil {
		if !l.failed() {
			l.report("build", place{}, "%v", err)
		}
		return
	}
	rel, err := open(built)
	if err != nil && l.failed() {
		if _, multistage := l.files[release.StagesFile]; multistage {
			built.Files[release.StagesFile] = allStages(l.addons)
			rel, err = open(built)
		}
	}
	if err != nil {
		if !l.failed() {
			l.report("build", place{}, "the operator could not use a release of it: %v", err)
		}
		return
	}
	l.rel = rel
}

func allStages(addons []string) []byte {
	type stage struct{ Name, Action string }
	list := []stage{}
	for _, addon := range addons {
		list = append(list, stage{addon, string(release.Apply)})
	}
	stages := map[string]any{"addonStages": map[string]any{string(release.AfterControlPlaneInitialized): list, string(release.BeforeClusterUpgrade): list}}
	data, err := yaml.Marshal(stages)
	if err != nil {
		panic(err) // made of texts
	}
	return data
}

// open opens a release in memory.
func open(built *build.Release) (*release.Release, error) {
	var packed bytes.Buffer
	archive := zip.NewWriter(&packed)
	for _, name := range slices.Sorted(maps.Keys(built.Files)) {
		file, err := archive.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return nil, err
		}
		if _, err := file.Write(built.Files[name]); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	fsys, err := zip.NewReader(bytes.NewReader(packed.Bytes()), int64(packed.Len()))
	if err != nil {
		return nil, err
	}
	return release.Open(fsys, built.Name)
}

// reportInvalid reports why a release cannot be opened.
func (l *linter) reportInvalid(invalid *release.InvalidError) {
	switch {
	case invalid.File == release.MetadataFile:
		key, _, _ := strings.Cut(invalid.Reason.Error(), ":")
		l.report("metadata", place{release.MetadataFile, lineOfText(l.files[release.MetadataFile], path.Ext("." + key)[1:]+":")}, "%v", invalid.Reason)
	case invalid.File == release.StagesFile && l.failed():
	default:
		l.report("release-malformed", place{file: invalid.File}, "%v", invalid.Reason)
	}
}

// checkContradictions reports what a release says about itself that does not fit its name.
func (l *linter) checkContradictions(rel *release.Release) {
	for _, text := range rel.Contradictions {
		file, reason, _ := strings.Cut(text, ": ")
		key, _, _ := strings.Cut(strings.TrimPrefix(reason, "versions."), " ")
		l.report("release-contradiction", place{file, lineOfText(l.files[file], key+":")}, "%s", reason)
	}
}

// places says where the files of charts are for the author.
type places interface {
	// class and addon return the path of the chart's folder; values that of its values template.
	class() string
	addon(name string) string
	values(name string) string
}

type stackPlaces struct{ multistage bool }

func (stackPlaces) class() string { return classFolder }
func (p stackPlaces) addon(name string) string {
	if !p.multistage {
		return addonFolder
	}
	return path.Join(addonFolder, name)
}
func (p stackPlaces) values(name string) string {
	if !p.multistage {
		return release.LegacyValuesFile
	}
	return path.Join(p.addon(name), release.OverwriteFile)
}

type releasePlaces struct {
	rel      *release.Release
	archives map[string]string // by part
}

func archivesOf(entries []fs.DirEntry, rel *release.Release) map[string]string {
	archives := map[string]string{}
	for _, entry := range entries {
		for _, part := range []string{classFolder, addonFolder} {
			if strings.Contains(entry.Name(), rel.Name.Prefix()+"-"+part+"-") {
				archives[part] = entry.Name()
			}
		}
	}
	return archives
}

func (p releasePlaces) class() string { return p.archives[classFolder] }
func (p releasePlaces) addon(name string) string {
	if !p.rel.Multistage() {
		return p.archives[addonFolder]
	}
	return path.Join(p.archives[addonFolder], name)
}
func (p releasePlaces) values(name string) string {
	if !p.rel.Multistage() {
		return release.LegacyValuesFile
	}
	return path.Join(p.addon(name), release.OverwriteFile)
}
