// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"maps"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
)

// Names of the programs, as they stand in logs and file names.
const (
	etcd              = "etcd"
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// honoured are the arguments of users that a program gets: those that take effect without files and containers, and
// that do not change how the sandbox and Cluster API reach the program. One that ends in a star stands for all that
// begin like it.
var honoured = map[string][]string{
	apiServer: {
		"api-audiences", "default-not-ready-toleration-seconds", "default-unreachable-toleration-seconds", "delete-collection-workers",
		"disable-admission-plugins", "enable-admission-plugins", "enable-garbage-collector", "enable-priority-and-fairness", "event-ttl",
		"feature-gates", "goaway-chance", "http2-max-streams-per-connection", "max-mutating-requests-inflight", "max-requests-inflight",
		"min-request-timeout", "oidc-client-id", "oidc-groups-*", "oidc-issuer-url", "oidc-required-claim", "oidc-signing-algs", "oidc-username-*",
		"profiling", "request-timeout", "runtime-config", "service-account-extend-token-expiration", "service-account-lookup",
		"service-account-max-token-expiration", "service-node-port-range", "strict-transport-security-directives", "tls-cipher-suites",
		"tls-min-version", "v", "vmodule", "watch-cache", "watch-cache-sizes",
	},
	controllerManager: {
		"allocate-node-cidrs", "attach-detach-reconcile-sync-period", "cloud-provider", "cluster-cidr", "cluster-signing-duration", "concurrent-*",
		"configure-cloud-routes", "controllers", "enable-garbage-collector", "feature-gates", "horizontal-pod-autoscaler-*", "kube-api-burst", "kube-api-qps",
		"large-cluster-size-threshold", "min-resync-period", "namespace-sync-period", "node-cidr-mask-size*", "node-eviction-rate",
		"node-monitor-*", "node-startup-grace-period", "profiling", "pvclaimbinder-sync-period", "resource-quota-sync-period",
		"secondary-node-eviction-rate", "terminated-pod-gc-threshold", "unhealthy-zone-threshold", "v", "vmodule",
	},
	scheduler: {"feature-gates", "kube-api-burst", "kube-api-qps", "pod-max-in-unschedulable-pods-duration", "profiling", "v", "vmodule"},
	etcd: {
		"auto-compaction-*", "election-timeout", "heartbeat-interval", "max-request-bytes", "max-txn-ops", "quota-backend-bytes", "snapshot-count",
	},
}

// needFile are admission plugins that do not start without a file of their own.
var needFile = []string{"EventRateLimit", "ImagePolicyWebhook"}

// merge gives a program the arguments of the sandbox and those of the user that are honoured. As with kubeadm, the
// user's replace those of the same name.
func merge(program string, ours []string, users map[string]string) []string {
	var result []string
	for _, arg := range ours {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if _, replaced := users[name]; !replaced || !isHonoured(program, name) {
			result = append(result, arg)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		if !isHonoured(program, name) {
			continue
		}
		value := users[name]
		if name == "enable-admission-plugins" {
			value, _ = split(value)
		}
		result = append(result, "--"+name+"="+value)
	}
	return result
}

func isHonoured(program, name string) bool {
	return slices.ContainsFunc(honoured[program], func(pattern string) bool {
		prefix, wild := strings.CutSuffix(pattern, "*")
		return name == pattern || wild && strings.HasPrefix(name, prefix)
	})
}

// split takes the admission plugins out of a list that need a file.
func split(plugins string) (kept string, left []string) {
	var keep []string
	for plugin := range strings.SplitSeq(plugins, ",") {
		if slices.Contains(needFile, plugin) {
			left = append(left, plugin)
		} else {
			keep = append(keep, plugin)
		}
	}
	return strings.Join(keep, ","), left
}

// Ignored lists the arguments of users that have no effect in a sandbox, in the form of a command line.
func Ignored(c bootstrap.ClusterConfiguration) []string {
	var ignored []string
	for _, p := range []struct {
		program string
		args    map[string]string
	}{
		{etcd, c.Etcd.Local.ExtraArgs},
		{apiServer, c.APIServer.ExtraArgs},
		{controllerManager, c.ControllerManager.ExtraArgs},
		{scheduler, c.Scheduler.ExtraArgs},
	} {
		for _, name := range slices.Sorted(maps.Keys(p.args)) {
			if !isHonoured(p.program, name) {
				ignored = append(ignored, p.program+" --"+name)
			}
		}
		if _, left := split(p.args["enable-admission-plugins"]); len(left) > 0 {
			ignored = append(ignored, p.program+" --enable-admission-plugins="+strings.Join(left, ","))
		}
	}
	return ignored
}
