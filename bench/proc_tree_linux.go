// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownGroup gives a program a process group of its own, so that signalGroup reaches what it
// starts.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// signalGroup sends a signal to the processes of a group.
func signalGroup(pid int, signal syscall.Signal) error { return syscall.Kill(-pid, signal) }

// processTree returns a process and all that descend from it.
func processTree(pid int) ([]int, error) {
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", tree[i]))
		if err != nil {
			if i > 0 {
				continue // it has ended meanwhile
			}
			return nil, err
		}
		for _, task := range tasks {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", tree[i], task.Name()))
			if err != nil {
				continue
			}
			for child := range strings.FieldsSeq(string(text)) {
				id, err := strconv.Atoi(child)
				if err != nil {
					return nil, err
				}
				tree = append(tree, id)
			}
		}
	}
	return tree, nil
}

// treeTime returns the processor time of a process, of those that descend from it, and of
// those of them that have ended.
func treeTime(pid int) (time.Duration, error) { return sumOfTree(pid, timeWithEnded) }

// treeMemory returns the resident memory of a process and of those that descend from it.
func treeMemory(pid int) (int64, error) { return sumOfTree(pid, residentMemory) }

// sumOfTree adds what of returns for a process and for each that descends from it. Those may
// end meanwhile.
func sumOfTree[N time.Duration | int64](pid int, of func(pid int) (N, error)) (sum N, err error) {
	tree, err := processTree(pid)
	if err != nil {
		return 0, err
	}
	for i, id := range tree {
		n, err := of(id)
		if err != nil && i == 0 {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// timeWithEnded returns the processor time of a process, and of its children that have ended.
func timeWithEnded(pid int) (sum time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const utime, cstime = 14 - 3, 17 - 3 // as proc(5) counts, from the third field on
	if len(fields) <= cstime {
		return 0, fmt.Errorf("/proc/%d/stat is %q", pid, text)
	}
	for _, field := range fields[utime : cstime+1] {
		t, err := ticks(field)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}
