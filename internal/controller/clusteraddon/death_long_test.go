// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package clusteraddon

// deaths is the distance between the requests at which the operator dies: every one.
const deaths = 1
