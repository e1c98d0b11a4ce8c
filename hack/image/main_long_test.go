// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package main

import "testing"

func TestImageOfTheOperator(t *testing.T) {
	testImage(t, "../../cmd/"+program, "Usage: cluster-stack-operator [flags]")
}
