// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// userHZ is the unit of the times in /proc: 100 on every architecture of Linux
// that Go supports.
const userHZ = 100

// maxFiles is how many files this program opens at most, whatever the machine
// allows.
const maxFiles = 20_000

// raiseFiles raises the limit of open files as far as it may be, to maxFiles, and
// fails if fewer than need may be open.
func raiseFiles(need int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	want := min(l.Max, maxFiles)
	if want < uint64(need) {
		return fmt.Errorf("%d files are to be open, and at most %d may", need, want)
	}
	if l.Cur == want {
		return nil
	}
	l.Cur = want
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raising the limit of open files to %d: %w", want, err)
	}
	return nil
}

// residentMemory returns the bytes of a process that are in memory.
func residentMemory(pid int) (int64, error) { return statusBytes(pid, "VmRSS:") }

// peakMemory returns the most that residentMemory was since resetPeak.
func peakMemory(pid int) (int64, error) { return statusBytes(pid, "VmHWM:") }

// resetPeak begins to look for the peak anew, see proc_pid_clear_refs(5).
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// statusBytes returns a line of a process's status that is in bytes.
func statusBytes(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has ended", pid)
}

// lowerPriority lets other processes have the processor first. Linux has a priority for each
// thread; new threads inherit it.
func lowerPriority() {
	const nice = 5
	threads, _ := os.ReadDir("/proc/self/task")
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, nice) // if it fails, others are disturbed more
		}
	}
}

// openFiles returns how many files a process has open.
func openFiles(pid int) (int, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	return len(names), err
}

// cpuTime returns the processor time that a process has used, its own and the
// kernel's on its behalf.
func cpuTime(pid int) (user, system time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3 // as proc(5) counts, from the third field on
	if len(fields) <= stime {
		return 0, 0, fmt.Errorf("/proc/%d/stat is %q", pid, text)
	}
	if user, err = ticks(fields[utime]); err != nil {
		return 0, 0, err
	}
	system, err = ticks(fields[stime])
	return user, system, err
}

// busyTime returns the processor time that all processes of the machine have used
// together, or that the machine was denied by its host. Interrupts, which belong
// to nobody, are not in it.
func busyTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal
	if len(fields) < 9 {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var busy time.Duration
	for _, i := range []int{1, 2, 3, 8} {
		t, err := ticks(fields[i])
		if err != nil {
			return 0, err
		}
		busy += t
	}
	return busy, nil
}

func ticks(s string) (time.Duration, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	return time.Duration(n) * (time.Second / userHZ), err
}
