// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what processes take of the machine.
type Usage struct {
	// Memory is their proportional set size in bytes: what several processes share, such as the text of a
	// program that runs often, is divided among them. So it can be added up.
	Memory int64
	// CPU is the time that they have computed since they were started.
	CPU time.Duration
}

// Add is the usage of both together.
func (u Usage) Add(other Usage) Usage {
	return Usage{Memory: u.Memory + other.Memory, CPU: u.CPU + other.CPU}
}

// UsageOf reads what a process uses. It is zero for a process that has ended.
func UsageOf(pid int) (Usage, error) {
	memory, err := memoryOf(pid)
	if err != nil {
		return Usage{}, ended(err)
	}
	cpu, err := cpuOf(pid)
	if err != nil {
		return Usage{}, ended(err)
	}
	return Usage{Memory: memory, CPU: cpu}, nil
}

// ended drops the errors by which the kernel says that there is no such process any more.
func ended(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func memoryOf(pid int) (int64, error) {
	rollup, err := os.ReadFile(procFile(pid, "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(rollup) {
		fields := strings.Fields(string(line))
		if len(fields) != 3 || fields[0] != "Pss:" {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		return kib << 10, err
	}
	return 0, nil // a process that has ended and was not waited for yet
}

func cpuOf(pid int) (time.Duration, error) {
	stat, err := ReadStat(pid)
	return stat.CPU, err
}

// Below lists the processes whose working folder is dir or below it. Every program that Start starts works in the
// folder of its log, so these are the programs of whoever has its files there.
func Below(dir string) ([]int, error) {
	// The kernel tells of folders without links on the way to them.
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Not ours to look at, or ended just now.
		work, err := os.Readlink(procFile(pid, "cwd"))
		if err != nil {
			continue
		}
		if work == dir || strings.HasPrefix(work, dir+string(filepath.Separator)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
