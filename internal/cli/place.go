// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// placeHelp says in help pages how places are written and with which credentials they are asked.
const placeHelp = `A place is where releases live, and may name one of them:

  oci://HOST/REPOSITORY[:RELEASE][@DIGEST]   a repository in a registry
  github://[HOST/]OWNER/REPOSITORY[#RELEASE] a repository on GitHub, *.ghe.com or a GitHub Enterprise Server;
                                             https://HOST/OWNER/REPOSITORY[#RELEASE] is the same
  FOLDER                                     a folder with a folder for each release; one that is called like
                                             a host and not there yet is written ./FOLDER
  FOLDER/RELEASE                             one of them
  FILE.tar[#RELEASE]                         a bundle, as csctl mirror writes it

Registries are shown OCI_USERNAME with OCI_PASSWORD, or OCI_ACCESS_TOKEN; where OCI_REGISTRY or OCI_REPOSITORY names a registry, only
that one is. Without them the credentials count that docker login or oras login has kept. GitHub is shown
GIT_ACCESS_TOKEN; a GitHub Enterprise Server only where GIT_HOST names it.`

// placeKind is what sort of thing a place is.
type placeKind string

const (
	placeRegistry placeKind = "registry"
	placeGitHub   placeKind = "github"
	placeFolder   placeKind = "folder"
	placeBundle   placeKind = "bundle"
)

// placeName is a place as a person names it.
type placeName struct {
	kind placeKind
	// location is the repository in a registry, without scheme; the path of a folder or of a bundle; or the
	// URL of a repository on GitHub.
	location string
	// release is the release that is meant, the zero value where none is named.
	release release.Name
	// digest is what the release has to have, or empty.
	digest string
}

// parsePlace reads the name of a place. Of paths it looks whether there is a folder.
func parsePlace(text string) (placeName, error) {
	switch {
	case text == "":
		return placeName{}, errors.New("a place is missing: name a registry (oci://...), a repository on GitHub (github://...), a folder or a bundle (....tar)")
	case strings.HasPrefix(text, "oci://"):
		return parseRegistry(strings.TrimPrefix(text, "oci://"))
	case strings.HasPrefix(text, "github://"):
		rest, tag, tagged := strings.Cut(strings.TrimPrefix(text, "github://"), "#")
		if strings.Count(strings.Trim(rest, "/"), "/") == 1 {
			rest = "github.com/" + rest
		}
		return parseGitHub("https://"+rest, tag, tagged)
	case strings.HasPrefix(text, "https://"), strings.HasPrefix(text, "http://"):
		rest, tag, tagged := strings.Cut(text, "#")
		// As a browser shows it.
		if before, after, is := strings.Cut(rest, "/releases/tag/"); is && !tagged {
			rest, tag, tagged = before, after, true
		}
		return parseGitHub(rest, tag, tagged)
	case strings.Contains(text, "://"):
		return placeName{}, fmt.Errorf("%q is not a place: there are oci://, github://, folders and bundles", text)
	}
	if file, tag, tagged := strings.Cut(text, "#"); strings.HasSuffix(file, ".tar") {
		p := placeName{kind: placeBundle, location: file}
		return p.tagged(text, tag, tagged)
	}
	return parseFolder(text)
}

func (p placeName) tagged(text, tag string, tagged bool) (placeName, error) {
	if !tagged {
		return p, nil
	}
	name, err := release.ParseName(tag)
	if err != nil {
		return placeName{}, fmt.Errorf("%s: %w", text, err)
	}
	p.release = name
	return p, nil
}

func parseRegistry(text string) (placeName, error) {
	whole := "oci://" + text
	p := placeName{kind: placeRegistry}
	var pinned bool
	if text, p.digest, pinned = strings.Cut(text, "@"); pinned {
		if err := digest.Digest(p.digest).Validate(); err != nil || !strings.HasPrefix(p.digest, "sha256:") {
			return placeName{}, fmt.Errorf("%s: %q is not a digest of the form sha256:<64 hexadecimal digits>", whole, p.digest)
		}
	}
	tag, tagged := "", false
	if i := strings.LastIndex(text, ":"); i > strings.LastIndex(text, "/") && strings.Contains(text, "/") {
		text, tag, tagged = text[:i], text[i+1:], true
	}
	if pinned && !tagged {
		return placeName{}, fmt.Errorf("%s: name the release beside its digest, as in oci://%s:docker-scs-1-35-v1@%s", whole, text, p.digest)
	}
	p.location = strings.TrimSuffix(text, "/")
	return p.tagged(whole, tag, tagged)
}

func parseGitHub(text, tag string, tagged bool) (placeName, error) {
	u, err := url.Parse(strings.TrimSuffix(strings.TrimSuffix(text, "/"), ".git"))
	if err == nil {
		u.Host = strings.ToLower(u.Host)
	}
	if err != nil || u.Host == "" || u.User != nil || strings.Count(u.Path, "/") != 2 {
		return placeName{}, fmt.Errorf("%q is not a repository on GitHub of the form github://OWNER/REPOSITORY or https://HOST/OWNER/REPOSITORY", text)
	}
	if u.Host == "www."+gitHub {
		u.Host = gitHub
	}
	if host, is := repositoriesOf(u.Host); is {
		return placeName{}, fmt.Errorf("%s is not where repositories are on GitHub: name the repository as a browser shows it, such as https://%s%s", u.Host, host, u.Path)
	}
	p := placeName{kind: placeGitHub, location: u.Scheme + "://" + u.Host + u.Path}
	return p.tagged(text, tag, tagged)
}

// enterprise is the end of the hosts of GitHub Enterprise Cloud with a place of its own for data.
const enterprise = ".ghe.com"

// repositoriesOf returns the host of the repositories for one that is GitHub's, too, but has something else.
func repositoriesOf(host string) (repositories string, is bool) {
	if strings.HasSuffix(host, ".githubusercontent.com") || strings.HasSuffix(host, ".github.io") {
		return gitHub, true
	}
	if rest, is := strings.CutSuffix(host, "."+gitHub); is && rest != "" {
		return gitHub, true
	}
	// Only octocorp.ghe.com has repositories: api.octocorp.ghe.com and its like have not.
	if rest, is := strings.CutSuffix(host, enterprise); is && strings.Contains(rest, ".") {
		return rest[strings.LastIndex(rest, ".")+1:] + enterprise, true
	}
	return "", false
}

// apiOf returns the URL of the API of a host that is not github.com.
func apiOf(scheme, host string) string {
	if strings.HasSuffix(host, enterprise) {
		return scheme + "://api." + host + "/"
	}
	return scheme + "://" + host + "/api/v3/"
}

// maybeHost tells of a path that is not there whether it rather is a place elsewhere whose scheme was forgotten: its first
// part has a dot or a port, as hosts have. Nobody shall look for a release in a folder that is called like a registry.
func maybeHost(text string) bool {
	first, rest, below := strings.Cut(filepath.ToSlash(text), "/")
	name, port, hasPort := strings.Cut(first, ":")
	switch {
	case name == "" || strings.HasPrefix(name, ".") || strings.Contains(first, `\`):
		return false
	case hasPort && port != "" && strings.Trim(port, "0123456789") == "":
		return true
	case strings.Contains(name, "@") && hasPort:
		return true
	}
	return below && rest != "" && strings.Contains(name, ".")
}

// didYouMean is the error for such a path.
func didYouMean(text string) error {
	meant := "oci://" + text
	if user, repository, is := strings.Cut(text, ":"); is && strings.Contains(user, "@") {
		_, host, _ := strings.Cut(user, "@")
		meant = "github://" + host + "/" + strings.TrimSuffix(repository, ".git")
	}
	if host, _, _ := strings.Cut(text, "/"); host == gitHub || host == "www."+gitHub || strings.HasSuffix(host, enterprise) {
		meant = "https://" + text
	}
	return fmt.Errorf("there is no folder %s: did you mean %s? For a folder write ./%s", text, meant, text)
}

// parseFolder tells the folder of a release from one with releases in it by what lies there, and one that is not there
// yet by its name.
func parseFolder(text string) (placeName, error) {
	path, err := filepath.Abs(text)
	if err != nil {
		return placeName{}, err
	}
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return placeName{}, err
	}
	if err != nil && !filepath.IsAbs(text) && maybeHost(text) {
		first, _, _ := strings.Cut(filepath.ToSlash(text), "/")
		if _, err := os.Stat(first); err != nil {
			return placeName{}, didYouMean(text)
		}
	}
	if err == nil && !info.IsDir() {
		return placeName{}, fmt.Errorf("%s is neither a folder nor a bundle, whose name ends with .tar", text)
	}
	name, named := release.ParseName(filepath.Base(path))
	_, missing := os.Stat(filepath.Join(path, release.MetadataFile))
	switch {
	case missing == nil && named != nil:
		return placeName{}, fmt.Errorf("the folder %s has a release in it, but is not called like one: rename it to the release's tag, such as docker-scs-1-35-v1", text)
	case named == nil && (missing == nil || err != nil):
		return placeName{kind: placeFolder, location: filepath.Dir(path), release: name}, nil
	}
	return placeName{kind: placeFolder, location: path}, nil
}

// String returns the place as it may be written.
func (p placeName) String() string {
	tag := ""
	if p.release != (release.Name{}) {
		tag = p.release.String()
	}
	separator, before := "", ""
	switch p.kind {
	case placeGitHub, placeBundle:
		separator = "#"
	case placeRegistry:
		separator, before = ":", "oci://"
		if p.digest != "" {
			tag += "@" + p.digest
		}
	case placeFolder:
		separator = string(filepath.Separator)
	}
	if tag == "" {
		return before + p.location
	}
	return before + p.location + separator + tag
}

// placeFlags are the flags of all commands that open places.
type placeFlags struct {
	caFile    string
	plainHTTP bool
}

func (f *placeFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "file with certificates in PEM that are trusted besides those of the system")
	cmd.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "speak to the registry or to GitHub without TLS, such as to the registry of a sandbox")
	mustComplete(cmd, "ca-file", cobra.FixedCompletions([]string{"pem", "crt"}, cobra.ShellCompDirectiveFilterFileExt))
}

// place is a place that can be asked.
type place struct {
	placeName
	source source.Source
}

// open opens a place. No request is made before it is asked something; a bundle is read.
func (f *placeFlags) open(ctx context.Context, text string) (*place, error) {
	name, err := parsePlace(text)
	if err != nil {
		return nil, err
	}
	return f.openName(ctx, name)
}

func (f *placeFlags) openName(ctx context.Context, name placeName) (*place, error) {
	settings, err := f.settings()
	if err != nil {
		return nil, err
	}
	p := &place{placeName: name}
	switch name.kind {
	case placeRegistry:
		p.source, err = openRegistry(name.location, settings)
	case placeGitHub:
		p.source, err = openGitHub(name.location, settings)
	case placeBundle:
		p.source, err = oci.Bundle(ctx, name.location)
	case placeFolder:
		p.source = dir.New(name.location)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// settings say how servers are spoken to.
func (f *placeFlags) settings() (web.Options, error) {
	settings := web.Options{PlainHTTP: f.plainHTTP, UserAgent: "csctl/" + version}
	if f.caFile != "" {
		ca, err := os.ReadFile(f.caFile)
		if err != nil {
			return web.Options{}, fmt.Errorf("--ca-file: %w", err)
		}
		settings.CA = ca
	}
	return settings, nil
}

// openRegistry opens a repository with the credentials that the environment or Docker has for its registry.
func openRegistry(repository string, settings web.Options) (*oci.Source, error) {
	host, _, _ := strings.Cut(repository, "/")
	given, found := registryCredentials(host)
	if !found {
		store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("the configuration of Docker: %w", err)
		}
		return oci.New(repository, oci.Options{Web: settings, Credentials: oci.Credentials{Store: store}})
	}
	return oci.New(repository, oci.Options{Web: settings, Credentials: given})
}

// registryCredentials returns the credentials for a registry that the environment has. Those for another registry, which
// OCI_REGISTRY or OCI_REPOSITORY names, are not shown to it.
func registryCredentials(host string) (given oci.Credentials, found bool) {
	given = oci.Credentials{Username: env("OCI_USERNAME"), Password: env("OCI_PASSWORD"), Token: env("OCI_ACCESS_TOKEN")}
	if given.Username == "" && given.Password == "" && given.Token == "" {
		return oci.Credentials{}, false
	}
	meant, _, _ := strings.Cut(oci.Repository(env("OCI_REGISTRY"), env("OCI_REPOSITORY")), "/")
	if meant == "" {
		meant = strings.TrimSuffix(strings.TrimPrefix(env("OCI_REGISTRY"), "https://"), "/")
	}
	if meant != "" && meant != host {
		return oci.Credentials{}, false
	}
	return given, true
}

func openGitHub(location string, settings web.Options) (*github.Source, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, err
	}
	owner, repository, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	options := github.Options{Token: githubToken(u.Host), Web: settings}
	if u.Host != gitHub {
		if settings.PlainHTTP {
			u.Scheme = "http"
		}
		options.APIURL = apiOf(u.Scheme, u.Host)
	}
	return github.New(owner, repository, options)
}

const gitHub = "github.com"

// githubToken returns the token for a host, empty if it is for another one. Whoever mistypes a registry shall not show it
// the token.
func githubToken(host string) string {
	if meant := cmp.Or(env("GIT_HOST"), gitHub); meant != host {
		return ""
	}
	return env("GIT_ACCESS_TOKEN")
}

// env reads a variable of the environment. Many a value ends with a line break.
func env(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// named returns the release that is meant, or an error that says how to name one.
func (p *place) named() (release.Name, error) {
	if p.release != (release.Name{}) {
		return p.release, nil
	}
	example := placeName{kind: p.kind, location: p.location, release: release.Name{Provider: "docker", Stack: "scs", Kubernetes: "1.35"}}
	example.release.Version, _ = release.ParseVersion("v1")
	return release.Name{}, fmt.Errorf("%s names no release: say which one, as in %s; csctl list %s shows them", p, example, p)
}

// fetch writes the files of a release of the place into an empty folder and returns their digest. What a digest in
// the place's name demands is checked.
func (p *place) fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	if p.digest == "" || name != p.release {
		return p.source.Fetch(ctx, name, dst)
	}
	if by, can := p.source.(source.Addressed); can {
		return p.digest, by.FetchDigest(ctx, name, p.digest, dst)
	}
	sum, err := p.source.Fetch(ctx, name, dst)
	if err == nil && sum != p.digest {
		err = fmt.Errorf("release %s in %s has the digest %s, not %s", name, p, sum, p.digest)
	}
	return sum, err
}

// fetched is a release that was fetched to a temporary folder.
type fetched struct {
	release *release.Release
	digest  string
	// folder has the files of the release.
	folder string
}

// with fetches the release that the place names, opens it, and hands it to use. Its files are gone afterwards.
func (p *place) with(ctx context.Context, use func(fetched) error) error {
	name, err := p.named()
	if err != nil {
		return err
	}
	return p.withRelease(ctx, name, use)
}

func (p *place) withRelease(ctx context.Context, name release.Name, use func(fetched) error) error {
	return p.withFiles(ctx, name, func(folder, digest string) error {
		rel, err := release.Open(os.DirFS(folder), name)
		if err != nil {
			return err
		}
		return use(fetched{release: rel, digest: digest, folder: folder})
	})
}

// withFiles fetches the files of a release into a folder, which is gone afterwards, and lets no parser see them.
func (p *place) withFiles(ctx context.Context, name release.Name, use func(folder, digest string) error) error {
	folder, err := os.MkdirTemp("", "csctl-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }() // the system clears what stays
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // written by now
	sum, err := p.fetch(ctx, name, root)
	if err != nil {
		return err
	}
	return use(folder, sum)
}

// withVerified is with for a release with which a policy has to be content.
func (p *place) withVerified(ctx context.Context, policy *verify.Policy, use func(fetched, verify.Signer) error) error {
	name, err := p.named()
	if err != nil {
		return err
	}
	return p.withFiles(ctx, name, func(folder, digest string) error {
		got, err := p.vet(ctx, name, fetchedFiles{folder, digest}, policy)
		if err != nil {
			return err
		}
		return use(fetched{release: got.Release, digest: digest, folder: folder}, *got.Signer)
	})
}

// fetchedFiles are those of a release that was fetched already.
type fetchedFiles struct{ folder, digest string }

// Fetch implements store.Fetcher.
func (f fetchedFiles) Fetch(ctx context.Context, _ release.Name, dst *os.Root) (string, error) {
	files, err := source.ReadFiles(os.DirFS(f.folder))
	for _, file := range files {
		if err == nil {
			_, _, err = source.Save(ctx, dst, file.Name, bytes.NewReader(file.Data), source.MaxFileSize)
		}
	}
	return f.digest, err
}
