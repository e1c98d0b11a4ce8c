// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
)

// Point is a moment in the life of a cluster at which addons are applied. The names are those of the
// lifecycle hooks of Cluster API.
type Point string

// The lifecycle points, in the order in which a cluster passes them.
const (
	BeforeClusterCreate          Point = "BeforeClusterCreate"
	AfterControlPlaneInitialized Point = "AfterControlPlaneInitialized"
	BeforeClusterUpgrade         Point = "BeforeClusterUpgrade"
	BeforeControlPlaneUpgrade    Point = "BeforeControlPlaneUpgrade"
	AfterControlPlaneUpgrade     Point = "AfterControlPlaneUpgrade"
	BeforeWorkersUpgrade         Point = "BeforeWorkersUpgrade"
	AfterWorkersUpgrade          Point = "AfterWorkersUpgrade"
	AfterClusterUpgrade          Point = "AfterClusterUpgrade"
	BeforeClusterDelete          Point = "BeforeClusterDelete"
)

// points lists the lifecycle points in the order of a cluster's life.
var points = []Point{
	BeforeClusterCreate, AfterControlPlaneInitialized,
	BeforeClusterUpgrade, BeforeControlPlaneUpgrade, AfterControlPlaneUpgrade,
	BeforeWorkersUpgrade, AfterWorkersUpgrade, AfterClusterUpgrade,
	BeforeClusterDelete,
}

// Known reports whether p is a lifecycle point that stages can be run at.
func (p Point) Known() bool {
	// Before a cluster is created there is nothing to apply addons to.
	return p != BeforeClusterCreate && slices.Contains(points, p)
}

// Action is what a stage does with its addon.
type Action string

// What a stage can do.
const (
	Apply  Action = "apply"
	Delete Action = "delete"
)

// Stage is one step at a lifecycle point: an addon that is applied or deleted, and what is waited for
// before and after it.
type Stage struct {
	// Name of the addon: the folder of its chart.
	Name   string
	Action Action
	// PreCondition and PostCondition are nil where nothing is waited for.
	PreCondition  *Condition
	PostCondition *Condition
	// WaitForHealthy asks to wait until all objects of the addon are healthy.
	WaitForHealthy bool
	// Capabilities is where the chart's list of APIs comes from.
	Capabilities Capabilities
}

// Capabilities says which APIs a chart sees as served, in .Capabilities.APIVersions.
type Capabilities string

// Where the list of APIs can come from.
const (
	// StandardCapabilities are those of Helm when it has no cluster, and what the release itself defines.
	StandardCapabilities Capabilities = ""
	// ClusterCapabilities are what the workload cluster serves.
	ClusterCapabilities Capabilities = "cluster"
)

// Condition is an expression over objects of the workload cluster that must become true.
type Condition struct {
	Objects []ObjectRef
	// Expression in CEL, over variables named by the keys of Objects.
	Expression string
}

// ObjectRef names an object of the workload cluster.
type ObjectRef struct {
	// Key is the variable that holds the object in the expression.
	Key        string
	APIVersion string
	Kind       string
	Name       string
	// Namespace is empty for objects of the cluster as a whole.
	Namespace string
}

// stagesFile is clusteraddon.yaml. Its apiVersion is not looked at: it has never been checked, and
// releases carry different ones.
type stagesFile struct {
	APIVersion          string                 `json:"apiVersion"`
	ClusterAddonVersion string                 `json:"clusterAddonVersion"`
	AddonStages         map[string][]stageItem `json:"addonStages"`
}

type stageItem struct {
	Name           string         `json:"name"`
	Action         Action         `json:"action"`
	PreCondition   *conditionItem `json:"waitForPreCondition"`
	PostCondition  *conditionItem `json:"waitForPostCondition"`
	WaitForHealthy bool           `json:"waitForHealthy"`
	Capabilities   Capabilities   `json:"capabilities"`
}

type conditionItem struct {
	Objects []struct {
		Key        string `json:"key"`
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		Namespace  string `json:"namespace"`
	} `json:"objects"`
	Conditions string `json:"conditions"`
}

// parseStages reads clusteraddon.yaml. Problems that a cluster can live with are returned as warnings.
func parseStages(data []byte) (stages map[Point][]Stage, warnings []string, err error) {
	var file stagesFile
	// Strict about keys that stand twice, where one list would silently replace the other.
	document, err := foreignyaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(document, &file); err != nil {
		return nil, nil, err
	}
	if unknown := unknownKey(document); unknown != "" {
		warnings = append(warnings, unknown)
	}
	if len(file.AddonStages) == 0 {
		warnings = append(warnings, "addonStages is empty: the release has no addons")
	}

	stages = map[Point][]Stage{}
	for _, hook := range slices.Sorted(maps.Keys(file.AddonStages)) {
		point := Point(hook)
		if !point.Known() {
			warnings = append(warnings, unknownPoint(hook))
			continue
		}
		list, err := parseStageList(file.AddonStages[hook])
		if err != nil {
			return nil, nil, fmt.Errorf("addonStages.%s%w", hook, err)
		}
		stages[point] = list
	}
	return stages, warnings, nil
}

// unknownKey returns a warning about the first key that we do not know, or "". Such keys are not
// refused, because a later version of the format may add some; but a misspelt condition would
// otherwise go without a trace.
func unknownKey(document []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&stagesFile{}); err != nil {
		return strings.TrimPrefix(err.Error(), "json: ") + " is ignored"
	}
	return ""
}

func unknownPoint(hook string) string {
	if Point(hook) == BeforeClusterCreate {
		return "addonStages.BeforeClusterCreate: no addon can be applied before the cluster exists: its stages never run"
	}
	for _, p := range points {
		if strings.EqualFold(hook, string(p)) {
			return fmt.Sprintf("addonStages.%s is not a lifecycle point, its stages never run: write %s", hook, p)
		}
	}
	return fmt.Sprintf("addonStages.%s is not a lifecycle point, its stages never run", hook)
}

func parseStageList(items []stageItem) ([]Stage, error) {
	seen := map[string]bool{}
	list := make([]Stage, 0, len(items))
	for i, item := range items {
		at := fmt.Sprintf("[%d]", i)
		if !validFileName(item.Name) {
			return nil, fmt.Errorf("%s: name %q is not the name of a folder in the addon archive", at, item.Name)
		}
		at += " (" + item.Name + ")"
		if seen[item.Name] {
			return nil, fmt.Errorf("%s: the addon stands in this list twice", at)
		}
		seen[item.Name] = true
		if item.Action != Apply && item.Action != Delete {
			return nil, fmt.Errorf("%s: action %q is neither %q nor %q", at, item.Action, Apply, Delete)
		}
		if item.Capabilities != StandardCapabilities && item.Capabilities != ClusterCapabilities {
			return nil, fmt.Errorf("%s: capabilities %q: write %q, or leave it out", at, item.Capabilities, ClusterCapabilities)
		}
		pre, err := parseCondition(item.PreCondition)
		if err != nil {
			return nil, fmt.Errorf("%s: waitForPreCondition: %w", at, err)
		}
		post, err := parseCondition(item.PostCondition)
		if err != nil {
			return nil, fmt.Errorf("%s: waitForPostCondition: %w", at, err)
		}
		list = append(list, Stage{
			Name:           item.Name,
			Action:         item.Action,
			PreCondition:   pre,
			PostCondition:  post,
			WaitForHealthy: item.WaitForHealthy,
			Capabilities:   item.Capabilities,
		})
	}
	return list, nil
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func parseCondition(item *conditionItem) (*Condition, error) {
	if item == nil {
		return nil, nil
	}
	if strings.TrimSpace(item.Conditions) == "" {
		return nil, fmt.Errorf("conditions is empty: write the expression to wait for")
	}
	condition := &Condition{Expression: item.Conditions}
	keys := map[string]bool{}
	for i, object := range item.Objects {
		switch {
		case !variableForm.MatchString(object.Key):
			return nil, fmt.Errorf("objects[%d]: key %q cannot be the name of a variable", i, object.Key)
		case keys[object.Key]:
			return nil, fmt.Errorf("objects[%d]: key %q stands for two objects", i, object.Key)
		case object.APIVersion == "" || object.Kind == "" || object.Name == "":
			return nil, fmt.Errorf("objects[%d]: apiVersion, kind and name are all needed", i)
		}
		keys[object.Key] = true
		condition.Objects = append(condition.Objects, ObjectRef{
			Key:        object.Key,
			APIVersion: object.APIVersion,
			Kind:       object.Kind,
			Name:       object.Name,
			Namespace:  object.Namespace,
		})
	}
	return condition, nil
}

// addonsOf returns the addons that a cluster has once it has passed all points: of the points that an
// addon is named at, the last one decides. What happens when a cluster is deleted does not count.
func addonsOf(stages map[Point][]Stage) []string {
	present := map[string]bool{}
	for _, point := range points {
		if point == BeforeClusterDelete {
			continue
		}
		for _, stage := range stages[point] {
			present[stage.Name] = stage.Action == Apply
		}
	}
	var addons []string
	for addon, is := range present {
		if is {
			addons = append(addons, addon)
		}
	}
	slices.Sort(addons)
	return addons
}
