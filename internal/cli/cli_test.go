// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := Run([]string{"version"}, strings.NewReader(""), &stdout, &stderr)
	if want := "csctl version: " + version + "\ncommit: " + commit + "\n"; code != 0 || stdout.String() != want || stderr.String() != "" {
		t.Errorf("exit code %d, %q, %q", code, &stdout, &stderr)
	}
}

func TestErrorsArePrintedOnce(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := Run([]string{"no-such-command"}, strings.NewReader(""), &stdout, &stderr)
	if code != 1 || strings.Count(stdout.String()+stderr.String(), "no-such-command") != 1 || !strings.HasPrefix(stderr.String(), "Error: ") {
		t.Errorf("exit code %d, %q, %q", code, &stdout, &stderr)
	}
}

// A foreign stack takes nothing of the machine into its releases.
func TestBesideAStackAtTheTopOfTheFileSystemLiesNothing(t *testing.T) {
	top := t.TempDir()
	for filepath.Dir(filepath.Dir(top)) != filepath.Dir(top) {
		top = filepath.Dir(top)
	}
	beside, name, err := openBeside(top)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = beside.Close() }()
	if beside.Name() != top || name != "." {
		t.Errorf("it is %s in %s", name, beside.Name())
	}
}
