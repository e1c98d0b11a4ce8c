// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package release says what a release of a cluster stack is: its name, its versions, its charts and
// the order in which its addons are applied.
//
// A release is a flat folder of files, wherever it came from. Open reads one wholly into memory,
// within limits, and refuses what nobody could apply; an opened release never changes and may be
// shared. Fetching releases, rendering their charts and deciding when to apply them is for others.
package release
