// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const configFile = "csctl.yaml"

// The keys of csctl.yaml. A value of nil allows anything below.
var configKeys = keys{
	"apiVersion": {},
	"config": {
		"kubernetesVersion": {}, "clusterStackName": {},
		"provider": {"type": {}, "apiVersion": {}, "config": nil},
	},
	"lint": {"ignore": nil},
}

type keys map[string]keys

var (
	kubernetesForm = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+$`)
	wordForm       = regexp.MustCompile(`^[a-z0-9]+$`)
)

func (l *linter) checkConfig(data []byte) {
	root, ok := l.parse("config", configFile, data)
	if !ok {
		return
	}
	for _, unknown := range unknownKeys(root, configKeys, "") {
		l.report("config-unknown-key", place{configFile, unknown.line}, "%s is ignored: there is no such key", unknown.path)
	}
	for _, want := range []struct {
		path []string
		form *regexp.Regexp
		like string
	}{
		{[]string{"config", "kubernetesVersion"}, kubernetesForm, "a version with patch, such as v1.35.4"},
		{[]string{"config", "clusterStackName"}, wordForm, "a name of lower-case letters and digits"},
		{[]string{"config", "provider", "type"}, wordForm, "the name of a provider, of lower-case letters and digits"},
	} {
		value, line := scalar(root, want.path...)
		if !want.form.MatchString(value) {
			l.report("config", place{configFile, line}, "%s is %q, which is not %s", strings.Join(want.path, "."), value, want.like)
		}
	}
}

// parse reads YAML with its lines. What is malformed is reported under the rule.
func (l *linter) parse(rule, file string, data []byte) (root *yaml.Node, ok bool) {
	document := &yaml.Node{}
	if err := yaml.Unmarshal(data, document); err != nil {
		l.report(rule, place{file, lineIn(err)}, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil, false
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		l.report(rule, place{file, 1}, "it is not a map")
		return nil, false
	}
	if key, line := twice(document.Content[0]); key != "" {
		l.report(rule, place{file, line}, "%s stands twice in one map", key)
		return nil, false
	}
	return document.Content[0], true
}

var lineForm = regexp.MustCompile(`line ([0-9]+)`)

func lineIn(err error) int {
	if parts := lineForm.FindStringSubmatch(err.Error()); parts != nil {
		line, _ := strconv.Atoi(parts[1]) // digits
		return line
	}
	return 0
}

// twice returns a key that stands twice in one map, and where.
func twice(node *yaml.Node) (string, int) {
	if node.Kind == yaml.MappingNode {
		seen := map[string]bool{}
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i]
			if seen[key.Value] {
				return key.Value, key.Line
			}
			seen[key.Value] = true
		}
	}
	for _, child := range node.Content {
		if key, line := twice(child); key != "" {
			return key, line
		}
	}
	return "", 0
}

type unknownKey struct {
	path string
	line int
}

func unknownKeys(node *yaml.Node, known keys, at string) []unknownKey {
	var unknown []unknownKey
	for key, value := range entries(node) {
		below, is := known[key.Value]
		switch {
		case !is:
			unknown = append(unknown, unknownKey{at + key.Value, key.Line})
		case below != nil:
			unknown = append(unknown, unknownKeys(value, below, at+key.Value+".")...)
		}
	}
	return unknown
}

// entries iterates over a map. Anything else has none.
func entries(node *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		node = resolved(node)
		if node == nil || node.Kind != yaml.MappingNode {
			return
		}
		own := map[string]bool{}
		var merged []*yaml.Node
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], resolved(node.Content[i+1])
			if key.Tag == "!!merge" {
				merged = append(merged, value)
				merged = append(merged, items(value)...)
				continue
			}
			if own[key.Value] = true; !yield(key, value) {
				return
			}
		}
		// What a map takes over from others by <<, the first of them that has it.
		for _, from := range merged {
			for key, value := range entries(from) {
				if own[key.Value] {
					continue
				}
				if own[key.Value] = true; !yield(key, value) {
					return
				}
			}
		}
	}
}

func resolved(node *yaml.Node) *yaml.Node {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

// get returns what stands under a key of a map, nil if nothing does.
func get(node *yaml.Node, key string) *yaml.Node {
	for k, value := range entries(node) {
		if k.Value == key {
			return value
		}
	}
	return nil
}

// items are those of a list.
func items(node *yaml.Node) []*yaml.Node {
	if node = resolved(node); node == nil || node.Kind != yaml.SequenceNode {
		return nil
	}
	all := make([]*yaml.Node, len(node.Content))
	for i, item := range node.Content {
		all[i] = resolved(item)
	}
	return all
}

// scalar returns the text at a path, and its line; where it is missing, the line of what is above.
func scalar(node *yaml.Node, keys ...string) (string, int) {
	line := node.Line
	for _, key := range keys {
		next := get(node, key)
		if next == nil {
			return "", line
		}
		node, line = next, next.Line
	}
	if node.Kind != yaml.ScalarNode {
		return "", line
	}
	return node.Value, line
}

// ignore silences findings of a rule.
type ignore struct {
	ID     string
	File   string
	Text   string
	Reason string
	line   int
	used   bool
}

type ignores []*ignore

// readIgnores reads lint.ignore of csctl.yaml.
func (l *linter) readIgnores(config []byte) ignores {
	document := &yaml.Node{}
	if err := yaml.Unmarshal(config, document); err != nil || len(document.Content) == 0 {
		return nil // reported before
	}
	var all ignores
	for i, item := range items(get(get(document.Content[0], "lint"), "ignore")) {
		entry := &ignore{line: item.Line}
		fields := map[string]*string{"id": &entry.ID, "file": &entry.File, "text": &entry.Text, "reason": &entry.Reason}
		for key, value := range entries(item) {
			field, known := fields[key.Value]
			if !known {
				l.report("ignore", place{configFile, key.Line}, "lint.ignore[%d].%s: there are id, file, text and reason", i, key.Value)
				continue
			}
			*field = value.Value
		}
		switch {
		case !slices.ContainsFunc(rules, func(r Rule) bool { return r.ID == entry.ID }):
			l.report("ignore", place{configFile, item.Line}, "lint.ignore[%d]: there is no rule %q", i, entry.ID)
		case strings.TrimSpace(entry.Reason) == "":
			l.report("ignore", place{configFile, item.Line}, "lint.ignore[%d] (%s) gives no reason", i, entry.ID)
		default:
			all = append(all, entry)
		}
	}
	return all
}

// silence reports whether an entry silences a finding, and with which reason.
func (all ignores) silence(finding Finding) (reason string, silenced bool) {
	for _, entry := range all {
		if entry.ID == finding.Rule && inside(entry.File, finding.File) && strings.Contains(finding.Message, entry.Text) {
			entry.used = true
			reason, silenced = entry.Reason, true
		}
	}
	return reason, silenced
}

// inside reports whether a file is the given one, or in the given folder. Nothing given is everywhere.
func inside(given, file string) bool {
	given = path.Clean(given)
	return given == "." || file == given || strings.HasPrefix(file, given+"/")
}

// String names a place as editors understand it.
func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}
