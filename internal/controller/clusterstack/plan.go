// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstack

import (
	"slices"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// situation is all that decides which releases a ClusterStack has.
type situation struct {
	// Wanted are the releases of spec.versions.
	Wanted []release.Name
	// Subscribe says that the newest release of the channel is wanted as well.
	Subscribe bool
	Channel   v1alpha1.Channel
	// Listed says that the source was asked and answered, Offered what it has of this cluster stack.
	Listed  bool
	Offered []source.Offer
	// Existing are the releases of this cluster stack in the namespace.
	Existing []existing
	// History is how many releases are kept that nobody wants any more.
	History int
}

// existing is a ClusterStackRelease of the cluster stack in the namespace of the ClusterStack.
type existing struct {
	source.Offer
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
	// Newest is the newest release that the source offers, nil if that is not known or nothing.
	Newest *release.Name
	// Unordered are several newest releases of the channel, none of which is newer than another, so
	// that the subscription can choose none.
	Unordered []release.Name
	// Ahead is a release that was usable once and is newer than all that the source offers now, so that
	// the subscription does not follow it. It is nil as long as the source goes forward.
	Ahead *release.Name
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
//   - Of what could go by these rules, the newest stay as history.
//   - A subscription whose source did not answer does not know what is wanted, so everything stays; one
//     that cannot choose keeps what it could choose; and one whose source goes back stays where it is.
func decide(s situation) plan {
	p := plan{}
	wanted := map[release.Name]bool{}
	for _, name := range s.Wanted {
		wanted[name] = true
	}
	if s.Subscribe && s.Listed {
		p.choose(s)
		if p.Newest != nil && p.Ahead == nil {
			wanted[*p.Newest] = true
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
	var outdated []existing
	for _, e := range s.Existing {
		switch {
		case wanted[e.Name] || !e.Owned:
		case e.InUse, s.Subscribe && !s.Listed, p.Ahead != nil, slices.Contains(p.Unordered, e.Name),
			e.Ready && !superseded(e, s.Existing, wanted), e.Opened && !slices.ContainsFunc(s.Existing, isReady):
			p.Keep = append(p.Keep, e.Name)
		default:
			outdated = append(outdated, e)
		}
	}
	history := recent(outdated, s.History)
	for _, e := range outdated {
		switch {
		case history[e.Name]:
			p.Keep = append(p.Keep, e.Name)
		case e.Shared:
			p.Leave = append(p.Leave, e.Name)
		default:
			p.Delete = append(p.Delete, e.Name)
		}
	}
	for _, names := range [][]release.Name{p.Create, p.Adopt, p.Keep, p.Leave, p.Delete} {
		slices.SortFunc(names, byText)
	}
	return p
}

// choose finds the newest release that the source offers, and whether the source has gone back behind what
// was usable once. Only releases that were fetched, and so verified, count for that: otherwise whoever can
// write a name into the source could end the subscription with one very high version.
func (p *plan) choose(s situation) {
	var candidates []source.Offer
	for _, o := range s.Offered {
		if inChannel(s.Channel, o.Name.Version) {
			candidates = append(candidates, o)
		}
	}
	newest := newestOf(candidates)
	switch len(newest) {
	case 0:
	case 1:
		p.Newest = &newest[0].Name
	default:
		for _, n := range newest {
			p.Unordered = append(p.Unordered, n.Name)
		}
		return
	}
	for _, e := range byAge(s.Existing) {
		switch {
		case !e.Owned || !e.Ready && !e.Opened || !inChannel(s.Channel, e.Name.Version):
		case slices.ContainsFunc(candidates, func(o source.Offer) bool { return o.Name == e.Name }):
		case p.Newest == nil || newer(e.Offer, newest[0]):
			p.Ahead = &e.Name
		}
	}
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

// recent returns the newest of releases, at most limit. One that never worked is no history.
func recent(releases []existing, limit int) map[release.Name]bool {
	worked := slices.DeleteFunc(byAge(releases), func(e existing) bool { return !e.Ready && !e.Opened })
	kept := map[release.Name]bool{}
	for _, e := range worked[max(0, len(worked)-limit):] {
		kept[e.Name] = true
	}
	return kept
}

// inChannel tells whether releases of a version belong to a channel: numbered ones to stable, numbered ones
// that lead up to those to beta, and all others to custom.
func inChannel(channel v1alpha1.Channel, version release.Version) bool {
	return channel == channelOf(version)
}

func channelOf(version release.Version) v1alpha1.Channel {
	switch version.Channel {
	case "":
		return v1alpha1.ChannelStable
	case "beta":
		return v1alpha1.ChannelBeta
	}
	return v1alpha1.ChannelCustom
}

// newestOf returns the newest of some releases: one, or several none of which is newer than another. Where
// versions do not tell, because they are named after content or after different things, it is the
// one that was published last.
func newestOf(candidates []source.Offer) []source.Offer {
	names := make([]release.Name, len(candidates))
	for i, c := range candidates {
		names[i] = c.Name
	}
	var newest []source.Offer
	for _, name := range release.Newest(names) {
		c := candidates[slices.Index(names, name)]
		switch {
		case len(newest) == 0 || c.Published.Equal(newest[0].Published):
			newest = append(newest, c)
		case c.Published.After(newest[0].Published):
			newest = []source.Offer{c}
		}
	}
	return newest
}

// newer tells whether a is known to be newer than b.
func newer(a, b source.Offer) bool {
	if order, comparable := a.Name.Version.Compare(b.Name.Version); comparable {
		return order > 0
	}
	return !a.Published.IsZero() && !b.Published.IsZero() && a.Published.After(b.Published)
}

// byAge returns releases of one cluster stack, older ones first. It is a total order, and the last one is
// what a subscription would choose; stable releases come last, and where nothing tells the age the
// text does.
func byAge(releases []existing) []existing {
	left := slices.Clone(releases)
	slices.SortFunc(left, func(a, b existing) int { return byText(a.Name, b.Name) })
	sorted := make([]existing, 0, len(left))
	for len(left) > 0 {
		// What the next one is depends on all that are left: the order by numbers and the one by publication,
		// each within its reach, would otherwise lead around in circles.
		group := make([]source.Offer, 0, len(left))
		stable := slices.ContainsFunc(left, func(e existing) bool { return e.Name.Version.Channel == "" })
		for _, e := range left {
			if stable == (e.Name.Version.Channel == "") {
				group = append(group, e.Offer)
			}
		}
		newest := newestOf(group)
		last := newest[len(newest)-1].Name
		i := slices.IndexFunc(left, func(e existing) bool { return e.Name == last })
		sorted = append(sorted, left[i])
		left = slices.Delete(left, i, i+1)
	}
	slices.Reverse(sorted)
	return sorted
}

func byText(a, b release.Name) int { return a.Version.Sort(b.Version) }
