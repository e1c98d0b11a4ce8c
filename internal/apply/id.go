// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apply brings objects into a cluster and takes them out again.
//
// Every object is sent by server-side apply in one request, into its own
// namespace, in waves: what others need first, what can block others last.
// What was made, and what was only found, is kept in an [Inventory] that the
// caller stores through a [Journal]: names are saved before the first request
// that changes anything, so that a process which dies in between never loses
// sight of an object and never takes a foreign one for its own.
//
// When to apply, what to do about a failure, and whether an addon is healthy
// afterwards are the caller's.
package apply

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// ID names an object in a cluster. It has no API version: the same object is
// served in several, and changing the version in a chart does not make it
// another object.
type ID struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// GroupKind is the group and kind of the object.
func (id ID) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: id.Group, Kind: id.Kind}
}

// String prints the object as people write it: "Deployment.apps kube-system/metrics-server".
func (id ID) String() string {
	var b strings.Builder
	b.WriteString(id.Kind)
	if id.Group != "" {
		b.WriteString("." + id.Group)
	}
	b.WriteString(" ")
	if id.Namespace != "" {
		b.WriteString(id.Namespace + "/")
	}
	b.WriteString(id.Name)
	return b.String()
}

// Compare orders IDs by group, kind, namespace and name.
func (id ID) Compare(other ID) int {
	return cmp.Or(
		cmp.Compare(id.Group, other.Group),
		cmp.Compare(id.Kind, other.Kind),
		cmp.Compare(id.Namespace, other.Namespace),
		cmp.Compare(id.Name, other.Name),
	)
}

// Origin tells how an object came into the inventory, and with that whether it
// is ours to force and to delete.
type Origin string

const (
	// Pending is what we are about to apply, or have applied without seeing the
	// answer. It is ours only if nobody else turns out to manage it.
	Pending Origin = "Pending"
	// Created is an object that did not exist before we applied it.
	Created Origin = "Created"
	// Adopting is an object whose take-over has begun and was not yet answered.
	Adopting Origin = "Adopting"
	// Adopted is an object that the existing operator had applied, and that we took over.
	Adopted Origin = "Adopted"
	// Shared is an object that existed before us. We keep our fields in it up to
	// date, never force them, and never delete it.
	Shared Origin = "Shared"
)

// Ours reports whether the object may be forced and deleted.
func (o Origin) Ours() bool { return o == Created || o == Adopted }

// Entry is one object of an inventory.
type Entry struct {
	ID
	// Version is the API version that the object was last sent in, without its group.
	Version string `json:"version"`
	// UID is the object's as we last saw it, empty while that is unknown.
	UID types.UID `json:"uid,omitempty"`
	// Origin tells whose the object is.
	Origin Origin `json:"origin"`
	// Set is the name of the set, such as an addon, that the object was last applied with.
	Set string `json:"set,omitempty"`
	// Hash is a digest of what was sent last and accepted, empty if nothing was.
	Hash string `json:"hash,omitempty"`
	// Fields is a digest of the fields that were ours after the last apply.
	Fields string `json:"fields,omitempty"`
	// Keep says that the chart asked for the object to stay when it is no longer rendered.
	Keep bool `json:"keep,omitempty"`
	// Expires says that the object may go by itself, as a Job with a time to live does.
	Expires bool `json:"expires,omitempty"`
	// Drift is the value of [DriftAnnotation] that the chart gives the object.
	Drift string `json:"drift,omitempty"`
	// Hook names the run that the object was made for as a Helm hook, empty for ordinary objects.
	Hook string `json:"hook,omitempty"`
}

// GroupVersionKind is the kind of the object in the version that was sent.
func (e Entry) GroupVersionKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: e.Group, Version: e.Version, Kind: e.Kind}
}
