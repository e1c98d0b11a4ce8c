// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cli holds the commands of csctl: they read flags, call the domain, and print.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Set by the linker for releases.
var (
	version = "unknown"
	commit  = "unknown"
)

// commands makes the commands of csctl, in the order of the help page.
var commands = []func() *cobra.Command{
	newInitCommand,
	newDependencyCommand,
	newCreateCommand,
	newLintCommand,
	newRenderCommand,
	newDiffCommand,
	newTestCommand,
	newPublishCommand,
	newListCommand,
	newPullCommand,
	newSignCommand,
	newVerifyCommand,
	newMirrorCommand,
	newSandboxCommand,
	newVersionCommand,
}

// Run runs csctl with the given arguments and returns its exit code. An error is printed once.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// Whoever asks a second time does not want to wait for what the first has set off.
	context.AfterFunc(ctx, stop)

	root := Root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	ran, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	if exit == nil || exit.err != nil {
		_, _ = fmt.Fprintf(stderr, "Error: %s%s\n", visible(err.Error()), cure(ran, err))
	}
	return code
}

// cure names the flag of a command that would have helped against an error, "" if there is none.
func cure(cmd *cobra.Command, err error) string {
	if errors.Is(err, http.ErrSchemeMismatch) && cmd.Flags().Lookup("plain-http") != nil {
		return "; if that is how it should be, give --plain-http"
	}
	return ""
}

// Root returns csctl as a tree of commands, for those who document it.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use:           "csctl",
		Short:         "Build, try and inspect cluster stacks",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommandOnly,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; %s --help lists the flags", err, cmd.CommandPath())
	})
	for _, c := range commands {
		root.AddCommand(c())
	}
	// Otherwise cobra adds it later, and a shell that it does not know prints the help page and counts as success.
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args, c.RunE = subcommandOnly, root.RunE
		}
	}
	return root
}

// subcommandOnly refuses what is none of a command's subcommands, and says which may have been meant.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := ""
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		meant = fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q for %q%s; %s --help lists the commands", args[0], cmd.CommandPath(), meant, cmd.CommandPath())
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of csctl",
		Args:  cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "csctl version: %s\ncommit: %s\n", version, commit)
			return err
		},
	}
}
