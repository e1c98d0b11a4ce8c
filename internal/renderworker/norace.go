// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package renderworker

// raceDetector says that the program keeps account of each access to memory, which takes more memory than
// a worker may have. Such a program is a test.
const raceDetector = false
