// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package chartrepo

import "time"

// Limit sets the limits on all that one chart lacks.
func (r *Repositories) Limit(size int64, tags int, time time.Duration) {
	r.limits = limits{size: size, tags: tags, time: time}
}
