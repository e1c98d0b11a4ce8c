// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package compare_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/compare"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

var update = flag.Bool("update", false, "write the golden files of this test")

// side makes a side of a comparison. $V in manifests is the name of the class.
type side struct {
	tag        string
	kubernetes string
	class      string
	addons     map[string]string
	charts     map[string]compare.Chart
	stages     map[release.Point][]release.Stage
	patches    string
}

func (s side) side(t *testing.T) compare.Side {
	t.Helper()
	name, err := release.ParseName(s.tag)
	if err != nil {
		t.Fatal(err)
	}
	patches, err := release.ParsePatches(s.patches)
	if err != nil {
		t.Fatal(err)
	}
	made := compare.Side{Name: name, Metadata: release.Metadata{
		ClusterStack: name.Version, ClusterAddon: name.Version, NodeImage: &name.Version, Kubernetes: s.kubernetes, Patches: patches,
	}}
	if made.Metadata.Kubernetes == "" {
		made.Metadata.Kubernetes = "v1.35.4"
	}
	made.Class = compare.Part{
		Chart:   compare.Chart{Name: name.Prefix() + "-cluster-class", Version: name.Version.String()},
		Objects: objects(t, strings.ReplaceAll(s.class, "$V", name.ClassName())),
	}
	for _, addon := range keys(s.addons) {
		chart, given := s.charts[addon]
		if !given {
			chart = compare.Chart{Name: addon, Version: name.Version.String()}
		}
		text := strings.ReplaceAll(s.addons[addon], "$V", name.ClassName())
		text = strings.ReplaceAll(text, "$C", chart.Name+"-"+chart.Version)
		made.Addons = append(made.Addons, compare.Addon{Name: addon, Part: compare.Part{Chart: chart, Objects: objects(t, text)}})
	}
	for _, point := range []release.Point{release.AfterControlPlaneInitialized, release.BeforeClusterUpgrade} {
		if stages := s.stages[point]; len(stages) > 0 {
			made.Stages = append(made.Stages, compare.Stages{Point: point, Stages: stages})
		}
	}
	return made
}

func keys[V any](m map[string]V) []string {
	var all []string
	for key := range m {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

func objects(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, text := range strings.Split(manifests, "---\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		data, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(data); err != nil {
			t.Fatal(err)
		}
		all = append(all, obj)
	}
	return all
}

const class = `
{apiVersion: cluster.x-k8s.io/v1beta2, kind: ClusterClass, metadata: {name: $V}, spec: {
  infrastructure: {templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevClusterTemplate, name: $V-cluster}},
  controlPlane: {
    templateRef: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: $V-cp},
    machineInfrastructure: {templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevMachineTemplate, name: $V-cp}}},
  workers: {machineDeployments: [{class: small,
    bootstrap: {templateRef: {apiVersion: bootstrap.cluster.x-k8s.io/v1beta2, kind: KubeadmConfigTemplate, name: $V-small}},
    infrastructure: {templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevMachineTemplate, name: $V-small}}}]},
  variables: [{name: repository, required: false, schema: {openAPIV3Schema: {type: string}}}],
  patches: [{name: repository, definitions: [{selector: {kind: KubeadmControlPlaneTemplate, matchResources: {controlPlane: true}}, jsonPatches: [{op: add, path: /a}]}]}]}}
---
{apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevClusterTemplate, metadata: {name: $V-cluster}, spec: {template: {spec: {cluster: a}}}}
---
{apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, metadata: {name: $V-cp, labels: {x: cp}}, spec: {template: {spec: {rollout: {maxSurge: 1}, kubeadmConfigSpec: {clusterConfiguration: {a: cluster}, initConfiguration: {a: init}}}}}}
---
{apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevMachineTemplate, metadata: {name: $V-cp}, spec: {template: {spec: {image: cp-image}}}}
---
{apiVersion: bootstrap.cluster.x-k8s.io/v1beta2, kind: KubeadmConfigTemplate, metadata: {name: $V-small}, spec: {template: {spec: {joinConfiguration: {a: join}}}}}
---
{apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevMachineTemplate, metadata: {name: $V-small}, spec: {template: {spec: {image: small-image}}}}
`

// replaced replaces parts of the class; each must be there.
func replaced(t *testing.T, pairs ...string) string {
	t.Helper()
	text := class
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the class has no %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

func TestMachines(t *testing.T) {
	const untouched, inPlace, may, yes = compare.Untouched, compare.InPlace, compare.MayReplace, compare.Replaced
	for name, tt := range map[string]struct {
		why        string
		change     []string
		kubernetes string
		patches    string
		want       [3]compare.Effect // infrastructure, control plane, workers
		// renamed says that something changes although it touches no machine.
		renamed bool
	}{
		"NamesOnly": {
			why:  "Cluster API compares contents under the name of the copy that the cluster has.",
			want: [3]compare.Effect{untouched, untouched, untouched},
		},
		"OtherNamesForTheSame": {
			why:    "What a template is for is said by the class.",
			change: []string{"$V-small", "$V-another"}, renamed: true,
			want: [3]compare.Effect{untouched, untouched, untouched},
		},
		"MachinesOfWorkers":        {change: []string{"small-image", "other"}, want: [3]compare.Effect{untouched, untouched, yes}},
		"BootstrapOfWorkers":       {change: []string{"a: join", "a: other"}, want: [3]compare.Effect{untouched, untouched, yes}},
		"MachinesOfControlPlane":   {change: []string{"cp-image", "other"}, want: [3]compare.Effect{untouched, yes, untouched}},
		"Kubeadm":                  {change: []string{"a: cluster", "a: other"}, want: [3]compare.Effect{untouched, yes, untouched}},
		"KubeadmOfTheFirstMachine": {change: []string{"a: init", "a: other"}, want: [3]compare.Effect{untouched, may, untouched}},
		"DNS": {
			why:    "Cluster API changes it in the cluster itself.",
			change: []string{"a: cluster", "a: cluster, dns: {imageTag: v1}"}, want: [3]compare.Effect{untouched, inPlace, untouched},
		},
		"DiscoveryOfTheControlPlane": {
			why:    "It counts for machines that are still to join.",
			change: []string{"initConfiguration:", "joinConfiguration: {discovery: {tlsBootstrapToken: x}}, initConfiguration:"}, want: [3]compare.Effect{untouched, inPlace, untouched},
		},
		"BootstrapOfAnotherKind": {
			why:    "Cluster API allows that, and makes new machines.",
			change: []string{"kind: KubeadmConfigTemplate", "kind: OtherConfigTemplate"}, want: [3]compare.Effect{untouched, untouched, yes},
		},
		"TemplateThatSomebodyElseBrings": {
			change: []string{"kind: DevMachineTemplate, name: $V-small}}", "kind: DevMachineTemplate, name: elsewhere}}"},
			want:   [3]compare.Effect{untouched, untouched, may},
		},
		"PatchOfTheInfrastructure": {
			change: []string{"matchResources: {controlPlane: true}", "matchResources: {controlPlane: true, infrastructureCluster: true}"},
			want:   [3]compare.Effect{inPlace, may, untouched},
		},
		"RolloutOfControlPlane": {change: []string{"maxSurge: 1", "maxSurge: 0"}, want: [3]compare.Effect{untouched, inPlace, untouched}},
		"LabelsOfATemplate": {
			why:    "Where only metadata differ, the copy is patched.",
			change: []string{"x: cp", "x: other"}, want: [3]compare.Effect{untouched, inPlace, untouched},
		},
		"Infrastructure": {change: []string{"cluster: a", "cluster: b"}, want: [3]compare.Effect{inPlace, untouched, untouched}},
		"VersionInASpec": {
			why:    "The spec differs, whatever stands in it.",
			change: []string{"a: join", "a: $V"}, want: [3]compare.Effect{untouched, untouched, yes},
		},
		"Patch":         {change: []string{"path: /a", "path: /b"}, want: [3]compare.Effect{untouched, may, untouched}},
		"FailureDomain": {change: []string{"class: small", "failureDomain: a, class: small"}, want: [3]compare.Effect{untouched, untouched, yes}},
		"Kubernetes":    {kubernetes: "v1.35.5", want: [3]compare.Effect{untouched, yes, yes}},
		"KubernetesThatAClusterMayKeep": {
			kubernetes: "v1.35.5", patches: "any", want: [3]compare.Effect{untouched, may, may},
		},
		"AnotherVersionOfTheAPI": {
			change: []string{"apiVersion: bootstrap.cluster.x-k8s.io/v1beta2, kind: KubeadmConfigTemplate, metadata", "apiVersion: bootstrap.cluster.x-k8s.io/v1beta1, kind: KubeadmConfigTemplate, metadata", "a: join", "b: join"},
			want:   [3]compare.Effect{untouched, untouched, may},
		},
	} {
		t.Run(name, func(t *testing.T) {
			from := side{tag: "docker-scs-1-35-v1", class: replaced(t)}.side(t)
			to := side{tag: "docker-scs-1-35-v2", class: replaced(t, tt.change...), kubernetes: tt.kubernetes, patches: tt.patches}.side(t)
			c := compare.Releases(from, to)
			var got [3]compare.Effect
			for i, m := range c.Machines {
				got[i] = m.Effect
			}
			if got != tt.want {
				t.Errorf("%v, want %v: %s\n%+v", got, tt.want, tt.why, c.Machines)
			}
			if same := tt.want == [3]compare.Effect{untouched, untouched, untouched} && !tt.renamed; c.Same != same {
				t.Errorf("the releases are the same: %t, want %t", c.Same, same)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	const deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: ns}, spec: {selector: {matchLabels: {a: $A}}}}"
	for name, tt := range map[string]struct {
		from, to side
		want     string
	}{
		"WorkerClassIsGone":     {to: side{class: replaced(t, "class: small", "class: large")}, want: "worker class small: it is gone"},
		"OtherKindOfTemplate":   {to: side{class: replaced(t, "DevMachineTemplate", "OtherMachineTemplate")}, want: "DevMachineTemplate.infrastructure.cluster.x-k8s.io to OtherMachineTemplate"},
		"KubernetesGoesBack":    {to: side{class: class, kubernetes: "v1.35.0"}, want: "does not let a Cluster go back from v1.35.4 to v1.35.0"},
		"MinorVersionIsSkipped": {to: side{tag: "docker-scs-1-37-v1", class: class, kubernetes: "v1.37.0"}, want: "minor versions are left out"},
		"SameNameInTheClass": {
			from: side{class: replaced(t, "$V-small", "small")}, to: side{class: replaced(t, "$V-small", "small", "small-image", "other")},
			want: "DevMachineTemplate small: it has the same name in both releases and another content",
		},
		"Selector": {
			from: side{class: class, addons: map[string]string{"x": strings.ReplaceAll(deployment, "$A", "a")}},
			to:   side{class: class, addons: map[string]string{"x": strings.ReplaceAll(deployment, "$A", "b")}},
			want: "Deployment ns/x: spec.selector.matchLabels.a cannot be changed: the operator reports that (reason ImmutableFieldChanged); leave",
		},
		"SelectorThatMayBeMadeAnew": {
			from: side{class: class, addons: map[string]string{"x": strings.ReplaceAll(deployment, "$A", "a")}},
			to: side{class: class, addons: map[string]string{"x": strings.ReplaceAll(strings.ReplaceAll(deployment, "$A", "b"),
				"namespace: ns", "namespace: ns, annotations: {clusterstack.x-k8s.io/recreate: allowed}")}},
			want: "deletes the object and makes it anew",
		},
		"ImmutableConfigMap": {
			from: side{class: class, addons: map[string]string{"x": "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, immutable: true, data: {a: b}}"}},
			to:   side{class: class, addons: map[string]string{"x": "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, immutable: true, data: {a: c}}"}},
			want: "ConfigMap x: data.a cannot be changed",
		},
		"ImmutableConfigMapThatIsNoMore": {
			from: side{class: class, addons: map[string]string{"x": "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, immutable: true, data: {a: b}}"}},
			to:   side{class: class, addons: map[string]string{"x": "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b}}"}},
			want: "ConfigMap x: immutable cannot be changed",
		},
		"InAnotherAddon": {
			from: side{class: class, addons: map[string]string{"x": strings.ReplaceAll(deployment, "$A", "a")}},
			to:   side{class: class, addons: map[string]string{"y": strings.ReplaceAll(deployment, "$A", "b")}},
			want: "Deployment ns/x: spec.selector.matchLabels.a cannot be changed",
		},
		"VersionOfAKindIsGone": {
			from: side{class: class, addons: map[string]string{"x": kind("{name: v1, served: true}, {name: v1alpha1, served: true}")}},
			to:   side{class: class, addons: map[string]string{"x": kind("{name: v1, served: true}")}},
			want: "CustomResourceDefinition things.example.com: version v1alpha1 is gone: the API server refuses that as long as status.storedVersions",
		},
		"VersionOfAKindIsNotServed": {
			from: side{class: class, addons: map[string]string{"x": kind("{name: v1, served: true}, {name: v1alpha1, served: true}")}},
			to:   side{class: class, addons: map[string]string{"x": kind("{name: v1, served: true}, {name: v1alpha1, served: false}")}},
			want: "CustomResourceDefinition things.example.com: version v1alpha1 is not served any more",
		},
		"LaterPatchVersionIsNotAllowedAnyMore": {
			from: side{class: class, patches: "4-9"}, to: side{class: class, kubernetes: "v1.35.6"},
			want: "Kubernetes: Clusters that have a later version than v1.35.6 cannot change to this release",
		},
		"Claim": {
			from: side{class: class, addons: map[string]string{"x": "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {storageClassName: a}}"}},
			to:   side{class: class, addons: map[string]string{"x": "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {storageClassName: b}}"}},
			want: "never makes the object anew",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.from.class == "" {
				tt.from.class = class
			}
			tt.from.tag = "docker-scs-1-35-v1"
			if tt.to.tag == "" {
				tt.to.tag = "docker-scs-1-35-v2"
			}
			c := compare.Releases(tt.from.side(t), tt.to.side(t))
			if !slices.ContainsFunc(c.Problems, func(p compare.Problem) bool { return strings.Contains(p.Subject+": "+p.Message, tt.want) }) {
				t.Errorf("no problem says %q: %+v", tt.want, c.Problems)
			}
		})
	}
}

func kind(versions string) string {
	return "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.example.com}, spec: {versions: [" + versions + "]}}"
}

func TestPatchVersionsThatAreAllowed(t *testing.T) {
	from := side{tag: "docker-scs-1-35-v1", class: class}.side(t)
	to := side{tag: "docker-scs-1-35-v2", class: class, patches: "any"}.side(t)
	c := compare.Releases(from, to)
	if c.Same || c.Patches == nil || c.Patches.To != "any" || len(c.Problems) > 0 {
		t.Errorf("same: %t, patches: %+v, problems: %+v", c.Same, c.Patches, c.Problems)
	}
	if told := c.Text(compare.TextOptions{}); !strings.Contains(told, "~ other patch versions of Kubernetes none -> any") {
		t.Errorf("told:\n%s", told)
	}
}

func TestWhatAChangeOfAVariableAsksFor(t *testing.T) {
	with := func(schema string) string {
		return replaced(t, "{name: repository, required: false, schema: {openAPIV3Schema: {type: string}}}", "{name: v, required: false, schema: {openAPIV3Schema: {"+schema+"}}}")
	}
	for name, tt := range map[string]struct{ from, to, consequence, note string }{
		"Default":           {"type: string, default: a", "type: string, default: b", "", "new Clusters only"},
		"DefaultOfAField":   {"type: object, properties: {a: {default: 1}}", "type: object, properties: {a: {default: 2}}", "", "new Clusters only"},
		"FieldNamedDefault": {"type: object, properties: {default: {description: a}}", "type: object, properties: {default: {description: b}}", "", ""},
		"ValueIsGone":       {"type: string, enum: [a, b]", "type: string, enum: [a]", "(enum)", ""},
		"OneMoreValue":      {"type: string, enum: [a]", "type: string, enum: [a, b]", "", ""},
		"Shorter":           {"type: string, maxLength: 9", "type: string, maxLength: 8", "(maxLength)", ""},
		"Longer":            {"type: string, maxLength: 8", "type: string, maxLength: 9", "", ""},
		"AtLeastMore":       {"type: integer, minimum: 1", "type: integer, minimum: 2", "(minimum)", ""},
		"NoLimitAnyMore":    {"type: integer, minimum: 1", "type: integer", "", ""},
		"Pattern":           {"type: string", "type: string, pattern: x", "(pattern)", ""},
		"Type":              {"type: string", "type: integer", "(type)", ""},
		"FieldIsGone":       {"type: object, properties: {a: {}, b: {}}", "type: object, properties: {a: {}}", "(properties)", ""},
		"FieldIsNew":        {"type: object, properties: {a: {}}", "type: object, properties: {a: {}, pattern: {}}", "", ""},
		"FieldIsRequired":   {"type: object, required: [a]", "type: object, required: [a, b]", "(required)", ""},
		"Rule":              {"type: string", "type: string, x-kubernetes-validations: [{rule: self != ''}]", "(x-kubernetes-validations)", ""},
		"Description":       {"type: string, description: a", "type: string, description: b", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := compare.Releases(side{tag: "docker-scs-1-35-v1", class: with(tt.from)}.side(t), side{tag: "docker-scs-1-35-v2", class: with(tt.to)}.side(t))
			if len(c.Variables) != 1 {
				t.Fatalf("variables: %+v", c.Variables)
			}
			v := c.Variables[0]
			if !strings.Contains(v.Consequence, tt.consequence) || (tt.consequence == "") != (v.Consequence == "") {
				t.Errorf("consequence %q, want %q", v.Consequence, tt.consequence)
			}
			if !strings.Contains(v.Note, tt.note) || (tt.note == "") != (v.Note == "") {
				t.Errorf("note %q, want %q", v.Note, tt.note)
			}
		})
	}
}

// An addon that is called otherwise is the same objects, of which only what changes is told.
func TestAnAddonThatIsRenamedKeepsItsObjects(t *testing.T) {
	objects := func(image string) string {
		return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: ns}, spec: {template: {spec: {containers: [{name: main, image: '" + image + "'}]}}}}\n---\n" +
			"{apiVersion: v1, kind: ServiceAccount, metadata: {name: x, namespace: ns}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: ns}}"
	}
	c := compare.Releases(
		side{tag: "docker-scs-1-35-v1", class: class, addons: map[string]string{"old": objects("a:1")}}.side(t),
		side{tag: "docker-scs-1-35-v2", class: class, addons: map[string]string{"new": objects("a:2")}}.side(t),
	)
	if c.Same || len(c.Addons) != 2 || c.Addons[0].Change != compare.Added || c.Addons[1].Change != compare.Removed {
		t.Fatalf("addons: %+v", c.Addons)
	}
	var got []string
	for _, addon := range c.Addons {
		for _, o := range addon.Objects {
			got = append(got, strings.TrimSpace(strings.Join([]string{o.Kind, string(o.Change), o.FromAddon, o.ToAddon}, " ")))
			if o.Kind == "Deployment" && o.FromAddon != "" && (!o.Restarts || len(o.Fields) != 1 || o.Fields[0].Path != "spec.template.spec.containers[main].image") {
				t.Errorf("of the Deployment is told: %+v", o)
			}
		}
	}
	want := []string{
		"ConfigMap same old", "Deployment changed old", "ServiceAccount same old",
		"ConfigMap removed  new", "Deployment removed  new", "ServiceAccount removed  new",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	told := c.Text(compare.TextOptions{})
	for _, line := range []string{
		"+ addon new: new, 3 objects, 3 from another addon", "- addon old: removed with 3 objects, 3 to another addon",
		"~ ConfigMap ns/x, comes over from addon old", "- ConfigMap ns/x, goes over to addon new",
	} {
		if !strings.Contains(told, line) {
			t.Errorf("it does not say %q:\n%s", line, told)
		}
	}
}

func TestFields(t *testing.T) {
	object := func(content string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, labels: {chart: $C}}, content: " + content + "}"
	}
	changed := func(path string, old, next any) compare.Field {
		return compare.Field{Path: path, Change: compare.Changed, Old: old, New: next}
	}
	for name, tt := range map[string]struct {
		from, to string
		want     []compare.Field
	}{
		"Value": {"{a: 1}", "{a: 2}", []compare.Field{changed("content.a", int64(1), int64(2))}},
		"AddedAndRemoved": {"{a: x}", "{b.c/d: x}", []compare.Field{
			{Path: "content.a", Change: compare.Removed, Old: "x"}, {Path: `content["b.c/d"]`, Change: compare.Added, New: "x"},
		}},
		"NamedItems": {"[{name: a, v: 1}, {name: b, v: 1}]", "[{name: b, v: 2}, {name: c}]", []compare.Field{
			{Path: "content[a]", Change: compare.Removed, Old: map[string]any{"name": "a", "v": int64(1)}},
			changed("content[b].v", int64(1), int64(2)),
			{Path: "content[c]", Change: compare.Added, New: map[string]any{"name": "c"}},
		}},
		"NamedItemsInAnotherOrder": {"[{name: a}, {name: b}]", "[{name: b}, {name: a}]", []compare.Field{
			{Path: "content", Change: compare.Reordered, Old: []any{"a", "b"}, New: []any{"b", "a"}},
		}},
		"NamesThatStandTwice": {"[{name: a, v: 1}, {name: a, v: 2}]", "[{name: a, v: 1}, {name: a, v: 3}]", []compare.Field{changed("content[1].v", int64(2), int64(3))}},
		"ArgumentInTheMiddle": {"[--a, --b, --c]", "[--a, --x, --b, --c]", []compare.Field{{Path: "content[1]", Change: compare.Added, New: "--x"}}},
		"ArgumentThatChanges": {"[--a, --b=1, --c]", "[--a, --b=2, --c]", []compare.Field{changed("content[1]", "--b=1", "--b=2")}},
		"AnotherOrder":        {"[a, b]", "[b, a]", []compare.Field{{Path: "content", Change: compare.Reordered, Old: []any{"a", "b"}, New: []any{"b", "a"}}}},
		"AnotherType":         {"{a: [1]}", "{a: {b: 1}}", []compare.Field{changed("content.a", []any{int64(1)}, map[string]any{"b": int64(1)})}},
		"VersionOfTheRelease": {"{a: of-$V.}", "{a: of-$V-, b: 1}", []compare.Field{changed("content.a", "of-docker-scs-1-35-v1.", "of-docker-scs-1-35-v2-"), {Path: "content.b", Change: compare.Added, New: int64(1)}}},
		"VersionOfAnImage":    {"{image: x:v1}", "{image: x:v2}", []compare.Field{changed("content.image", "x:v1", "x:v2")}},
	} {
		t.Run(name, func(t *testing.T) {
			from := side{tag: "docker-scs-1-35-v1", class: class, addons: map[string]string{"x": object(tt.from)}}.side(t)
			to := side{tag: "docker-scs-1-35-v2", class: class, addons: map[string]string{"x": object(tt.to)}}.side(t)
			c := compare.Releases(from, to)
			if len(c.Addons) != 1 || len(c.Addons[0].Objects) != 1 {
				t.Fatalf("addons: %+v", c.Addons)
			}
			var got []compare.Field
			for _, f := range c.Addons[0].Objects[0].Fields {
				if !f.VersionOnly {
					got = append(got, f)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAVersionAloneIsToldFromAChange(t *testing.T) {
	give := func(content string) map[string]string {
		return map[string]string{"x": "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x, labels: {version: " + content + "}}, spec: {template: {metadata: {labels: {chart: TEMPLATE}}}}}"}
	}
	with := func(m map[string]string, template string) map[string]string {
		return map[string]string{"x": strings.ReplaceAll(m["x"], "TEMPLATE", template)}
	}
	for name, tt := range map[string]struct {
		from, to map[string]string
		same     bool
	}{
		"Chart":         {with(give("$C"), "c"), with(give("$C"), "c"), true},
		"Bare":          {with(give("v1"), "c"), with(give("v2"), "c"), true},
		"OtherVersion":  {with(give("v1"), "c"), with(give("v3"), "c"), false},
		"OnPods":        {with(give("v1"), "$C"), with(give("v2"), "$C"), false}, // they restart
		"PartOfANumber": {with(give("x-docker-scs-1-35-v1"), "c"), with(give("x-docker-scs-1-35-v23"), "c"), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := compare.Releases(side{tag: "docker-scs-1-35-v1", class: class, addons: tt.from}.side(t), side{tag: "docker-scs-1-35-v2", class: class, addons: tt.to}.side(t))
			if c.Same != tt.same {
				t.Errorf("same: %t, want %t: %+v", c.Same, tt.same, c.Addons)
			}
		})
	}
}

// story is an upgrade in which much changes.
func story(t *testing.T) *compare.Comparison {
	t.Helper()
	workload := func(kind, name, image, label string) string {
		return "{apiVersion: apps/v1, kind: " + kind + ", metadata: {name: " + name + ", namespace: kube-system, labels: {chart: $C}}, spec: {selector: {matchLabels: {app: " + label +
			"}}, template: {spec: {containers: [{name: main, image: '" + image + "', args: [--a, --b]}]}}}}\n---\n"
	}
	config := func(text string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config, namespace: kube-system}\ndata:\n  config.yaml: |\n" + text + "---\n"
	}
	secret := func(password string) string {
		return "{apiVersion: v1, kind: Secret, metadata: {name: secret, namespace: kube-system}, stringData: {password: " + password + "}}\n---\n"
	}
	claim := "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: kube-system}}\n---\n"
	role := "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: moves}}\n---\n"
	account := "{apiVersion: v1, kind: ServiceAccount, metadata: {name: x, namespace: kube-system, labels: {chart: $C}}}\n---\n"
	stage := func(names ...string) []release.Stage {
		var stages []release.Stage
		for _, name := range names {
			stages = append(stages, release.Stage{Name: name, Action: release.Apply})
		}
		return stages
	}
	upgraded := stage("ccm", "cni", "csi")
	upgraded[1].WaitForHealthy = true
	from := side{
		tag: "docker-scs-1-35-v1", class: class,
		addons: map[string]string{
			"cni":   account + workload("DaemonSet", "cni", "registry.example.com/cni:v1.0", "cni") + config("    a: 1\n    b: 2\n    c: 3\n") + secret("swordfish"),
			"old":   claim + role,
			"ccm":   account,
			"stays": "{apiVersion: v1, kind: ConfigMap, metadata: {name: stays}}",
		},
		charts: map[string]compare.Chart{"cni": {Name: "cni", Version: "1.0.0", AppVersion: "v1.0"}},
		stages: map[release.Point][]release.Stage{release.AfterControlPlaneInitialized: stage("ccm", "cni", "old"), release.BeforeClusterUpgrade: stage("cni")},
	}
	to := side{
		tag: "docker-scs-1-36-v1", kubernetes: "v1.36.3",
		class: replaced(t, "cp-image", "new-image", "{name: repository, required: false, schema: {openAPIV3Schema: {type: string}}}",
			"{name: flavor, required: true, schema: {openAPIV3Schema: {type: string}}}"),
		addons: map[string]string{
			"cni":   account + workload("DaemonSet", "cni", "registry.example.com/cni:v1.1", "other") + config("    a: 1\n    b: 5\n    c: 3\n") + secret("hunter2"),
			"csi":   role + workload("Deployment", "csi", "registry.example.com/csi@sha256:abc", "csi"),
			"ccm":   account,
			"stays": "{apiVersion: v1, kind: ConfigMap, metadata: {name: stays}}",
		},
		charts: map[string]compare.Chart{"cni": {Name: "cni", Version: "1.1.0", AppVersion: "v1.1"}},
		stages: map[release.Point][]release.Stage{release.AfterControlPlaneInitialized: upgraded, release.BeforeClusterUpgrade: stage("cni")},
	}
	return compare.Releases(from.side(t), to.side(t))
}

func TestAStoryIsToldInWords(t *testing.T) {
	c := story(t)
	for file, o := range map[string]compare.TextOptions{"story.txt": {}, "story-all.txt": {All: true}, "story-colour.txt": {Colour: true}} {
		t.Run(file, func(t *testing.T) {
			got := c.Text(o)
			path := filepath.Join("testdata", file)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("told (-want +got); if this is right, run the test with -update:\n%s", diff)
			}
			if strings.Contains(got, "swordfish") || strings.Contains(got, "hunter2") {
				t.Error("it tells what a Secret holds")
			}
		})
	}
}

func TestTheSameReleaseIsTheSame(t *testing.T) {
	s := side{tag: "docker-scs-1-35-v1", class: class, addons: map[string]string{"x": "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}"}}
	c := compare.Releases(s.side(t), s.side(t))
	if !c.Same || len(c.Addons) > 0 || len(c.Class.Objects) > 0 {
		t.Errorf("it differs from itself: %+v", c)
	}
	if got, want := c.Text(compare.TextOptions{}), "docker-scs-1-35-v1 -> docker-scs-1-35-v1\nNothing changes but names and versions of the release.\n"; got != want {
		t.Errorf("text: %q", got)
	}
}
