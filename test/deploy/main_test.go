// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package deploy installs the operator as a user does, and runs it with the rights that it has then.
package deploy

import (
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// root is the repository, seen from this package.
const root = "../.."

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}
