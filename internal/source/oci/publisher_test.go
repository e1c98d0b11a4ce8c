// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
)

func TestSharedBehaviourOfPublishers(t *testing.T) {
	sourcetest.RunPublisher(t, func(t *testing.T) sourcetest.Publisher {
		return open(t, registrytest.Start(t, registrytest.Options{}), oci.Credentials{})
	})
}
