// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

// imagesOf returns the images of containers that a release names when it is rendered for a made-up cluster, sorted.
// Charts that it depends on and does not bring along are fetched.
func imagesOf(ctx context.Context, got fetched, charts *shelf) ([]string, error) {
	rel, err := complete(ctx, got, charts)
	if err != nil {
		return nil, err
	}
	class, err := render.Class(rel, sample.Namespace)
	if err != nil {
		return nil, err
	}
	images := map[string]bool{}
	collectImages(class.Objects, images)
	cluster, err := sample.Of(rel, class.Objects, sample.Options{})
	if err != nil {
		return nil, err
	}
	facts, err := cluster.Facts()
	if err != nil {
		return nil, err
	}
	for _, addon := range rel.Addons() {
		result, err := render.Addon(rel, addon, facts, nil)
		if err != nil {
			return nil, err
		}
		collectImages(result.Objects, images)
	}
	return slices.Sorted(maps.Keys(images)), nil
}

// complete fetches the charts that a release lacks, as the operator does, and opens it with them.
func complete(ctx context.Context, got fetched, charts *shelf) (*release.Release, error) {
	incomplete, err := got.release.Incomplete()
	if err != nil || len(incomplete) == 0 {
		return got.release, err
	}
	for _, chart := range incomplete {
		files, err := charts.fetch(ctx, chart)
		if err != nil {
			return nil, fmt.Errorf("release %s: %w", got.release.Name, err)
		}
		folder := filepath.Join(got.folder, release.DependenciesFolder, filepath.FromSlash(chart.Folder))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(folder, f.Name), f.Data, 0o600); err != nil {
				return nil, err
			}
		}
	}
	return release.Open(os.DirFS(got.folder), got.release.Name)
}

// collectImages finds the images of containers in objects, however deep pods are hidden in them.
func collectImages(objects []*unstructured.Unstructured, images map[string]bool) {
	for _, object := range objects {
		collect(object.Object, images)
	}
}

func collect(value any, images map[string]bool) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			collect(item, images)
		}
	case map[string]any:
		for key, item := range v {
			switch key {
			case "containers", "initContainers", "ephemeralContainers":
				containers, _ := item.([]any)
				for _, c := range containers {
					fields, _ := c.(map[string]any)
					if image, _ := fields["image"].(string); image != "" {
						images[image] = true
					}
				}
			// Of a machine that is a container itself.
			case "customImage":
				if image, _ := item.(string); image != "" {
					images[image] = true
				}
			}
			collect(item, images)
		}
	}
}
