// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package admission judges what the schema of a kind cannot: what a Cluster asks of a release, and whether what
// is about to be deleted is in use.
//
// A user names only the class: spec.topology.version is filled in from the release, and follows it as long as the
// user has not chosen another version. A version that does not fit the release is denied, and so is a move to
// another stack or across more than one minor of Kubernetes. Clusters without topology, or with a class that does
// not come from a cluster stack, are always admitted.
//
// The webhooks remember nothing, run on every replica, and read everything live: they are called rarely, since
// config/webhook restricts them to Clusters whose class has the form of a release and whose class or version
// changes. All else of a Cluster stays editable while the operator is down.
package admission
