// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package balancer

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// session is a connection that is forwarded: its two ends.
type session struct {
	client, server *net.TCPConn
	number         uint64 // of the connection, from the balancer's start
}

// close ends a session; an end that is closed already is as good.
func (s session) close() {
	_ = s.client.Close()
	_ = s.server.Close()
}

// quiet tells whether no request seems to be under way. What is said is encrypted; but the kernel knows when something
// was said last, and by whom.
func (s session) quiet() bool {
	raw, err := s.server.SyscallConn()
	if err != nil {
		return false // it is being closed
	}
	var info *unix.TCPInfo
	var infoErr error
	err = raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil || infoErr != nil {
		return false
	}
	answered := time.Duration(info.Last_data_recv) * time.Millisecond
	asked := time.Duration(info.Last_data_sent) * time.Millisecond
	return isQuiet(asked, answered)
}

// isQuiet decides by how long ago a client has asked, and the server answered.
func isQuiet(asked, answered time.Duration) bool {
	if answered <= asked {
		return answered >= pause
	}
	return asked >= silence
}
