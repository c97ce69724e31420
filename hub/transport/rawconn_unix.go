// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package transport

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// A rawConn reads and writes a socket by its own system calls: it waits for
// bytes without holding a buffer for them, and writes without waiting.
type rawConn struct {
	rc syscall.RawConn

	// Owned by who reads. The func is kept because making one for each read
	// would allocate.
	readFunc func(fd uintptr) bool
	got      *readBuffer
	gotN     int
	gotErr   error

	// Owned by who writes.
	writeFunc func(fd uintptr)
	p         []byte
	wrote     int
	wroteErr  error
}

// newRawConn returns nil for what is not a bare socket: a wrapper's own Read and
// Write mean something.
func newRawConn(nc net.Conn) *rawConn {
	var rc syscall.RawConn
	var err error
	switch c := nc.(type) {
	case *net.TCPConn:
		rc, err = c.SyscallConn()
	case *net.UnixConn:
		rc, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	c := &rawConn{rc: rc}
	c.readFunc, c.writeFunc = c.tryRead, c.tryWrite
	return c
}

// read waits for bytes and returns them in a buffer of the pool, which the
// caller puts back. It heeds the net.Conn's read deadline.
func (c *rawConn) read() (b *readBuffer, n int, err error) {
	if err := c.rc.Read(c.readFunc); err != nil {
		return nil, 0, err
	}
	b, n, err = c.got, c.gotN, c.gotErr
	c.got = nil
	return b, n, err
}

// tryRead reports whether there was anything to read. It must try, each time:
// the runtime's poller tells of changes only, and to wait without having drawn
// EAGAIN is to wait for ever.
func (c *rawConn) tryRead(fd uintptr) bool {
	b := readBuffers.Get().(*readBuffer)
	n, err := ignoringEINTR(syscall.Read, fd, b[:])
	switch {
	case errors.Is(err, syscall.EAGAIN):
		readBuffers.Put(b)
		return false
	case err == nil && n == 0:
		err = io.EOF
	}
	if err != nil {
		readBuffers.Put(b)
		b, n = nil, 0
	}
	c.got, c.gotN, c.gotErr = b, n, err
	return true
}

// write writes what the socket takes at once. It goes through Control, not
// Write, because that one fails when a write deadline that was set for something
// else has passed.
func (c *rawConn) write(p []byte) (n int, err error) {
	c.p = p
	err = c.rc.Control(c.writeFunc)
	n, c.p = c.wrote, nil
	if err != nil {
		return 0, err
	}
	return n, c.wroteErr
}

func (c *rawConn) tryWrite(fd uintptr) {
	n, err := ignoringEINTR(syscall.Write, fd, c.p)
	if errors.Is(err, syscall.EAGAIN) {
		err = nil
	}
	c.wrote, c.wroteErr = max(n, 0), err
}

func ignoringEINTR(call func(fd int, p []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
