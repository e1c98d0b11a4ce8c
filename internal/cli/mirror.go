// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
)

// mirrored is what mirror tells programs about a release.
type mirrored struct {
	Release string `json:"release"`
	Digest  string `json:"digest,omitempty"`
	// State is copied, unchanged, failed, or wanted by a dry run.
	State string `json:"state"`
	// Error says why it failed, and Left why something that refers to it was not copied.
	Error string   `json:"error,omitempty"`
	Left  []string `json:"left,omitempty"`
	// Referrers is how many signatures and the like came along.
	Referrers int `json:"referrers,omitempty"`
	// Added is how many of them were not there before.
	Added int `json:"added,omitempty"`
	// Unsigned tells that the release has signatures that the place which it was copied to does not look at.
	Unsigned bool     `json:"unsigned,omitempty"`
	Images   []string `json:"images,omitempty"`
	// Charts are those that the release depends on and does not bring along.
	Charts []string `json:"charts,omitempty"`

	// charts are what became of them.
	charts []mirroredChart
}

const (
	stateCopied = "copied"
	stateWanted = "wanted"
	stateFailed = "failed"
)

func newMirrorCommand() *cobra.Command {
	var (
		flags                  placeFlags
		want                   selection
		dryRun, images, charts bool
		repositories           chartOptions
	)
	cmd := &cobra.Command{
		Use:   "mirror FROM TO",
		Short: "Copy releases from one place to another, or into a file and out of it",
		Long: `Copy releases from one place to another.

Between registries and bundles they stay as they are, with their digest, and signatures come along. From a folder or from
GitHub they become artifacts, and what is signed in their files stays signed. What is there already is not copied again, so
the same call goes on where another one was cut off. A release that is there with other contents is left as it is. What cannot
be copied is named at the end, with an exit code of 1, and all else is copied.

A bundle, whose name ends with .tar, is one file for networks without a way in: an OCI image layout in a tar archive. What is
in it already stays, and it is replaced at once when all is there. Until then there is a folder beside it, FILE.tar.partial,
with which the next call goes on where this one is cut off.

Charts that a release depends on and does not bring along are fetched and come along, before the release itself: in
registries and folders they lie below charts/, with a path for each repository that they are from, and what the operator
wants to hear about that is printed as --chart-mirrors. From one registry to another one they are looked for when a release
is copied, and of those that are there already with --charts only.

With --images nothing is copied: it lists the images of containers that the releases name when they are rendered for a
made-up cluster. What Cluster API and kubeadm pull for a Kubernetes version is not among them.

` + placeHelp,
		Example: `  csctl mirror oci://registry.example.org/kaas/cluster-stacks stacks.tar --kubernetes 1.35 --newest
  csctl mirror stacks.tar oci://mirror.internal/cluster-stacks
  csctl mirror github://my-org/cluster-stacks oci://mirror.internal/cluster-stacks --dry-run
  csctl mirror oci://registry.example.org/kaas/cluster-stacks stacks.tar --chart-mirrors @stable=https://charts.example.org
  csctl mirror stacks.tar --images`,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags.register(cmd)
	want.register(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say which releases would be copied")
	cmd.Flags().BoolVar(&images, "images", false, "only list the images of containers that the releases need")
	cmd.Flags().BoolVar(&charts, "charts", true, "copy the charts, too, that releases depend on and do not bring along")
	repositories.addFlags(cmd.Flags())
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if len(args) == 1 && !images {
			return errors.New("say where to: csctl mirror FROM TO; only --images needs no second place")
		}
		from, err := flags.open(ctx, args[0])
		if err != nil {
			return err
		}
		if len(args) == 2 {
			// Before anybody is asked, and shown them.
			to, err := parsePlace(args[1])
			if err != nil {
				return err
			}
			if err := sameCredentials(from.placeName, to); err != nil {
				return err
			}
		}
		names, err := from.selected(ctx, want)
		if err != nil {
			return err
		}
		beside, err := from.shelf(flags, repositories.mirrors)
		if err != nil {
			return err
		}
		if images {
			return printImages(ctx, cmd.OutOrStdout(), from, names, beside, output.json())
		}
		to, err := openTarget(ctx, flags, args[1], dryRun)
		if err != nil {
			return err
		}
		if charts {
			to.shelf, to.everyChart = beside, cmd.Flags().Changed("charts")
		}
		tell := newTransfer(cmd.ErrOrStderr())
		done, err := mirror(ctx, from, to, names, dryRun, tell)
		tell.done()
		// What was copied before something went wrong is copied.
		if output.json() {
			return errors.Join(err, printJSON(cmd.OutOrStdout(), struct {
				From     string          `json:"from"`
				To       string          `json:"to"`
				Releases []mirrored      `json:"releases"`
				Charts   []mirroredChart `json:"charts,omitempty"`
			}{from.String(), to.String(), append([]mirrored{}, done...), allCharts(done)}))
		}
		return errors.Join(err, printMirrored(cmd.OutOrStdout(), done, cmd.ErrOrStderr(), from, to))
	}
	return cmd
}

// selected returns the names of the releases that are meant, sorted.
func (p *place) selected(ctx context.Context, want selection) ([]release.Name, error) {
	if p.release != (release.Name{}) {
		return []release.Name{p.release}, nil
	}
	offers, err := p.source.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []release.Name
	for _, r := range want.choose(offers) {
		names = append(names, r.name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no release that is meant", p)
	}
	return names, nil
}

// target is a place that takes releases.
type target struct {
	*place
	// draft is set when it is a bundle.
	draft *oci.Draft
	// plainHTTP says that it is spoken to without TLS.
	plainHTTP bool
	// shelf is where the charts come from that releases lack, nil when none are to be copied. With everyChart also those are
	// looked for that should be there already.
	shelf      *shelf
	everyChart bool
}

func openTarget(ctx context.Context, flags placeFlags, text string, dryRun bool) (*target, error) {
	name, err := parsePlace(text)
	if err != nil {
		return nil, err
	}
	if name.release != (release.Name{}) {
		return nil, fmt.Errorf("%s names a release: where releases go to is named without", name)
	}
	if name.kind != placeBundle {
		p, err := flags.openName(ctx, name)
		return &target{place: p, plainHTTP: flags.plainHTTP}, err
	}
	if _, err := os.Stat(name.location); dryRun && errors.Is(err, os.ErrNotExist) {
		return &target{place: &place{placeName: name}}, nil
	}
	if dryRun {
		p, err := flags.openName(ctx, name)
		return &target{place: p}, err
	}
	draft, err := oci.OpenDraft(ctx, name.location)
	if err != nil {
		return nil, err
	}
	return &target{place: &place{placeName: name, source: draft.Source}, draft: draft}, nil
}

// sameCredentials refuses to show the credentials of one registry to another one.
func sameCredentials(from, to placeName) error {
	host := func(p placeName) string {
		host, _, _ := strings.Cut(p.location, "/")
		return host
	}
	if from.kind != placeRegistry || to.kind != placeRegistry || host(from) == host(to) {
		return nil
	}
	_, first := registryCredentials(host(from))
	_, second := registryCredentials(host(to))
	if first && second {
		return fmt.Errorf("the OCI_ variables do not say whether they are for %s or for %s: name one in OCI_REGISTRY, and log in at the other one with docker login or oras login", host(from), host(to))
	}
	return nil
}

// mirror copies releases, or says what would become of them.
func mirror(ctx context.Context, from *place, to *target, names []release.Name, dryRun bool, tell *transfer) (done []mirrored, err error) {
	changed := false
	failed := partialError{what: "not copied, or not with all that refers to them", of: len(names)}
	for _, name := range names {
		one, left, err := to.mirrorOne(ctx, from, name, dryRun, tell)
		if ctx.Err() != nil {
			return done, errors.Join(context.Cause(ctx), to.finish(false, true))
		}
		if err != nil {
			one.State, one.Error = stateFailed, err.Error()
			left = append(left, err)
		}
		failed.add(left...)
		changed = changed || one.State == stateCopied || one.Added > 0 ||
			slices.ContainsFunc(one.charts, func(c mirroredChart) bool { return c.State == stateCopied })
		done = append(done, one)
	}
	return done, errors.Join(failed.err(), to.finish(changed, failed.count > 0))
}

// finish writes a bundle that has changed. What is in no bundle stays for the next call if it is to go on with it.
func (t *target) finish(changed, goesOn bool) error {
	if t.draft == nil {
		return nil
	}
	if changed {
		if err := t.draft.Write(); err != nil {
			return errors.Join(err, t.draft.Leave())
		}
	}
	if goesOn {
		return t.draft.Leave()
	}
	return t.draft.Discard()
}

// mirrorOne copies a release, or says what would become of it. What else was to be copied with it and was not is left.
func (t *target) mirrorOne(ctx context.Context, from *place, name release.Name, dryRun bool, tell *transfer) (one mirrored, left []error, err error) {
	one = mirrored{Release: name.String()}
	if err := from.checkPin(ctx, name); err != nil {
		return one, nil, err
	}
	if dryRun {
		one, err = t.look(ctx, from, name)
		return one, nil, err
	}
	return t.take(ctx, from, name, tell)
}

// pinOf returns the digest that the place's name demands of a release, empty if it demands none.
func (p *place) pinOf(name release.Name) string {
	if name != p.release {
		return ""
	}
	return p.digest
}

// checkPin returns an error when a release is not what its place's name demands any more: a tag that has moved is told of.
func (p *place) checkPin(ctx context.Context, name release.Name) error {
	want := p.pinOf(name)
	resolver, is := p.source.(source.Resolver)
	if want == "" || !is {
		return nil
	}
	sum, err := resolver.Resolve(ctx, name)
	if err != nil {
		return err
	}
	if sum != want {
		return fmt.Errorf("release %s in %s is not %s any more: it is %s", name, p.source, want, sum)
	}
	return nil
}

// hasManifests tells whether releases of a place have the digests of their manifests, and not those of their files.
func (p *place) hasManifests() bool { return p.kind == placeRegistry || p.kind == placeBundle }

// look says what would become of a release.
func (t *target) look(ctx context.Context, from *place, name release.Name) (mirrored, error) {
	one := mirrored{Release: name.String(), State: stateWanted}
	resolver, is := t.source.(source.Resolver)
	if !is {
		return one, nil
	}
	sum, err := resolver.Resolve(ctx, name)
	switch {
	case err == nil:
		one.State, one.Digest = stateUnchanged, sum
		// Of places of one sort the digests can be compared.
		if mine, is := from.source.(source.Resolver); is && from.hasManifests() == t.hasManifests() {
			want := from.pinOf(name)
			if want == "" {
				want, err = mine.Resolve(ctx, name)
			}
			if err != nil && !errors.Is(err, errors.ErrUnsupported) {
				return one, err
			}
			if err == nil && want != sum {
				return one, fmt.Errorf("release %s in %s: %w", name, t, source.ErrPublished)
			}
		}
		return one, nil
	case errors.Is(err, source.ErrNotFound), errors.Is(err, oci.ErrNoRepository), errors.Is(err, os.ErrNotExist):
		return one, nil
	}
	return one, err
}

// take copies a release.
func (t *target) take(ctx context.Context, from *place, name release.Name, tell *transfer) (one mirrored, left []error, err error) {
	one = mirrored{Release: name.String(), State: stateCopied}
	mine, first := from.source.(*oci.Source)
	yours, second := t.source.(*oci.Source)
	told := func(file string, size int64, there bool) { tell.file(name.String()+"/"+file, size, there) }
	if first && second {
		// The release comes last: who finds it finds its charts.
		sum, err := t.bringCharts(ctx, from, &one, name)
		if err != nil {
			return one, nil, err
		}
		copied, err := mine.Copy(ctx, name, yours, oci.CopyOptions{Digest: sum, Uploaded: told})
		one.Digest, one.Referrers, one.Added = copied.Digest, copied.Referrers, copied.Added
		if copied.Existed {
			one.State = stateUnchanged
		}
		for _, err := range copied.Left {
			one.Left = append(one.Left, err.Error())
			left = append(left, fmt.Errorf("release %s: %w", name, err))
		}
		return one, left, err
	}
	publisher, can := t.source.(source.Publisher)
	if !can {
		return one, nil, fmt.Errorf("%s takes no releases", t)
	}
	return one, nil, from.withRelease(ctx, name, func(got fetched) error {
		if err := t.bringChartsOf(ctx, &one, got.release); err != nil {
			return err
		}
		files := os.DirFS(got.folder)
		created, err := createdAt()
		if err != nil {
			return err
		}
		put, err := publisher.Put(ctx, name, files, source.Publication{Created: created, Annotations: annotationsOf(got.release, files), Uploaded: told})
		if one.Digest = put.Digest; put.Existed {
			one.State = stateUnchanged
		}
		if err != nil {
			return err
		}
		one.Unsigned, err = t.leavesSignatures(ctx, from, got)
		return err
	})
}

// bringCharts puts the charts that a release lacks beside the releases of the target, and returns the digest of the release
// that was looked at, if one was, or that is meant.
func (t *target) bringCharts(ctx context.Context, from *place, one *mirrored, name release.Name) (digest string, err error) {
	if t.shelf == nil {
		return from.pinOf(name), nil
	}
	if there, is := t.source.(source.Resolver); is {
		_, err := there.Resolve(ctx, name)
		switch {
		case err == nil && t.kind == placeBundle:
			// What is at hand is looked at again and again.
			return from.pinOf(name), t.withRelease(ctx, name, func(got fetched) error { return t.bringChartsOf(ctx, one, got.release) })
		case err == nil && from.kind == placeRegistry && !t.everyChart:
			return from.pinOf(name), nil
		}
	}
	err = from.withRelease(ctx, name, func(got fetched) error {
		digest = got.digest
		return t.bringChartsOf(ctx, one, got.release)
	})
	var invalid *release.InvalidError
	if errors.As(err, &invalid) {
		err = fmt.Errorf("%w; with --charts=false it is copied as it is", err)
	}
	return digest, err
}

func (t *target) bringChartsOf(ctx context.Context, one *mirrored, rel *release.Release) (err error) {
	if t.shelf == nil {
		return nil
	}
	incomplete, err := rel.Incomplete()
	if err != nil {
		return err
	}
	for _, lacking := range incomplete {
		one.Charts = append(one.Charts, lacking.Missing...)
	}
	slices.Sort(one.Charts)
	one.Charts = slices.Compact(one.Charts)
	if !t.takesCharts() {
		return nil
	}
	if one.charts, err = t.takeCharts(ctx, t.shelf, incomplete); err != nil {
		return fmt.Errorf("release %s: %w", rel.Name, err)
	}
	return nil
}

// allCharts returns the charts of all releases, each once, in their order.
func allCharts(done []mirrored) (all []mirroredChart) {
	at := map[mirroredChart]int{}
	for _, one := range done {
		for _, c := range one.charts {
			key := mirroredChart{Name: c.Name, Version: c.Version, Repository: c.Repository}
			i, twice := at[key]
			if !twice {
				at[key] = len(all)
				all = append(all, c)
			} else if c.State == stateCopied {
				all[i].State = stateCopied
			}
		}
	}
	return all
}

// printCharts tells of charts, and what whoever wants them has to be told.
func printCharts(w io.Writer, charts []mirroredChart, to *target) error {
	var mirrors []string
	for _, c := range charts {
		if _, err := fmt.Fprintf(w, "%s %s %s\n", c, c.State, c.Digest); err != nil {
			return err
		}
		if c.Mirror != "" {
			mirrors = append(mirrors, c.Mirror)
		}
	}
	who := "The operator finds charts there with"
	if to.kind == placeFolder {
		who = "csctl finds charts there, and the operator where the folder is served by HTTP, with"
	}
	slices.Sort(mirrors)
	for _, mirror := range slices.Compact(mirrors) {
		if _, err := fmt.Fprintf(w, "%s --chart-mirrors %s\n", who, visibleName(mirror)); err != nil {
			return err
		}
	}
	return nil
}

// leavesSignatures tells whether a release has signatures that do not count at the target: some stand beside a
// manifest, others are for a list of checksums among the files.
func (t *target) leavesSignatures(ctx context.Context, from *place, got fetched) (bool, error) {
	found, _, apart, err := from.signatures(ctx, got)
	_, wanted := t.source.(source.Signer)
	return len(found) > 0 && apart != wanted, err
}

func printMirrored(w io.Writer, done []mirrored, warn io.Writer, from *place, to *target) error {
	for _, one := range done {
		if one.State == stateFailed {
			continue // which stands at the end
		}
		text := one.Release + " " + one.State
		if one.Digest != "" {
			text += " " + one.Digest
		}
		if one.Referrers > len(one.Left) {
			text += fmt.Sprintf(", with %d signatures or other artifacts about it", one.Referrers-len(one.Left))
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	if err := printCharts(w, allCharts(done), to); err != nil {
		return err
	}
	for _, one := range done {
		if len(one.Charts) > 0 && !to.takesCharts() {
			if _, err := fmt.Fprintf(warn, "Warning: %s depends on charts for which there is no room in %s: %s\n", one.Release, to, visibleName(strings.Join(one.Charts, ", "))); err != nil {
				return err
			}
		}
		if !one.Unsigned {
			continue
		}
		cure := "csctl sign signs it there"
		if to.kind == placeGitHub {
			cure = "sign a folder of it before it is published there"
		}
		if _, err := fmt.Fprintf(warn, "Warning: %s is signed in %s, which does not count in %s: %s\n", one.Release, from, to, cure); err != nil {
			return err
		}
	}
	return nil
}

// printImages lists what the releases need, once for all or for each.
func printImages(ctx context.Context, w io.Writer, from *place, names []release.Name, beside *shelf, asJSON bool) error {
	var each []mirrored
	all := map[string]bool{}
	failed := partialError{what: "not looked at, so that images may be missing", of: len(names)}
	for _, name := range names {
		one := mirrored{Release: name.String(), State: stateWanted}
		err := from.withRelease(ctx, name, func(got fetched) error {
			one.Digest = got.digest
			incomplete, err := got.release.Incomplete()
			if err != nil {
				return err
			}
			for _, chart := range incomplete {
				one.Charts = append(one.Charts, chart.Missing...)
			}
			one.Images, err = imagesOf(ctx, got, beside)
			return err
		})
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		if err != nil {
			one.State, one.Error = stateFailed, err.Error()
			failed.add(err)
		}
		for _, image := range one.Images {
			all[image] = true
		}
		each = append(each, one)
	}
	images := slices.Sorted(maps.Keys(all))
	if asJSON {
		return errors.Join(failed.err(), printJSON(w, struct {
			From     string     `json:"from"`
			Images   []string   `json:"images"`
			Releases []mirrored `json:"releases"`
		}{from.String(), append([]string{}, images...), each}))
	}
	for _, image := range images {
		if _, err := fmt.Fprintln(w, visibleName(image)); err != nil {
			return err
		}
	}
	return failed.err()
}
