// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/clusterstacks/cluster-stack-operator/internal/observe"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

var (
	conditionKeys = keys{"objects": nil, "conditions": {}}
	stageKeys     = keys{
		"name": {}, "action": {}, "waitForPreCondition": conditionKeys, "waitForPostCondition": conditionKeys,
		"waitForHealthy": {}, "capabilities": {},
	}
	objectKeys   = keys{"key": {}, "apiVersion": {}, "kind": {}, "name": {}, "namespace": {}}
	stagesKeys   = keys{"apiVersion": {}, "clusterAddonVersion": {}, "addonStages": nil}
	variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// checkStages checks the lists of stages. It reads them itself, as it has more to say than the first error, with lines.
func (l *linter) checkStages(file string, data []byte) {
	empty := &yaml.Node{}
	if yaml.Unmarshal(data, empty) == nil && (len(empty.Content) == 0 || empty.Content[0].Tag == "!!null") {
		l.report("stages-empty", place{file, 1}, "it says nothing: clusters get no addons")
		return
	}
	root, ok := l.parse("stages-malformed", file, data)
	if !ok {
		return
	}
	s := stages{linter: l, file: file, listed: map[string]bool{}, at: map[release.Point][]string{}}
	s.unknown(root, stagesKeys)
	lists := get(root, "addonStages")
	if lists == nil || len(lists.Content) == 0 {
		l.report("stages-empty", place{file, root.Line}, "addonStages has no stages: clusters get no addons")
		return
	}
	for point, list := range entries(lists) {
		s.point(point, list)
	}
	s.compare(lists)
}

type stages struct {
	*linter
	file string
	// listed are the addons that some list applies; at has those of each point.
	listed map[string]bool
	at     map[release.Point][]string
}

func (s *stages) unknown(node *yaml.Node, known keys) {
	for _, key := range unknownKeys(node, known, "") {
		s.report("stages-unknown-key", place{s.file, key.line}, "%s is ignored: there is no such key", key.path)
	}
}

func (s *stages) point(key, list *yaml.Node) {
	point := release.Point(key.Value)
	if !point.Known() {
		hint := ""
		for _, known := range sample.Points {
			if strings.EqualFold(string(known), key.Value) {
				hint = ": write " + string(known)
			}
		}
		s.report("hook-unknown", place{s.file, key.Line}, "%s is not a lifecycle point that stages run at%s", key.Value, hint)
	}
	if list.Kind != yaml.SequenceNode && list.Tag != "!!null" {
		s.report("stages-malformed", place{s.file, list.Line}, "%s is not a list of stages", key.Value)
		return
	}
	seen := map[string]bool{}
	for _, stage := range items(list) {
		if stage.Kind != yaml.MappingNode {
			s.report("stages-malformed", place{s.file, stage.Line}, "a stage is a map with name and action")
			continue
		}
		name, line := scalar(stage, "name")
		if seen[name] {
			s.report("stage-twice", place{s.file, line}, "addon %s stands in the list of %s twice", name, key.Value)
		}
		seen[name] = true
		s.stage(stage, point, name, line)
	}
}

func (s *stages) stage(stage *yaml.Node, point release.Point, name string, line int) {
	s.unknown(stage, stageKeys)
	switch {
	case !release.ValidFileName(name) || name == "":
		s.report("stage-name", place{s.file, line}, "%q is not the name of a folder", name)
		return
	case s.addons != nil && !slices.Contains(s.addons, name):
		if action, _ := scalar(stage, "action"); action != string(release.Delete) {
			s.report("stage-without-chart", place{s.file, line}, "there is no chart for addon %s", name)
		}
	}
	s.listed[name] = true
	action, at := scalar(stage, "action")
	if release.Action(action) != release.Delete { // one that is misspelt was meant to apply
		s.at[point] = append(s.at[point], name)
	}
	if release.Action(action) != release.Delete && release.Action(action) != release.Apply {
		s.report("stage-action", place{s.file, at}, "action %q of %s is neither apply nor delete", action, name)
	}
	if value, at := scalar(stage, "capabilities"); value != "" && value != string(release.ClusterCapabilities) {
		s.report("stages-malformed", place{s.file, at}, "capabilities %q of %s: there is %s, or leave it out", value, name, release.ClusterCapabilities)
	}
	if value := get(stage, "waitForHealthy"); value != nil && value.Tag != "!!bool" {
		s.report("stages-malformed", place{s.file, value.Line}, "waitForHealthy of %s is neither true nor false", name)
	}
	for _, key := range []string{"waitForPreCondition", "waitForPostCondition"} {
		if node := get(stage, key); node != nil {
			s.condition(node, name)
		}
	}
}

func (s *stages) condition(node *yaml.Node, addon string) {
	expression, line := scalar(node, "conditions")
	condition := &release.Condition{Expression: expression}
	for _, object := range items(get(node, "objects")) {
		s.unknown(object, objectKeys)
		text := func(key string) string { value, _ := scalar(object, key); return value }
		ref := release.ObjectRef{Key: text("key"), APIVersion: text("apiVersion"), Kind: text("kind"), Name: text("name"), Namespace: text("namespace")}
		if ref.APIVersion == "" || ref.Kind == "" || ref.Name == "" || !variableForm.MatchString(ref.Key) {
			s.report("stage-condition", place{s.file, object.Line}, "an object needs apiVersion, kind, name, and a key that can be the name of a variable")
			return
		}
		condition.Objects = append(condition.Objects, ref)
	}
	if strings.TrimSpace(expression) == "" {
		s.report("stage-condition", place{s.file, line}, "the condition of %s has no expression", addon)
		return
	}
	if _, err := observe.CompileGate(condition); err != nil {
		// The expression is quoted below the message, over several lines.
		reason, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "condition of the stage: "), "\n")
		s.report("stage-condition", place{s.file, line}, "the condition of %s cannot be evaluated: %s", addon, strings.TrimPrefix(reason, "ERROR: <input>:"))
	}
}

// compare compares the lists with one another and with the charts.
func (s *stages) compare(lists *yaml.Node) {
	for _, addon := range s.addons {
		if !s.listed[addon] {
			s.report("chart-without-stage", place{file: s.where.addon(addon)}, "no stage applies the addon %s", addon)
		}
	}
	upgrade, has := s.at[release.BeforeClusterUpgrade]
	var missing []string
	for addon := range s.listed {
		later := slices.ContainsFunc([]release.Point{
			release.BeforeControlPlaneUpgrade, release.AfterControlPlaneUpgrade, release.BeforeWorkersUpgrade, release.AfterWorkersUpgrade, release.AfterClusterUpgrade,
		}, func(point release.Point) bool { return slices.Contains(s.at[point], addon) })
		if slices.Contains(s.at[release.AfterControlPlaneInitialized], addon) && !slices.Contains(upgrade, addon) && !later {
			missing = append(missing, addon)
		}
	}
	if len(missing) == 0 {
		return
	}
	slices.Sort(missing)
	line := lists.Line
	for key := range entries(lists) {
		if key.Value == string(release.BeforeClusterUpgrade) {
			line = key.Line
		}
	}
	what := fmt.Sprintf("the list of %s lacks %s", release.BeforeClusterUpgrade, strings.Join(missing, ", "))
	if !has {
		what = fmt.Sprintf("no list of an upgrade has %s", strings.Join(missing, ", "))
	}
	s.report("upgrade-incomplete", place{s.file, line}, "%s", what)
}
