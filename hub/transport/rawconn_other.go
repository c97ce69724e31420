// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package transport

import (
	"errors"
	"net"
	"syscall"
)

// socketOf returns nil: on this system, each net.Conn is read with a buffer of its own and
// written by a goroutine that may block.
func socketOf(net.Conn) syscall.RawConn { return nil }

func isReadable(uintptr) bool { return true }

func peek(syscall.RawConn) (waits, ended bool) { return false, false }

// There are no bareSockets on this system.
type bareSocket struct{ net.Conn }

func (*bareSocket) own(net.Conn, syscall.RawConn) {}

func (*bareSocket) control(func(fd uintptr)) error { return errors.ErrUnsupported }

func (*bareSocket) read() (*readBuffer, int, error) { return nil, 0, errors.ErrUnsupported }

func (*bareSocket) tryRead() (*readBuffer, int, error) { return nil, 0, errors.ErrUnsupported }

func (*bareSocket) tryWrite([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (*bareSocket) CloseWrite() error { return errors.ErrUnsupported }
