// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// Variables of the environment that say where the operator's own source is. Existing installations have
// them in a Secret.
const (
	envGitProvider   = "GIT_PROVIDER"
	envGitOwner      = "GIT_ORG_NAME"
	envGitRepository = "GIT_REPOSITORY_NAME"
	envGitToken      = "GIT_ACCESS_TOKEN"
	envOCIRegistry   = "OCI_REGISTRY"
	envOCIRepository = "OCI_REPOSITORY"
	envOCIToken      = "OCI_ACCESS_TOKEN"
	envOCIUsername   = "OCI_USERNAME"
	envOCIPassword   = "OCI_PASSWORD"
)

// Variable is a variable of the environment that the operator reads.
type Variable struct{ Name, Meaning string }

// Variables returns the variables of the environment that the operator reads.
func Variables() []Variable {
	return []Variable{
		{envGitProvider, "github, or nothing."},
		{envGitOwner, "User or organisation on GitHub, for --source=github."},
		{envGitRepository, "Repository on GitHub with the releases."},
		{envGitToken, "Token for GitHub's API. Without one, GitHub answers little and only about what is public."},
		{envOCIRegistry, "Host of the registry, for --source=oci, if the next one lacks it."},
		{envOCIRepository, "Repository with the releases, such as registry.example.com/cluster-stacks."},
		{envOCIToken, "Token for the registry."},
		{envOCIUsername, "User at the registry, in place of a token."},
		{envOCIPassword, "Password of that user."},
	}
}

// sourceEnvironment reads the variables. Encoded in a Secret by hand, many a value ends with a line break.
func sourceEnvironment(getenv func(string) string) map[string]string {
	values := map[string]string{}
	for _, v := range Variables() {
		if value := strings.TrimSpace(getenv(v.Name)); value != "" {
			values[v.Name] = value
		}
	}
	return values
}

// Intervals at which sources are asked for new releases. To look into a folder costs nothing.
const (
	pollDirectory = 2 * time.Second
	pollRemote    = 5 * time.Minute
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get

// newReleases sets up the source of the operator and those that ClusterStacks may name. The reader may read from a cache,
// live must not.
func newReleases(reader, live client.Reader, st *store.Store, c Config) (*releases.Releases, error) {
	hosts := &web.Hosts{}
	src, key, location, err := c.ownSource(hosts)
	if err != nil {
		return nil, err
	}
	own := pollRemote
	if c.isDirectory() {
		own = pollDirectory
	}
	guard, err := c.guard()
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(c.directory())
	if err != nil {
		return nil, err
	}
	rules, err := c.rules(live)
	if err != nil {
		return nil, err
	}
	return releases.NewWith(reader, st, src, key, releases.Options{
		Rules: rules,
		Build: func(spec v1alpha1.ReleaseSource, secret map[string][]byte) (source.Source, error) {
			return buildSource(spec, secret, folder, web.Options{Guard: guard, Hosts: hosts, UserAgent: name})
		},
		Secret: func(ctx context.Context, key client.ObjectKey) (*corev1.Secret, error) {
			secret := &corev1.Secret{}
			return secret, live.Get(ctx, key, secret)
		},
		Namespace: func(ctx context.Context, name string) (types.UID, error) {
			namespace := &corev1.Namespace{}
			err := live.Get(ctx, client.ObjectKey{Name: name}, namespace)
			return namespace.UID, err
		},
		Directory:     folder,
		Location:      location,
		Poll:          c.every(pollRemote),
		DirectoryPoll: c.every(pollDirectory),
		DefaultPoll:   c.every(own),
	}), nil
}

// every is how often a source is asked that is asked so often by default.
func (c *Config) every(interval time.Duration) time.Duration {
	if c.SourcePollInterval > 0 {
		return c.SourcePollInterval
	}
	return interval
}

func (c *Config) isDirectory() bool { return c.Local || c.Source == SourceDirectory }

// ownSource returns the source of ClusterStacks that name none, with its key in the store and its name for
// people. It is nil when the environment says nothing about it: then each ClusterStack has to name one.
//
// No network is out of reach for it: an administrator has named it.
func (c *Config) ownSource(hosts *web.Hosts) (src source.Source, key, location string, err error) {
	env := c.Environment
	switch {
	case c.isDirectory():
		folder, err := filepath.Abs(c.directory())
		if err != nil {
			return nil, "", "", err
		}
		location = releases.DirectoryLocation(folder)
		return dir.New(folder), location, location, nil
	case c.Source == SourceOCI && env[envOCIRepository] != "":
		s, err := oci.New(oci.Repository(env[envOCIRegistry], env[envOCIRepository]), oci.Options{
			Credentials: oci.Credentials{Username: env[envOCIUsername], Password: env[envOCIPassword], Token: env[envOCIToken]},
			Web:         web.Options{Hosts: hosts, UserAgent: name},
		})
		if err != nil {
			return nil, "", "", fmt.Errorf("%s: %w", envOCIRepository, err)
		}
		return s, s.String() + ownKey, s.String(), nil
	case c.Source == SourceGitHub && (env[envGitOwner] != "" || env[envGitRepository] != ""):
		if provider := env[envGitProvider]; provider != "" && !strings.EqualFold(provider, "github") {
			return nil, "", "", fmt.Errorf("%s is %q: only github is known", envGitProvider, provider)
		}
		s, err := github.New(env[envGitOwner], env[envGitRepository], github.Options{Token: env[envGitToken], Web: web.Options{UserAgent: name}})
		if err != nil {
			return nil, "", "", fmt.Errorf("%s and %s: %w", envGitOwner, envGitRepository, err)
		}
		return s, s.String() + ownKey, s.String(), nil
	}
	return nil, "", "", nil
}

// ownKey keeps what was fetched with the credentials of the operator from those who name the same source
// without having any.
const ownKey = " of the operator"

// buildSource makes the source that a ClusterStack names.
func buildSource(spec v1alpha1.ReleaseSource, secret map[string][]byte, folder string, settings web.Options) (source.Source, error) {
	settings.CA = secret["ca.crt"]
	text := func(key string) string { return strings.TrimSpace(string(secret[key])) }
	var timeout time.Duration
	if spec.Timeout != nil {
		timeout = spec.Timeout.Duration
	}
	switch {
	case spec.Directory != nil:
		if !filepath.IsLocal(spec.Directory.Path) {
			return nil, fmt.Errorf("spec.source.directory.path: %q is not below the operator's --release-dir", spec.Directory.Path)
		}
		return dir.New(filepath.Join(folder, spec.Directory.Path)), nil
	case spec.OCI != nil:
		settings.PlainHTTP = spec.OCI.PlainHTTP
		return oci.New(spec.OCI.Repository, oci.Options{
			Credentials: oci.Credentials{
				Username: text("username"), Password: text("password"), Token: text("token"), DockerConfig: secret[corev1.DockerConfigJsonKey],
			},
			Web:     settings,
			Timeout: timeout,
		})
	case spec.GitHub != nil:
		token := text("token")
		if token == "" {
			token = text("password")
		}
		settings.PlainHTTP = strings.HasPrefix(spec.GitHub.APIURL, "http://")
		settings.Hosts = nil // its limits are those of a token
		return github.New(spec.GitHub.Owner, spec.GitHub.Repository, github.Options{
			Token: token, APIURL: spec.GitHub.APIURL, Web: settings, Timeout: timeout,
		})
	}
	return nil, errors.New("spec.source names no source")
}

// guard keeps what ClusterStacks name from the networks inside.
func (c *Config) guard() (*web.Guard, error) {
	guard := &web.Guard{}
	for _, text := range c.AllowNetworks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--allow-networks: %q is not a network of the form 10.0.0.0/8", text)
		}
		guard.Allowed = append(guard.Allowed, network.Masked())
	}
	return guard, nil
}
