// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack

import (
	"cmp"
	"slices"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// situation is all that decides which releases a ClusterStack has.
type situation struct {
	// Wanted are the releases of spec.versions.
	Wanted []release.Name
	// Subscribe says that the newest release of the channel is wanted as well.
	Subscribe bool
	// Stable says that the channel is the one of numbered releases; otherwise it is the one of all others.
	Stable bool
	// Listed says that the source was asked and answered, Offered what it has of this cluster stack.
	Listed  bool
	Offered []release.Name
	// Existing are the releases of this cluster stack in the namespace.
	Existing []existing
}

// existing is a ClusterStackRelease of the cluster stack in the namespace of the ClusterStack.
type existing struct {
	Name  release.Name
	Ready bool
	// Opened says that it could be fetched and read, so that it may have been ready a moment ago.
	Opened bool
	// Owned says that this ClusterStack has asked for it, Shared that another one has.
	Owned, Shared bool
	// InUse says that a Cluster uses it, in whatever namespace.
	InUse bool
}

// plan says what to do about releases. Its lists are sorted.
type plan struct {
	// Newest is what the subscription wants, nil if that is not known or nothing.
	Newest *release.Name
	// Unordered are several newest releases of the channel, none of which is newer than another, so
	// that the subscription can choose none.
	Unordered []release.Name
	// Create are releases to be made, Adopt those that exist and are to be owned from now on.
	Create, Adopt []release.Name
	// Keep are releases that stay ours, including those to be made or adopted.
	Keep []release.Name
	// Leave are releases that another ClusterStack still wants, Delete those that nobody wants.
	Leave, Delete []release.Name
}

// decide says which releases to make, to keep and to delete.
//
//   - Versions of the spec and, with a subscription, the newest release of the channel are wanted.
//   - A release that a Cluster uses stays.
//   - A release that is ready stays until something better is ready: a wanted release, or a newer one.
//     One that may have been ready, and is not now, stays as long as no release is ready.
//   - A subscription whose source did not answer does not know what is wanted, so everything stays; one
//     that cannot choose keeps what it could choose.
func decide(s situation) plan {
	p := plan{}
	wanted := map[release.Name]bool{}
	for _, name := range s.Wanted {
		wanted[name] = true
	}
	if s.Subscribe && s.Listed {
		switch newest := newestOf(s.Stable, s.Offered); len(newest) {
		case 0:
		case 1:
			p.Newest = &newest[0]
			wanted[newest[0]] = true
		default:
			p.Unordered = newest
		}
	}

	have := map[release.Name]existing{}
	for _, e := range s.Existing {
		have[e.Name] = e
	}
	for name := range wanted {
		if e, ok := have[name]; !ok {
			p.Create = append(p.Create, name)
		} else if !e.Owned {
			p.Adopt = append(p.Adopt, name)
		}
		p.Keep = append(p.Keep, name)
	}
	for _, e := range s.Existing {
		switch {
		case wanted[e.Name] || !e.Owned:
		case e.InUse, s.Subscribe && !s.Listed, slices.Contains(p.Unordered, e.Name),
			e.Ready && !superseded(e, s.Existing, wanted), e.Opened && !slices.ContainsFunc(s.Existing, isReady):
			p.Keep = append(p.Keep, e.Name)
		case e.Shared:
			p.Leave = append(p.Leave, e.Name)
		default:
			p.Delete = append(p.Delete, e.Name)
		}
	}
	for _, names := range [][]release.Name{p.Create, p.Adopt, p.Keep, p.Leave, p.Delete, p.Unordered} {
		slices.SortFunc(names, byAge)
	}
	return p
}

// superseded tells whether there is a ready release to use in place of one that nobody asks for: a newer
// one, or a wanted one that is not older. Versions named after content have no age, so there only
// being wanted counts.
func superseded(e existing, all []existing, wanted map[release.Name]bool) bool {
	return slices.ContainsFunc(all, func(other existing) bool {
		if !other.Ready || other.Name == e.Name {
			return false
		}
		order, comparable := other.Name.Version.Compare(e.Name.Version)
		if comparable {
			return order > 0
		}
		return wanted[other.Name]
	})
}

func isReady(e existing) bool { return e.Ready }

// newestOf returns the newest of the releases that belong to a channel: one, or several none of which
// is newer than another. In the channel of named releases those named "custom" go before all others,
// which have no order among each other that would mean anything.
func newestOf(stable bool, offered []release.Name) []release.Name {
	var candidates, custom []release.Name
	for _, name := range offered {
		if stable != (name.Version.Channel == "") {
			continue
		}
		candidates = append(candidates, name)
		if name.Version.Channel == "custom" {
			custom = append(custom, name)
		}
	}
	if len(custom) > 0 {
		candidates = custom
	}
	var newest []release.Name
	for _, name := range candidates {
		if !slices.ContainsFunc(candidates, func(other release.Name) bool {
			order, comparable := other.Version.Compare(name.Version)
			return comparable && order > 0
		}) {
			newest = append(newest, name)
		}
	}
	slices.SortFunc(newest, byAge)
	return slices.Compact(newest)
}

// byAge sorts releases of one cluster stack, older ones first. It is a total order: stable releases come
// last, and where versions say nothing about age their text decides.
func byAge(a, b release.Name) int {
	if order, comparable := a.Version.Compare(b.Version); comparable {
		return order
	}
	if aStable, bStable := a.Version.Channel == "", b.Version.Channel == ""; aStable != bStable {
		if aStable {
			return 1
		}
		return -1
	}
	return cmp.Or(
		cmp.Compare(a.Version.Channel, b.Version.Channel),
		cmp.Compare(a.Version.Major, b.Version.Major),
		cmp.Compare(a.Version.Suffix, b.Version.Suffix),
	)
}
