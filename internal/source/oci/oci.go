// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package oci is the source of releases that are artifacts in an OCI registry: all in one repository, each
// under a tag that is called like the release.
//
// The files of a release are the layers of its manifest, called as the annotation
// org.opencontainers.image.title says. Types of artifacts and layers are not looked at, because producers
// disagree about them: csctl and `oras push` write different ones. The digest of a release is that of its
// manifest.
package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// Limits on what a registry may answer, in bytes and in number.
const (
	maxManifest = 4 << 20
	maxTags     = 100_000
)

// Options are settings whose zero value works: a registry that asks for no credentials.
type Options struct {
	Credentials Credentials
	// Web says how the registry is spoken to. With PlainHTTP it is spoken to without TLS only.
	Web web.Options
	// Timeout bounds each operation as a whole, 10 minutes by default.
	Timeout time.Duration
}

// Source reads releases from a repository, and can publish them there.
type Source struct {
	repository repository
	location   string
	hosts      *web.Hosts
	timeout    time.Duration
}

// repository is what a source needs of a repository, be it in a registry or in a file.
type repository interface {
	registry.TagLister
	registry.ReferenceFetcher
	registry.ReferrerLister
	content.Resolver
	// Blobs returns what has the layers.
	Blobs() blobs
	// PushReference uploads a manifest and gives it a tag.
	PushReference(ctx context.Context, desc ocispec.Descriptor, manifest io.Reader, tag string) error
	// Push uploads a manifest without a tag, and has it found as a referrer if it refers to something.
	Push(ctx context.Context, desc ocispec.Descriptor, manifest io.Reader) error
	// Below returns the repository at a path below this one.
	Below(path string) (repository, error)
}

// blobs are contents that are known by their digests.
type blobs interface {
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	Push(ctx context.Context, desc ocispec.Descriptor, contents io.Reader) error
}

// inRegistry is a repository in a registry.
type inRegistry struct{ *remote.Repository }

func (r inRegistry) Blobs() blobs { return r.Repository.Blobs() }

func (r inRegistry) PushReference(ctx context.Context, desc ocispec.Descriptor, manifest io.Reader, tag string) error {
	return r.Manifests().PushReference(ctx, desc, manifest, tag)
}

func (r inRegistry) Push(ctx context.Context, desc ocispec.Descriptor, manifest io.Reader) error {
	return r.Manifests().Push(ctx, desc, manifest)
}

func (r inRegistry) Below(path string) (repository, error) {
	ref := r.Reference
	ref.Repository += "/" + path
	if err := ref.ValidateRepository(); err != nil {
		return nil, fmt.Errorf("no registry can have a repository %s: %w", ref.Repository, err)
	}
	return inRegistry{&remote.Repository{
		Reference: ref, PlainHTTP: r.PlainHTTP, MaxMetadataBytes: r.MaxMetadataBytes, SkipReferrersGC: r.SkipReferrersGC, Client: r.Client,
	}}, nil
}

var _ interface {
	source.Source
	source.Dated
	source.Resolver
	source.Addressed
	source.Signer
	source.Publisher
} = (*Source)(nil)

// ErrNoRepository is wrapped by errors that say that the registry does not know the repository.
var ErrNoRepository = errors.New("the registry has no such repository: check its name, or publish the first release")

// New returns the source of the releases in a repository, such as "registry.example.org/stacks".
// It makes no request.
func New(repository string, o Options) (*Source, error) {
	ref, err := registry.ParseReference(repository)
	if err != nil || ref.Reference != "" {
		return nil, fmt.Errorf("%q is not a repository of the form <host>/<path>, without a tag", repository)
	}
	if o.Web.Hosts == nil || o.Credentials.given() {
		// Whoever says who he is has limits of his own: those of others, who may be anybody, are not to stop him.
		o.Web.Hosts = &web.Hosts{}
	}
	client, err := web.Client(o.Web)
	if err != nil {
		return nil, err
	}
	credential, err := o.Credentials.forRegistry(ref.Registry)
	if err != nil {
		return nil, err
	}
	if o.Credentials.Token != "" {
		client.Transport = &tokenForms{next: client.Transport, host: ref.Host(), token: o.Credentials.Token}
	}
	client.Transport = web.TokenServers(client.Transport)
	repo := &remote.Repository{
		Reference:        ref,
		PlainHTTP:        o.Web.PlainHTTP,
		MaxMetadataBytes: maxManifest,
		// A registry may be asked not to delete what has signatures; nobody deletes here.
		SkipReferrersGC: true,
		Client: &auth.Client{
			Client:     client,
			Cache:      auth.NewCache(),
			Credential: credential,
		},
	}
	s := &Source{repository: inRegistry{repo}, location: "oci://" + ref.String(), hosts: o.Web.Hosts, timeout: o.Timeout}
	s.setDefaults()
	return s, nil
}

func (s *Source) setDefaults() {
	if s.timeout <= 0 {
		s.timeout = 10 * time.Minute
	}
	if s.hosts == nil {
		s.hosts = &web.Hosts{}
	}
}

// Repository returns the full name of a repository from the two variables of the environment that have named it from
// the first: OCI_REGISTRY and OCI_REPOSITORY. The second one should be full already.
func Repository(registry, repository string) string {
	cut := func(s string) string {
		for _, scheme := range []string{"oci://", "https://"} {
			s = strings.TrimPrefix(s, scheme)
		}
		return strings.Trim(s, "/")
	}
	registry, repository = cut(registry), cut(repository)
	first, _, _ := strings.Cut(repository, "/")
	if registry == "" || first == registry || strings.ContainsAny(first, ".:") || first == "localhost" {
		return repository
	}
	return registry + "/" + repository
}

// List implements source.Source.
func (s *Source) List(ctx context.Context) ([]source.Offer, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var offers []source.Offer
	seen := 0
	err := s.repository.Tags(ctx, "", func(tags []string) error {
		if seen += len(tags); seen > maxTags {
			return fmt.Errorf("more than %d tags", maxTags)
		}
		for _, tag := range tags {
			// Registries hold other things under other tags, such as signatures and charts.
			if name, err := release.ParseName(tag); err == nil {
				offers = append(offers, source.Offer{Name: name})
			}
		}
		return nil
	})
	if err != nil {
		return nil, s.failed(ctx, "list releases", err)
	}
	return offers, nil
}

// Resolve implements source.Resolver.
func (s *Source) Resolve(ctx context.Context, name release.Name) (string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	desc, err := s.repository.Resolve(ctx, name.String())
	if err != nil {
		return "", s.failed(ctx, "release "+name.String(), err)
	}
	return desc.Digest.String(), nil
}

// Published implements source.Dated. It is when the producer says that the artifact was made.
func (s *Source) Published(ctx context.Context, name release.Name) (time.Time, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	manifest, _, err := s.manifest(ctx, name, name.String())
	if err != nil {
		return time.Time{}, s.failed(ctx, "release "+name.String(), err)
	}
	at, err := time.Parse(time.RFC3339, manifest.Annotations[ocispec.AnnotationCreated])
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // who does not write it down has a release all the same
	}
	return at, nil
}

// Fetch implements source.Source.
func (s *Source) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	return s.fetch(ctx, name, name.String(), dst)
}

// FetchDigest implements source.Addressed.
func (s *Source) FetchDigest(ctx context.Context, name release.Name, digest string, dst *os.Root) error {
	_, err := s.fetch(ctx, name, digest, dst)
	return err
}

func (s *Source) fetch(ctx context.Context, name release.Name, reference string, dst *os.Root) (string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	// The tag is looked up once. All else is asked for by digest, so a tag that moves meanwhile changes nothing.
	manifest, sum, err := s.manifest(ctx, name, reference)
	if err != nil {
		return "", s.failed(ctx, "fetch release "+name.String(), err)
	}
	files, err := files(manifest)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s, &source.MalformedError{Name: name, Reason: err})
	}
	for _, file := range files {
		if err := s.save(ctx, file, dst); err != nil {
			return "", s.failed(ctx, "fetch release "+name.String(), err)
		}
	}
	return sum, nil
}

// manifest returns the manifest to which a tag or digest refers, and its digest, over the bytes that came.
func (s *Source) manifest(ctx context.Context, name release.Name, reference string) (*ocispec.Manifest, string, error) {
	desc, body, err := s.repository.FetchReference(ctx, reference)
	if err != nil {
		return nil, "", err
	}
	data, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, "", err
	}
	if len(data) > maxManifest {
		return nil, "", fmt.Errorf("the manifest is larger than %d MiB", maxManifest>>20)
	}
	sum := digest.FromBytes(data)
	if desc.Digest.Algorithm() == digest.SHA256 && desc.Digest != sum {
		return nil, "", fmt.Errorf("the registry promised the manifest %s and sent %s", desc.Digest, sum)
	}
	if strings.Contains(reference, ":") && reference != sum.String() { // no tag has a colon
		return nil, "", fmt.Errorf("the registry was asked for the manifest %s and sent %s", reference, sum)
	}
	manifest, err := parseManifest(desc.MediaType, data)
	if err != nil {
		return nil, "", &source.MalformedError{Name: name, Reason: err}
	}
	return manifest, sum.String(), nil
}

func parseManifest(mediaType string, data []byte) (*ocispec.Manifest, error) {
	if mediaType != ocispec.MediaTypeImageManifest {
		return nil, fmt.Errorf("the artifact is of type %.100q, want %q", mediaType, ocispec.MediaTypeImageManifest)
	}
	manifest := &ocispec.Manifest{}
	if err := json.Unmarshal(data, manifest); err != nil {
		return nil, fmt.Errorf("the manifest cannot be read: %w", err)
	}
	if manifest.MediaType != "" && manifest.MediaType != mediaType {
		return nil, fmt.Errorf("the manifest was sent as %q and calls itself %.100q", mediaType, manifest.MediaType)
	}
	return manifest, nil
}

// file is a layer with a name.
type file struct {
	name string
	desc ocispec.Descriptor
}

// files returns the files of an artifact within the limits of a release. Layers without a title are none,
// and neither are those whose title is a path into a folder, because a release has no folders.
func files(manifest *ocispec.Manifest) ([]file, error) {
	var found []file
	total := int64(0)
	names := map[string]bool{}
	for _, layer := range manifest.Layers {
		title := layer.Annotations[ocispec.AnnotationTitle]
		if title == "" || isInFolder(title) {
			continue
		}
		if err := source.CheckFileName(title); err != nil {
			return nil, err
		}
		if names[title] {
			return nil, fmt.Errorf("it has two files %s", title)
		}
		names[title] = true
		if err := layer.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("%s: %w", title, err)
		}
		if layer.Size < 0 || layer.Size > source.MaxFileSize {
			return nil, fmt.Errorf("%s is larger than %d MiB", title, source.MaxFileSize>>20)
		}
		if total += layer.Size; total > source.MaxTotalSize {
			return nil, fmt.Errorf("it is larger than %d MiB", source.MaxTotalSize>>20)
		}
		found = append(found, file{name: title, desc: layer})
		if len(found) > source.MaxFiles {
			return nil, fmt.Errorf("it has more than %d files", source.MaxFiles)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no layer of it is a file: the annotation %s is missing", ocispec.AnnotationTitle)
	}
	return found, nil
}

// isInFolder tells whether a title is that of a file in a folder, by a path that stays where it should.
func isInFolder(title string) bool {
	folder, rest, is := strings.Cut(title, "/")
	return is && rest != "" && source.CheckFileName(folder) == nil && !strings.Contains(title, "..")
}

// save writes a layer to a file. Its size and digest are checked on the bytes that come.
func (s *Source) save(ctx context.Context, f file, dst *os.Root) error {
	body, err := s.repository.Blobs().Fetch(ctx, f.desc)
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	defer func() { _ = body.Close() }() // only read from
	verified := content.NewVerifyReader(body, f.desc)
	if _, _, err := source.Save(ctx, dst, f.name, verified, f.desc.Size); err != nil {
		return err
	}
	if err := verified.Verify(); err != nil {
		return fmt.Errorf("%s: the registry sent something else than %s: %w", f.name, f.desc.Digest, err)
	}
	return nil
}

// String returns what people call the source.
func (s *Source) String() string { return s.location }

func (s *Source) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("the registry needed more than %s", s.timeout))
}

// failed says what could not be had, and sorts errors by what cures them.
func (s *Source) failed(ctx context.Context, what string, err error) error {
	return s.failedAt(ctx, what, "from", err)
}

// failedAt is failed for what happens in another direction.
func (s *Source) failedAt(ctx context.Context, what, direction string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s %s: %w", what, direction, s, context.Cause(ctx))
	}
	var malformed *source.MalformedError
	if errors.As(err, &malformed) {
		return fmt.Errorf("%s: %w", s, err)
	}
	var answer *errcode.ErrorResponse
	var busy *web.BusyError
	switch {
	case errors.As(err, &answer):
		err = s.sorted(answer)
	case errors.As(err, &busy):
		err = &source.LaterError{After: busy.After, Err: busy}
	case errors.Is(err, errdef.ErrNotFound):
		err = source.ErrNotFound
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		err = fmt.Errorf("%w: the registry wants a user name and a password", source.ErrUnauthorized)
	default:
		err = web.Cause(err)
	}
	return fmt.Errorf("%s %s %s: %w", what, direction, s, err)
}

// maxMessage is how much of what a registry says about an error is passed on.
const maxMessage = 300

func (s *Source) sorted(answer *errcode.ErrorResponse) error {
	text := http.StatusText(answer.StatusCode)
	if len(answer.Errors) > 0 {
		// Its details can be anything, and change from one answer to the next.
		text = fmt.Sprintf("%s: %.*s", answer.Errors[0].Code, maxMessage, answer.Errors[0].Message)
	}
	has := func(code string) bool {
		for _, e := range answer.Errors {
			if e.Code == code {
				return true
			}
		}
		return false
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: the registry answered %d (%s): check the name of the repository and the credentials", source.ErrUnauthorized, answer.StatusCode, text)
	case http.StatusNotFound:
		if has(errcode.ErrorCodeNameUnknown) {
			return ErrNoRepository
		}
		return source.ErrNotFound
	}
	err := fmt.Errorf("the registry answered %d (%s)", answer.StatusCode, text)
	if answer.URL != nil {
		if left := s.hosts.Left(answer.URL.Host); left > 0 {
			return &source.LaterError{After: left, Err: err}
		}
	}
	return err
}

// Foreign returns the tags that are not called like a release, in the order in which the registry has them.
func (s *Source) Foreign(ctx context.Context) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var foreign []string
	seen := 0
	err := s.repository.Tags(ctx, "", func(tags []string) error {
		if seen += len(tags); seen > maxTags {
			return fmt.Errorf("more than %d tags", maxTags)
		}
		for _, tag := range tags {
			if _, err := release.ParseName(tag); err != nil {
				foreign = append(foreign, tag)
			}
		}
		return nil
	})
	if err != nil {
		return nil, s.failed(ctx, "list tags", err)
	}
	return foreign, nil
}
