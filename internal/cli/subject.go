// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/preview"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// stackFile is what the folder of a stack has. Some tools copy it into releases.
const stackFile = "csctl.yaml"

// isStack tells the folder of a stack from that of a release, and from one that is neither.
func isStack(folder string) bool { return has(folder, stackFile) && !has(folder, release.MetadataFile) }

func has(folder, file string) bool {
	_, err := os.Stat(filepath.Join(folder, file))
	return err == nil
}

// subjectHelp says in help pages what a STACK or a RELEASE may be.
const subjectHelp = `STACK is the folder of a cluster stack, which is built first, as csctl create --mode hash does, with the charts that
it depends on. RELEASE is a release at its place; charts that it does not bring along are looked for beside it, where csctl
mirror puts them, and then in their repositories or mirrors.

` + placeHelp

// subjectFlags are the flags of commands that look at what would be applied.
type subjectFlags struct {
	placeFlags
	clusters []string
	charts   chartOptions
}

func (f *subjectFlags) register(cmd *cobra.Command) {
	f.placeFlags.register(cmd)
	f.charts.addFlags(cmd.Flags())
	cmd.Flags().StringArrayVarP(&f.clusters, "cluster", "c", nil, "file with a Cluster, and with what belongs to it: its control plane and infrastructure, ClusterAddonSettings with their ConfigMaps and Secrets. A made-up cluster by default; may be repeated")
	mustComplete(cmd, "cluster", cobra.FixedCompletions([]string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt))
}

// cluster reads the files of the cluster, nil if there are none.
func (f *subjectFlags) cluster() (*preview.Cluster, error) {
	if len(f.clusters) == 0 {
		return nil, nil //nolint:nilnil // that is a sample
	}
	cluster := &preview.Cluster{}
	for _, file := range f.clusters {
		text, err := os.ReadFile(file)
		if err == nil {
			err = cluster.ReadCluster(text)
		}
		if err != nil {
			return nil, fmt.Errorf("--cluster %s: %w", file, err)
		}
	}
	return cluster, nil
}

// with opens a stack or a release and hands it to use. Its files are gone afterwards.
func (f *subjectFlags) with(ctx context.Context, text string, use func(*release.Release) error) error {
	if isStack(text) {
		return withStack(ctx, text, &f.charts, use)
	}
	p, err := f.open(ctx, text)
	if err != nil {
		return err
	}
	charts, err := p.shelf(f.placeFlags, f.charts.mirrors)
	if err != nil {
		return err
	}
	return p.with(ctx, func(got fetched) error {
		rel, err := complete(ctx, got, charts)
		if err != nil {
			return err
		}
		return use(rel)
	})
}

// withStack builds a release of the stack in a folder.
func withStack(ctx context.Context, folder string, charts *chartOptions, use func(*release.Release) error) error {
	stack, err := readStack(folder)
	if err != nil {
		return err
	}
	versions, err := stack.HashVersions()
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "csctl-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // the system clears what stays
	rel, err := buildInto(ctx, stack, versions, charts, tmp)
	if err != nil {
		return err
	}
	return use(rel)
}

// buildInto fetches the charts that a stack lacks, builds a release of it into a folder for releases, and opens that. It
// has no node images: those that a plugin makes take long, and are not what is looked at or tried.
func buildInto(ctx context.Context, stack *build.Stack, versions build.Versions, charts *chartOptions, releases string) (*release.Release, error) {
	if err := stack.Complete(ctx, charts.fetch); err != nil {
		return nil, err
	}
	built, err := stack.Build(versions)
	if err != nil {
		return nil, err
	}
	written, err := built.Write(releases, nil)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", built.Name, err)
	}
	return release.Open(os.DirFS(written.Folder), built.Name)
}
