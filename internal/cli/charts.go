// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/helmpath"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// chartOptions say where charts come from that the charts of a stack depend on.
type chartOptions struct {
	mirrors []string
	// allowed are prefixes of the repositories that may be asked, empty for all that there can be.
	allowed []string
	// web says how repositories are spoken to.
	web web.Options
	// beside is that of [chartrepo.Options].
	beside func(ctx context.Context, dependency *chart.Dependency) (packed []byte, version string, err error)
}

func (o *chartOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringSliceVar(&o.mirrors, "chart-mirrors", nil, "mirrors of chart repositories, as <repository>=<mirror>. A mirror may be http://, https://, oci:// or, without TLS, oci+http://, or a folder with packages")
}

// fetch returns the charts that a chart lacks. Where they come from is looked up only now: most charts lack none.
func (o *chartOptions) fetch(ctx context.Context, lacking release.IncompleteChart) ([]release.File, error) {
	repositories, err := o.repositories()
	if err != nil {
		return nil, err
	}
	return repositories.Complete(ctx, lacking)
}

// chartsOfOthers are options for a release that somebody else has made: only what the operator asks is asked.
func chartsOfOthers(settings web.Options) chartOptions {
	return chartOptions{allowed: []string{"https://", "oci://"}, web: settings}
}

// repositories returns where charts are fetched from. They are those that the author of the stack has named, so all are
// allowed unless the options say otherwise, and who to be there is what the user's Helm and Docker know.
func (o *chartOptions) repositories() (*chartrepo.Repositories, error) {
	settings, allowed := o.web, o.allowed
	settings.UserAgent = "csctl/" + version
	if len(allowed) == 0 {
		allowed, settings.PlainHTTP = []string{"https://", "http://", "oci://"}, true
	}
	client, err := web.Client(settings)
	if err != nil {
		return nil, err
	}
	settings.PlainHTTP = true // for a mirror, which the user has chosen
	mirror, err := web.Client(settings)
	if err != nil {
		return nil, err
	}
	known, err := readHelmConfig()
	if err != nil {
		return nil, err
	}
	options := chartrepo.Options{
		Client: client, MirrorClient: mirror, Allowed: allowed,
		Credential: known.credential, MirrorCredential: known.registries, Beside: o.beside,
	}
	// Without a place for it, there is no cache.
	if cache, err := os.UserCacheDir(); err == nil {
		options.Cache = filepath.Join(cache, "csctl", "charts")
	}
	for _, text := range o.mirrors {
		mirror, err := parseMirror(text)
		if err != nil {
			return nil, fmt.Errorf("--chart-mirrors: %w", err)
		}
		options.Mirrors = append(options.Mirrors, mirror)
	}
	return chartrepo.New(options), nil
}

// parseMirror reads a mirror, which may be a folder.
func parseMirror(text string) (chartrepo.Mirror, error) {
	from, to, ok := strings.Cut(text, "=")
	if ok && from != "" && to != "" && !strings.Contains(to, "://") {
		folder, err := filepath.Abs(to)
		return chartrepo.FolderMirror(from, folder), err
	}
	return chartrepo.ParseMirror(text)
}

// helmConfig is what Helm and Docker know about repositories.
type helmConfig struct {
	Repositories []helmRepository `json:"repositories"`

	registries auth.CredentialFunc
}

type helmRepository struct {
	URL      string `json:"url"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// readHelmConfig reads the files that "helm repo add", "helm registry login" and "docker login" write, in the places that
// Helm's variables of the environment name.
func readHelmConfig() (*helmConfig, error) {
	config := &helmConfig{}
	file := envOr("HELM_REPOSITORY_CONFIG", helmpath.ConfigPath("repositories.yaml"))
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if yaml.Unmarshal(data, config) != nil {
		// The error of the parser may quote a password.
		return nil, fmt.Errorf("%s is not a list of Helm's repositories", file)
	}
	helm, err := credentials.NewStore(envOr("HELM_REGISTRY_CONFIG", helmpath.ConfigPath("registry", "config.json")), credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("the registries of Helm: %w", err)
	}
	docker, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("the registries of Docker: %w", err)
	}
	config.registries = credentials.Credential(credentials.NewStoreWithFallbacks(helm, docker))
	return config, nil
}

func envOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// credential returns who to be at a repository: in a registry whom its host knows, elsewhere whom Helm was told for this
// repository or one that it is below.
func (c *helmConfig) credential(repository string) auth.CredentialFunc {
	if strings.HasPrefix(repository, "oci://") {
		return c.registries
	}
	i := slices.IndexFunc(c.Repositories, func(r helmRepository) bool {
		return r.URL != "" && strings.HasPrefix(repository+"/", strings.TrimSuffix(r.URL, "/")+"/")
	})
	u, err := url.Parse(repository)
	if i < 0 || err != nil {
		return nil
	}
	return auth.StaticCredential(u.Host, auth.Credential{Username: c.Repositories[i].Username, Password: c.Repositories[i].Password})
}

func newDependencyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dependency",
		Aliases: []string{"dep", "dependencies"},
		Short:   "Manage the charts that the charts of a stack depend on",
		Args:    subcommandOnly,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDependencyUpdateCommand())
	return cmd
}

func newDependencyUpdateCommand() *cobra.Command {
	var options chartOptions
	cmd := &cobra.Command{
		Use:     "update <cluster-stack-dir>",
		Aliases: []string{"up"},
		Short:   "Write the lock files of the charts of a stack",
		Long: `Write Chart.lock into each chart of a cluster stack that depends on others.

For each dependency in Chart.yaml it has the highest version that there is in its range now. "csctl create" fetches these
versions and packs them into the release. A lock file that says so already is left as it is. The files are the same as
those of "helm dependency update"; charts/ is not touched.`,
		Example:           "  csctl dependency update stacks/openstack/starter/1-36",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			return updateDependencies(cmd.Context(), args[0], options, cmd.OutOrStdout())
		},
	}
	options.addFlags(cmd.Flags())
	return cmd
}

func updateDependencies(ctx context.Context, folder string, options chartOptions, stdout io.Writer) error {
	stack, err := readStack(folder)
	if err != nil {
		return err
	}
	repositories, err := options.repositories()
	if err != nil {
		return err
	}
	locks, err := stack.Locks(ctx, repositories.Versions, time.Now())
	if err != nil {
		return err
	}
	// Charts may be links, as with reading.
	beside, base, err := openBeside(folder)
	if err != nil {
		return err
	}
	defer func() { _ = beside.Close() }() // each file is closed by itself
	for _, name := range slices.Sorted(maps.Keys(locks)) {
		if err := beside.WriteFile(filepath.Join(base, filepath.FromSlash(name)), locks[name], 0o644); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(stdout, "%s written\n", name); err != nil {
			return err
		}
	}
	if len(locks) == 0 {
		_, err = fmt.Fprintln(stdout, "all lock files are up to date")
	}
	return err
}
