// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package chartlock_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
)

const list = `apiVersion: v2
name: cni
version: v1
dependencies:
- alias: network
  condition: network.enabled
  name: cilium
  repository: https://helm.cilium.io
  version: ~1.16.0
- name: common
  repository: file://../../common
  version: 0.1.0
`

// The digest is sha256sum over the compact JSON of both lists, written by hand with the fields in the order that Helm has
// them in: name, version, repository, condition, alias.
const lock = `dependencies:
- name: cilium
  repository: https://helm.cilium.io
  version: 1.16.6
- name: common
  repository: file://../../common
  version: 0.1.0
digest: sha256:0fd5ad89e5430390d5476e1705442f8df1c490dc8838154802d2f45ca0ca5b5f
generated: "2026-03-01T12:00:00Z"
`

func TestLockIsThatOfHelm(t *testing.T) {
	got, err := chartlock.New([]byte(list), []string{"1.16.6", "0.1.0"}, time.Date(2026, 3, 1, 13, 0, 0, 0, time.FixedZone("", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lock, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestResolveTakesTheVersionsOfTheLock(t *testing.T) {
	got, err := chartlock.Resolve([]byte(list), []byte(lock))
	if err != nil || len(got) != 2 || got[0].Version != "1.16.6" || got[0].Alias != "network" || got[1].Version != "0.1.0" {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err = chartlock.Resolve([]byte(list), nil); err != nil || got[0].Version != "~1.16.0" {
		t.Errorf("without a lock: got %+v, %v", got, err)
	}
}

func TestLockOfAnotherListIsOutdated(t *testing.T) {
	for name, change := range map[string][2]string{
		"Version":    {"~1.16.0", "~1.17.0"},
		"Repository": {"https://helm.cilium.io", "https://mirror.example.org"},
		"Condition":  {"network.enabled", "cni.enabled"},
		"Name":       {"name: common", "name: other"},
		"OneLess":    {"- name: common\n  repository: file://../../common\n  version: 0.1.0\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := chartlock.Resolve([]byte(strings.Replace(list, change[0], change[1], 1)), []byte(lock)); !errors.Is(err, chartlock.ErrOutdated) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestSameDoesNotAskForTheTime(t *testing.T) {
	later := strings.Replace(lock, "2026-03-01", "2026-04-01", 1)
	other := strings.Replace(lock, "digest: sha256:", "digest: sha256:0", 1)
	if !chartlock.Same([]byte(lock), []byte(later)) || chartlock.Same([]byte(lock), []byte(other)) || chartlock.Same(nil, nil) {
		t.Error("locks are compared by something else than their digest")
	}
}

func TestVersions(t *testing.T) {
	for version, exact := range map[string]bool{"1.2.3": true, "v1.2.3-rc.1+build": true, "1.2": false, "~1.2.3": false, "": false, "1.2.x": false, "=1.2.3": false} {
		if chartlock.Exact(version) != exact {
			t.Errorf("%q is exact: %t", version, !exact)
		}
	}
	for _, tt := range []struct {
		wanted, version string
		want            bool
	}{
		{"~1.2", "1.2.9", true}, {"~1.2", "1.3.0", false}, {"", "1.0.0", true}, {"*", "1.0.0-rc.1", false},
		{"1.2.3", "v1.2.3", true}, {"v1", "v1", true}, {"not a range", "1.2.3", false}, {"1.2.3", "1.2.4", false},
	} {
		if got := chartlock.Matches(tt.wanted, tt.version); got != tt.want {
			t.Errorf("%q matches %q: %t", tt.wanted, tt.version, got)
		}
	}
}
