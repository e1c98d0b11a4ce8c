// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
)

// What we ship is an example for others.
func TestNothingIsFoundInOurOwnStacks(t *testing.T) {
	const stacks = "../../stacks"
	found := 0
	err := filepath.WalkDir(stacks, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "csctl.yaml" {
			return err
		}
		found++
		folder := filepath.Dir(path)
		t.Run(folder, func(t *testing.T) {
			report, err := lint.Stack(t.Context(), os.DirFS(filepath.Dir(folder)), filepath.Base(folder), lint.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, finding := range report.Findings {
				if finding.Rule == "dependency-missing" {
					continue // fetched when the stack is built
				}
				t.Errorf("%s:%d: %s: %s", finding.File, finding.Line, finding.Rule, finding.Message)
			}
		})
		return nil
	})
	if err != nil || found < 2 {
		t.Errorf("%d stacks, %v", found, err)
	}
}
