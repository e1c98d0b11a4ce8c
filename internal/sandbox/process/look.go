// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// States of a process that matter to us, as the kernel writes them.
const (
	// Zombie is a process that has ended and that nobody has reaped yet.
	Zombie = 'Z'
	// Suspended is a process that somebody stopped by a signal; it answers nobody until it is continued.
	Suspended = 'T'
)

// Stat is what the kernel says about a process of any kind.
type Stat struct {
	State byte
	// StartTicks is when it started, as the kernel counts: a later process of the same number has another.
	StartTicks uint64
	// CPU is the time that it has computed since it was started.
	CPU time.Duration
}

// tick is the unit of times that the kernel shows, the same on all machines that Go runs on.
const tick = time.Second / 100

// ReadStat reads about a process.
func ReadStat(pid int) (Stat, error) {
	raw, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return Stat{}, err
	}
	return parseStat(raw)
}

// parseStat finds the fields 3, 14, 15 and 22 of proc_pid_stat(5). The second field, the name of the program, may hold
// spaces and parentheses, so fields are counted from its end.
func parseStat(stat []byte) (Stat, error) {
	const stateField, userField, systemField, startField = 0, 11, 12, 19 // counted behind the name
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return Stat{}, fmt.Errorf("no process status: %q", stat)
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) <= startField {
		return Stat{}, fmt.Errorf("no process status: %q", stat)
	}
	var numbers [3]uint64
	for i, index := range []int{userField, systemField, startField} {
		var err error
		if numbers[i], err = strconv.ParseUint(string(fields[index]), 10, 63); err != nil {
			return Stat{}, fmt.Errorf("process status %q: %w", stat, err)
		}
	}
	return Stat{
		State: fields[stateField][0], StartTicks: numbers[2],
		CPU: time.Duration(numbers[0]+numbers[1]) * tick, //nolint:gosec // 63 bits
	}, nil
}

// Running is a process of a sandbox as the kernel has it.
type Running struct {
	PID int
	// Program is the name of its executable, without the folder.
	Program string
	// Args are the arguments that it was started with.
	Args []string
	// Dir is the folder that it was started in, where Start puts its log.
	Dir   string
	Since time.Time
	// Suspended says that it was stopped by a signal: it is there and does not answer.
	Suspended bool
	Usage
}

// LookAll tells how processes are; those that have ended meanwhile are left out.
func LookAll(pids []int) ([]Running, error) {
	var running []Running
	for _, pid := range pids {
		r, err := Look(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		running = append(running, r)
	}
	return running, nil
}

// Look tells how a process is. The error is fs.ErrNotExist when there is none of this number any more.
func Look(pid int) (Running, error) {
	r, err := look(pid)
	if err != nil && ended(err) == nil {
		err = &fs.PathError{Op: "read", Path: procFile(pid, ""), Err: fs.ErrNotExist}
	}
	return r, err
}

func look(pid int) (Running, error) {
	stat, err := ReadStat(pid)
	if err != nil {
		return Running{}, err
	}
	if stat.State == Zombie {
		return Running{}, unix.ESRCH
	}
	program, err := os.Readlink(procFile(pid, "exe"))
	if err != nil {
		return Running{}, err
	}
	dir, err := os.Readlink(procFile(pid, "cwd"))
	if err != nil {
		return Running{}, err
	}
	line, err := os.ReadFile(procFile(pid, "cmdline"))
	if err != nil {
		return Running{}, err
	}
	_, args, _ := strings.Cut(strings.TrimSuffix(string(line), "\x00"), "\x00")
	memory, err := memoryOf(pid)
	if err != nil {
		return Running{}, err
	}
	boot, err := bootTime()
	if err != nil {
		return Running{}, err
	}
	return Running{
		PID: pid, Program: strings.TrimSuffix(filepath.Base(program), " (deleted)"), Args: strings.Split(args, "\x00"), Dir: dir,
		Since:     boot.Add(time.Duration(stat.StartTicks) * tick), //nolint:gosec // 63 bits
		Suspended: stat.State == Suspended,
		Usage:     Usage{Memory: memory, CPU: stat.CPU},
	}, nil
}

func bootTime() (time.Time, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range bytes.Lines(raw) {
		if fields := bytes.Fields(line); len(fields) == 2 && string(fields[0]) == "btime" {
			seconds, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return time.Unix(seconds, 0), err
		}
	}
	return time.Time{}, errors.New("/proc/stat has no btime")
}
