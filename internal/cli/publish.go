// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// publishedRelease is what publish tells programs.
type publishedRelease struct {
	Release string `json:"release"`
	Place   string `json:"place"`
	Digest  string `json:"digest"`
	// State is published, or unchanged when the same release was there already.
	State string `json:"state"`
	// Signed tells that a release that was there has got signatures that it lacked.
	Signed bool `json:"signed,omitempty"`
	// Unsigned tells that the release has signatures that the place which it was published to does not look at.
	Unsigned bool `json:"unsigned,omitempty"`
}

// States of a release that was to be published or copied.
const (
	statePublished = "published"
	stateUnchanged = "unchanged"
)

func newPublishCommand() *cobra.Command {
	var flags placeFlags
	cmd := &cobra.Command{
		Use:   "publish RELEASE-FOLDER PLACE",
		Short: "Publish a release in a registry, on GitHub or in a folder",
		Long: `Publish the release in a folder, as csctl create writes it.

Nobody finds half a release: the tag of a registry comes last, and on GitHub a draft is filled first. What was cut off is
finished by the same call. Publishing the same again changes nothing; a release that is there with other contents is
refused, because those who use it trust that it never changes. Who has signed it is not part of that: in a folder and on
GitHub the signatures in the release's folder are added to a release that is there. In a registry they do not count; sign
the release there once it is published. The variable SOURCE_DATE_EPOCH, in seconds, sets the time of creation that a
registry keeps.

` + placeHelp,
		Example: `  csctl publish .release/docker-starter-1-35-v1 oci://registry.example.org/kaas/cluster-stacks
  csctl publish .release/docker-starter-1-35-v1 github://my-org/cluster-stacks
  csctl publish .release/docker-starter-1-35-v1 /srv/releases -o json`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	flags.register(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		done, err := publishFolder(cmd.Context(), args[0], args[1], flags, newTransfer(cmd.ErrOrStderr()))
		if err != nil {
			return err
		}
		if done.Unsigned {
			if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s is signed in its files, which does not count in a registry: csctl sign %s:%s signs it there\n", done.Release, done.Place, done.Release); err != nil {
				return err
			}
		}
		if output.json() {
			return printJSON(cmd.OutOrStdout(), done)
		}
		there := "is in"
		if done.State == stateUnchanged {
			there = "was there already, in"
		}
		added := ""
		if done.Signed {
			added = "; signatures that it lacked were added"
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s: %s%s\n", done.Release, there, done.Place, done.Digest, added)
		return err
	}
	return cmd
}

func publishFolder(ctx context.Context, folder, to string, flags placeFlags, tell *transfer) (publishedRelease, error) {
	from, err := parsePlace(folder)
	if err != nil {
		return publishedRelease{}, err
	}
	if from.kind != placeFolder || from.release == (release.Name{}) {
		return publishedRelease{}, fmt.Errorf("%s is not the folder of a release, which is called like it and has a %s", folder, release.MetadataFile)
	}
	// Links that lead out of the folder are not followed: what they lead to is not meant for others.
	root, err := os.OpenRoot(filepath.Join(from.location, from.release.String()))
	if err != nil {
		return publishedRelease{}, err
	}
	defer func() { _ = root.Close() }() // only read from
	files := root.FS()
	rel, err := release.Open(files, from.release)
	if err != nil {
		return publishedRelease{}, err
	}
	sums, err := readSums(files)
	if err != nil {
		return publishedRelease{}, err
	}
	// Nobody who asks for signatures would take it, and what is published is not replaced.
	if sums.List != nil && sums.Check() != nil {
		return publishedRelease{}, fmt.Errorf("%s: %s does not fit its files: %w; csctl sign makes another one, or remove it with its signatures", folder, verify.SumsFile, sums.Check())
	}
	target, err := flags.open(ctx, to)
	if err != nil {
		return publishedRelease{}, err
	}
	if target.release != (release.Name{}) && target.release != rel.Name {
		return publishedRelease{}, fmt.Errorf("%s is another release than %s: leave it out of the place", target.release, rel.Name)
	}
	target.release, target.digest = release.Name{}, ""
	publisher, can := target.source.(source.Publisher)
	if !can || target.kind == placeBundle {
		return publishedRelease{}, fmt.Errorf("%s cannot be published to: csctl mirror writes bundles", target)
	}
	created, err := createdAt()
	if err != nil {
		return publishedRelease{}, err
	}
	done, err := publisher.Put(ctx, rel.Name, files, source.Publication{
		Created: created, Annotations: annotationsOf(rel, files), Uploaded: tell.file,
	})
	tell.done()
	if err != nil {
		return publishedRelease{}, err
	}
	state := statePublished
	if done.Existed {
		state = stateUnchanged
	}
	unsigned, err := target.ignores(ctx, rel.Name, done.Digest, files)
	return publishedRelease{Release: rel.Name.String(), Place: target.String(), Digest: done.Digest, State: state, Signed: done.Signed, Unsigned: unsigned}, err
}

// ignores tells whether the files of a release have signatures that do not count in a place, where it has no others.
func (p *place) ignores(ctx context.Context, name release.Name, digest string, files fs.FS) (bool, error) {
	signer, is := p.source.(source.Signer)
	if !is {
		return false, nil
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil || !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return verify.Signs(e.Name()) && e.Name() != verify.SumsFile }) {
		return false, err
	}
	there, err := signer.Signatures(ctx, name, digest)
	return len(there) == 0, err
}

// annotationsOf returns what others have always been told about a release besides its files.
func annotationsOf(rel *release.Release, files fs.FS) map[string]string {
	annotations := map[string]string{"kubernetesVersion": rel.Metadata.Kubernetes}
	var hashes struct {
		ClusterStack string `json:"clusterStack"`
	}
	// A release may well have none, or one that another tool has written.
	if data, err := fs.ReadFile(files, "hashes.json"); err == nil && json.Unmarshal(data, &hashes) == nil && len(hashes.ClusterStack) >= 7 {
		annotations["hash"] = hashes.ClusterStack[:7]
	}
	return annotations
}

// createdAt is when a release counts as made: now, unless the environment says when, as in other programs whose output
// shall be the same each time.
func createdAt() (time.Time, error) {
	text := env("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds", text)
	}
	return time.Unix(seconds, 0), nil
}
