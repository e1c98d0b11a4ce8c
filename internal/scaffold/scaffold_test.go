// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package scaffold_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
	"github.com/clusterstacks/cluster-stack-operator/internal/scaffold"
	"github.com/clusterstacks/cluster-stack-operator/stacks"
	"github.com/clusterstacks/cluster-stack-operator/stacks/stackstest"
)

func starters(t *testing.T) []scaffold.Starter {
	t.Helper()
	all, err := scaffold.Starters(stacks.Starters)
	if err != nil || len(all) < 2 {
		t.Fatalf("%d starters, %v", len(all), err)
	}
	return all
}

func fsys(files map[string][]byte) fstest.MapFS {
	made := fstest.MapFS{}
	for name, data := range files {
		made["new/"+name] = &fstest.MapFile{Data: data, Mode: 0o644}
	}
	return made
}

func TestANewStackOfEveryStarterLintsCleanAndBuilds(t *testing.T) {
	for _, starter := range starters(t) {
		t.Run(starter.Provider+starter.Kubernetes, func(t *testing.T) {
			files, err := starter.Make("mystack", nil)
			if err != nil {
				t.Fatal(err)
			}
			report, err := lint.Stack(t.Context(), fsys(files), "new", lint.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, finding := range report.Findings {
				if finding.Rule != "dependency-missing" { // fetched when the stack is built
					t.Errorf("%s:%d: %s: %s", finding.File, finding.Line, finding.Rule, finding.Message)
				}
			}
			stack, err := build.Read(fsys(files), "new")
			if err != nil {
				t.Fatal(err)
			}
			rel, err := stack.Build(build.FirstVersions(""))
			if err != nil || !strings.HasPrefix(rel.Name.String(), starter.Provider+"-mystack-") {
				t.Errorf("%v, %v", rel, err)
			}
			for name, data := range files {
				if strings.Contains(string(data), "starter") {
					t.Errorf("%s still speaks of the starter", name)
				}
			}
		})
	}
}

// Whatever is chosen, nothing is left of what was not.
func TestEveryChoiceOfAddonsLintsClean(t *testing.T) {
	charts := chartrepo.New(chartrepo.Options{MirrorClient: http.DefaultClient, Mirrors: stackstest.Charts(t, "../../stacks")})
	for _, starter := range starters(t) {
		all := starter.Addons()
		for choice := 1; choice < 1<<len(all); choice++ {
			var addons []string
			for i, addon := range all {
				if choice&(1<<i) != 0 {
					addons = append(addons, addon)
				}
			}
			t.Run(starter.Provider+starter.Kubernetes+" "+strings.Join(addons, ","), func(t *testing.T) {
				files, err := starter.Make("mystack", addons)
				if err != nil {
					t.Fatal(err)
				}
				report, err := lint.Stack(t.Context(), fsys(files), "new", lint.Options{Fetch: charts.Complete})
				if err != nil {
					t.Fatal(err)
				}
				for _, finding := range report.Findings {
					t.Errorf("%s:%d: %s: %s", finding.File, finding.Line, finding.Rule, finding.Message)
				}
			})
		}
	}
}

func TestANewStackHasTheAddonsThatWereChosen(t *testing.T) {
	starter, err := scaffold.Choose(starters(t), "docker", "1.35")
	if err != nil {
		t.Fatal(err)
	}
	files, err := starter.Make("mystack", []string{"cni"})
	if err != nil {
		t.Fatal(err)
	}
	for name := range files {
		if strings.Contains(name, "metrics-server") {
			t.Errorf("%s is there", name)
		}
	}
	stages := string(files["clusteraddon.yaml"])
	if strings.Contains(stages, "metrics-server") || !strings.Contains(stages, "# Pods of later stages need a network") || !strings.Contains(stages, "BeforeClusterUpgrade: *addons") {
		t.Errorf("stages: %s", stages)
	}
	report, err := lint.Stack(t.Context(), fsys(files), "new", lint.Options{})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("%v, %+v", err, report.Findings)
	}
}

// All addons by name are all addons, and the stages stay as their author wrote them.
func TestAllAddonsByNameChangeNothing(t *testing.T) {
	starter := starters(t)[0]
	one, err := starter.Make("mystack", nil)
	if err != nil {
		t.Fatal(err)
	}
	names := starter.Addons()
	slices.Reverse(names)
	two, err := starter.Make("mystack", append(names, names[0]))
	if err != nil || !maps.EqualFunc(one, two, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Errorf("%v, %s", err, cmp.Diff(one, two))
	}
}

func TestChoose(t *testing.T) {
	all := starters(t)
	newest := ""
	for _, starter := range all {
		if starter.Provider == "docker" {
			newest = starter.Kubernetes
		}
	}
	for name, tt := range map[string]struct{ provider, kubernetes, want, wantErr string }{
		"Newest":       {provider: "docker", want: newest},
		"Minor":        {provider: "docker", kubernetes: "1.35", want: "v1.35.4"},
		"MinorWithV":   {provider: "docker", kubernetes: "v1.35", want: "v1.35.4"},
		"Patch":        {provider: "docker", kubernetes: "v1.35.9", want: "v1.35.9"},
		"PatchWithout": {provider: "docker", kubernetes: "1.35.9", want: "v1.35.9"},
		"OldMinor":     {provider: "docker", kubernetes: "1.3", wantErr: "there is no starter of docker for Kubernetes 1.3: there are 1.35, 1.36"},
		"NoVersion":    {provider: "docker", kubernetes: "newest", wantErr: `Kubernetes "newest" is not a version such as 1.35 or v1.35.4`},
		"NoProvider":   {provider: "dockr", wantErr: "there is no starter for provider dockr: there are docker"},
	} {
		t.Run(name, func(t *testing.T) {
			starter, err := scaffold.Choose(all, tt.provider, tt.kubernetes)
			if err != nil || tt.wantErr != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.wantErr) || tt.wantErr == "" {
					t.Errorf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			files, err := starter.Make("mystack", nil)
			if err != nil || !strings.Contains(string(files["csctl.yaml"]), "kubernetesVersion: "+tt.want+"\n") {
				t.Errorf("%v, want %s: %s", err, tt.want, files["csctl.yaml"])
			}
		})
	}
}

func TestNamesAndAddonsThatCannotBeAreRefused(t *testing.T) {
	starter := starters(t)[0]
	for name, tt := range map[string]struct {
		name   string
		addons []string
		want   string
	}{
		"Dash":    {name: "my-stack", want: `"my-stack" cannot be the name of a stack`},
		"Empty":   {want: `"" cannot be the name of a stack`},
		"TooLong": {name: strings.Repeat("long", 11), want: "is too long for the name of a stack"},
		"Addon":   {name: "mystack", addons: []string{"cni", "cnj"}, want: "the starter has no addon cnj: it has cni, "},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := starter.Make(tt.name, tt.addons); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
