// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// A values template is foreign code. What it does to the process that runs it must be done to a renderer, which can be
// killed, also when all that is asked is whether its values have changed.
func TestValuesTemplatesRunWhereChartsDo(t *testing.T) {
	const tag = "docker-ferrol-1-35-v1"
	files := releasetest.Multistage(tag)
	files[release.StagesFile] = &fstest.MapFile{Data: []byte("addonStages:\n  AfterControlPlaneInitialized:\n  - {name: cni, action: apply}\n")}
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"cni/Chart.yaml": "apiVersion: v2\nname: cni\nversion: v1\n",
		// It would take hours.
		"cni/overwrite.yaml": "{{ range until 1000000 }}{{ range until 1000000 }}{{ end }}{{ end }}a: {{ .Cluster.metadata.name }}\n",
	})}
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := release.Open(files, name)
	if err != nil {
		t.Fatal(err)
	}
	var answer error
	renders := 0
	w := &work{
		Reconciler: &Reconciler{options: Options{Render: func(_ context.Context, in render.Input) (*render.Result, error) {
			if renders++; !strings.Contains(string(in.ValuesTemplate), "until") {
				t.Error("what is rendered has not the values template of the addon")
			}
			return &render.Result{}, answer
		}}},
		addon: &v1alpha1.ClusterAddon{}, cluster: apitest.Cluster("default", "a", tag, "v1.35.4"), release: rel, digest: "sha256:1",
		conn: &connection{}, turn: &turn{}, facts: render.Facts{Cluster: map[string]any{"metadata": map[string]any{"name": "a"}}},
	}
	answer = errors.New("the renderer ended without an answer")
	if _, err := w.identifyInputs(t.Context()); !errors.Is(err, answer) {
		t.Errorf("what another try may tell is taken for an answer: %v", err)
	}
	answer = &render.InvalidError{Subject: "addon cni", Reason: "takes more than 15s of processor time"}
	killed, err := w.identifyInputs(t.Context())
	if err != nil {
		t.Fatalf("the stage cannot report what is wrong: %v", err)
	}
	if again, err := w.identifyInputs(t.Context()); again != killed || err != nil || renders != 2 {
		t.Errorf("with the same facts it is rendered again: %d renders, %q and %q, %v", renders, killed, again, err)
	}
	answer, w.facts.Cluster = nil, map[string]any{"metadata": map[string]any{"name": "b"}}
	if other, err := w.identifyInputs(t.Context()); other == killed || err != nil || renders != 3 {
		t.Errorf("with other facts nothing is rendered: %d renders, %v", renders, err)
	}
}

func TestALongRolloutIsComparedAgain(t *testing.T) {
	c, now := &connection{}, time.Unix(0, 0)
	one, other := rollout.Passage{To: "v1.35.4"}, rollout.Passage{To: "v1.36.1"}
	if !c.needsComparison(one, now, time.Minute) {
		t.Error("nothing was compared yet")
	}
	c.wasCompared(one, now)
	if c.needsComparison(one, now.Add(time.Minute-1), time.Minute) {
		t.Error("compared again in each pass")
	}
	if !c.needsComparison(one, now.Add(time.Minute), time.Minute) {
		t.Error("what somebody deletes while a stage waits for it stays deleted, and the stage waits for ever")
	}
	if !c.needsComparison(other, now, time.Minute) {
		t.Error("another rollout goes by what was found for this one")
	}
}
