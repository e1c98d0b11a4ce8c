// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

const (
	v1of35 = "docker-starter-1-35-v1"
	v2of35 = "docker-starter-1-35-v2"
	v1of36 = "docker-starter-1-36-v1"
)

var (
	offer1of35 = offer{known: true, ready: true, version: "v1.35.4"}
	offer2of35 = offer{known: true, ready: true, version: "v1.35.6"}
	offer1of36 = offer{known: true, ready: true, version: "v1.36.3"}
)

func asks(class, version string) topology {
	return topologyOf(apitest.Cluster("n", "c", class, version))
}

func unchecked(t topology) topology {
	t.unchecked = true
	return t
}

func TestVersionIsFilledIn(t *testing.T) {
	for name, tc := range map[string]struct {
		why             string
		before, now     topology
		applied, target offer
		want, err       string
	}{
		"Create":                          {now: asks(v1of35, ""), target: offer1of35, want: "v1.35.4"},
		"CreateAfterClusterAPIsWebhook":   {now: asks(v1of35, "v"), target: offer1of35, want: "v1.35.4"},
		"CreateWithVersion":               {why: "Whether it fits is for the other webhook to say.", now: asks(v1of35, "v1.35.9"), target: offer1of35, want: "v1.35.9"},
		"CreateWithVersionUnknownRelease": {why: "clusterctl move creates Clusters before releases are there.", now: asks(v1of35, "v1.35.4"), want: "v1.35.4"},
		"UnknownRelease":                  {now: asks(v1of35, ""), err: "there is no ClusterStackRelease docker-starter-1-35-v1 in namespace n"},
		"NotReady":                        {now: asks(v1of35, "v"), target: offer{known: true, version: "v1.35.4", because: "waiting for images"}, err: "is not ready (waiting for images); wait for its condition Ready"},
		"NeverLookedAt":                   {now: asks(v1of35, ""), target: offer{known: true}, err: "is not ready (it has not been looked at yet)"},
		"ForeignClass":                    {now: asks("quick-start", "v"), want: "v"},
		"NoTopology":                      {now: topologyOf(apitest.PlainCluster("n", "c"))},
		"ClassMovesOn": {
			why:    "kubectl apply of a manifest without a version leaves the one that was filled in.",
			before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "v1.35.4"), applied: offer1of35, target: offer1of36, want: "v1.36.3",
		},
		"ClassMovesOnAndVersionIsLeftOut": {before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "v"), applied: offer1of35, target: offer1of36, want: "v1.36.3"},
		"ClassMovesOnWithItsVersion":      {before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "v1.36.3"), applied: offer1of35, target: offer1of36, want: "v1.36.3"},
		"ClassMovesOnWithAnotherVersion": {
			why:    "A version that the user has chosen is never overwritten, not even by a better one.",
			before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "v1.36.1"), applied: offer1of35, target: offer1of36, want: "v1.36.1",
		},
		"ClassMovesOnFromChosenVersion": {before: asks(v1of35, "v1.35.5"), now: asks(v2of35, "v1.35.5"), applied: offer1of35, target: offer2of35, want: "v1.35.5"},
		"ClassMovesBack":                {before: asks(v2of35, "v1.35.6"), now: asks(v1of35, "v1.35.6"), applied: offer2of35, target: offer1of35, want: "v1.35.4"},
		"ClassMovesToUnknownRelease": {
			before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "v1.35.4"), applied: offer1of35,
			err: "there is no ClusterStackRelease docker-starter-1-36-v1",
		},
		"ClassMovesFromForgottenRelease": {why: "Nobody knows where its version came from.", before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "v1.35.4"), target: offer1of36, want: "v1.35.4"},
		"ClassMovesFromForeign":          {before: asks("quick-start", "v1.35.4"), now: asks(v1of36, "v1.35.4"), target: offer1of36, want: "v1.35.4"},
		"VersionIsTakenOut": {
			why:    "Nobody who says nothing asks for another version than there is.",
			before: asks(v1of35, "v1.35.5"), now: asks(v1of35, ""), target: offer1of35, want: "v1.35.5",
		},
		"WithoutV": {why: "Cluster API puts the v before it, sooner or later.", before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "1.35.4"), applied: offer1of35, target: offer1of36, want: "v1.36.3"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := versionFor(tc.before, tc.now, tc.applied, tc.target)
			if message := text(err); got != tc.want || !strings.Contains(message, tc.err) || (tc.err == "") != (message == "") {
				t.Errorf("got %q, %q; want %q, %q. %s", got, message, tc.want, tc.err, tc.why)
			}
		})
	}
}

func TestClusterIsJudgedByItsRelease(t *testing.T) {
	for name, tc := range map[string]struct {
		why           string
		before, now   topology
		target        offer
		warning, want string
	}{
		"Fits":           {now: asks(v1of35, "v1.35.4"), target: offer1of35},
		"WrongVersion":   {now: asks(v1of35, "v1.35.9"), target: offer1of35, want: "spec.topology.version is v1.35.9, but release docker-starter-1-35-v1 is made for Kubernetes v1.35.4"},
		"AllowedPatch":   {now: asks(v1of35, "v1.35.5"), target: offer{known: true, ready: true, version: "v1.35.4", patches: release.Patches{From: 4, End: 6}}},
		"OtherPatch":     {now: asks(v1of35, "v1.35.6"), target: offer{known: true, ready: true, version: "v1.35.4", patches: release.Patches{From: 4, End: 6}}, want: "is made for Kubernetes v1.35.4"},
		"UnknownRelease": {now: asks(v1of35, "v1.35.9"), warning: "there is no ClusterStackRelease docker-starter-1-35-v1 in namespace n"},
		"NeverLookedAt":  {now: asks(v1of35, "v1.35.9"), target: offer{known: true}, warning: "has not been read yet"},
		"NotReady":       {now: asks(v1of35, "v1.35.4"), target: offer{known: true, version: "v1.35.4", because: "x"}, warning: "is not ready: x"},
		"NextStack":      {before: asks(v1of35, "v1.35.4"), now: asks(v2of35, "v1.35.6"), target: offer2of35},
		"StackBefore":    {why: "Rolling back is an ordinary flow.", before: asks(v2of35, "v1.35.4"), now: asks(v1of35, "v1.35.4"), target: offer1of35},
		"NextMinor":      {before: asks(v1of35, "v1.35.4"), now: asks(v1of36, "v1.36.3"), target: offer1of36},
		"MinorBefore":    {before: asks(v1of36, "v1.36.3"), now: asks(v1of35, "v1.35.4"), target: offer1of35, want: "goes back from Kubernetes 1.36 to 1.35"},
		"MinorBeforeUnchecked": {
			why:    "An upgrade that is held has changed no machine yet, and may be taken back.",
			before: asks(v1of36, "v1.36.3"), now: unchecked(asks(v1of35, "v1.35.4")), target: offer1of35,
		},
		"StackUnchecked": {before: asks(v1of35, "v1.35.4"), now: unchecked(asks("docker-scs-1-35-v1", "v1.35.4")), want: "changes the cluster stack from starter to scs"},
		"TwoMinors":      {before: asks("docker-starter-1-34-v1", "v1.34.1"), now: asks(v1of36, "v1.36.3"), target: offer1of36, want: "first to a release for 1.35"},
		"AnotherMajor":   {before: asks(v1of35, "v1.35.4"), now: asks("docker-starter-2-36-v1", "v2.36.0"), want: "major version"},
		"Provider":       {before: asks(v1of35, "v1.35.4"), now: asks("openstack-starter-1-35-v1", "v1.35.4"), want: "changes the provider from docker to openstack"},
		"Stack":          {before: asks(v1of35, "v1.35.4"), now: asks("docker-scs-1-35-v1", "v1.35.4"), want: "changes the cluster stack from starter to scs"},
		"MoveToUnknown":  {why: "Where the release goes is seen in its name.", before: asks(v1of36, "v1.36.3"), now: asks(v1of35, "v1.35.4"), want: "goes back"},
		"FromForeign":    {before: asks("quick-start", "v1.30.0"), now: asks(v1of35, "v1.35.4"), target: offer1of35},
		"ToForeign":      {before: asks(v1of35, "v1.35.4"), now: asks("quick-start", "v1.30.0")},
		"Foreign":        {now: asks("my-class", "v1.30.0")},
		"AlmostARelease": {now: asks("docker-starter-1-035-v1", "v1.30.0")},
		"NoTopology":     {now: topologyOf(apitest.PlainCluster("n", "c"))},
	} {
		t.Run(name, func(t *testing.T) {
			warning, err := judge(tc.before, tc.now, tc.target)
			message := text(err)
			if !strings.Contains(message, tc.want) || (tc.want == "") != (message == "") {
				t.Errorf("denied with %q, want %q. %s", message, tc.want, tc.why)
			}
			if !strings.Contains(warning, tc.warning) || (tc.warning == "") != (warning == "") {
				t.Errorf("warning %q, want %q. %s", warning, tc.warning, tc.why)
			}
		})
	}
}

func TestClassOfAnotherNamespace(t *testing.T) {
	cluster := apitest.Cluster("n", "c", v1of35, "v1.35.4")
	cluster.Spec.Topology.ClassRef.Namespace = "classes"
	if got, want := topologyOf(cluster).class, (types.NamespacedName{Namespace: "classes", Name: v1of35}); got != want {
		t.Errorf("class %v, want %v", got, want)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
