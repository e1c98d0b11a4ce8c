// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
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

// day returns a time for a number of a day, and the zero time for 0.
func day(n int) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC)
}

func TestDecide(t *testing.T) {
	// has is an existing release: its version and what is true of it.
	type has struct {
		version              string
		published            int // as for offered
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
		beta      bool
		history   int
		unlisted  bool
		offered   versions
		existing  []has

		// published has the day of publication of offered versions, where it is known.
		published map[string]int

		newest, ahead                                   string
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
		"EmptySourceChangesNothing": {
			why: "Perhaps the right to read it was taken away.", subscribe: true,
			existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}, {version: "v3"}},
			ahead:    "v2", keep: versions{"v1", "v2", "v3"},
		},
		"EmptySourceFromTheBeginning": {
			subscribe: true,
		},
		"SourceGoesBack": {
			why:       "An old list that is shown again must not bring back what was replaced.",
			subscribe: true, offered: versions{"v1", "v2"}, existing: []has{{version: "v3", ready: true}},
			newest: "v2", ahead: "v3", keep: versions{"v3"},
		},
		"SourceGoesBackBehindAnUnreadyRelease": {
			why:       "It was fetched and verified, so the source did have it; that it is not ready now is another matter.",
			subscribe: true, offered: versions{"v1"}, existing: []has{{version: "v1", ready: true}, {version: "v2", opened: true}},
			newest: "v1", ahead: "v2", keep: versions{"v1", "v2"},
		},
		"NameThatWasNeverARelease": {
			why:       "Whoever can write a tag must not end the subscription with v999.",
			subscribe: true, offered: versions{"v1", "v2"}, existing: []has{{version: "v1", ready: true}, {version: "v999"}},
			newest: "v2", create: versions{"v2"}, keep: versions{"v1", "v2"}, remove: versions{"v999"},
		},
		"OtherChannelIsNoMeasure": {
			subscribe: true, offered: versions{"v1"}, wanted: versions{"v7-beta.1"}, existing: []has{{version: "v7-beta.1", ready: true}},
			newest: "v1", create: versions{"v1"}, keep: versions{"v7-beta.1", "v1"},
		},
		"SpecGoesOnWhileTheSourceIsBehind": {
			subscribe: true, offered: versions{"v1"}, wanted: versions{"v1"}, existing: []has{{version: "v2", ready: true}},
			newest: "v1", ahead: "v2", create: versions{"v1"}, keep: versions{"v1", "v2"},
		},
		"HashesGoBack": {
			why:       "What is no longer offered has kept its day of publication.",
			subscribe: true, custom: true, offered: versions{"v0-sha.a", "v0-sha.b"}, published: map[string]int{"v0-sha.a": 1, "v0-sha.b": 2},
			existing: []has{{version: "v0-sha.c", published: 3, ready: true}},
			newest:   "v0-sha.b", ahead: "v0-sha.c", keep: versions{"v0-sha.c"},
		},
		"HistoryKeepsTheNewestThatWorked": {
			subscribe: true, offered: versions{"v5"}, history: 2,
			existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}, {version: "v3", opened: true}, {version: "v4"}, {version: "v5", ready: true}},
			newest:   "v5", keep: versions{"v2", "v3", "v5"}, remove: versions{"v1", "v4"},
		},
		"HistoryIsBesideWhatIsInUseOrNamed": {
			wanted: versions{"v1", "v9"}, history: 1,
			existing: []has{{version: "v1", ready: true}, {version: "v2", ready: true}, {version: "v3", ready: true}, {version: "v4", ready: true, inUse: true}, {version: "v9", ready: true}},
			keep:     versions{"v1", "v3", "v4", "v9"}, remove: versions{"v2"},
		},
		"HistoryOfHashes": {
			subscribe: true, custom: true, offered: versions{"v0-sha.a", "v0-sha.b", "v0-sha.c"}, history: 1,
			published: map[string]int{"v0-sha.a": 3, "v0-sha.b": 1, "v0-sha.c": 2},
			existing:  []has{{version: "v0-sha.a", published: 3, ready: true}, {version: "v0-sha.b", published: 1, ready: true}, {version: "v0-sha.c", published: 2, ready: true}},
			newest:    "v0-sha.a", keep: versions{"v0-sha.a", "v0-sha.c"}, remove: versions{"v0-sha.b"},
		},
		"HistoryOfAnother": {
			why: "What another ClusterStack wants is our history, too.", wanted: versions{"v2"}, history: 1,
			existing: []has{{version: "v1", ready: true, shared: true}, {version: "v2", ready: true}},
			keep:     versions{"v1", "v2"},
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
		"HashesByPublication": {
			subscribe: true, custom: true, offered: versions{"v0-sha.z", "v0-sha.a", "v0-sha.b"}, published: map[string]int{"v0-sha.z": 1, "v0-sha.a": 3, "v0-sha.b": 2},
			newest: "v0-sha.a", create: versions{"v0-sha.a"}, keep: versions{"v0-sha.a"},
		},
		"WordsByPublication": {
			why: "Numbers order one word; between words, publication does.", subscribe: true, custom: true,
			offered:   versions{"v0-ttl.1713", "v0-ttl.999", "v0-git.abc", "v1-custom.x"},
			published: map[string]int{"v0-ttl.1713": 2, "v0-ttl.999": 9, "v0-git.abc": 3, "v1-custom.x": 1},
			newest:    "v0-git.abc", create: versions{"v0-git.abc"}, keep: versions{"v0-git.abc"},
		},
		"UnknownPublicationIsOlder": {
			subscribe: true, custom: true, offered: versions{"v0-sha.z", "v0-sha.a"}, published: map[string]int{"v0-sha.a": 1},
			newest: "v0-sha.a", create: versions{"v0-sha.a"}, keep: versions{"v0-sha.a"},
		},
		"PublishedTogether": {
			subscribe: true, custom: true, offered: versions{"v0-sha.z", "v0-sha.a"}, published: map[string]int{"v0-sha.a": 1, "v0-sha.z": 1},
			noneIsNewer: versions{"v0-sha.a", "v0-sha.z"},
		},
		"CustomIgnoresBeta": {
			subscribe: true, custom: true, offered: versions{"v9-beta.1", "v0-ttl.1"},
			newest: "v0-ttl.1", create: versions{"v0-ttl.1"}, keep: versions{"v0-ttl.1"},
		},
		"BetaByNumbers": {
			subscribe: true, beta: true, offered: versions{"v1", "v1-beta.2", "v1-beta.10", "v3-alpha.1", "v2-custom.x"},
			newest: "v1-beta.10", create: versions{"v1-beta.10"}, keep: versions{"v1-beta.10"},
		},
		"BetaPrevious": {
			subscribe: true, beta: true, offered: versions{"v1-beta.9", "v1-beta.10"},
			existing: []has{{version: "v1-beta.9", ready: true}, {version: "v1-beta.10", ready: true}},
			newest:   "v1-beta.10", keep: versions{"v1-beta.10"}, remove: versions{"v1-beta.9"},
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
			s := situation{Wanted: named(t, tc.wanted...), Subscribe: tc.subscribe, Channel: v1alpha1.ChannelStable, Listed: !tc.unlisted, History: tc.history}
			switch {
			case tc.custom:
				s.Channel = v1alpha1.ChannelCustom
			case tc.beta:
				s.Channel = v1alpha1.ChannelBeta
			}
			for i, name := range named(t, tc.offered...) {
				s.Offered = append(s.Offered, source.Offer{Name: name, Published: day(tc.published[tc.offered[i]])})
			}
			for _, h := range tc.existing {
				s.Existing = append(s.Existing, existing{Offer: source.Offer{Name: named(t, h.version)[0], Published: day(h.published)}, Ready: h.ready, Opened: h.opened, Owned: !h.foreign, Shared: h.shared, InUse: h.inUse})
			}
			want := plan{
				Create: named(t, tc.create...), Adopt: named(t, tc.adopt...), Keep: named(t, tc.keep...),
				Leave: named(t, tc.leave...), Delete: named(t, tc.remove...), Unordered: named(t, tc.noneIsNewer...),
			}
			if tc.newest != "" {
				want.Newest = &named(t, tc.newest)[0]
			}
			if tc.ahead != "" {
				want.Ahead = &named(t, tc.ahead)[0]
			}
			if diff := cmp.Diff(want, decide(s)); diff != "" {
				t.Errorf("%s\n(-want +got):\n%s", tc.why, diff)
			}
		})
	}
}

// The order must not depend on the order in which releases were read, or the status would change by itself.
func TestByAge(t *testing.T) {
	want := []existing{}
	for _, v := range []struct {
		version   string
		published int
	}{
		{"v0-sha.unknown", 0}, {"v0-git.abc", 4}, {"v0-ttl.999", 9}, {"v0-ttl.1713", 5}, {"v0-sha.x", 7}, {"v1", 0}, {"v2", 0}, {"v10", 0},
	} {
		want = append(want, existing{Offer: source.Offer{Name: named(t, v.version)[0], Published: day(v.published)}})
	}
	for i := range want {
		shuffled := slices.Concat(want[i:], want[:i])
		slices.Reverse(shuffled[:i])
		if diff := cmp.Diff(versionsOf(want), versionsOf(byAge(shuffled))); diff != "" {
			t.Errorf("rotated by %d (-want +got):\n%s", i, diff)
		}
	}
}

func versionsOf(releases []existing) []string {
	versions := make([]string, len(releases))
	for i, e := range releases {
		versions[i] = e.Name.Version.String()
	}
	return versions
}
