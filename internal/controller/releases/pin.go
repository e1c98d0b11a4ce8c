// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"encoding/json"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// Pinned is what is fixed about a release: where it is from, and what it is. It stands in an annotation, which
// unlike the status survives a move to another management cluster or a restored backup.
type Pinned struct {
	// Source is the location that the digest is of.
	Source string `json:"source"`
	Digest string `json:"digest"`
	// Dependencies is the digest of the charts that were fetched to complete the release.
	Dependencies string `json:"dependencies,omitempty"`
}

// PinOf returns what is fixed about a release, nothing of one that is not there or was never opened. The status
// has it when there is no annotation that can be read.
func PinOf(obj *v1alpha1.ClusterStackRelease) Pinned {
	if obj == nil {
		return Pinned{}
	}
	var pinned Pinned
	if text := obj.Annotations[v1alpha1.PinAnnotation]; text != "" && json.Unmarshal([]byte(text), &pinned) == nil && pinned.Digest != "" {
		return pinned
	}
	return Pinned{Source: obj.Status.Source, Digest: obj.Status.Digest}
}

// For returns what is fixed if the release comes from the given source. Digests of different sources cannot be
// compared, so a release that gets another source starts anew.
func (p Pinned) For(source string) store.Pin {
	if p.Source != source {
		return store.Pin{}
	}
	return store.Pin{Digest: p.Digest, Dependencies: p.Dependencies}
}

// String returns the text of the annotation.
func (p Pinned) String() string {
	text, _ := json.Marshal(p) // strings can always be marshalled
	return string(text)
}
