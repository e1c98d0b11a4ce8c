// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command program stands in an image for the operator.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString("hello\n") }
