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

// A rawConn reads and writes a socket with its own system calls. It needs no buffer while it
// waits for bytes, and it can write without blocking.
type rawConn struct {
	rc syscall.RawConn

	// Owned by the reader. readFunc is a field because making a func value for each read
	// would allocate.
	readFunc func(fd uintptr) bool
	got      *readBuffer
	gotN     int
	gotErr   error

	// Owned by the writer.
	writeFunc func(fd uintptr)
	p         []byte
	wrote     int
	wroteErr  error
}

// newRawConn returns nil if nc is not a bare socket, because a wrapper's Read and Write must
// not be bypassed.
func newRawConn(nc net.Conn) *rawConn {
	rc := socketOf(nc)
	if rc == nil {
		return nil
	}
	c := &rawConn{rc: rc}
	c.readFunc, c.writeFunc = c.tryRead, c.tryWrite
	return c
}

// socketOf returns nil if nc is not a bare socket.
func socketOf(nc net.Conn) (rc syscall.RawConn) {
	var err error
	switch c := nc.(type) {
	case *net.TCPConn:
		rc, err = c.SyscallConn()
	case *net.UnixConn:
		rc, err = c.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return rc
}

// isReadable reports whether a read from the socket would not block. Like tryRead, it must
// try each time, so it looks at the next byte.
func isReadable(fd uintptr) bool {
	var next [1]byte
	for {
		_, _, err := syscall.Recvfrom(int(fd), next[:], syscall.MSG_PEEK)
		if !errors.Is(err, syscall.EINTR) {
			return !errors.Is(err, syscall.EAGAIN)
		}
	}
}

// peek reports whether bytes wait in a socket, and whether instead it has come to its end.
func peek(rc syscall.RawConn) (waits, ended bool) {
	err := rc.Control(func(fd uintptr) {
		var next [1]byte
		n, err := ignoringEINTR(func(fd int, p []byte) (int, error) {
			n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK)
			return n, err
		}, fd, next[:])
		waits, ended = n > 0, n <= 0 && !errors.Is(err, syscall.EAGAIN)
	})
	return waits, ended || err != nil
}

// read waits for bytes and returns them in a buffer from the pool, which the caller puts back.
// The net.Conn's read deadline applies.
func (c *rawConn) read() (b *readBuffer, n int, err error) {
	if err := c.rc.Read(c.readFunc); err != nil {
		return nil, 0, err
	}
	b, n, err = c.got, c.gotN, c.gotErr
	c.got = nil
	return b, n, err
}

// tryRead reports whether there was anything to read. It must try each time: the runtime's
// poller reports only changes, so a goroutine that waits without an EAGAIN before waits for
// ever.
func (c *rawConn) tryRead(fd uintptr) bool {
	b := readBuffers.Get().(*readBuffer)
	n, err := ignoringEINTR(readNow, fd, b[:])
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

// write writes as much as the socket takes at once. It uses RawConn.Control, because
// RawConn.Write fails if an earlier write deadline has passed.
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
	n, err := ignoringEINTR(writeNow, fd, c.p)
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
