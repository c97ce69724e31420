// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"os/exec"
	"syscall"
	"time"
)

func ownGroup(*exec.Cmd)                    {}
func signalGroup(int, syscall.Signal) error { return errNoProc }
func treeTime(int) (time.Duration, error)   { return 0, errNoProc }
func treeMemory(int) (int64, error)         { return 0, errNoProc }
