// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parentMode makes the test binary a parent that starts a child with a grandchild, prints their pids
// and waits: TestChildrenDieWithTheParent kills it.
const parentMode = "PROCESS_TEST_PARENT_LOG"

func TestMain(m *testing.M) {
	if log := os.Getenv(parentMode); log != "" {
		beParent(log)
		return
	}
	os.Exit(m.Run())
}

func beParent(log string) {
	p, err := Start(shell(log, "echo ready; exec sleep 600"))
	if err != nil {
		panic(err)
	}
	fmt.Println(p.Pid())
	<-p.Done()
}

func shell(log, script string) Spec {
	return Spec{Name: "program", Path: "/bin/sh", Args: []string{"-c", script}, LogFile: log}
}

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(shell(filepath.Join(t.TempDir(), "log"), script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(context.Background()) })
	return p
}

func TestEarlyExitTellsTheLastLines(t *testing.T) {
	p := start(t, "echo first; echo port is taken >&2; exit 3")
	<-p.Done()
	err := p.Err()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"program ended", "exit status 3", "first", "port is taken"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestBriefIsTheSameForTheSameFailure(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := Start(shell(log, "date +%N; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got, want := Brief(p.Err()), "program ended: exit status 3; see "+log; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLastLinesAreOfThisRunOnly(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("from the run before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Start(shell(log, "exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := p.Err(); err == nil || strings.Contains(err.Error(), "the run before") {
		t.Errorf("got %v", err)
	}
}

func TestStartNamesWhatIsMissing(t *testing.T) {
	_, err := Start(Spec{Name: "etcd", Path: "/nonexistent/etcd", LogFile: filepath.Join(t.TempDir(), "log")})
	if err == nil || !strings.Contains(err.Error(), "start etcd") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestStopIsNoError(t *testing.T) {
	p := start(t, "exec sleep 600")
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Err(); err != nil {
		t.Errorf("stopped on request, but Err says %v", err)
	}
}

func TestStopKillsWhatIgnoresTheSignal(t *testing.T) {
	p := start(t, "trap '' TERM; echo ready; while :; do sleep 1; done")
	await(t, p, "ready")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ctx); err == nil {
		t.Error("want an error that says that it was killed")
	}
	<-p.Done()
}

func TestGrandchildrenGoWithTheChild(t *testing.T) {
	p := start(t, "sleep 600 & echo $! ; wait")
	grandchild, err := strconv.Atoi(await(t, p, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, grandchild)
}

func TestEnvironmentIsNotInherited(t *testing.T) {
	t.Setenv("ETCD_NAME", "from-the-shell")
	p := start(t, `echo "[$ETCD_NAME]"; exec sleep 600`)
	if got := await(t, p, "]"); got != "[]" {
		t.Errorf("the child sees ETCD_NAME=%s", got)
	}
}

func TestAwaitFailsWhenTheProgramExits(t *testing.T) {
	p := start(t, "echo no such flag; exit 2")
	err := p.Await(t.Context(), func(context.Context) error { return errors.New("connection refused") })
	if err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("got %v", err)
	}
}

func TestAwaitTellsWhatTheProbeSaid(t *testing.T) {
	p := start(t, "exec sleep 600")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := p.Await(ctx, func(context.Context) error { return errors.New("connection refused") })
	if err == nil || !strings.Contains(err.Error(), "connection refused") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestChildrenDieWithTheParent(t *testing.T) {
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentMode+"="+filepath.Join(t.TempDir(), "log"))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	awaitGone(t, child)
}

// await waits until the program has printed something that contains text, and returns what it printed.
func await(t *testing.T, p *Process, text string) string {
	t.Helper()
	var got string
	err := p.Await(t.Context(), func(context.Context) error {
		raw, err := os.ReadFile(p.spec.LogFile)
		got = strings.TrimSpace(string(raw))
		if err == nil && !strings.Contains(string(raw), text) {
			return errors.New("not printed yet")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// awaitGone waits until a process that is not ours has ended. A zombie counts as ended: who reaps it
// is not ours to know.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if ended, err := AwaitEnd(fd, time.Minute); !ended {
		t.Errorf("process %d still runs (%v)", pid, err)
	}
}

func TestAwaitEndGivesUp(t *testing.T) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if ended, err := AwaitEnd(fd, 10*time.Millisecond); ended || err != nil {
		t.Errorf("this process has ended: %t, %v", ended, err)
	}
}

func TestTelling(t *testing.T) {
	many := strings.Split("1 2 3 4 5 6 7 8 9 10 11 12", " ")
	stack := strings.Split("goroutine 1 [running]:,main.main(),	main.go:1,other(),	other.go:2,a(),	a.go:3,b(),	b.go:4,c(),	c.go:5", ",")
	for name, tc := range map[string]struct{ give, want []string }{
		"Few":     {many[:2], many[:2]},
		"Many":    {many, many[2:]},
		"Panic":   {slices.Concat(many, []string{"panic: no space left on device", ""}, stack), []string{"10", "11", "12", "panic: no space left on device"}},
		"Fatal":   {slices.Concat([]string{"fatal error: out of memory"}, stack), []string{"fatal error: out of memory"}},
		"Mention": {[]string{"no panic: all is well", "end"}, []string{"no panic: all is well", "end"}},
	} {
		if got := telling(tc.give); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
