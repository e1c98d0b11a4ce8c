// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
)

func TestSharedBehaviourOfPublishers(t *testing.T) {
	sourcetest.RunPublisher(t, func(t *testing.T) sourcetest.Publisher { return dir.New(filepath.Join(t.TempDir(), "releases")) })
}

func TestWhatSomebodyIsCopyingIsNotTouched(t *testing.T) {
	const tag = "docker-scs-1-35-v1"
	path := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(path, tag), 0o755))
	must(t, os.WriteFile(filepath.Join(path, tag, "clusteraddon.yaml"), nil, 0o600))
	name, err := release.ParseName(tag)
	must(t, err)
	if _, err := dir.New(path).Put(t.Context(), name, releasetest.Multistage(tag), source.Publication{}); err == nil || !strings.Contains(err.Error(), "somebody is copying") {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
