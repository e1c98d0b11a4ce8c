// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command program stands in an image for the operator.
package main

import "os"

func main() { os.Exit(0) }
