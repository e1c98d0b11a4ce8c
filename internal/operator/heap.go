// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// room is how much the heap may grow, in bytes, before the garbage collector runs. Go's rule, as much again as is in
// use, makes it run all the time while there are a few clusters, and takes memory twice with a thousand of them.
const room = 80 << 20

// KeepRoom adjusts the garbage collector of this process until ctx ends, unless an administrator has done so by the
// variables of Go's runtime.
func KeepRoom(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	// What is in use changes by clusters that come and go, so now and then is often enough.
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for percent := 0; ; {
		metrics.Read(live)
		if wanted := growth(live[0].Value.Uint64()); wanted != percent {
			percent = wanted
			debug.SetGCPercent(percent)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// growth is by how many percent of what is in use the heap may grow. With less than the lower bound the collector
// would cost too much, and with more than the upper one a moment's need would be kept for long.
func growth(live uint64) int {
	return int(min(max(room*100/max(live, 1), 20), 300))
}
