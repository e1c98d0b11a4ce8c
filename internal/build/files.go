// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import "maps"

// Files returns the files of the stack by their paths in its folder, with slashes. Links are followed. The contents
// belong to the stack.
func (s *Stack) Files() map[string][]byte { return maps.Clone(s.files) }
