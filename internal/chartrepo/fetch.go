// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package chartrepo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// index is what we need of index.yaml.
type index struct {
	Entries map[string][]indexed `json:"entries"`
}

type indexed struct {
	Version string   `json:"version"`
	URLs    []string `json:"urls"`
	Digest  string   `json:"digest"`
}

// download fetches a chart from a repository of the HTTP kind.
func (c *call) download(ctx context.Context, repository place, name, version string) ([]byte, error) {
	repository.url = strings.TrimSuffix(repository.url, "/") + "/"
	list, err := c.index(ctx, repository)
	if err != nil {
		return nil, err
	}
	entry, err := choose(list.Entries[name], version)
	if err != nil {
		return nil, err
	}
	where, err := resolveURL(repository.url, entry.URLs)
	if err != nil {
		return nil, err
	}
	from := repository
	if from.url = where; !strings.HasPrefix(where, repository.url) {
		// An index may send us anywhere, so that has to be allowed like any other repository.
		if from, err = c.locate(where); err != nil {
			return nil, fmt.Errorf("the index leads to %s: %w", entry.URLs[0], err)
		}
	}
	packed, err := from.get(ctx, maxChart)
	if err != nil {
		return nil, err
	}
	if want := strings.TrimPrefix(entry.Digest, "sha256:"); want != "" && "sha256:"+want != digestOf(packed) {
		return nil, fmt.Errorf("%s has another checksum than the index says", from.url)
	}
	return packed, nil
}

func (c *call) index(ctx context.Context, repository place) (*index, error) {
	base := repository.url
	if known := c.indexes[base]; known != nil {
		return known, nil
	}
	repository.url += "index.yaml"
	data, err := repository.get(ctx, maxIndex)
	if err != nil {
		return nil, err
	}
	list := &index{}
	// Many are JSON, which is parsed much faster.
	if json.Unmarshal(data, list) != nil {
		if err := foreignyaml.Unmarshal(data, list); err != nil {
			return nil, fmt.Errorf("%sindex.yaml cannot be read: %w", base, err)
		}
	}
	c.indexes[base] = list
	return list, nil
}

// choose returns the entry of exactly the version, or of the highest in the range.
func choose(entries []indexed, version string) (indexed, error) {
	versions := make([]string, len(entries))
	for i, e := range entries {
		versions[i] = e.Version
	}
	best, err := Highest(versions, version)
	if err != nil {
		return indexed{}, err
	}
	same := slices.DeleteFunc(slices.Clone(entries), func(e indexed) bool { return e.Version != best })
	for _, e := range same[1:] {
		if e.Digest != same[0].Digest || !slices.Equal(e.URLs, same[0].URLs) {
			return indexed{}, fmt.Errorf("the index has version %s twice, and not the same one", best)
		}
	}
	return same[0], nil
}

// Highest returns the version that is wanted, or of those in the wanted range the highest one.
func Highest(versions []string, wanted string) (string, error) {
	if slices.Contains(versions, wanted) {
		return wanted, nil
	}
	var (
		best   *semver.Version
		chosen string
	)
	for _, text := range versions {
		v, err := semver.NewVersion(text)
		if err == nil && chartlock.Matches(wanted, text) && (best == nil || v.GreaterThan(best)) {
			best, chosen = v, text
		}
	}
	if best == nil {
		return "", errors.New("the repository has no such version")
	}
	return chosen, nil
}

func resolveURL(base string, urls []string) (string, error) {
	if len(urls) == 0 {
		return "", errors.New("the index does not say where the chart is")
	}
	from, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	where, err := from.Parse(urls[0])
	if err != nil {
		return "", err
	}
	if where.User != nil || where.Scheme != "http" && where.Scheme != "https" {
		return "", fmt.Errorf("the index leads to %q", where.Redacted())
	}
	return where.String(), nil
}

// get returns what is at a place, at most limit bytes.
func (p place) get(ctx context.Context, limit int64) ([]byte, error) {
	where := p.url
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, http.NoBody)
	if err != nil {
		return nil, err
	}
	if p.credential != nil {
		credential, err := p.credential(ctx, req.URL.Host)
		if err != nil {
			return nil, err
		}
		if credential.Username != "" {
			req.SetBasicAuth(credential.Username, credential.Password)
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", where, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s: %s", where, resp.Status, trimmed(data))
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%s: %w (limit %d MiB)", where, errTooLarge, limit>>20)
	}
	return data, nil
}

// chartLayer is the type of the layer that has the package of a chart.
const chartLayer = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

// pull fetches a chart from a registry.
func (c *call) pull(ctx context.Context, from place, name, version string) ([]byte, error) {
	scheme, path, _ := strings.Cut(strings.TrimSuffix(from.url, "/"), "://")
	repo, err := remote.NewRepository(path + "/" + name)
	if err != nil {
		return nil, refused("%v", err)
	}
	client := *from.client
	client.Transport = web.TokenServers(client.Transport)
	repo.Client = &auth.Client{Client: &client, Cache: auth.NewCache(), Credential: from.credential}
	repo.PlainHTTP = scheme == "oci+http"
	repo.MaxMetadataBytes = maxManifest

	exact := version
	if !chartlock.Exact(version) {
		var all []string
		if err := repo.Tags(ctx, "", func(tags []string) error {
			if len(all)+len(tags) > c.limits.tags {
				return refused("the repository has more than %d tags: name an exact version", c.limits.tags)
			}
			for _, tag := range tags {
				all = append(all, strings.ReplaceAll(tag, "_", "+"))
			}
			return nil
		}); err != nil {
			return nil, err
		}
		if exact, err = Highest(all, version); err != nil {
			return nil, err
		}
	}
	// Tags have no plus signs.
	desc, reader, err := repo.FetchReference(ctx, strings.ReplaceAll(exact, "+", "_"))
	if err != nil {
		return nil, err
	}
	text, err := readAll(reader, desc, maxManifest)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return nil, fmt.Errorf("the manifest cannot be read: %w", err)
	}
	for _, layer := range manifest.Layers {
		if layer.MediaType != chartLayer {
			continue
		}
		reader, err := repo.Blobs().Fetch(ctx, layer)
		if err != nil {
			return nil, err
		}
		return readAll(reader, layer, maxChart)
	}
	return nil, refused("what the registry has there is no chart")
}

// readAll reads exactly what the descriptor promises.
func readAll(r io.ReadCloser, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	defer func() { _ = r.Close() }() // only read from
	if desc.Size > limit {
		return nil, fmt.Errorf("%w (limit %d MiB)", errTooLarge, limit>>20)
	}
	return content.ReadAll(r, desc)
}
