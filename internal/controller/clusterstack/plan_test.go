// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// named returns releases of one cluster stack by their versions, in dot form.
func named(t *testing.T, versions ...string) []release.Name {
	t.Helper()
	var names []release.Name
	for _, v := range versions {
		version, err := release.ParseVersion(v)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, release.Name{Provider: "docker", Stack: "starter", Kubernetes: "1.35", Version: version})
	}
	return names
}

func TestDecide(t *testing.T) {
	// has is an existing release: its version and what is true of it.
	type has struct {
		version              string
		ready, inUse, shared bool
		opened               bool // not ready, but was fetched and could be read
		foreign              bool // not ours
	}
	type versions = []string
	for name, tc := range map[string]struct {
		why       string
		wanted    versions
		subscribe bool
		custom    bool
		unlisted  bool
		offered   versions
		existing  []has

		newest                                          string
		create, adopt, keep, leave, remove, noneIsNewer versions
	}{
		"FirstSubscription": {
			why: "Only the newest release is made, not its history.", subscribe: true, offered: versions{"v1", "v2", "v10"},
			newest: "v10", create: versions{"v10"}, keep: versions{"v10"},
		},
		"VersionsOfTheSpec": {
			why: "Versions of other channels can be named.", wanted: versions{"v1", "v0-sha.abc"},
			create: versions{"v0-sha.abc", "v1"}, keep: versions{"v0-sha.abc", "v1"},
		},
		"NothingToDo": {
			subscribe: true, offered: versions{"v1"}, existing: []has{{version: "v1", ready: true}},
			newest: "v1", keep: versions{"v1"},
		},
		"PreviousStaysUntilNewestIsReady": {
			subscribe: true, offered: versions{"v1", "v2"}, existing: []has{{version: "v1", ready: true}, {version: "v2"}},
			newest: "v2", keep: versions{"v1", "v2"},
		},
		"PreviousStaysWhileInUse": {
			why: "The Cluster may be in any namespace.", subscribe: true, offered: versions{"v1", "v2"},
			existing: []has{{version: "v1", ready: true, inUse: true}, {version: "v2", ready: true}},
			newest:   "v2", keep: versions{"v1", "v2"},
		},
		"PreviousGoes": {
			subscribe: true, offered: versions{"v1", "v2"}, existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}},
			newest: "v2", keep: versions{"v2"}, remove: versions{"v1"},
		},
		"NeverReadyGoes": {
			why: "A release that never worked is no fall-back.", subscribe: true, offered: versions{"v1", "v2", "v3"},
			existing: []has{{version: "v1", ready: true}, {version: "v2"}},
			newest:   "v3", create: versions{"v3"}, keep: versions{"v1", "v3"}, remove: versions{"v2"},
		},
		"NeverReadyButInUseStays": {
			subscribe: true, offered: versions{"v2"}, existing: []has{{version: "v1", inUse: true}, {version: "v2", ready: true}},
			newest: "v2", keep: versions{"v1", "v2"},
		},
		"SpecStaysBesideSubscription": {
			wanted: versions{"v1"}, subscribe: true, offered: versions{"v1", "v2"},
			existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}},
			newest:   "v2", keep: versions{"v1", "v2"},
		},
		"FailedListingChangesNothing": {
			why: "That the source is down must not delete the newest release because it is not ready yet.", subscribe: true, unlisted: true,
			existing: []has{{version: "v1", ready: true}, {version: "v2"}, {version: "v3", ready: true}},
			keep:     versions{"v1", "v2", "v3"},
		},
		"FailedListingStillMakesTheSpec": {
			wanted: versions{"v4"}, subscribe: true, unlisted: true, existing: []has{{version: "v1", ready: true}},
			create: versions{"v4"}, keep: versions{"v1", "v4"},
		},
		"FailedListingWithoutSubscription": {
			why: "Who does not subscribe does not care what the source offers.", wanted: versions{"v2"}, unlisted: true,
			existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}},
			keep:     versions{"v2"}, remove: versions{"v1"},
		},
		"OnlyFallbackStaysThroughAFault": {
			why:       "That it is not ready for a moment, perhaps because an API server was down, must not cost the only release that worked.",
			subscribe: true, offered: versions{"v1", "v2"}, existing: []has{{version: "v1", opened: true}, {version: "v2"}},
			newest: "v2", keep: versions{"v1", "v2"},
		},
		"FallbackGoesWhenAnotherIsReady": {
			subscribe: true, offered: versions{"v1", "v2"}, existing: []has{{version: "v1", opened: true}, {version: "v2", ready: true}},
			newest: "v2", keep: versions{"v2"}, remove: versions{"v1"},
		},
		"NeverPublishedGoesAtOnce": {
			why: "A slip of the pen in the spec.", wanted: versions{"v1"}, existing: []has{{version: "v1"}, {version: "v11"}},
			keep: versions{"v1"}, remove: versions{"v11"},
		},
		"EmptySourceKeepsWhatIsReady": {
			subscribe: true, existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}, {version: "v3"}},
			keep: versions{"v2"}, remove: versions{"v1", "v3"},
		},
		"WithdrawnNewestStaysReady": {
			why: "What is newer than all that is offered was usable a moment ago.", subscribe: true, offered: versions{"v1"},
			existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}},
			newest:   "v1", keep: versions{"v1", "v2"},
		},
		"RemovedFromSpec": {
			wanted: versions{"v3"}, existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}, {version: "v3"}},
			keep: versions{"v2", "v3"}, remove: versions{"v1"},
		},
		"NumbersOfPreReleasesAreNumbers": {
			subscribe: true, custom: true, offered: versions{"v1-custom.2", "v1-custom.10"},
			newest: "v1-custom.10", create: versions{"v1-custom.10"}, keep: versions{"v1-custom.10"},
		},
		"StableIgnoresOthers": {
			subscribe: true, offered: versions{"v1", "v2-beta.1", "v3-sha.abc"},
			newest: "v1", create: versions{"v1"}, keep: versions{"v1"},
		},
		"CustomIgnoresStable": {
			subscribe: true, custom: true, offered: versions{"v1", "v0-custom.a"},
			newest: "v0-custom.a", create: versions{"v0-custom.a"}, keep: versions{"v0-custom.a"},
		},
		"CustomTakesHashes": {
			why: "Hash mode goes with the custom channel.", subscribe: true, custom: true, offered: versions{"v0-sha.abc"},
			newest: "v0-sha.abc", create: versions{"v0-sha.abc"}, keep: versions{"v0-sha.abc"},
		},
		"HashesHaveNoOrder": {
			why: "To choose one by its text would be to throw a die.", subscribe: true, custom: true, offered: versions{"v0-sha.b", "v0-sha.a"},
			noneIsNewer: versions{"v0-sha.a", "v0-sha.b"},
		},
		"SecondHashDoesNotDeleteTheFirst": {
			subscribe: true, custom: true, offered: versions{"v0-sha.b", "v0-sha.a"}, existing: []has{{version: "v0-sha.a"}},
			noneIsNewer: versions{"v0-sha.a", "v0-sha.b"}, keep: versions{"v0-sha.a"},
		},
		"CustomGoesBeforeHashes": {
			subscribe: true, custom: true, offered: versions{"v0-sha.a", "v1-custom.x"},
			newest: "v1-custom.x", create: versions{"v1-custom.x"}, keep: versions{"v1-custom.x"},
		},
		"HashReplacedInSpec": {
			why: "The new one is wanted and ready, that is all that can be known.", wanted: versions{"v0-sha.a"},
			existing: []has{{version: "v0-sha.z", ready: true}, {version: "v0-sha.a", ready: true}},
			keep:     versions{"v0-sha.a"}, remove: versions{"v0-sha.z"},
		},
		"HashReplacedInSpecNotReadyYet": {
			wanted:   versions{"v0-sha.a"},
			existing: []has{{version: "v0-sha.z", ready: true}, {version: "v0-sha.a"}},
			keep:     versions{"v0-sha.a", "v0-sha.z"},
		},
		"AnotherClusterStackHasIt": {
			why: "Both own it, so that deleting one does not delete it under the other.", subscribe: true, offered: versions{"v1"},
			existing: []has{{version: "v1", foreign: true, shared: true}},
			newest:   "v1", adopt: versions{"v1"}, keep: versions{"v1"},
		},
		"AnotherClusterStackStillWantsIt": {
			wanted: versions{"v2"}, existing: []has{{version: "v1", ready: true, shared: true}, {version: "v2", ready: true}},
			keep: versions{"v2"}, leave: versions{"v1"},
		},
		"ForeignReleasesAreLeftAlone": {
			wanted: versions{"v2"}, existing: []has{{version: "v1", foreign: true}, {version: "v2", ready: true}},
			keep: versions{"v2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := situation{Wanted: named(t, tc.wanted...), Subscribe: tc.subscribe, Stable: !tc.custom, Listed: !tc.unlisted, Offered: named(t, tc.offered...)}
			for _, h := range tc.existing {
				s.Existing = append(s.Existing, existing{Name: named(t, h.version)[0], Ready: h.ready, Opened: h.opened, Owned: !h.foreign, Shared: h.shared, InUse: h.inUse})
			}
			want := plan{
				Create: named(t, tc.create...), Adopt: named(t, tc.adopt...), Keep: named(t, tc.keep...),
				Leave: named(t, tc.leave...), Delete: named(t, tc.remove...), Unordered: named(t, tc.noneIsNewer...),
			}
			if tc.newest != "" {
				want.Newest = &named(t, tc.newest)[0]
			}
			if diff := cmp.Diff(want, decide(s)); diff != "" {
				t.Errorf("%s\n(-want +got):\n%s", tc.why, diff)
			}
		})
	}
}
