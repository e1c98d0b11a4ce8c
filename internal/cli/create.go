// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

type createOptions struct {
	mode              string
	output            string
	nodeImageRegistry string
	stackVersion      string
	addonVersion      string
	imageVersion      string
	remote            string
	publish           bool
	plainHTTP         bool
	githubAPI         string
	charts            chartOptions
}

// Places where releases live, by the names that --remote has for them.
const (
	remoteDirectory = "directory"
	remoteGitHub    = "github"
	remoteOCI       = "oci"
)

var (
	remotes = []string{remoteDirectory, remoteGitHub, remoteOCI}
	modes   = []string{"stable", "beta", "hash", "custom"}
)

func newCreateCommand() *cobra.Command {
	var options createOptions
	cmd := &cobra.Command{
		Use:   "create <cluster-stack-dir>",
		Short: "Build a release of a cluster stack",
		Long: `Build a release of the cluster stack in a folder.

The release goes to <output>/<release tag>/. A release that is there already is never changed: building
the same again succeeds, building something else under its name fails.

Modes:
  stable  v1, v2, ...: the version after the latest release. Components that have not changed keep theirs.
  beta    v0-beta.1, v0-beta.2, ...: likewise.
  hash    v0-sha.<hash>: called after the contents of the folder.
  custom  the versions that you give.

Stable and beta need to know the earlier releases. Variables of the environment say where they are:
  --remote github     GIT_ORG_NAME and GIT_REPOSITORY_NAME; GIT_ACCESS_TOKEN for --publish, and where it is private
  --remote oci        OCI_REPOSITORY, with the registry in front; OCI_USERNAME and OCI_PASSWORD, or OCI_ACCESS_TOKEN,
                      where the registry asks for them; without them, what "docker login" has kept
  --remote directory  none: they are in <output>
--publish puts the new release there, in a registry or on GitHub.

Charts that the charts of the stack depend on and that are not in their charts/ are fetched, in the versions of their
Chart.lock, and packed into the release; "csctl dependency update" writes that file. Repositories and registries are shown
the credentials that "helm repo add", "helm registry login" and "docker login" have kept. What was fetched once is kept
in the user's cache.

Where SOURCE_DATE_EPOCH is set, --publish says that the release was made then, in seconds since 1970, and not now: the same
release has the same digest in every registry.`,
		Example: `  csctl create stacks/docker/starter/1-35 --mode hash
  csctl create stacks/docker/starter/1-35 --remote directory --output releases
  OCI_REPOSITORY=registry.example.org/kaas/cluster-stacks csctl create stacks/docker/starter/1-35 --remote oci --publish`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			return create(cmd.Context(), args[0], options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&options.mode, "mode", "m", "stable", "how the version is chosen: stable, beta, hash or custom")
	flags.StringVarP(&options.output, "output", "o", "./.release", "folder in which releases are written")
	flags.StringVarP(&options.nodeImageRegistry, "node-image-registry", "r", "", "handed over to the plugin that makes node images")
	flags.StringVar(&options.stackVersion, "cluster-stack-version", "", "version of the cluster stack in custom mode, such as v1 or v0-custom.abc")
	flags.StringVar(&options.addonVersion, "cluster-addon-version", "", "version of the cluster addons in custom mode")
	flags.StringVar(&options.imageVersion, "node-image-version", "", "version of the node images in custom mode")
	flags.StringVar(&options.remote, "remote", "github", "where earlier releases are looked up in stable and beta mode: directory, github or oci")
	flags.BoolVar(&options.publish, "publish", false, "publish the release after building it, with --remote oci or github. The same release again changes nothing; another one under its name is refused")
	flags.StringVar(&options.githubAPI, "github-api-url", "", "URL of the API of a GitHub Enterprise Server, such as https://github.example.com/api/v3/, for --remote github")
	options.charts.addFlags(flags)
	flags.BoolVar(&options.plainHTTP, "plain-http", false, "speak to the registry or to GitHub without TLS, such as to the registry of a sandbox")
	completeValues(cmd, "mode", modes...)
	completeValues(cmd, "remote", remotes...)
	mustComplete(cmd, "output", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs))
	return cmd
}

func create(ctx context.Context, folder string, options createOptions, stdout, stderr io.Writer) error {
	created, err := createdAt()
	if err != nil {
		return err
	}
	repository, err := openRemote(options)
	if err != nil {
		return err
	}
	stack, err := readStack(folder)
	if err != nil {
		return err
	}
	plugin, err := findPlugin(stack)
	if err != nil {
		return err
	}
	versions, err := chooseVersions(ctx, stack, repository, options)
	if errors.Is(err, build.ErrNoChange) {
		return fmt.Errorf("%w: use that one, it has all that is in the folder; --mode custom builds the same under a version that you choose", err)
	}
	if err != nil {
		return err
	}
	if err := stack.Complete(ctx, options.charts.fetch); err != nil {
		return err
	}
	rel, err := stack.Build(versions)
	if err != nil {
		return err
	}
	written, err := rel.Write(options.output, func(prepared string) error {
		if plugin == "" {
			return nil
		}
		return makeNodeImages(ctx, plugin, folder, prepared, options.nodeImageRegistry, stdout, stderr)
	})
	if err != nil {
		return fmt.Errorf("release %s: %w", rel.Name, err)
	}
	for _, warning := range written.Warnings {
		if _, err := fmt.Fprintf(stderr, "Warning: %s\n", warning); err != nil {
			return err
		}
	}
	if err := printWritten(stdout, rel, versions, written); err != nil || !options.publish {
		return err
	}
	return publish(ctx, repository, stack, rel.Name, written.Folder, created, stdout, stderr)
}

// remote is where the earlier releases are, and where new ones go. Those that are published to write their names.
type remote interface {
	source.Source
	source.Publisher
}

// openRemote returns the place that --remote names, nil if it is not asked for anything.
func openRemote(options createOptions) (remote, error) {
	looksBack := options.mode == "stable" || options.mode == "beta"
	if !slices.Contains(remotes, options.remote) {
		return nil, fmt.Errorf("--remote %s: there are github, oci and directory", options.remote)
	}
	if !options.publish && !looksBack {
		return nil, nil
	}
	switch options.remote {
	case remoteDirectory:
		if options.publish {
			return nil, errors.New("--publish is for --remote oci and github: with --remote directory the release is in --output, and csctl publish copies it to another folder")
		}
		return dir.New(options.output), nil
	case remoteOCI:
		return openRepository(options)
	default:
		return openGitHubRemote(options)
	}
}

// openRepository returns the repository that the environment names.
func openRepository(options createOptions) (*oci.Source, error) {
	name := oci.Repository(env("OCI_REGISTRY"), env("OCI_REPOSITORY"))
	if name == "" {
		return nil, errors.New("--remote oci: set OCI_REPOSITORY to the repository of the releases, such as registry.example.org/kaas/cluster-stacks")
	}
	repository, err := openRegistry(name, web.Options{PlainHTTP: options.plainHTTP, UserAgent: "csctl/" + version})
	if err != nil {
		return nil, fmt.Errorf("--remote oci: %w", err)
	}
	return repository, nil
}

// openGitHubRemote returns the repository on GitHub that the environment names.
func openGitHubRemote(options createOptions) (*github.Source, error) {
	if provider := env("GIT_PROVIDER"); provider != "" && !strings.EqualFold(provider, remoteGitHub) {
		return nil, fmt.Errorf("GIT_PROVIDER is %q: only github is known", provider)
	}
	owner, name := env("GIT_ORG_NAME"), env("GIT_REPOSITORY_NAME")
	if owner == "" || name == "" {
		return nil, errors.New("--remote github: set GIT_ORG_NAME and GIT_REPOSITORY_NAME to the repository with the earlier releases. " +
			"There are also --remote oci, --remote directory, which looks for them in --output, and --mode hash and custom, which need none")
	}
	repository, err := github.New(owner, name, github.Options{
		Token: env("GIT_ACCESS_TOKEN"), APIURL: options.githubAPI,
		Web: web.Options{PlainHTTP: options.plainHTTP, UserAgent: "csctl/" + version},
	})
	if err != nil {
		return nil, fmt.Errorf("--remote github: %w", err)
	}
	return repository, nil
}

// publish puts a release that was written to a folder into a repository.
func publish(ctx context.Context, to remote, stack *build.Stack, name release.Name, folder string, created time.Time, stdout, stderr io.Writer) error {
	hashes, err := stack.Hash()
	if err != nil {
		return err
	}
	tell := newTransfer(stderr)
	done, err := to.Put(ctx, name, os.DirFS(folder), source.Publication{
		Created: created, Uploaded: tell.file,
		// What others have always been told about a release besides its files.
		Annotations: map[string]string{"kubernetesVersion": stack.Config.Kubernetes, "hash": hashes.Short()},
	})
	tell.done()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s is in %s: %s\n", name, to, done.Digest)
	return err
}

func printWritten(w io.Writer, rel *build.Release, versions build.Versions, written build.Written) error {
	state := "created"
	if written.Existed {
		state = "unchanged"
	}
	text := fmt.Sprintf("%s %s in %s (cluster addons %s, node images %s)\n", rel.Name, state, written.Folder, versions.ClusterAddon, versions.NodeImage)
	for _, file := range written.Files {
		text += "  " + file + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// readStack reads the stack in a folder. It may link to files that lie beside that folder.
func readStack(folder string) (*build.Stack, error) {
	beside, name, err := openBeside(folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = beside.Close() }() // only read from
	return build.Read(beside.FS(), name)
}

// openBeside opens the folder that a stack lies in, and returns the stack's name there: it may link to what lies beside it.
// Of a stack at the top of the file system it opens the stack itself, as all of the machine lies beside that.
func openBeside(folder string) (beside *os.Root, name string, err error) {
	path, err := realPath(folder)
	if err != nil {
		return nil, "", err
	}
	parent, name := filepath.Split(path)
	if parent == string(filepath.Separator) {
		parent, name = path, "."
	}
	beside, err = os.OpenRoot(parent)
	return beside, name, err
}

// realPath returns where a folder lies: links in a stack lead on from there, and not from a link to it.
func realPath(folder string) (string, error) {
	path, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

func chooseVersions(ctx context.Context, stack *build.Stack, earlier remote, options createOptions) (build.Versions, error) {
	switch options.mode {
	case "stable":
		return nextVersions(ctx, stack, "", earlier, options)
	case "beta":
		return nextVersions(ctx, stack, "beta", earlier, options)
	case "hash":
		return stack.HashVersions()
	case "custom":
		return customVersions(options)
	}
	return build.Versions{}, fmt.Errorf("--mode %s: there are stable, beta, hash and custom", options.mode)
}

func customVersions(options createOptions) (versions build.Versions, err error) {
	for _, to := range []struct {
		flag    string
		text    string
		version *release.Version
	}{
		{"--cluster-stack-version", options.stackVersion, &versions.ClusterStack},
		{"--cluster-addon-version", options.addonVersion, &versions.ClusterAddon},
		{"--node-image-version", options.imageVersion, &versions.NodeImage},
	} {
		if to.text == "" {
			return build.Versions{}, errors.New("--mode custom needs --cluster-stack-version, --cluster-addon-version and --node-image-version")
		}
		if *to.version, err = release.ParseVersion(to.text); err != nil {
			return build.Versions{}, fmt.Errorf("%s: %w", to.flag, err)
		}
	}
	return versions, nil
}

// nextVersions returns the versions that follow those of the latest release in a channel.
func nextVersions(ctx context.Context, stack *build.Stack, channel string, earlier remote, options createOptions) (build.Versions, error) {
	if options.remote == remoteDirectory {
		if err := os.MkdirAll(options.output, 0o755); err != nil {
			return build.Versions{}, err
		}
	}
	offers, err := earlier.List(ctx)
	if errors.Is(err, oci.ErrNoRepository) {
		err = nil // the first release makes it
	}
	if err != nil {
		return build.Versions{}, err
	}
	names := make([]release.Name, len(offers))
	for i, offer := range offers {
		names[i] = offer.Name
	}
	latest, found := stack.Latest(channel, names)
	if !found {
		return build.FirstVersions(channel), nil
	}
	tmp, err := os.MkdirTemp("", "csctl-")
	if err != nil {
		return build.Versions{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // the system clears what stays
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return build.Versions{}, err
	}
	defer func() { _ = root.Close() }() // only read from by now
	if _, err := earlier.Fetch(ctx, latest, root); err != nil {
		return build.Versions{}, err
	}
	return stack.NextVersions(latest, root.FS())
}

// findPlugin returns the program that makes the node images of a stack, or "" if it needs none.
// Only PATH is searched: the folder that somebody builds in may hold anything.
func findPlugin(stack *build.Stack) (string, error) {
	if !stack.Config.HasProviderConfig {
		return "", nil
	}
	path, err := exec.LookPath("csctl-" + stack.Config.Provider)
	if err != nil {
		return "", fmt.Errorf("csctl.yaml has a config for provider %s, which is for a plugin that makes node images: %w", stack.Config.Provider, err)
	}
	return path, nil
}

func makeNodeImages(ctx context.Context, plugin, stack, prepared, registry string, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, plugin, "create-node-images", stack, prepared, registry)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// A plugin that is building images has machines somewhere, and needs time to give them back.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s create-node-images: %w", plugin, err)
	}
	return nil
}
