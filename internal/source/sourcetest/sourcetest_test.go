// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sourcetest_test

import (
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
)

func TestMemory(t *testing.T) {
	sourcetest.Run(t, func(_ *testing.T, releases map[string]fstest.MapFS) source.Source {
		memory := &sourcetest.Memory{}
		for tag, files := range releases {
			memory.Publish(tag, files)
		}
		return memory
	})
}
