// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import "syscall"

// setReceiveBuffer limits the bytes that the kernel receives for a program that does not read.
func setReceiveBuffer(c syscall.RawConn, n int) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, n)
	})
	if err != nil {
		return err
	}
	return failed
}
