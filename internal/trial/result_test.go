// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
)

// tried is a trial whose second of three steps failed.
var tried = Result{
	Seconds: 30.25,
	Steps: []StepResult{
		{
			Name: "create a cluster from docker-scs-1-35-v1", Release: "docker-scs-1-35-v1", Kubernetes: "v1.35.4", Outcome: Passed, Seconds: 20,
			Addons: []Addon{{"cni", 4}, {"metrics-server", 1}}, Added: []string{"Service a", "Service b"},
			Unhealthy: []Problem{{"Service a", "InProgress: it has no address"}},
		},
		{
			Name: "upgrade from docker-scs-1-35-v1 to docker-scs-1-35-v2", From: "docker-scs-1-35-v1", Release: "docker-scs-1-35-v2", Kubernetes: "v1.35.4",
			Outcome: Failed, Seconds: 10.25, Error: "not there after 10s",
			Addons: []Addon{{"cni", 6}}, Added: []string{"Pod a", "Pod b", "Pod c", "Pod d", "Pod e", "Pod f"}, Changed: []string{"Service a"}, Pruned: []string{"Service b"},
			Rolled:   []Machine{{"x", "control plane", "v1.35.4"}, {"y", "workers", "v1.35.4"}, {"z", "workers", "v1.35.4"}},
			Problems: []Problem{{"Pod kube-system/x", "Unschedulable: 0/2 nodes are available"}},
		},
		{Name: "upgrade from docker-scs-1-35-v2 to docker-scs-1-36-v1", Outcome: Skipped},
	},
}

func TestATrialIsToldInWords(t *testing.T) {
	const want = `✓ 1. create a cluster from docker-scs-1-35-v1, Kubernetes v1.35.4: 20.0s
     addons, with their objects: cni (4), metrics-server (1)
     not healthy: Service a: InProgress: it has no address
✗ 2. upgrade from docker-scs-1-35-v1 to docker-scs-1-35-v2, Kubernetes v1.35.4: 10.2s
     addons, with their objects: cni (6)
     added: Pod a, Pod b, Pod c, Pod d, and 2 more
     changed: Service a
     pruned: Service b
     machines that were replaced: control plane (1), workers (2)
     failed: not there after 10s
       Pod kube-system/x: Unschedulable: 0/2 nodes are available
- 3. upgrade from docker-scs-1-35-v2 to docker-scs-1-36-v1: not tried
`
	var got strings.Builder
	if err := tried.WriteText(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestATrialIsToldToContinuousIntegration(t *testing.T) {
	var text strings.Builder
	if err := tried.WriteJUnit(&text, "docker-scs-1-35"); err != nil {
		t.Fatal(err)
	}
	// What those who read it look at.
	var got struct {
		XMLName  xml.Name `xml:"testsuite"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Skipped  int      `xml:"skipped,attr"`
		Time     float64  `xml:"time,attr"`
		Cases    []struct {
			Name    string  `xml:"name,attr"`
			Time    float64 `xml:"time,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"failure"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal([]byte(text.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Tests != 3 || got.Failures != 1 || got.Skipped != 1 || got.Time != 30.25 || len(got.Cases) != 3 {
		t.Fatalf("got %+v", got)
	}
	if c := got.Cases[0]; c.Failure != nil || c.Skipped != nil || c.Time != 20 || c.Name != tried.Steps[0].Name {
		t.Errorf("a step that passed: %+v", c)
	}
	if c := got.Cases[1]; c.Failure == nil || c.Failure.Message != "not there after 10s" || !strings.Contains(c.Failure.Text, "Unschedulable") {
		t.Errorf("a step that failed: %+v", c)
	}
	if c := got.Cases[2]; c.Failure != nil || c.Skipped == nil {
		t.Errorf("a step that was not tried: %+v", c)
	}
}

func TestWhatAStepDidIsWhatDiffersFromTheOneBefore(t *testing.T) {
	id := func(name string) apply.ID { return apply.ID{Kind: "ConfigMap", Namespace: "a", Name: name} }
	entry := func(name, set, hash string) apply.Entry { return apply.Entry{ID: id(name), Set: set, Hash: hash} }
	inventory := func(entries ...apply.Entry) map[apply.ID]apply.Entry {
		m := map[apply.ID]apply.Entry{}
		for _, e := range entries {
			m[e.ID] = e
		}
		return m
	}
	old, stays, fresh := Machine{"m-1", "control plane", "v1.35.4"}, Machine{"w-1", "workers", "v1.35.4"}, Machine{"m-2", "control plane", "v1.36.3"}
	before := state{
		inventory: inventory(entry("same", "x", "1"), entry("moves", "x", "1"), entry("goes", "x", "1")),
		machines:  map[types.UID]Machine{"1": old, "2": stays},
	}
	now := state{
		inventory: inventory(entry("same", "x", "1"), entry("moves", "y", "2"), entry("comes", "y", "1")),
		machines:  map[types.UID]Machine{"2": stays, "3": fresh},
	}
	var got StepResult
	now.since(before, &got)
	want := StepResult{
		Addons:  []Addon{{"x", 1}, {"y", 2}},
		Added:   []string{"ConfigMap a/comes"},
		Changed: []string{"ConfigMap a/moves"},
		Pruned:  []string{"ConfigMap a/goes"},
		Rolled:  []Machine{old},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
