// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// Real managers of Cluster API with a feature off: the operator says which, and what to do.
func TestRefusesToStartWithoutAFeatureOfClusterAPI(t *testing.T) {
	for feature, want := range map[string]string{
		"ClusterTopology": "the feature ClusterTopology of Cluster API is off, so there can be no ClusterClass: set CLUSTER_TOPOLOGY=true",
		"RuntimeSDK":      "the feature RuntimeSDK of Cluster API is off, so upgrades cannot wait for addons: set EXP_RUNTIME_SDK=true",
	} {
		t.Run(feature, func(t *testing.T) {
			management := sandboxtest.NewManagement(t, sandboxtest.WithoutFeature(feature))
			c := operator.Defaults()
			c.Source, c.ReleaseDir, c.StoreDir = operator.SourceDirectory, t.TempDir(), t.TempDir()
			c.LeaderElect, c.WebhookPort, c.HealthAddress = false, 0, "127.0.0.1:0"
			c.Diagnostics.DiagnosticsAddress = "127.0.0.1:0"
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := operator.RunIn(ctx, management.Config(), c)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			if other := map[string]string{"ClusterTopology": "RuntimeSDK", "RuntimeSDK": "ClusterTopology"}[feature]; err != nil && strings.Contains(err.Error(), other) {
				t.Errorf("%s is on: %v", other, err)
			}
		})
	}
}
