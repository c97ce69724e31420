// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix && (!linux || race)

package transport

import "syscall"

// The race detector knows that what syscall.Write has written happens before syscall.Read
// returns it.

func readNow(fd int, p []byte) (n int, err error) { return syscall.Read(fd, p) }

func writeNow(fd int, p []byte) (n int, err error) { return syscall.Write(fd, p) }
