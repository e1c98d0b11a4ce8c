// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// victimVariable makes TestVictim the victim of TestNothingIsLeftOfAKilledTest.
const victimVariable = "SANDBOXTEST_VICTIM"

// TestVictim is no test of its own: it starts an API server, says so, and waits to be killed.
func TestVictim(t *testing.T) {
	if os.Getenv(victimVariable) == "" {
		return
	}
	fmt.Println("running at", sandboxtest.APIServer(t).Host)
	select {}
}

func TestNothingIsLeftOfAKilledTest(t *testing.T) {
	tmp := t.TempDir()
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
	victim.Env = append(os.Environ(), victimVariable+"=1", "TMPDIR="+tmp)
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			t.Fatal("the victim ended before it ran an API server")
		}
		if strings.HasPrefix(lines.Text(), "running at") {
			break
		}
	}
	var descriptors []int
	for _, pid := range mentioning(t, tmp) {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		descriptors = append(descriptors, fd)
	}
	if len(descriptors) < 4 {
		t.Fatalf("found %d processes: there should be the victim, its second process, etcd and kube-apiserver", len(descriptors))
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	for _, fd := range descriptors {
		if ended, err := process.AwaitEnd(fd, time.Minute); !ended {
			t.Errorf("a process of the killed test still runs (%v)", err)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("files of the killed test are left: %v, %v", left, err)
	}
}

// mentioning lists the other processes that have a text in their environment.
func mentioning(t *testing.T, text string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Processes that have just ended, and those of others, cannot be read.
		if raw, err := os.ReadFile(f); err == nil && bytes.Contains(raw, []byte(text)) {
			pids = append(pids, pid)
		}
	}
	return pids
}
