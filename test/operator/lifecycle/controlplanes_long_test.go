// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build long

package lifecycle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A cluster with three machines of the control plane gets its addons, another version of its stack, and then the next
// minor of Kubernetes, which waits for the addons.
func TestThreeControlPlanes(t *testing.T) {
	f := begin(t, "three", nil)
	f.publish("1-35-v1", always("name: base, action: apply"), addon{"base", object("base", "1")})
	f.publish("1-35-v2", always("name: base, action: apply", "name: more, action: apply"), addon{"base", object("base", "2")}, addon{"more", object("more", "2")})
	f.publish("1-36-v1", always("name: base, action: apply"+gated("base")), addon{"base", object("base", "3")})
	f.subscribe("1.35", "v1", "v2")
	f.subscribe("1.36", "v1")
	f.create(f.class("1-35-v1"), older, 3, 1)
	f.reached(f.class("1-35-v1"))
	f.AwaitCluster(t, 2*patience, f.key(), available)
	f.use(f.class("1-35-v2"), older)
	f.reached(f.class("1-35-v2"))
	f.AwaitCluster(t, 2*patience, f.key(), available)

	f.gates("base")
	f.use(f.class("1-36-v1"), newer)
	f.topology("stage base waits for")
	if diff := cmp.Diff([]string{older, older}, f.versions()); diff != "" {
		t.Errorf("versions while the upgrade is held (-want +got):\n%s", diff)
	}
	f.open("base")
	f.reached(f.class("1-36-v1"))
	f.AwaitCluster(t, 4*patience, f.key(), available)
	if diff := cmp.Diff([]string{newer, newer}, f.versions()); diff != "" {
		t.Errorf("versions in the end (-want +got):\n%s", diff)
	}
	f.gone(time.Now())
}
