// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// probeName is what the test binary is started as to try what a worker cannot do.
const probeName = "render-worker-probe"

func TestMain(m *testing.M) {
	if os.Args[0] == probeName {
		os.Exit(tryEverything(os.Args[1]))
	}
	os.Exit(m.Run())
}

// tryEverything confines this process as a worker, and tries to reach out of it, from many threads.
func tryEverything(file string) int {
	// Threads that exist before have to be confined as well.
	early := make(chan func())
	go func() {
		runtime.LockOSThread()
		for do := range early {
			do()
		}
	}()
	if err := confine(256 << 20); err != nil {
		fmt.Println(err)
		return 1
	}
	var mu sync.Mutex
	failures := 0
	attempts := func() {
		for name, try := range map[string]func() error{
			"open":       func() error { _, err := os.ReadFile(file); return err },
			"create":     func() error { return os.WriteFile(file+".new", nil, 0o600) },
			"remove":     func() error { return os.Remove(file) },
			"rename":     func() error { return os.Rename(file, file+".moved") },
			"list":       func() error { _, err := os.ReadDir("/"); return err },
			"stat":       func() error { _, err := os.Stat(file); return err },
			"dial":       func() error { _, err := net.Dial("tcp", "127.0.0.1:1"); return err },
			"listen":     func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
			"lookup":     func() error { _, err := net.LookupHost("example.com"); return err },
			"unix":       func() error { _, err := net.Dial("unix", file); return err },
			"socketpair": func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
			"execute":    func() error { return exec.Command("/proc/self/exe").Run() },
			"fork":       func() error { return call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)) },
			"clone3":     func() error { return notThere(call(unix.SYS_CLONE3)) },
			"kill":       func() error { return unix.Kill(os.Getppid(), 0) },
			"signal":     func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
			"signal 64":  func() error { return call(unix.SYS_TGKILL, uintptr(os.Getppid())|1<<32, uintptr(os.Getppid())) },
			"owner":      func() error { _, err := unix.FcntlInt(1, unix.F_SETOWN, os.Getppid()); return err },
			"signal io":  func() error { _, err := unix.FcntlInt(1, unix.F_SETSIG, int(unix.SIGKILL)); return err },
			"trace":      func() error { return unix.PtraceAttach(os.Getpid()) },
			"memory":     func() error { return call(unix.SYS_PROCESS_VM_READV) },
			"mount":      func() error { return unix.Mount("x", "/", "tmpfs", 0, "") },
			"uring":      func() error { return call(unix.SYS_IO_URING_SETUP) },
			"bpf":        func() error { return call(unix.SYS_BPF) },
			"keys":       func() error { return call(unix.SYS_KEYCTL) },
			"limits":     func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{}) },
			"chdir":      func() error { return os.Chdir("/") },
			"filter":     func() error { return call(unix.SYS_SECCOMP) },
		} {
			if err := try(); !errors.Is(err, syscall.EPERM) && !isRefusedLookup(name, err) {
				mu.Lock()
				fmt.Printf("%s: %v, want that it is not permitted\n", name, err)
				failures++
				mu.Unlock()
			}
		}
	}
	attempts()
	done := make(chan struct{})
	early <- func() { attempts(); close(done) }
	<-done
	var threads sync.WaitGroup
	for range 5 {
		threads.Go(func() {
			runtime.LockOSThread()
			attempts()
		})
	}
	threads.Wait()
	if failures > 0 {
		return 1
	}
	fmt.Println("all refused")
	return 0
}

func call(number uintptr, args ...uintptr) error {
	args = append(args, 0, 0, 0)
	if _, _, errno := unix.RawSyscall(number, args[0], args[1], args[2]); errno != 0 {
		return errno
	}
	return nil
}

// notThere takes "no such system call" for a refusal.
func notThere(err error) error {
	if errors.Is(err, syscall.ENOSYS) {
		return syscall.EPERM
	}
	return err
}

// A lookup hides why it could not ask.
func isRefusedLookup(name string, err error) bool { return name == "lookup" && err != nil }
