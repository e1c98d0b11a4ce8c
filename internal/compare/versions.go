// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// versions knows what each of two releases calls itself, so that a change of that alone can be told from others.
type versions struct{ from, to called }

// called are the names of one release.
type called struct {
	// whole are those that are unmistakable wherever they stand.
	whole *regexp.Regexp
	// bare are versions, which mean something only where nothing else is expected.
	bare []string
	// labels are what labels and annotations have beside that: the versions of what the charts bring.
	labels []string
	// inNames are whole, and what may stand in the name of an object beside that.
	inNames *regexp.Regexp
}

func newVersions(from, to Side) versions { return versions{calledOf(from), calledOf(to)} }

func calledOf(s Side) called {
	var labels []string
	whole := []string{s.Name.ClassName(), s.Name.String()}
	bare := []string{s.Name.Version.String(), s.Name.Version.Dashed(), s.Metadata.ClusterAddon.String(), s.Metadata.ClusterAddon.Dashed()}
	if s.Metadata.NodeImage != nil {
		bare = append(bare, s.Metadata.NodeImage.String(), s.Metadata.NodeImage.Dashed())
	}
	for _, part := range append([]Addon{{Part: s.Class}}, s.Addons...) {
		if c := part.Chart; c.Name != "" {
			whole = append(whole, c.Name+"-"+c.Version)
			bare = append(bare, c.Version)
			labels = append(labels, c.AppVersion)
		}
	}
	return called{
		whole: anyOf(whole), bare: bare, labels: append(labels, bare...),
		inNames: anyOf(slices.Concat(whole, []string{s.Name.Prefix()}, bare)),
	}
}

// anyOf matches each of the texts where no letter, digit or further part of a version is next to it.
func anyOf(texts []string) *regexp.Regexp {
	texts = slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return s == "" })
	// The longest first: one may be the beginning of another.
	slices.SortFunc(texts, func(a, b string) int { return len(b) - len(a) })
	for i, s := range texts {
		texts[i] = regexp.QuoteMeta(s)
	}
	return regexp.MustCompile(`(^|[^A-Za-z0-9.])(` + strings.Join(texts, "|") + `)($|[^A-Za-z0-9.])`)
}

func without(form *regexp.Regexp, text string) string {
	for {
		// Two may share the character between them.
		shorter := form.ReplaceAllString(text, "$1\x00$3")
		if shorter == text {
			return text
		}
		text = shorter
	}
}

// mark marks the fields in which only versions change.
func (v versions) mark(fields []Field) []Field {
	for i, f := range fields {
		fields[i].VersionOnly = f.Change == Changed && v.only(f)
	}
	return fields
}

func (v versions) only(f Field) bool {
	if strings.HasSuffix(f.Path, "image") {
		return false // another image is another image
	}
	old, ok1 := f.Old.(string)
	next, ok2 := f.New.(string)
	if !ok1 || !ok2 {
		return false
	}
	if without(v.from.whole, old) == without(v.to.whole, next) {
		return true
	}
	inMetadata := strings.Contains(f.Path, "labels") || strings.Contains(f.Path, "annotations")
	return inMetadata && slices.Contains(v.from.labels, old) && slices.Contains(v.to.labels, next)
}

// sameName reports whether two names differ in nothing but the version.
func (v versions) sameName(from, to string) bool {
	return from == to || without(v.from.inNames, from) == without(v.to.inNames, to)
}

func equal(a, b any) bool { return reflect.DeepEqual(a, b) }
