// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package transport

import (
	"errors"
	"net"
	"syscall"
)

// A rawConn is not available on this system. Each net.Conn is read with a buffer of its own
// and written by a goroutine that may block.
type rawConn struct{}

func newRawConn(net.Conn) *rawConn { return nil }

// socketOf returns nil: readers do not wait on the socket itself here.
func socketOf(net.Conn) syscall.RawConn { return nil }

func isReadable(uintptr) bool { return true }

func peek(syscall.RawConn) (waits, ended bool) { return false, false }

func (*rawConn) read() (*readBuffer, int, error) { return nil, 0, errors.ErrUnsupported }

func (*rawConn) write([]byte) (int, error) { return 0, errors.ErrUnsupported }
