// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/compare"
	"github.com/clusterstacks/cluster-stack-operator/internal/preview"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

// errDiffers ends csctl diff where there is a difference.
var errDiffers = &exitError{code: 1}

// trouble is the exit code of commands that answer a question, when they have no answer, as that of diff.
const trouble = 2

// answering makes a command end with trouble where it has no other code: for arguments that were mistyped, too.
func answering(cmd *cobra.Command) *cobra.Command {
	coded := func(err error) error {
		var exit *exitError
		if err == nil || errors.As(err, &exit) {
			return err
		}
		return &exitError{code: trouble, err: err}
	}
	args, run := cmd.Args, cmd.RunE
	cmd.Args = func(cmd *cobra.Command, given []string) error { return coded(args(cmd, given)) }
	cmd.RunE = func(cmd *cobra.Command, given []string) error { return coded(run(cmd, given)) }
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return coded(cmd.Parent().FlagErrorFunc()(cmd, err)) })
	return cmd
}

type diffOptions struct {
	subjectFlags
	all bool
}

func newDiffCommand() *cobra.Command {
	var options diffOptions
	cmd := &cobra.Command{
		Use:   "diff <stack>|<release> <stack>|<release>",
		Short: "Show what a release changes",
		Long: `Show what happens to a cluster that changes from the first release to the second: which machines are replaced, which
addons come, go and change, which pods restart, and what the operator or Cluster API will refuse. Then, object by object,
what changes. Both are rendered as csctl render does, for the same cluster.

Objects of the cluster class carry the version of the release in their names. They are compared by what they are for in
the class, and else by their names without it. What changes in nothing but a version of the release is counted and not
shown; --all shows it.

The exit code is 0 when nothing else changes, 1 when something does, and 2 when they cannot be compared. Colours are for
terminals; NO_COLOR turns them off. Contents of Secrets are never shown.

` + subjectHelp,
		Example: `  csctl diff releases/docker-starter-1-35-v1 releases/docker-starter-1-35-v2
  csctl diff oci://registry.example.org/kaas/cluster-stacks:docker-starter-1-35-v1 stacks/docker/starter/1-35
  csctl diff releases/docker-starter-1-35-v1 releases/docker-starter-1-36-v1 --cluster my-cluster.yaml -o json`,
		Args: cobra.ExactArgs(2),
	}
	options.register(cmd)
	cmd.Flags().BoolVar(&options.all, "all", false, "show also what changes in versions of the release only, and long values in full")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return diff(cmd.Context(), args[0], args[1], options, output.json(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return answering(cmd)
}

func diff(ctx context.Context, from, to string, options diffOptions, asJSON bool, stdout, stderr io.Writer) error {
	cluster, err := options.cluster()
	if err != nil {
		return err
	}
	var sides [2]compare.Side
	// What was generated for a cluster stays with it.
	var recorded render.Record
	var notes []string
	for i, subject := range []string{from, to} {
		err := options.with(ctx, subject, func(rel *release.Release) error {
			p, err := preview.Of(ctx, rel, preview.Options{Cluster: cluster, Recorded: recorded})
			if err != nil {
				return err
			}
			recorded = p.Record
			notes = append(notes, p.Notes...)
			sides[i], err = sideOf(p)
			return err
		})
		if err != nil {
			return errors.Join(printNotes(stderr, unique(notes)), err) // they may say why
		}
	}
	if err := printNotes(stderr, unique(notes)); err != nil {
		return err
	}
	c := compare.Releases(sides[0], sides[1])
	if asJSON {
		err = printJSON(stdout, c)
	} else {
		_, err = io.WriteString(stdout, visibleInColour(c.Text(compare.TextOptions{Colour: colourful(stdout), All: options.all})))
	}
	if err == nil && !c.Same {
		err = errDiffers
	}
	return err
}

// unique leaves out what was said already.
func unique(texts []string) []string {
	var all []string
	for _, text := range texts {
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// sideOf turns a preview into a side of a comparison. What cannot be rendered cannot be compared.
func sideOf(p *preview.Preview) (compare.Side, error) {
	side := compare.Side{Name: p.Release.Name, Metadata: p.Release.Metadata, Class: partOf(p.Class)}
	for _, addon := range p.Addons {
		if addon.Err != nil {
			return side, addon.Err
		}
		if !addon.Off {
			side.Addons = append(side.Addons, compare.Addon{Name: addon.Name, Part: partOf(addon.Part)})
		}
	}
	for _, point := range sample.Points {
		if stages := rollout.Stages(p.Release, point); len(stages) > 0 {
			side.Stages = append(side.Stages, compare.Stages{Point: point, Stages: stages})
		}
	}
	return side, nil
}

func partOf(p preview.Part) compare.Part {
	hooks := make([]*unstructured.Unstructured, len(p.Hooks))
	for i, hook := range p.Hooks {
		hooks[i] = hook.Object
	}
	return compare.Part{Chart: compare.Chart(p.Chart), Objects: p.Objects, Hooks: hooks}
}

// colourful tells whether somebody looks at the output who wants colours.
func colourful(out io.Writer) bool {
	file, is := out.(*os.File)
	return is && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// exitError ends csctl with a code of its own. Without an error inside there is nothing to print.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }
