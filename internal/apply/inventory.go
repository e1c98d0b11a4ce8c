// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// encoding is the version of the inventory's JSON that this code writes.
const encoding = 1

// Inventory is what a cluster holds of ours: the objects, and for each set of
// them how far its Helm hooks have run. It is a value to load, pass to one
// operation at a time, and save.
//
// Its encoding is JSON:
//
//	{"version": 1,
//	 "objects": [{"group": "apps", "kind": "Deployment", "namespace": "kube-system", "name": "metrics-server",
//	              "version": "v1", "uid": "…", "origin": "Created", "set": "metrics-server",
//	              "hash": "…", "fields": "…"}],
//	 "sets": {"metrics-server": {"pre": "…", "post": "…", "delete": [{"object": {…}, "events": ["pre-delete"]}]}}}
//
// Objects are sorted by ID, so equal inventories have equal bytes. Unknown
// fields are ignored; an unknown version is an error, because pruning on half
// an understanding could delete the wrong thing.
type Inventory struct {
	objects map[ID]Entry
	sets    map[string]progress
}

// progress of a set: the digests of the content for which the hooks before and
// after the objects have run. A set that has an after was installed once.
type progress struct {
	Pre  string `json:"pre,omitempty"`
	Post string `json:"post,omitempty"`
	// Delete are the hooks that run when the set goes.
	Delete []Hook `json:"delete,omitempty"`
	// Going says that the set is being deleted, and that its hooks before that have run.
	Going bool `json:"going,omitempty"`
}

// Journal stores an inventory durably. Save must not return nil before the
// inventory would survive the death of the process. It must not keep inv.
type Journal interface {
	Save(ctx context.Context, inv *Inventory) error
}

// NewInventory returns an empty inventory.
func NewInventory() *Inventory {
	return &Inventory{objects: map[ID]Entry{}, sets: map[string]progress{}}
}

type inventoryJSON struct {
	Version int                 `json:"version"`
	Objects []Entry             `json:"objects"`
	Sets    map[string]progress `json:"sets,omitempty"`
}

// DecodeInventory reads what [Inventory.Encode] wrote. No bytes are an empty inventory.
func DecodeInventory(data []byte) (*Inventory, error) {
	inv := NewInventory()
	if len(data) == 0 {
		return inv, nil
	}
	var in inventoryJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	if in.Version != encoding {
		return nil, fmt.Errorf("inventory: version %d is not known here, only %d: it was written by another release of the operator", in.Version, encoding)
	}
	for _, e := range in.Objects {
		switch e.Origin {
		case Pending, Created, Adopting, Adopted, Shared:
		default:
			return nil, fmt.Errorf("inventory: %s has the unknown origin %q", e.ID, e.Origin)
		}
		if e.Kind == "" || e.Name == "" {
			return nil, fmt.Errorf("inventory: an object without kind or name")
		}
		inv.objects[e.ID] = e
	}
	maps.Copy(inv.sets, in.Sets)
	return inv, nil
}

// Encode writes the inventory as JSON. Equal inventories give equal bytes.
func (inv *Inventory) Encode() ([]byte, error) {
	data, err := json.Marshal(inventoryJSON{Version: encoding, Objects: inv.Entries(), Sets: inv.sets})
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	return data, nil
}

// Entries are the objects, sorted by ID.
func (inv *Inventory) Entries() []Entry {
	entries := slices.Collect(maps.Values(inv.objects))
	slices.SortFunc(entries, func(a, b Entry) int { return a.Compare(b.ID) })
	if entries == nil {
		entries = []Entry{}
	}
	return entries
}

// Get returns the entry of an object.
func (inv *Inventory) Get(id ID) (Entry, bool) {
	e, ok := inv.objects[id]
	return e, ok
}

// Put adds or replaces the entry of an object.
func (inv *Inventory) Put(e Entry) { inv.objects[e.ID] = e }

// Delete forgets an object.
func (inv *Inventory) Delete(id ID) { delete(inv.objects, id) }

// Len is the number of objects.
func (inv *Inventory) Len() int { return len(inv.objects) }

// Counts is the number of objects, and how many of them existed before us.
func (inv *Inventory) Counts() (objects, shared int) {
	for _, e := range inv.objects {
		if e.Origin == Shared {
			shared++
		}
	}
	return len(inv.objects), shared
}

// Suspect enters objects whose origin is not known, because the inventory that
// knew it was lost. The next apply finds out: ours are those that nobody else
// manages. Objects that the inventory holds already stay as they are.
func (inv *Inventory) Suspect(set string, ids []ID) {
	for _, id := range ids {
		if _, known := inv.objects[id]; !known {
			inv.objects[id] = Entry{ID: id, Origin: Pending, Set: set}
		}
	}
	inv.installed(set)
}

// installed records that a set was brought into the cluster before we came, so
// that its hooks for an upgrade run next and not those for an installation.
func (inv *Inventory) installed(set string) {
	if _, known := inv.sets[set]; !known {
		inv.sets[set] = progress{Post: "before"}
	}
}

// forgetSets drops the progress of sets that have no objects left, so that one
// which comes back later is installed anew.
func (inv *Inventory) forgetSets(sets map[string]bool) {
	for _, e := range inv.objects {
		delete(sets, e.Set)
	}
	for set := range sets {
		delete(inv.sets, set)
	}
}

// Conflict is an object that was not changed, because another manager owns
// fields that we wanted to set to other values.
type Conflict struct {
	ID
	// Manager is the field manager as the API server names it.
	Manager string
	// Fields are the paths in dispute, sorted.
	Fields []string
}

// Failure is an object for which a request was refused or not answered.
type Failure struct {
	ID
	Err error
}

// Kept is an object that is no longer wanted and was left in the cluster.
type Kept struct {
	ID
	// Reason says why, as the end of a sentence: "it holds other objects".
	Reason string
}

// Report is what an operation did, each list sorted by ID.
type Report struct {
	// Applied were sent and accepted.
	Applied []ID
	// Unchanged were not sent, being known to be in place.
	Unchanged []ID
	// Pruned are gone, or on their way.
	Pruned []ID
	// Kept were not deleted although no longer wanted.
	Kept []Kept
	// Conflicts were not applied, because of another manager.
	Conflicts []Conflict
	// Failed were not applied or deleted.
	Failed []Failure
	// Unsaved says that the journal does not have all of this yet, as the caller wanted it.
	Unsaved bool
}

func (r *Report) sort() {
	slices.SortFunc(r.Applied, ID.Compare)
	slices.SortFunc(r.Unchanged, ID.Compare)
	slices.SortFunc(r.Pruned, ID.Compare)
	slices.SortFunc(r.Kept, func(a, b Kept) int { return a.Compare(b.ID) })
	slices.SortFunc(r.Conflicts, func(a, b Conflict) int {
		return cmp.Or(a.Compare(b.ID), cmp.Compare(a.Manager, b.Manager))
	})
	slices.SortFunc(r.Failed, func(a, b Failure) int { return a.Compare(b.ID) })
}

// err is an [*IncompleteError] unless everything is in place.
func (r *Report) err() error {
	if len(r.Conflicts) == 0 && len(r.Failed) == 0 {
		return nil
	}
	return &IncompleteError{Conflicts: r.Conflicts, Failed: r.Failed}
}
