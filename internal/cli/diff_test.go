// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/compare"
)

func TestAComparisonKnowsTheAnnotationOfTheApplier(t *testing.T) {
	if compare.Recreate != apply.RecreateAnnotation || compare.RecreateAllowed != apply.RecreateAllowed {
		t.Errorf("compare knows %s=%s, apply %s=%s", compare.Recreate, compare.RecreateAllowed, apply.RecreateAnnotation, apply.RecreateAllowed)
	}
}
