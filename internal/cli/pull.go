// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

func newPullCommand() *cobra.Command {
	var (
		flags  placeFlags
		trust  trustFlags
		output string
	)
	cmd := &cobra.Command{
		Use:   "pull PLACE",
		Short: "Fetch a release into a folder",
		Long: `Fetch the release that a place names into <output>/<release tag>/.

It is fetched as the operator fetches it: within the same limits, with every digest checked, and, when a key or an identity
is given, only if it is signed by them, which is asked before anything of it is read. The folder appears when it is whole. A
release that is there already with the same files is left alone, one with other files is an error.

` + placeHelp,
		Example: `  csctl pull oci://registry.example.org/kaas/cluster-stacks:docker-starter-1-35-v1
  csctl pull github://my-org/cluster-stacks#docker-starter-1-35-v1 --output releases --key cosign.pub`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags.register(cmd)
	trust.register(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", ".", "folder in which the release's folder is written")
	mustComplete(cmd, "output", completeFolders)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		policy, err := trust.policy()
		if err != nil {
			return err
		}
		from, err := flags.open(ctx, args[0])
		if err != nil {
			return err
		}
		save := func(got fetched) error {
			done, err := dir.New(output).Put(ctx, got.release.Name, os.DirFS(got.folder), source.Publication{})
			if err != nil {
				return err
			}
			state := "is in"
			if done.Existed {
				state = "was there already, in"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s: %s\n", got.release.Name, state, filepath.Join(output, got.release.Name.String()), got.digest)
			return err
		}
		if policy == nil {
			return from.with(ctx, save)
		}
		return from.withVerified(ctx, policy, func(got fetched, signer verify.Signer) error {
			if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s is signed by %s\n", got.release.Name, visibleName(signer.String())); err != nil {
				return err
			}
			return save(got)
		})
	}
	return cmd
}

func completeFolders(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
