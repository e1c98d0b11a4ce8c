// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/scaffold"
	"github.com/clusterstacks/cluster-stack-operator/stacks"
)

type initOptions struct {
	provider   string
	name       string
	kubernetes string
	addons     []string
}

func newInitCommand() *cobra.Command {
	var options initOptions
	cmd := &cobra.Command{
		Use:   "init <folder>",
		Short: "Begin a new cluster stack",
		Long: `Begin a new cluster stack in a folder, which must not have files in it, but may be a git repository.

The new stack is a starter stack of this version of csctl under a name of its own: a cluster class with its templates, and
addons in stages. It lints clean, builds, and runs in a sandbox as it is.`,
		Example: `  csctl init mystack
  csctl init stacks/docker/mystack/1-35 --name mystack --kubernetes 1.35 --addons cni`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInit(args[0], options, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.provider, "provider", "docker", "provider that clusters of the stack are made with")
	flags.StringVar(&options.name, "name", "", "name of the stack, of lower-case letters and digits; without it, that of the folder")
	flags.StringVar(&options.kubernetes, "kubernetes", "", "version of Kubernetes, such as 1.35 or v1.35.4; without it, the newest that there is a starter for")
	flags.StringSliceVar(&options.addons, "addons", nil, "addons of the starter to take; without it, all of them")
	completeFromStarters(cmd)
	return cmd
}

// completeFromStarters completes flags with what starters there are.
func completeFromStarters(cmd *cobra.Command) {
	starters, err := scaffold.Starters(stacks.Starters)
	if err != nil {
		panic(err) // they are part of the program, and a test makes a stack of each
	}
	var providers, versions, addons []string
	for _, s := range starters {
		providers = append(providers, s.Provider)
		versions = append(versions, s.Kubernetes)
		addons = append(addons, s.Addons()...)
	}
	for flag, values := range map[string][]string{"provider": providers, "kubernetes": versions, "addons": addons} {
		slices.Sort(values)
		completeValues(cmd, flag, slices.Compact(values)...)
	}
}

func runInit(folder string, options initOptions, stdout io.Writer) error {
	starters, err := scaffold.Starters(stacks.Starters)
	if err != nil {
		return err
	}
	starter, err := scaffold.Choose(starters, options.provider, options.kubernetes)
	if err != nil {
		return err
	}
	name := options.name
	if name == "" {
		path, err := filepath.Abs(folder)
		if err != nil {
			return err
		}
		name = filepath.Base(path)
	}
	files, err := starter.Make(name, options.addons)
	if err != nil && options.name == "" && len(options.addons) == 0 {
		err = fmt.Errorf("%w; choose a name with --name", err)
	}
	if err != nil {
		return err
	}
	if err := writeNew(folder, files); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, `%s has the new stack %s-%s for Kubernetes %s, with the addons %s.
Next:
  csctl lint %[1]s
  csctl create %[1]s --mode hash --output releases
`, folder, options.provider, name, starter.Kubernetes, strings.Join(chosen(starter, options.addons), ", "))
	return err
}

func chosen(starter scaffold.Starter, addons []string) []string {
	if len(addons) == 0 {
		return starter.Addons()
	}
	return slices.Compact(slices.Sorted(slices.Values(addons)))
}

// writeNew writes files into a folder that is not there or empty.
func writeNew(folder string, files map[string][]byte) error {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if slices.ContainsFunc(entries, func(entry fs.DirEntry) bool { return entry.Name() != ".git" }) {
		return fmt.Errorf("%s has files in it: name a folder that is empty or not there yet", folder)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}
