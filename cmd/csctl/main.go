// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command csctl is the tool of those who write, test, release and inspect cluster stacks.
package main

import (
	"os"

	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
