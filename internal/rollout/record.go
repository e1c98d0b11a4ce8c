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
	// Hop is the version of Kubernetes that the point is passed for, where that is once for each version on the
	// way to the one the Cluster asks for. Such a point has no From.
	Hop string `json:"hop,omitempty"`
	// Cluster is the UID of the Cluster.
	Cluster string `json:"cluster"`
}

// Passed is a lifecycle point that lies behind a cluster in the upgrade that it is in, or was in last.
type Passed struct {
	Point   release.Point `json:"point"`
	From    string        `json:"from,omitempty"`
	Hop     string        `json:"hop,omitempty"`
	Cluster string        `json:"cluster"`
}

// Applied is what a cluster has since its last finished rollout.
type Applied struct {
	Release
	// Version of Kubernetes that the cluster asked for then.
	Version string `json:"version"`
	// From is the version of Kubernetes before the upgrade that brought the release, and Version itself when only
	// the release changed. It is empty for a cluster that has not been upgraded since it was created.
	From string `json:"from,omitempty"`
	// Points at which the release has something to do, in their order.
	Points []release.Point `json:"points,omitempty"`
	// Passed are the points that lie behind the cluster with proof, besides the one of the last rollout.
	Passed []Passed `json:"passed,omitempty"`
	// Addons that the cluster has from the release, sorted.
	Addons []string `json:"addons,omitempty"`
	// Behind are the addons that are still as an earlier release left them, since the release names them at a
	// point to come. Sorted.
	Behind []string `json:"behind,omitempty"`
	// Off are the addons that the cluster would have if they were not switched off, sorted.
	Off []string `json:"off,omitempty"`
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
	Hop       string        `json:"hop,omitempty"`
	Cluster   string        `json:"cluster"`
}

// NewAsk returns what is asked for at a point of a Cluster that asks for the version goal. From and to are the
// versions that the hook of the point carries, where it does. The rest is the caller's.
func NewAsk(point release.Point, goal, from, to string) Ask {
	ask := Ask{Point: point, To: goal}
	switch m, _ := momentOf(point); {
	case m.whole:
		ask.From, ask.To = from, to
	case m.hops:
		ask.Hop = to
	}
	return ask
}

// About returns what would have to be asked for the passage to be the answer.
func (p Passage) About() Ask {
	return Ask{Namespace: p.Namespace, Class: p.Class, Point: p.Point, From: p.From, To: p.To, Hop: p.Hop, Cluster: p.Cluster}
}

// passed returns the passage as it is remembered when others have followed it.
func (p Passage) passed() Passed {
	return Passed{Point: p.Point, From: p.From, Hop: p.Hop, Cluster: p.Cluster}
}

// Proves reports whether the record proves that what was asked for is done. It is the gate that holds the
// upgrade of a cluster, so every doubt is a no.
func (r Record) Proves(ask Ask) bool {
	rollout, applied := r.Rollout, r.Applied
	if rollout == nil || applied == nil || !rollout.Finished ||
		ask.Cluster == "" || ask.Class == "" || ask.To == "" ||
		// All were written at once. If they disagree, somebody has edited them.
		rollout.Digest == "" || applied.Release != rollout.Release || applied.Version != rollout.To ||
		ask.Namespace != applied.Namespace || ask.Class != applied.Class || ask.To != applied.Version {
		return false
	}
	return rollout.About() == ask || slices.Contains(applied.Passed, Passed{Point: ask.Point, From: ask.From, Hop: ask.Hop, Cluster: ask.Cluster})
}

// Idle reports whether there is nothing to do at the point that was asked for: the addons of the release are in
// the cluster, and the release has no stages there. A point that brings a whole release is never idle.
func (r Record) Idle(ask Ask) bool {
	applied := r.Applied
	m, known := momentOf(ask.Point)
	return known && !m.whole && applied != nil && r.Open() == nil && len(applied.Points) > 0 &&
		ask.Namespace == applied.Namespace && ask.Class == applied.Class && ask.To == applied.Version &&
		!slices.Contains(applied.Points, ask.Point)
}

// Farewell reports whether the release that a cluster has wants something done before it is deleted.
func (r Record) Farewell() bool {
	return r.Applied != nil && slices.Contains(r.Applied.Points, release.BeforeClusterDelete)
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
		applied.Addons, applied.Behind, applied.Off = slices.Clone(applied.Addons), slices.Clone(applied.Behind), slices.Clone(applied.Off)
		applied.Points, applied.Passed = slices.Clone(applied.Points), slices.Clone(applied.Passed)
		r.Applied = &applied
	}
	if r.Rollout != nil {
		rollout := *r.Rollout
		rollout.Done = slices.Clone(rollout.Done)
		r.Rollout = &rollout
	}
	return r
}
