// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const gatedStages = `
apiVersion: clusteraddonconfig.x-k8s.io/v1alpha1
clusterAddonVersion: clusteraddons.clusterstack.x-k8s.io/v1alpha1
addonStages:
  AfterControlPlaneInitialized:
    - name: cni
      action: apply
      waitForHealthy: true
      capabilities: cluster
    - name: metrics-server
      action: apply
      waitForPreCondition:
        objects:
          - key: a
            apiVersion: apps/v1
            kind: Deployment
            name: coredns
            namespace: kube-system
          - key: b
            apiVersion: v1
            kind: Node
            name: one
        conditions: a.spec.replicas == b.spec.replicas
  BeforeClusterUpgrade:
    - name: old
      action: delete
`

func TestParseStages(t *testing.T) {
	got, warnings, err := parseStages([]byte(gatedStages))
	if err != nil || warnings != nil {
		t.Fatalf("got warnings %q, error %v", warnings, err)
	}
	want := map[Point][]Stage{
		AfterControlPlaneInitialized: {
			{Name: "cni", Action: Apply, WaitForHealthy: true, Capabilities: ClusterCapabilities},
			{Name: "metrics-server", Action: Apply, PreCondition: &Condition{
				Objects: []ObjectRef{
					{Key: "a", APIVersion: "apps/v1", Kind: "Deployment", Name: "coredns", Namespace: "kube-system"},
					{Key: "b", APIVersion: "v1", Kind: "Node", Name: "one"},
				},
				Expression: "a.spec.replicas == b.spec.replicas",
			}},
		},
		BeforeClusterUpgrade: {{Name: "old", Action: Delete}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseStagesRefuses(t *testing.T) {
	list := func(items string) string {
		return "addonStages:\n  AfterControlPlaneInitialized:\n" + items
	}
	condition := func(text string) string {
		return list("  - {name: cni, action: apply, waitForPostCondition: " + text + "}\n")
	}
	for name, tt := range map[string]struct {
		why, give, want string
	}{
		"NoYAML":           {give: "a: [", want: "yaml"},
		"ListInsteadOfMap": {give: "addonStages: []", want: "cannot unmarshal"},
		"NoAction":         {why: "it used to delete the addon", give: list("  - name: cni\n"), want: `[0] (cni): action "" is neither`},
		"MisspeltAction":   {give: list("  - {name: cni, action: aply}\n"), want: `action "aply"`},
		"CapitalAction":    {give: list("  - {name: cni, action: Apply}\n"), want: `action "Apply"`},
		"AddonTwice":       {give: list("  - {name: cni, action: apply}\n  - {name: cni, action: delete}\n"), want: "[1] (cni): the addon stands in this list twice"},
		"ListTwice":        {why: "one would replace the other", give: list("  - {name: cni, action: apply}\n  AfterControlPlaneInitialized: []\n"), want: "already set in map"},
		"NoName":           {give: list("  - action: apply\n"), want: `name ""`},
		"NameIsPath":       {give: list("  - {name: ../cni, action: apply}\n"), want: "not the name of a folder"},
		"NoExpression":     {give: condition("{objects: []}"), want: "waitForPostCondition: conditions is empty"},
		"ExpressionIsList": {give: condition("{conditions: [a]}"), want: "cannot unmarshal"},
		"BadKey":           {give: condition("{conditions: x, objects: [{key: a-b, apiVersion: v1, kind: A, name: a}]}"), want: `key "a-b"`},
		"KeyTwice":         {give: condition("{conditions: x, objects: [{key: a, apiVersion: v1, kind: A, name: a}, {key: a, apiVersion: v1, kind: A, name: b}]}"), want: "stands for two objects"},
		"NoKind":           {give: condition("{conditions: x, objects: [{key: a, apiVersion: v1, name: a}]}"), want: "are all needed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parseStages([]byte(tt.give))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want %q", tt.why, err, tt.want)
			}
		})
	}
}

func TestParseStagesWarns(t *testing.T) {
	for name, tt := range map[string]struct {
		why, give, want string
	}{
		"UnknownPoint":        {give: "addonStages: {AtFullMoon: [{name: cni}]}", want: "addonStages.AtFullMoon is not a lifecycle point, its stages never run"},
		"MisspeltPoint":       {give: "addonStages: {afterclusterupgrade: []}", want: "write AfterClusterUpgrade"},
		"BeforeClusterCreate": {give: "addonStages: {BeforeClusterCreate: [{name: cni, action: apply}]}", want: "no addon can be applied before"},
		"NoStages":            {give: "addonStages: {}", want: "the release has no addons"},
		"UnknownKey": {
			why:  "a misspelt gate would be no gate",
			give: "addonStages: {AfterClusterUpgrade: [{name: cni, action: apply, waitForPostConditon: {conditions: x}}]}",
			want: `unknown field "waitForPostConditon" is ignored`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := parseStages([]byte(tt.give))
			if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], tt.want) {
				t.Errorf("%s: got warnings %q, error %v; want %q", tt.why, warnings, err, tt.want)
			}
		})
	}
}

func TestAddonsOf(t *testing.T) {
	apply := func(names ...string) (stages []Stage) {
		for _, n := range names {
			stages = append(stages, Stage{Name: n, Action: Apply})
		}
		return stages
	}
	remove := func(name string) []Stage { return []Stage{{Name: name, Action: Delete}} }
	for name, tt := range map[string]struct {
		why  string
		give map[Point][]Stage
		want []string
	}{
		"None":               {},
		"UnionOverPoints":    {why: "no single list is the whole set", give: map[Point][]Stage{AfterControlPlaneInitialized: apply("b", "a"), AfterClusterUpgrade: apply("c")}, want: []string{"a", "b", "c"}},
		"DeletedLater":       {give: map[Point][]Stage{AfterControlPlaneInitialized: apply("a", "b"), BeforeClusterUpgrade: remove("a")}, want: []string{"b"}},
		"DeletedThenApplied": {why: "so an addon that cannot be changed is replaced", give: map[Point][]Stage{BeforeClusterUpgrade: remove("a"), AfterClusterUpgrade: apply("a")}, want: []string{"a"}},
		"DeletedWithCluster": {why: "it is there until then", give: map[Point][]Stage{AfterControlPlaneInitialized: apply("a"), BeforeClusterDelete: remove("a")}, want: []string{"a"}},
		"AppliedForDeletion": {why: "it is not there before", give: map[Point][]Stage{BeforeClusterDelete: apply("a")}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, addonsOf(tt.give)); diff != "" {
				t.Errorf("%s: %s", tt.why, diff)
			}
		})
	}
}

func FuzzParseStages(f *testing.F) {
	f.Add([]byte(gatedStages))
	f.Add([]byte("addonStages: {AfterClusterUpgrade: [null, {}]}"))
	f.Add([]byte("addonStages: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		stages, _, err := parseStages(data)
		if err != nil {
			return
		}
		for point, list := range stages {
			for _, stage := range list {
				if !point.Known() || !validFileName(stage.Name) || stage.Action != Apply && stage.Action != Delete {
					t.Errorf("got through: %s %#v", point, stage)
				}
			}
		}
	})
}

func FuzzParseMetadata(f *testing.F) {
	f.Add([]byte("versions: {clusterStack: v1, kubernetes: v1.35.4, components: {clusterAddon: v1, nodeImage: v0-sha.abc}}"))
	f.Add([]byte("versions: []"))
	f.Fuzz(func(t *testing.T, data []byte) {
		metadata, err := parseMetadata(data)
		if err == nil && !strings.HasPrefix(metadata.Kubernetes, "v") {
			t.Errorf("got through: %#v", metadata)
		}
	})
}
