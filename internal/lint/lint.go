// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lint finds in a cluster stack, or in a release, what would fail later: when it is built, when it is rendered for
// a cluster, when it is applied, or when a cluster moves on to it.
//
// A stack or release goes in, findings come out; nothing is asked of a cluster. Charts are rendered by the
// operator's own code for made-up clusters, and the class is judged by Cluster API's own code, so that what they say here
// is what they will say later. How findings are shown is the caller's.
package lint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/lint/clusterapi"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Severity says how bad a finding is.
type Severity string

// From bad to good. An error will fail for sure; a warning fails for some, or costs later; an info is good to know.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// AtLeast reports whether s is as bad as other, or worse.
func (s Severity) AtLeast(other Severity) bool {
	order := []Severity{Info, Warning, Error}
	return slices.Index(order, s) >= slices.Index(order, other)
}

// Finding is one thing to mend.
type Finding struct {
	// Rule is the ID of the rule that was broken.
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	// File is relative to the folder of the stack or release. What is inside of an archive stands below its name.
	File string `json:"file"`
	// Line from 1; 0 where the file as a whole is meant.
	Line    int    `json:"line,omitempty"`
	Message string `json:"message"`
	// Why it matters, and how to mend it: those of the rule.
	Why  string `json:"why"`
	Mend string `json:"mend"`
}

// Silenced is a finding that the author of the stack has silenced, and why.
type Silenced struct {
	Finding
	Reason string `json:"reason"`
}

// Report is what was found.
type Report struct {
	// Findings are sorted by file, line and rule.
	Findings []Finding
	Silenced []Silenced
}

// Options are settings whose zero value works.
type Options struct {
	// CRDs are kinds of providers whose fields are to be checked in a class, besides those of Cluster API.
	CRDs []*apiextensionsv1.CustomResourceDefinition
	// Previous is the release from which clusters will come, if one is to be compared with.
	Previous *release.Release
	// Fetch has the charts that those of a stack depend on. Where it is nil, or they cannot be had, they are not looked at.
	Fetch build.Fetch
}

// version is what a stack is built as to be looked at. It is found in no name by accident.
var version = release.Version{Channel: "lint", Suffix: "0"}

// Versions are those in which a stack is built to be linted.
var Versions = build.Versions{ClusterStack: version, ClusterAddon: version, NodeImage: version}

// Stack lints the stack in a folder of fsys. It may link to files beside that folder. An error means that the folder
// could not be looked at.
func Stack(ctx context.Context, fsys fs.FS, folder string, o Options) (Report, error) {
	l, err := newLinter(o)
	if err != nil {
		return Report{}, err
	}
	config, err := fs.ReadFile(fsys, path.Join(folder, configFile))
	if err != nil {
		return Report{}, fmt.Errorf("%s is not the folder of a cluster stack: %w", folder, err)
	}
	l.checkConfig(config)
	stack, err := build.Read(fsys, folder)
	if err != nil {
		if !l.failed() {
			l.report("stack-unreadable", place{}, "%v", err)
		}
		return l.finish(config), nil
	}
	l.files, l.addons = stack.Files(), append([]string{}, stack.Addons()...)
	_, multistage := l.files[release.StagesFile]
	l.where = stackPlaces{multistage}
	l.checkSources(stack)
	l.complete(ctx, stack)
	l.openStack(stack)
	l.checkRelease(ctx)
	return l.finish(config), ctx.Err()
}

// Release lints the release of the given name in a folder.
func Release(ctx context.Context, fsys fs.FS, name release.Name, o Options) (Report, error) {
	l, err := newLinter(o)
	if err != nil {
		return Report{}, err
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return Report{}, err
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() && path.Ext(entry.Name()) == ".yaml" {
			if l.files[entry.Name()], err = fs.ReadFile(fsys, entry.Name()); err != nil {
				return Report{}, err
			}
		}
	}
	rel, err := release.Open(fsys, name)
	if stages, found := l.files[release.StagesFile]; found {
		l.checkStages(release.StagesFile, stages)
	}
	var invalid *release.InvalidError
	switch {
	case errors.As(err, &invalid):
		l.reportInvalid(invalid)
	case err != nil:
		return Report{}, err
	default:
		l.rel = rel
		l.where = releasePlaces{rel: rel, archives: archivesOf(entries, rel)}
		l.checkDependencies()
		l.checkContradictions(rel)
	}
	l.checkRelease(ctx)
	return l.finish(nil), ctx.Err()
}

// Open builds the stack in a folder as it is linted, for who wants to compare with it.
func Open(ctx context.Context, fsys fs.FS, folder string, fetch build.Fetch) (*release.Release, error) {
	stack, err := build.Read(fsys, folder)
	if err != nil {
		return nil, err
	}
	if err := stack.Complete(ctx, lenient(fetch, func(string, error) {})); err != nil {
		return nil, err
	}
	built, err := stack.Build(Versions)
	if err != nil {
		return nil, err
	}
	return open(built)
}

type linter struct {
	Options
	schemas *clusterapi.Schemas
	// files of the stack or release that are text, by path.
	files map[string][]byte
	// addons are the names of those of a stack; nil for a release, which cannot be opened without their charts.
	addons []string
	// rel is nil where the release cannot be opened.
	rel   *release.Release
	where places
	found map[Finding]bool
	// outOfReach says why charts that a chart depends on could not be fetched, by the folder of the chart.
	outOfReach map[string]error
}

// place is where to mend something.
type place struct {
	file string
	line int
}

func newLinter(o Options) (*linter, error) {
	schemas, err := clusterapi.NewSchemas(o.CRDs)
	if err != nil {
		return nil, err
	}
	return &linter{Options: o, schemas: schemas, files: map[string][]byte{}, found: map[Finding]bool{}, outOfReach: map[string]error{}}, nil
}

// report notes a finding. The same one twice counts once: a list may stand for two points, and a sample for many.
func (l *linter) report(id string, at place, format string, args ...any) {
	rule := ruleOf(id)
	message := fmt.Sprintf(format, args...)
	for _, made := range []string{version.String(), version.Dashed()} {
		message = strings.ReplaceAll(message, made, "<version>") // nobody knows the one that a stack is linted as
	}
	l.found[Finding{
		Rule: rule.ID, Severity: rule.Severity, File: at.file, Line: at.line,
		Message: message, Why: rule.Why, Mend: rule.Mend,
	}] = true
}

// reported tells whether there is a finding of a rule.
func (l *linter) reported(rule string) bool {
	for finding := range l.found {
		if finding.Rule == rule {
			return true
		}
	}
	return false
}

// failed reports whether there is an error among the findings.
func (l *linter) failed() bool {
	for finding := range l.found {
		if finding.Severity == Error {
			return true
		}
	}
	return false
}

// checkRelease checks all that needs an opened release.
func (l *linter) checkRelease(ctx context.Context) {
	if l.rel == nil {
		return
	}
	class := l.checkClass(ctx)
	l.checkAddons(class)
	l.checkPrevious(ctx, class)
}

// finish sorts findings, and takes those out that the author has silenced.
func (l *linter) finish(config []byte) Report {
	ignores := l.readIgnores(config)
	var report Report
	sorted := slices.SortedFunc(maps.Keys(l.found), compare)
	for _, finding := range sorted {
		if reason, silenced := ignores.silence(finding); silenced {
			report.Silenced = append(report.Silenced, Silenced{finding, reason})
		} else {
			report.Findings = append(report.Findings, finding)
		}
	}
	for _, ignore := range ignores {
		if !ignore.used {
			rule := ruleOf("ignore-unused")
			report.Findings = append(report.Findings, Finding{
				Rule: rule.ID, Severity: rule.Severity, File: configFile, Line: ignore.line, Why: rule.Why, Mend: rule.Mend,
				Message: fmt.Sprintf("nothing is silenced by the entry for %s", ignore.ID),
			})
		}
	}
	slices.SortFunc(report.Findings, compare)
	return report
}

func compare(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Message, b.Message),
	)
}

// Count returns how many findings are as bad as a severity, or worse.
func (r Report) Count(least Severity) int {
	n := 0
	for _, finding := range r.Findings {
		if finding.Severity.AtLeast(least) {
			n++
		}
	}
	return n
}

// lineOfText returns the line of the first line that contains a text, from 1; 0 if none does.
func lineOfText(data []byte, text string) int {
	for i, line := range strings.Split(string(data), "\n") {
		if strings.Contains(line, text) {
			return i + 1
		}
	}
	return 0
}
