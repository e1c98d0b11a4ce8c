// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// selection says which releases of a place are meant.
type selection struct {
	provider, stack, kubernetes, channel string
	newest                               bool
}

func (s *selection) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.provider, "provider", "", "only releases for this provider, such as docker")
	flags.StringVar(&s.stack, "name", "", "only releases of the cluster stack of this name")
	flags.StringVar(&s.kubernetes, "kubernetes", "", "only releases for this minor version of Kubernetes, such as 1.35")
	flags.StringVar(&s.channel, "channel", "", "only releases of this channel: stable, or a word such as beta or sha")
	flags.BoolVar(&s.newest, "newest", false, "only the newest release of each cluster stack, Kubernetes version and channel")
	for _, flag := range []string{"provider", "name", "kubernetes"} {
		mustComplete(cmd, flag, cobra.NoFileCompletions)
	}
	mustComplete(cmd, "channel", cobra.FixedCompletions([]string{"stable", "beta", "alpha", "custom", "sha"}, cobra.ShellCompDirectiveNoFileComp))
}

func channelOf(name release.Name) string { return cmp.Or(name.Version.Channel, "stable") }

// row is a release that a place offers.
type row struct {
	Release    string     `json:"release"`
	Provider   string     `json:"provider"`
	Name       string     `json:"name"`
	Kubernetes string     `json:"kubernetes"`
	Version    string     `json:"version"`
	Channel    string     `json:"channel"`
	Newest     bool       `json:"newest"`
	Published  *time.Time `json:"published,omitempty"`
	Digest     string     `json:"digest,omitempty"`
	// Signed says whether something is there that looks like a signature. It is absent when nobody asked.
	Signed *bool `json:"signed,omitempty"`
	// Error says why something is not known of it.
	Error string `json:"error,omitempty"`

	name release.Name
}

// choose returns the offers that are meant, sorted, with the newest of each channel marked.
func (s *selection) choose(offers []source.Offer) []row {
	type line struct{ prefix, channel string }
	versions := map[line][]release.Name{}
	for _, o := range offers {
		at := line{o.Name.Prefix(), channelOf(o.Name)}
		versions[at] = append(versions[at], o.Name)
	}
	var rows []row
	for _, o := range offers {
		n := o.Name
		if s.provider != "" && n.Provider != s.provider || s.stack != "" && n.Stack != s.stack ||
			s.kubernetes != "" && n.Kubernetes != strings.TrimPrefix(s.kubernetes, "v") || s.channel != "" && channelOf(n) != s.channel {
			continue
		}
		r := row{Release: n.String(), Provider: n.Provider, Name: n.Stack, Kubernetes: n.Kubernetes, Version: n.Version.String(), Channel: channelOf(n), name: n}
		// Of versions that cannot be compared, such as hashes, none is the newest, unless it is alone.
		newest := release.Newest(versions[line{n.Prefix(), r.Channel}])
		r.Newest = len(newest) == 1 && newest[0] == n
		if s.newest && !r.Newest {
			continue
		}
		if !o.Published.IsZero() {
			r.Published = &o.Published
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(a.Provider, b.Provider), strings.Compare(a.Name, b.Name), compareMinor(a.Kubernetes, b.Kubernetes),
			strings.Compare(a.Channel, b.Channel), a.name.Version.Sort(b.name.Version))
	})
	return rows
}

func compareMinor(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) }

func newListCommand() *cobra.Command {
	var (
		flags       placeFlags
		want        selection
		all, signed bool
	)
	cmd := &cobra.Command{
		Use:     "list PLACE",
		Aliases: []string{"ls"},
		Short:   "List the releases that a place offers",
		Long: `List the releases that a place offers.

The newest release of each cluster stack, Kubernetes version and channel is marked with a star. Versions that are called
after a hash have no order: of several, none is the newest. A release that cannot be looked at is listed with what is known,
named at the end, and makes the exit code 1.

` + placeHelp,
		Example: `  csctl list oci://registry.example.org/kaas/cluster-stacks
  csctl list oci://registry.example.org/kaas/cluster-stacks --kubernetes 1.35 --channel stable --signed
  csctl list github://my-org/cluster-stacks --newest -o json`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags.register(cmd)
	want.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "show tags, too, that are not called like a release")
	cmd.Flags().BoolVar(&signed, "signed", false, "look whether there are signatures; whether they are any good csctl verify says")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		p, err := flags.open(ctx, args[0])
		if err != nil {
			return err
		}
		offers, err := p.source.List(ctx)
		if err != nil {
			return err
		}
		rows := want.choose(offers)
		if p.release != (release.Name{}) {
			rows = slices.DeleteFunc(rows, func(r row) bool { return r.name != p.release })
		}
		unknown := p.describe(ctx, rows, signed)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var foreign []string
		if all {
			if foreign, err = p.foreign(ctx); err != nil {
				return err
			}
		}
		if output.json() {
			return errors.Join(unknown, printJSON(cmd.OutOrStdout(), struct {
				Place    string   `json:"place"`
				Releases []row    `json:"releases"`
				Foreign  []string `json:"foreign,omitempty"`
			}{p.String(), append([]row{}, rows...), foreign}))
		}
		return errors.Join(unknown, printRows(cmd.OutOrStdout(), rows, foreign, signed))
	}
	return cmd
}

// tagged is a source that has other things beside releases.
type tagged interface {
	Foreign(ctx context.Context) ([]string, error)
}

func (p *place) foreign(ctx context.Context) ([]string, error) {
	if has, is := p.source.(tagged); is {
		return has.Foreign(ctx)
	}
	return nil, fmt.Errorf("--all: %s has nothing but releases", p)
}

// atOnce is how many releases a place is asked about at the same time.
const atOnce = 8

// describe asks for what the list does not say. A release that cannot be looked at takes nothing from the others: its error
// is part of what is returned.
func (p *place) describe(ctx context.Context, rows []row, signed bool) error {
	var all errgroup.Group
	all.SetLimit(atOnce)
	errs := make([][]error, len(rows))
	for i := range rows {
		all.Go(func() error {
			errs[i] = p.describeOne(ctx, &rows[i], signed)
			return nil
		})
	}
	_ = all.Wait() // each error is kept by itself
	unknown := partialError{what: "could not be looked at, or not as a whole", of: len(rows)}
	for i, of := range errs {
		unknown.add(of...)
		if err := errors.Join(of...); err != nil {
			rows[i].Error = err.Error()
		}
	}
	return unknown.err()
}

func (p *place) describeOne(ctx context.Context, r *row, signed bool) (errs []error) {
	if resolver, is := p.source.(source.Resolver); is {
		sum, err := resolver.Resolve(ctx, r.name)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return []error{err} // and nothing else can be known
		}
		r.Digest = sum
	}
	if dated, is := p.source.(source.Dated); is && r.Published == nil {
		at, err := dated.Published(ctx, r.name)
		if err != nil {
			errs = append(errs, err)
		} else if !at.IsZero() {
			r.Published = &at
		}
	}
	if !signed {
		return errs
	}
	is, err := p.looksSigned(ctx, r.name, r.Digest)
	if err != nil {
		return append(errs, err)
	}
	r.Signed = &is
	return errs
}

func printRows(w io.Writer, rows []row, foreign []string, signed bool) error {
	if len(rows)+len(foreign) == 0 {
		_, err := fmt.Fprintln(w, "No release.")
		return err
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "RELEASE\tKUBERNETES\tCHANNEL\tNEWEST\tPUBLISHED\tDIGEST"
	if signed {
		head += "\tSIGNED"
	}
	_, _ = fmt.Fprintln(out, head) // a tabwriter keeps everything until it is flushed
	for _, r := range rows {
		newest, published := "", "-"
		if r.Newest {
			newest = "*"
		}
		if r.Published != nil {
			published = r.Published.UTC().Format("2006-01-02 15:04")
		}
		_, _ = fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s", r.Release, r.Kubernetes, r.Channel, newest, published, cmp.Or(short(r.Digest), "-"))
		if signed {
			_, _ = fmt.Fprintf(out, "\t%s", inWords(r.Signed))
		}
		_, _ = fmt.Fprintln(out)
	}
	for _, tag := range foreign {
		_, _ = fmt.Fprintf(out, "%s\t\t\t\t\t\n", visibleName(tag))
	}
	return out.Flush()
}

// inWords says what is known of a question.
func inWords(is *bool) string {
	switch {
	case is == nil:
		return "unknown"
	case *is:
		return "yes"
	}
	return "no"
}

// short is enough of a digest to tell it from others by eye.
func short(digest string) string { return digest[:min(len(digest), len("sha256:")+12)] }
