// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package simulator_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/go-logr/logr/testr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// TestRunThatFailsLetsGo: a sandbox runs its simulator again when it ends, in the same process.
func TestRunThatFailsLetsGo(t *testing.T) {
	const network = "127.61"
	dir := t.TempDir()
	open := func() *workload.Fleet {
		t.Helper()
		fleet, err := workload.New(workload.Options{Dir: dir, Prefix: netip.MustParsePrefix(network + ".0.0/16"), Log: testr.New(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fleet.Close(context.WithoutCancel(t.Context())) })
		return fleet
	}
	spec := workload.Spec{NamespacedName: types.NamespacedName{Namespace: "n", Name: "one"}}
	before := open()
	if _, err := before.Ensure(t.Context(), spec, workload.Owner{UID: "one"}, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	before.Close(t.Context())

	err := simulator.Run(t.Context(), simulator.Options{
		Dir: dir, Network: simulator.Network{Prefix: network}, Log: testr.New(t),
		Config: &rest.Config{Host: "https://127.0.0.1:1", TLSClientConfig: rest.TLSClientConfig{CAFile: "/is/not/there"}},
	})
	if err == nil {
		t.Error("it ran without a management cluster")
	}
	if _, err := open().Open(t.Context(), spec); err != nil {
		t.Errorf("the cluster is still held: %v", err)
	}
}
