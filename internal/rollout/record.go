// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Release names the release that a cluster uses, and its content.
type Release struct {
	// Namespace and Class are those of the ClusterClass.
	Namespace string `json:"namespace"`
	Class     string `json:"class"`
	// Digest of the release's content.
	Digest string `json:"digest"`
}

// Passage is one passing of a lifecycle point by one cluster: the pair of versions, the release whose addons
// it brings, and the identity of the cluster, so that nothing that holds for one passage holds for another.
type Passage struct {
	Release
	Point release.Point `json:"point"`
	// From and To are the versions of Kubernetes on both sides. They are equal when only the release
	// changes; From is empty for a cluster that had no addons before.
	From string `json:"from,omitempty"`
	To   string `json:"to"`
	// Cluster is the UID of the Cluster.
	Cluster string `json:"cluster"`
}

// Applied is what a cluster has since its last finished rollout.
type Applied struct {
	Release
	// Version of Kubernetes that the cluster asked for then.
	Version string `json:"version"`
	// Addons that the cluster has, sorted.
	Addons []string `json:"addons,omitempty"`
	// Inputs identifies the values that the addons were rendered with. It is the caller's.
	Inputs string `json:"inputs,omitempty"`
	// Pruned is set once nothing is left of what earlier releases had and this one has not.
	Pruned bool `json:"pruned,omitempty"`
}

// Rollout is a passage and how far it got. Finished, it is the proof that everything it asked for is done.
type Rollout struct {
	Passage
	// Inputs identifies the values that its addons are rendered with.
	Inputs string `json:"inputs,omitempty"`
	// Done are the stages that need no second look.
	Done []string `json:"done,omitempty"`
	// Finished is written after the applies of the last stage were answered, the inventory was saved, and
	// all that its stages wait for was met.
	Finished bool `json:"finished,omitempty"`
	// Late is set when the moment of the lifecycle point had passed before the rollout was opened.
	Late bool `json:"late,omitempty"`
	// Rebuilt is set when the inventory had been lost before the rollout was opened. Such a rollout prunes
	// nothing.
	Rebuilt bool `json:"rebuilt,omitempty"`
}

// Record is what has to be remembered about the rollouts of one cluster.
type Record struct {
	Applied *Applied `json:"applied,omitempty"`
	Rollout *Rollout `json:"rollout,omitempty"`
}

// Ask is a lifecycle point that Cluster API asked for. It knows no digest: which content a class stands for is
// not the asker's to say.
type Ask struct {
	Namespace string        `json:"namespace"`
	Class     string        `json:"class"`
	Point     release.Point `json:"point"`
	From      string        `json:"from,omitempty"`
	To        string        `json:"to"`
	Cluster   string        `json:"cluster"`
}

// About returns what would have to be asked for the passage to be the answer.
func (p Passage) About() Ask {
	return Ask{Namespace: p.Namespace, Class: p.Class, Point: p.Point, From: p.From, To: p.To, Cluster: p.Cluster}
}

// Proves reports whether the record proves that what was asked for is done. It is the gate that holds the
// upgrade of a cluster, so every doubt is a no.
func (r Record) Proves(ask Ask) bool {
	rollout, applied := r.Rollout, r.Applied
	return rollout != nil && rollout.Finished &&
		ask.Cluster != "" && ask.Class != "" && ask.To != "" &&
		rollout.About() == ask &&
		// Both sides were written at once. If they disagree, somebody has edited them.
		rollout.Digest != "" && applied != nil && applied.Release == rollout.Release && applied.Version == rollout.To
}

// Open returns the rollout that is under way, or nil.
func (r Record) Open() *Rollout {
	if r.Rollout == nil || r.Rollout.Finished {
		return nil
	}
	return r.Rollout
}

// ParseRecord reads the text form of a record. No text is the record of a cluster that never had addons.
func ParseRecord(text string) (Record, error) {
	var record Record
	if text == "" {
		return record, nil
	}
	if err := json.Unmarshal([]byte(text), &record); err != nil {
		return Record{}, fmt.Errorf("record of the rollout: %w", err)
	}
	return record, nil
}

// String returns the text form of the record, which is the same for the same record.
func (r Record) String() string { return text(r) }

// ParseAsk reads the text form of an ask; no text is none.
func ParseAsk(text string) (*Ask, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // nothing was asked for, which is the ordinary case
	}
	var ask Ask
	if err := json.Unmarshal([]byte(text), &ask); err != nil {
		return nil, fmt.Errorf("lifecycle point that was asked for: %w", err)
	}
	return &ask, nil
}

// String returns the text form of the ask, which is the same for the same ask.
func (a Ask) String() string { return text(a) }

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and booleans only
	}
	return string(data)
}

// clone returns a record that shares nothing with r.
func (r Record) clone() Record {
	if r.Applied != nil {
		applied := *r.Applied
		applied.Addons = slices.Clone(applied.Addons)
		r.Applied = &applied
	}
	if r.Rollout != nil {
		rollout := *r.Rollout
		rollout.Done = slices.Clone(rollout.Done)
		r.Rollout = &rollout
	}
	return r
}
