// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " 1 2 3 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 4711 0 0"
	for name, tc := range map[string]struct {
		why  string
		stat string
		want Stat
		err  bool
	}{
		"Running":  {stat: "42 (csctl) S" + rest, want: Stat{State: 'S', StartTicks: 4711, CPU: 70 * time.Millisecond}},
		"OddName":  {why: "A program may call itself anything.", stat: "42 (a) S (b) R" + rest, want: Stat{State: 'R', StartTicks: 4711, CPU: 70 * time.Millisecond}},
		"Zombie":   {stat: "42 (csctl) Z" + rest, want: Stat{State: Zombie, StartTicks: 4711, CPU: 70 * time.Millisecond}},
		"CutOff":   {stat: "42 (csctl) S 1 2", err: true},
		"NotAtAll": {stat: "", err: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.stat))
			if got != tc.want || (err != nil) != tc.err {
				t.Errorf("got %+v, %v. %s", got, err, tc.why)
			}
		})
	}
}

func TestLook(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := Start(Spec{Name: "sleep", Path: "/bin/sleep", Args: []string{"600"}, LogFile: filepath.Join(dir, "sleep.log")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Look(sleep.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(got.Since); age < -2*time.Second || age > time.Minute {
		t.Errorf("started %s ago", age)
	}
	if got.PID != sleep.Pid() || !slices.Equal(got.Args, []string{"600"}) || got.Dir != dir || got.Program == "" || got.Suspended || got.Memory <= 0 || got.Memory > 64<<20 {
		t.Errorf("got %+v", got)
	}

	if err := syscall.Kill(sleep.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !got.Suspended; { // the kernel stops it when it next can
		if got, err = Look(sleep.Pid()); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("it is never told as suspended")
		}
	}

	if err := syscall.Kill(sleep.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-sleep.Done()
	if _, err := Look(sleep.Pid()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
}
