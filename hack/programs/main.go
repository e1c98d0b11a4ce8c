// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command programs builds the real Kubernetes and Cluster API programs that sandboxes and their tests run,
// unless the cache below the user's cache folder has them, and prints where they are. It lets `make test` show
// minutes of building as progress rather than as a silent first test.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	progress := func(line string) { fmt.Fprintln(os.Stderr, line) }
	set, err := binaries.Ensure(ctx, progress)
	if err == nil {
		_, err = binaries.Clusterctl(ctx, progress)
	}
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "programs of the sandbox: %s\n", filepath.Dir(set.Etcd))
}
