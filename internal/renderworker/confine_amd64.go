// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// allowedCallsOfMachine are the ones that only this kind of machine has.
var allowedCallsOfMachine = []uint32{unix.SYS_EPOLL_WAIT}
