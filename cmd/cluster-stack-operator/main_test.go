// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"Help":          {[]string{"--help"}, 0, "--release-dir", ""},
		"UnknownFlag":   {[]string{"--colour"}, 1, "", "Error: unknown flag: --colour\n"},
		"Argument":      {[]string{"run"}, 1, "", "Error: unexpected argument \"run\"\n"},
		"UnknownSource": {[]string{"-source", "tape"}, 1, "", "--source=tape: must be"},
		"BadVerbosity":  {[]string{"--log-level=loud"}, 1, "", "must be debug, info or error"},
		"AlphaOfTheLog": {[]string{"--source=directory", "--log-text-split-stream"}, 1, "", "LoggingAlphaOptions"},
		"UnknownGate":   {[]string{"--source=directory", "--feature-gates=Colour=true"}, 1, "", "--feature-gates: unrecognized feature gate: Colour"},
		"NoKubeconfig":  {[]string{"--source=directory", "--kubeconfig=/does/not/exist"}, 1, "", "find the management cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(tc.args, &stdout, &stderr); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("stdout %q, want %q\nstderr %q, want %q", stdout.String(), tc.stdout, stderr.String(), tc.stderr)
			}
		})
	}
}
