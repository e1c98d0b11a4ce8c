// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package stacks carries the starter stacks into csctl, which makes new stacks of them.
package stacks

import "embed"

// Starters has the starter stacks as <provider>/starter. Links are not in it: what a folder of a minor version links to
// lies under the same path in the folder shared.
//
//go:embed all:*/starter
var Starters embed.FS
