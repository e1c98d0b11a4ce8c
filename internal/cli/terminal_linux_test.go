// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
)

func TestFindingsAreColouredOnTerminalsOnly(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	report := lint.Report{Findings: []lint.Finding{{Rule: "lookup", Severity: lint.Warning, File: "a.yaml", Line: 1, Message: "m"}}}
	for name, tt := range map[string]struct {
		to            *os.File
		noColor, term string
		want          bool
	}{
		"Terminal": {to: terminal, term: "xterm", want: true},
		"NoColor":  {to: terminal, term: "xterm", noColor: "1"},
		"Dumb":     {to: terminal, term: "dumb"},
		"File":     {to: file, term: "xterm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NO_COLOR", tt.noColor)
			t.Setenv("TERM", tt.term)
			text := reportText("stack", report, painter{isTerminal(tt.to)})
			if got := strings.Contains(text, "\x1b["); got != tt.want {
				t.Errorf("coloured: %t, want %t: %q", got, tt.want, text)
			}
		})
	}
}
