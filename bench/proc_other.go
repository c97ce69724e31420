// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"time"
)

var errNoProc = errors.New("the figures are read from /proc, which only Linux has")

func raiseFiles(int) error                                { return errNoProc }
func residentMemory(int) (int64, error)                   { return 0, errNoProc }
func openFiles(int) (int, error)                          { return 0, errNoProc }
func cpuTime(int) (user, system time.Duration, err error) { return 0, 0, errNoProc }
func busyTime() (time.Duration, error)                    { return 0, errNoProc }
func peakMemory(int) (int64, error)                       { return 0, errNoProc }
func resetPeak(int) error                                 { return errNoProc }
func lowerPriority()                                      {}
