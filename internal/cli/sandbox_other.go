// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func newSandboxCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "sandbox",
		Short:              "Run a management cluster on this machine (Linux only)",
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a sandbox needs Linux, for its loopback addresses and to end its programs; run csctl in a Linux machine")
		},
	}
}

func newTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "test",
		Short:              "Try a cluster stack in a sandbox (Linux only)",
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a cluster stack is tried in a sandbox, which needs Linux; run csctl in a Linux machine")
		},
	}
}
