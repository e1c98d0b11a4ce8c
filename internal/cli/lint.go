// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
)

type lintOptions struct {
	output   string
	failOn   string
	previous string
	crds     []string
	quiet    bool
	charts   chartOptions
}

func newLintCommand() *cobra.Command {
	var options lintOptions
	cmd := &cobra.Command{
		Use:   "lint <folder>",
		Short: "Find what would fail later in a cluster stack or a release",
		Long: `Find what would fail later in the folder of a cluster stack, or of a release.

Charts are rendered by the operator's own code, for made-up clusters at all lifecycle points, and the class is judged
by Cluster API's own schemas and webhooks. No cluster is needed. Charts that those of a stack depend on are fetched as
csctl create does, and looked at as well; where they are out of reach, all the rest is.

Each finding names its rule, the place to mend, and how. The exit code is 1 if there is an error, or with
--fail-on warning also for a warning. A finding that is meant to stay is silenced in csctl.yaml, with a reason:

  lint:
    ignore:
      - id: image-unpinned
        file: cluster-addon/cni
        reason: our registry never changes what a tag stands for`,
		Example: `  csctl lint stacks/docker/starter/1-35
  csctl lint releases/docker-starter-1-36-v1 --previous releases/docker-starter-1-35-v2
  csctl lint mystack --crds infrastructure-components.yaml
  csctl lint mystack --chart-mirrors https://helm.cilium.io=./charts
  csctl lint mystack -o sarif > lint.sarif`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLint(cmd.Context(), args[0], options, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&options.output, "output", "o", "text", "text, json or sarif")
	flags.StringVar(&options.failOn, "fail-on", string(lint.Error), "the least severity for which the exit code is 1: error, warning or info")
	flags.StringVar(&options.previous, "previous", "", "folder of the release, or of the stack, from which clusters will come: checks that they can")
	flags.StringSliceVar(&options.crds, "crds", nil, "files, folders or archives with CustomResourceDefinitions of a provider, to check the fields of its templates. Those of Cluster API are known")
	options.charts.addFlags(flags)
	flags.BoolVarP(&options.quiet, "quiet", "q", false, "print errors and warnings only, without what is merely good to know")
	completeValues(cmd, "output", "text", "json", "sarif")
	completeValues(cmd, "fail-on", string(lint.Error), string(lint.Warning), string(lint.Info))
	return cmd
}

// completeValues completes a flag that has a few values.
func completeValues(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is no such flag
	}
}

// oneFolder completes the name of a folder as the only argument.
func oneFolder(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func runLint(ctx context.Context, folder string, options lintOptions, stdout io.Writer) error {
	if !slices.Contains([]string{"text", "json", "sarif"}, options.output) {
		return fmt.Errorf("--output %s: there are text, json and sarif", options.output)
	}
	failOn := lint.Severity(options.failOn)
	if !slices.Contains([]lint.Severity{lint.Error, lint.Warning, lint.Info}, failOn) {
		return fmt.Errorf("--fail-on %s: there are error, warning and info", options.failOn)
	}
	settings := lint.Options{Fetch: options.charts.fetch}
	if len(options.crds) > 0 {
		set, err := crds.Read(options.crds)
		if err != nil {
			return err
		}
		settings.CRDs = set.CRDs
	}
	if options.previous != "" {
		previous, err := openFolder(ctx, options.previous, options.charts.fetch)
		if err != nil {
			return fmt.Errorf("--previous: %w", err)
		}
		settings.Previous = previous
	}
	report, err := lintFolder(ctx, folder, settings)
	if err != nil {
		return err
	}
	failed := report.Count(failOn)
	if options.quiet {
		report.Findings = slices.DeleteFunc(report.Findings, func(f lint.Finding) bool { return !f.Severity.AtLeast(lint.Warning) })
	}
	if err := printReport(stdout, folder, report, options.output); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%s: %s", folder, summary(report))
	}
	if options.output == "text" {
		_, err = fmt.Fprintf(stdout, "%s: %s\n", folder, summary(report))
	}
	return err
}

// lintFolder lints the stack or the release in a folder, whichever it is.
func lintFolder(ctx context.Context, folder string, options lint.Options) (lint.Report, error) {
	var report lint.Report
	err := inFolder(folder, func(beside *os.Root, base string) (err error) {
		report, err = lint.Stack(ctx, beside.FS(), base, options)
		return err
	}, func(root *os.Root, name release.Name) (err error) {
		report, err = lint.Release(ctx, root.FS(), name, options)
		return err
	})
	return report, err
}

// openFolder opens the release in a folder, or the stack as one.
func openFolder(ctx context.Context, folder string, fetch build.Fetch) (*release.Release, error) {
	var rel *release.Release
	err := inFolder(folder, func(beside *os.Root, base string) (err error) {
		rel, err = lint.Open(ctx, beside.FS(), base, fetch)
		return err
	}, func(root *os.Root, name release.Name) (err error) {
		rel, err = release.Open(root.FS(), name)
		return err
	})
	return rel, err
}

// inFolder calls one function with the folder above a stack, since a stack may link to files beside it, and the other one
// with the folder of a release.
func inFolder(folder string, stack func(beside *os.Root, base string) error, rel func(root *os.Root, name release.Name) error) error {
	path, err := realPath(folder)
	if err != nil {
		return err
	}
	if isStack(path) {
		beside, name, err := openBeside(path)
		if err != nil {
			return err
		}
		defer func() { _ = beside.Close() }() // only read from
		return stack(beside, name)
	}
	if !has(path, release.MetadataFile) {
		return fmt.Errorf("%s: it is neither the folder of a cluster stack nor of a release: it has no %s and no %s", folder, stackFile, release.MetadataFile)
	}
	name, err := release.ParseName(filepath.Base(path))
	if err != nil {
		return fmt.Errorf("the folder of a release is called like the release: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // only read from
	return rel(root, name)
}

func printReport(w io.Writer, folder string, report lint.Report, format string) error {
	switch format {
	case "json":
		if report.Findings == nil {
			report.Findings = []lint.Finding{}
		}
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(struct {
			Folder   string          `json:"folder"`
			Findings []lint.Finding  `json:"findings"`
			Silenced []lint.Silenced `json:"silenced,omitempty"`
		}{folder, report.Findings, report.Silenced})
	case "sarif":
		data, err := report.SARIF(filepath.ToSlash(folder), version)
		if err == nil {
			_, err = w.Write(append(data, '\n'))
		}
		return err
	}
	_, err := io.WriteString(w, reportText(folder, report, painter{isTerminal(w)}))
	return err
}

// reportText groups findings by file. Why and how to mend a rule is said with its first finding.
func reportText(folder string, report lint.Report, p painter) string {
	var out strings.Builder
	explained := map[string]bool{}
	file := "\x00"
	for _, finding := range report.Findings {
		if finding.File != file {
			file = finding.File
			fmt.Fprintf(&out, "%s\n", p.bold(filepath.Join(folder, file)))
		}
		at := filepath.Join(folder, file)
		if finding.Line > 0 {
			at = fmt.Sprintf("%s:%d", at, finding.Line)
		}
		fmt.Fprintf(&out, "  %s %s: %s  %s\n", p.severity(finding.Severity), at, finding.Message, p.faint("["+finding.Rule+"]"))
		if !explained[finding.Rule] {
			explained[finding.Rule] = true
			fmt.Fprintf(&out, "          %s\n          %s\n", p.faint(finding.Why), finding.Mend)
		}
	}
	return out.String()
}

// summary counts the findings.
func summary(report lint.Report) string {
	var parts []string
	for _, s := range []lint.Severity{lint.Error, lint.Warning, lint.Info} {
		n := 0
		for _, finding := range report.Findings {
			if finding.Severity == s {
				n++
			}
		}
		switch {
		case n == 1:
			parts = append(parts, "1 "+string(s))
		case n > 1 && s == lint.Info:
			parts = append(parts, fmt.Sprintf("%d infos", n))
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, s))
		}
	}
	text := "nothing to mend"
	if len(parts) > 0 {
		text = strings.Join(parts, ", ")
	}
	if n := len(report.Silenced); n > 0 {
		text += fmt.Sprintf(" (%d silenced in csctl.yaml)", n)
	}
	return text
}

func (p painter) severity(s lint.Severity) string {
	codes := map[lint.Severity]string{lint.Error: "31", lint.Warning: "33", lint.Info: "36"}
	return p.paint(codes[s], fmt.Sprintf("%-7s", s))
}
