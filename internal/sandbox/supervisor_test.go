// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
)

func TestSupervisor(t *testing.T) {
	dir := t.TempDir()
	changes := make(chan Component, 100)
	s := newSupervisor(dir, testr.New(t), func(c []Component) { changes <- c[0] })
	t.Cleanup(s.stop)

	next := func(what string, is func(Component) bool) Component {
		t.Helper()
		for {
			select {
			case c := <-changes:
				if is(c) {
					return c
				}
			case <-t.Context().Done():
				t.Fatalf("never %s", what)
			}
		}
	}
	up := filepath.Join(dir, "up")
	err := s.start(t.Context(), program{
		name: "program", address: "127.64.0.1:1", path: "/bin/sh", args: []string{"-c", "echo serving; touch " + up + "; exec sleep 600"},
		ready: func(context.Context) error {
			_, err := os.Stat(up)
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ready := func(c Component) bool { return c.State == StateReady }
	first := next("ready", ready)
	if first.Name != "program" || first.Address != "127.64.0.1:1" || first.PID == 0 || first.Since.IsZero() {
		t.Errorf("got %+v", first)
	}

	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone := next("restarting", func(c Component) bool { return c.State == StateRestarting })
	if gone.PID != 0 && gone.PID == first.PID || !strings.Contains(gone.LastError, "killed") || !strings.Contains(gone.LastError, "serving") {
		t.Errorf("got %+v", gone)
	}
	second := next("ready again", ready)
	if second.PID == first.PID || second.Restarts != 1 {
		t.Errorf("got %+v after %+v", second, first)
	}

	s.stop()
	if err := syscall.Kill(second.PID, 0); err == nil {
		t.Errorf("process %d still runs after stop", second.PID)
	}
	if err := s.start(t.Context(), program{name: "late", path: "/bin/true"}); err == nil {
		t.Error("a program was started after stop")
	}
}

func TestSupervisorTellsWhyAProgramDoesNotStart(t *testing.T) {
	s := newSupervisor(t.TempDir(), testr.New(t), nil)
	t.Cleanup(s.stop)
	err := s.start(t.Context(), program{
		name: "program", path: "/bin/sh", args: []string{"-c", "echo unknown flag; exit 1"},
		ready: func(context.Context) error { return os.ErrNotExist },
	})
	if err == nil || !strings.Contains(err.Error(), "unknown flag") {
		t.Errorf("got %v", err)
	}
}

func TestSupervisorRunsAPartOfItself(t *testing.T) {
	changes := make(chan Component, 100)
	s := newSupervisor(t.TempDir(), testr.New(t), func(c []Component) { changes <- c[0] })
	t.Cleanup(s.stop)
	fail := make(chan error)
	err := s.startFunc(t.Context(), "simulator", "127.64.0.0/16", func(ctx context.Context, ready func()) error {
		ready()
		select {
		case err := <-fail:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	fail <- os.ErrDeadlineExceeded
	for _, want := range []Component{
		{State: StateStarting, PID: os.Getpid()},
		{State: StateReady, PID: os.Getpid()},
		{State: StateRestarting, Restarts: 1},
		{State: StateRestarting, Restarts: 1, PID: os.Getpid()},
		{State: StateReady, Restarts: 1, PID: os.Getpid()},
	} {
		got := <-changes
		if got.State != want.State || got.PID != want.PID || got.Restarts != want.Restarts {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if told := got.LastError == os.ErrDeadlineExceeded.Error(); told != (want.Restarts > 0) {
			t.Errorf("last error %q after %d restarts", got.LastError, want.Restarts)
		}
	}
	s.stop() // returns, so the part has ended
}

func TestSupervisorTellsWhyAPartDoesNotStart(t *testing.T) {
	s := newSupervisor(t.TempDir(), testr.New(t), nil)
	t.Cleanup(s.stop)
	err := s.startFunc(t.Context(), "simulator", "", func(context.Context, func()) error { return os.ErrPermission })
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	err = s.startFunc(short, "slow", "", func(ctx context.Context, _ func()) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if err == nil || !strings.Contains(err.Error(), "slow is not ready") {
		t.Errorf("got %v", err)
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	var got []time.Duration
	for _, ran := range []time.Duration{time.Second, time.Second, time.Second, time.Second, time.Second, time.Second, time.Second, time.Second, time.Hour, time.Second, time.Second} {
		got = append(got, b.next(ran)/time.Second)
	}
	if diff := cmp.Diff([]time.Duration{0, 1, 2, 4, 8, 16, 30, 30, 0, 0, 1}, got); diff != "" {
		t.Error(diff)
	}
}
