// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rollout decides what comes next on the way from one release of a cluster's addons to another.
//
// Next is a pure function from a Situation to a Move: it knows nothing of time, network or storage. Whoever
// calls it gathers the facts, carries out the move and asks again with what came of it. What must outlive the
// caller is a Record, which is small, has a text form and is written in one piece: opening a rollout and
// voiding the proof of the one before is the same write.
//
// A release says in lists of stages what to do at which lifecycle point. When which point is due is a table
// in this package; how to apply, delete, evaluate and prune is the caller's.
package rollout
