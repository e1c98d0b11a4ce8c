// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// repositoryChart is a chart that a release does not bring along, as it was fetched.
type repositoryChart struct {
	// repository that the release takes it from.
	repository    string
	name, version string
	packed        []byte
}

// completeForTest fetches the charts that a release lacks, from beside it, or with the mirrors, the credentials and the cache of the user. The
// operator in the sandbox has none of these.
func completeForTest(ctx context.Context, got fetched, beside *shelf) (*release.Release, []repositoryChart, error) {
	incomplete, err := got.release.Incomplete()
	if err != nil || len(incomplete) == 0 {
		return got.release, nil, err
	}
	rel, err := complete(ctx, got, beside)
	if err != nil {
		return nil, nil, err
	}
	files := os.DirFS(got.folder)
	var charts []repositoryChart
	for _, lacking := range incomplete {
		wanted, err := chartlock.Resolve(lacking.Metadata, lacking.Lock)
		if err != nil {
			return nil, nil, err
		}
		found, err := fs.Glob(files, path.Join(release.DependenciesFolder, lacking.Folder, "*.tgz"))
		if err != nil {
			return nil, nil, err
		}
		for _, file := range found {
			packed, err := fs.ReadFile(files, file)
			if err != nil {
				return nil, nil, err
			}
			name, version, err := release.ReadPackage(packed)
			if err != nil {
				return nil, nil, err
			}
			for _, dependency := range wanted {
				if dependency.Name == name && chartlock.Matches(dependency.Version, version) {
					charts = append(charts, repositoryChart{strings.TrimSuffix(dependency.Repository, "/"), name, version, packed})
				}
			}
		}
	}
	return rel, charts, nil
}

// chartServer serves charts on loopback.
type chartServer struct {
	// mirrors say where the charts of each repository are, as the operator takes it.
	mirrors []string
	server  *http.Server
}

// serveCharts serves charts for the operator of a sandbox, until it is closed.
func serveCharts(ctx context.Context, charts []repositoryChart) (*chartServer, error) {
	if len(charts) == 0 {
		return &chartServer{}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	type entry struct {
		Version string   `json:"version"`
		Digest  string   `json:"digest"`
		URLs    []string `json:"urls"`
	}
	s := &chartServer{}
	contents := map[string][]byte{}
	var repositories []string
	for _, chart := range charts {
		repositories = append(repositories, chart.repository)
	}
	slices.Sort(repositories)
	for i, repository := range slices.Compact(repositories) {
		entries := map[string][]entry{}
		for _, chart := range charts {
			file := fmt.Sprintf("%s-%s.tgz", chart.name, chart.version)
			at := fmt.Sprintf("/%d/%s", i, file)
			if _, known := contents[at]; chart.repository != repository || known {
				continue
			}
			sum := sha256.Sum256(chart.packed)
			contents[at] = chart.packed
			entries[chart.name] = append(entries[chart.name], entry{chart.version, hex.EncodeToString(sum[:]), []string{file}})
		}
		index, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "entries": entries})
		if err != nil {
			return nil, err
		}
		contents[fmt.Sprintf("/%d/index.yaml", i)] = index
		s.mirrors = append(s.mirrors, fmt.Sprintf("%s=http://%s/%d", repository, listener.Addr(), i))
	}
	s.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, found := contents[r.URL.Path]
		if !found {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data) // who has gone needs none
	})}
	go func() { _ = s.server.Serve(listener) }() // it ends when it is closed
	return s, nil
}

// Close ends the server.
func (s *chartServer) Close() {
	if s.server != nil {
		_ = s.server.Close()
	}
}
