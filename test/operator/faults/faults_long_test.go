// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package faults

import "testing"

func TestChangesThatNobodySawAHundredTimes(t *testing.T) { unseen(t, 100) }
