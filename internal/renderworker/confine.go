// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confine takes from this process, for good, all that a render does not need. It needs no privileges.
//
// memory bounds the memory that the process can write to, in bytes. (RLIMIT_DATA, since RLIMIT_AS counts
// what Go's runtime only reserves.)
func confine(memory int64) error {
	// One render at a time keeps one core busy. The time it takes is then the same on all machines.
	runtime.GOMAXPROCS(1)
	// A render makes much that is garbage at its end, and little that stays. The limit bounds what is left uncollected.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(memory / 4 * 3)
	debug.SetMaxStack(int(memory / 2))

	// When the machine has too little memory, a worker is the first to go. Where that cannot be said, the
	// kernel picks.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)

	limits := []struct {
		name     string
		resource int
		limit    uint64
	}{
		{"RLIMIT_CORE", unix.RLIMIT_CORE, 0},
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 16},
	}
	if !raceDetector {
		limits = append(limits, struct {
			name     string
			resource int
			limit    uint64
		}{"RLIMIT_DATA", unix.RLIMIT_DATA, uint64(memory)})
	}
	for _, l := range limits {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("set %s to %d: %w", l.name, l.limit, err)
		}
	}
	return filterSystemCalls()
}

// filterSystemCalls lets all threads of this process, now and later, call nothing but what Go's runtime
// needs to compute and to use files that are open.
func filterSystemCalls() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	filter := systemCallFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// With TSYNC the call returns the thread that cannot be filtered, if there is one.
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("filter system calls with seccomp: %w", errno)
	}
	if thread != 0 {
		return errors.New("filter system calls with seccomp: a thread has a filter of its own")
	}
	return nil
}

// allowedCalls are the system calls of Go's runtime, and of a C library that it may be linked with, once
// the process has started: memory, threads, signals, time, and files that are open.
var allowedCalls = slices.Concat([]uint32{
	unix.SYS_BRK, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MUNMAP,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_MEMBARRIER,
	unix.SYS_RESTART_SYSCALL, unix.SYS_RSEQ, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_YIELD, unix.SYS_SET_ROBUST_LIST,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_GETRANDOM, unix.SYS_GETTIMEOFDAY, unix.SYS_NANOSLEEP,
	unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_DELETE, unix.SYS_TIMER_SETTIME,
	unix.SYS_CLOSE, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
	unix.SYS_FSTAT, unix.SYS_PIPE2, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_WRITEV,
}, allowedCallsOfMachine)

// systemCallFilter is a program for the kernel's BPF machine. What is not allowed fails with EPERM rather
// than ending the process: libraries look into files that they can do without, such as time zones.
func systemCallFilter() []unix.SockFilter {
	const (
		offsetNumber    = 0  // of the fields of struct seccomp_data
		offsetArch      = 4  //
		offsetArguments = 16 // eight bytes each, the lower half first

		allow = unix.SECCOMP_RET_ALLOW
		deny  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		// A C library takes this for an old kernel, and uses clone.
		missing = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// unless skips the next statement when the value that was loaded is another one.
	unless := func(value uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: 1}
	}
	end := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}

	filter := []unix.SockFilter{
		load(offsetArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jt: 1},
		end(unix.SECCOMP_RET_KILL_PROCESS),
		load(offsetNumber),
	}
	for _, call := range allowedCalls {
		filter = append(filter, unless(call), end(allow))
	}
	// only lets a call be made with some values of an argument, of which it takes the lower half.
	only := func(call, argument uint32, values ...uint32) {
		checks := []unix.SockFilter{load(offsetArguments + 8*argument)}
		for _, value := range values {
			checks = append(checks, unless(value), end(allow))
		}
		checks = append(checks, end(deny))
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: uint8(len(checks))})
		filter = append(filter, checks...)
	}
	// Go's runtime interrupts its own threads. The operator has the same user, and shall not be sent signals, nor be made
	// the one that the kernel sends them to for a file.
	only(unix.SYS_TGKILL, 0, uint32(os.Getpid()))
	only(unix.SYS_FCNTL, 1, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC)
	return append(filter,
		unless(unix.SYS_CLONE3), end(missing),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jt: 1},
		end(deny),
		// A new thread, but no new process.
		load(offsetArguments),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_THREAD, Jf: 1},
		end(allow),
		end(deny),
	)
}
