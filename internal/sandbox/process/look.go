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
	"syscall"
	"time"
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
}

// ReadStat reads about a process.
func ReadStat(pid int) (Stat, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Stat{}, err
	}
	return parseStat(raw)
}

// parseStat finds the fields 3 and 22 of proc_pid_stat(5). The second field, the name of the program, may hold
// spaces and parentheses, so fields are counted from its end.
func parseStat(stat []byte) (Stat, error) {
	const stateField, startField = 0, 19 // counted behind the name
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return Stat{}, fmt.Errorf("no process status: %q", stat)
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) <= startField {
		return Stat{}, fmt.Errorf("no process status: %q", stat)
	}
	ticks, err := strconv.ParseUint(string(fields[startField]), 10, 64)
	return Stat{State: fields[stateField][0], StartTicks: ticks}, err
}

// Running is a process of a sandbox as the kernel has it.
type Running struct {
	PID int
	// Program is the name of its executable, without the folder.
	Program string
	// Dir is the folder that it was started in, where Start puts its log.
	Dir   string
	Since time.Time
	// Suspended says that it was stopped by a signal: it is there and does not answer.
	Suspended bool
	// Memory in bytes; pages that it shares with others are counted by its part.
	Memory int64
}

// Look tells how a process is. The error is fs.ErrNotExist when there is none of this number any more.
func Look(pid int) (Running, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	r, err := look(pid, dir)
	if errors.Is(err, syscall.ESRCH) { // it ended while we read
		err = &fs.PathError{Op: "read", Path: dir, Err: fs.ErrNotExist}
	}
	return r, err
}

func look(pid int, dir string) (Running, error) {
	stat, err := ReadStat(pid)
	if err != nil {
		return Running{}, err
	}
	if stat.State == Zombie {
		return Running{}, syscall.ESRCH
	}
	program, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return Running{}, err
	}
	cwd, err := os.Readlink(filepath.Join(dir, "cwd"))
	if err != nil {
		return Running{}, err
	}
	boot, err := bootTime()
	if err != nil {
		return Running{}, err
	}
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return Running{}, err
	}
	memory, err := field(rollup, "Pss:")
	// The kernel shows times in hundredths of a second, whatever it counts in itself.
	const tick = 10 * time.Millisecond
	return Running{
		PID: pid, Program: strings.TrimSuffix(filepath.Base(program), " (deleted)"), Dir: cwd,
		Since:     boot.Add(time.Duration(stat.StartTicks) * tick), //nolint:gosec // a machine runs for less than 292 years
		Suspended: stat.State == Suspended,
		Memory:    memory << 10, // shown in KiB
	}, err
}

func bootTime() (time.Time, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := field(raw, "btime")
	return time.Unix(seconds, 0), err
}

// field finds the number behind a word at the beginning of a line.
func field(text []byte, word string) (int64, error) {
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == word {
			return strconv.ParseInt(string(fields[1]), 10, 64)
		}
	}
	return 0, fmt.Errorf("no line with %s in %q", word, text)
}
