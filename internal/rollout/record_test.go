// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// proven is the record of a cluster whose upgrade may go on.
func proven() Record {
	return Record{
		Applied: &Applied{Release: up, Version: "v1.36.3", Addons: []string{"cni"}},
		Rollout: &Rollout{Passage: raised, Finished: true},
	}
}

func TestProves(t *testing.T) {
	if !proven().Proves(raised.About()) {
		t.Fatal("the proof is not accepted")
	}
	if !proven().clone().Proves(raised.About()) {
		t.Fatal("the copy of the proof is not accepted")
	}

	records := map[string]func(*Record){
		"NoRollout":            func(r *Record) { r.Rollout = nil },
		"NotFinished":          func(r *Record) { r.Rollout.Finished = false },
		"NothingApplied":       func(r *Record) { r.Applied = nil },
		"OtherClassApplied":    func(r *Record) { r.Applied.Class = v1.Class },
		"OtherDigestApplied":   func(r *Record) { r.Applied.Digest = "sha256:other" },
		"OtherVersionApplied":  func(r *Record) { r.Applied.Version = "v1.35.4" },
		"NoDigest":             func(r *Record) { r.Applied.Digest, r.Rollout.Digest = "", "" },
		"OtherClassProven":     func(r *Record) { r.Applied.Class, r.Rollout.Class = v1.Class, v1.Class },
		"OtherNamespaceProven": func(r *Record) { r.Applied.Namespace, r.Rollout.Namespace = "x", "x" },
		"OtherPointProven":     func(r *Record) { r.Rollout.Point = release.AfterControlPlaneInitialized },
		"OtherFromProven":      func(r *Record) { r.Rollout.From = "v1.36.3" },
		"OtherToProven":        func(r *Record) { r.Applied.Version, r.Rollout.To = "v1.36.4", "v1.36.4" },
		"OtherClusterProven":   func(r *Record) { r.Rollout.Cluster = "other" },
	}
	for name, change := range records {
		t.Run("Record"+name, func(t *testing.T) {
			record := proven()
			change(&record)
			if record.Proves(raised.About()) {
				t.Error("a doubtful proof was accepted")
			}
		})
	}

	asks := map[string]func(*Ask){
		"NoCluster":      func(a *Ask) { a.Cluster = "" },
		"OtherCluster":   func(a *Ask) { a.Cluster = "other" },
		"NoClass":        func(a *Ask) { a.Class = "" },
		"OtherClass":     func(a *Ask) { a.Class = v2.Class },
		"OtherNamespace": func(a *Ask) { a.Namespace = "other" },
		"OtherPoint":     func(a *Ask) { a.Point = release.AfterClusterUpgrade },
		"OtherFrom":      func(a *Ask) { a.From = "v1.35.5" },
		"OtherTo":        func(a *Ask) { a.To = "v1.36.4" },
		"NoTo":           func(a *Ask) { a.To = "" },
	}
	for name, change := range asks {
		t.Run("Ask"+name, func(t *testing.T) {
			ask := raised.About()
			change(&ask)
			if proven().Proves(ask) {
				t.Error("the proof of something else was accepted")
			}
		})
	}
}

func TestRecordSurvivesItsTextForm(t *testing.T) {
	for _, record := range []Record{{}, settled, opened(raised, func(r *Rollout) {
		r.Done, r.Late, r.Rebuilt, r.Inputs = []string{"cni"}, true, true, "x"
	})} {
		got, err := ParseRecord(record.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(record, got); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
	}
	if record, err := ParseRecord(""); err != nil || record.Rollout != nil || record.Applied != nil {
		t.Errorf("no text gives %v, %v; want the empty record", record, err)
	}
	if _, err := ParseRecord("{"); err == nil {
		t.Error("half a record was accepted")
	}
	ask := raised.About()
	got, err := ParseAsk(ask.String())
	if err != nil || *got != ask {
		t.Errorf("ask %v came back as %v, %v", ask, got, err)
	}
}
