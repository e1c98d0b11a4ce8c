// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"crypto/sha256"
	"encoding/base64"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// digest is short enough to keep one per object, and long enough that two
// different contents never meet.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// appliedFields finds the entry that server-side apply keeps for a manager.
func appliedFields(entries []metav1.ManagedFieldsEntry, manager string) (int, bool) {
	for i, e := range entries {
		if e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			return i, true
		}
	}
	return 0, false
}

// fieldSet parses the fields of an entry.
func fieldSet(e metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	set := &fieldpath.Set{}
	if e.FieldsV1 == nil {
		return set, nil
	}
	if err := set.FromJSON(e.FieldsV1.GetRawReader()); err != nil {
		return nil, err
	}
	return set, nil
}

// fieldsHash identifies the set of fields that are a manager's, in any order of
// writing; it is empty when the manager has none.
func fieldsHash(entries []metav1.ManagedFieldsEntry, manager string) string {
	i, ok := appliedFields(entries, manager)
	if !ok {
		return ""
	}
	set, err := fieldSet(entries[i])
	if err != nil {
		return ""
	}
	data, err := set.ToJSON()
	if err != nil {
		return ""
	}
	return digest(data)
}

// soleManager reports whether nobody but the manager has written the object
// itself. Subresources do not count: who writes a status cannot have made the object.
func soleManager(entries []metav1.ManagedFieldsEntry, manager string) bool {
	found := false
	for _, e := range entries {
		if e.Subresource != "" {
			continue
		}
		if e.Manager != manager {
			return false
		}
		found = true
	}
	return found
}
