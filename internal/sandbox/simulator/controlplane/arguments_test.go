// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
)

func TestMerge(t *testing.T) {
	cases := map[string]struct {
		why     string
		program string
		ours    []string
		users   map[string]string
		want    []string
	}{
		"Nothing": {"", apiServer, []string{"--a=1"}, nil, []string{"--a=1"}},
		"Added": {
			"In a stable order: a map has none.", apiServer, []string{"--a=1"},
			map[string]string{"runtime-config": "api/all=true", "event-ttl": "2h"},
			[]string{"--a=1", "--event-ttl=2h", "--runtime-config=api/all=true"},
		},
		"Replaced": {
			"As with kubeadm, the user's value counts.", controllerManager, []string{"--allocate-node-cidrs=true", "--cluster-name=c"},
			map[string]string{"allocate-node-cidrs": "false"}, []string{"--cluster-name=c", "--allocate-node-cidrs=false"},
		},
		"NotHonoured": {
			"Nobody would answer where the sandbox looks for the API server.", apiServer, []string{"--bind-address=127.63.1.2"},
			map[string]string{"bind-address": "0.0.0.0", "audit-policy-file": "/etc/kubernetes/audit.yaml"}, []string{"--bind-address=127.63.1.2"},
		},
		"ByPrefix": {"", controllerManager, nil, map[string]string{"concurrent-gc-syncs": "5"}, []string{"--concurrent-gc-syncs=5"}},
		"OfAnotherProgram": {
			"What one program knows is an error for another.", scheduler, nil, map[string]string{"event-ttl": "2h"}, nil,
		},
		"PluginThatNeedsAFile": {
			"", apiServer, []string{"--enable-admission-plugins=NodeRestriction"},
			map[string]string{"enable-admission-plugins": "NodeRestriction,EventRateLimit,AlwaysPullImages"},
			[]string{"--enable-admission-plugins=NodeRestriction,AlwaysPullImages"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, merge(c.program, c.ours, c.users)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func TestIgnored(t *testing.T) {
	config, err := bootstrap.ParseClusterConfiguration(`
apiServer:
  extraArgs:
  - name: event-ttl
    value: 2h
  - name: audit-policy-file
    value: /etc/kubernetes/audit.yaml
  - name: enable-admission-plugins
    value: NodeRestriction,EventRateLimit
controllerManager:
  extraArgs:
  - name: bind-address
    value: 0.0.0.0
etcd:
  local:
    extraArgs:
    - name: listen-metrics-urls
      value: http://0.0.0.0:2381
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"etcd --listen-metrics-urls", "kube-apiserver --audit-policy-file", "kube-apiserver --enable-admission-plugins=EventRateLimit",
		"kube-controller-manager --bind-address",
	}
	if diff := cmp.Diff(want, Ignored(config)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
