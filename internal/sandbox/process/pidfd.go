// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// AwaitEnd waits until the process of a descriptor, such as PidfdOpen gives, has ended, or the timeout is over. A zombie
// has ended.
func AwaitEnd(pidfd int, timeout time.Duration) (ended bool, err error) {
	for deadline := time.Now().Add(timeout); ; {
		left := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())) //nolint:gosec // descriptors are small
		// Any signal may interrupt it, such as that of the end of another child.
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
