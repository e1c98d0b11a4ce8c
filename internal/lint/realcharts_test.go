// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
)

// What is found in good charts of others is a fault of ours. Infos are told: that the network makes certificates up.
func TestPublicChartsAreGood(t *testing.T) {
	const folder = "../../../shared/charts"
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the folder of public charts is not there: %s", folder)
	}
	packages, err := filepath.Glob(filepath.Join(folder, "*.tgz"))
	if err != nil || len(packages) < 2 {
		t.Fatalf("found %v, %v", packages, err)
	}
	f := good(t)
	all(remove(cni), remove(metrics))(t, f)
	stages := "addonStages:\n  AfterControlPlaneInitialized: &addons\n"
	names := map[string]bool{}
	for _, file := range packages {
		packed, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		unzipped, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		for archive := tar.NewReader(unzipped); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			f["cluster-addon/"+header.Name] = string(data)
			if filepath.Base(header.Name) == "Chart.yaml" {
				names[filepath.Dir(header.Name)] = true
			}
		}
	}
	for name := range names {
		stages += "    - {name: " + name + ", action: apply}\n"
	}
	f[stagesYAML] = stages + "  BeforeClusterUpgrade: *addons\n"
	report, err := lint.Stack(t.Context(), f.fsys("stack"), "stack", lint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range report.Findings {
		if finding.Severity.AtLeast(lint.Warning) {
			t.Errorf("%s:%d: %s: %s", finding.File, finding.Line, finding.Rule, finding.Message)
		}
	}
}
